import numpy as np
import pytest

from geomim_data.errors import DataError
from geomim_data.sources.rgbd_folder import is_folder, list_folder


@pytest.fixture
def recording(tmp_path):
    for name in ("images/00003.png", "images/00001.jpg", "depth/00003.png", "depth/00001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "images" / "Thumbs.db").touch()
    (tmp_path / "K.txt").write_text("500 0 320\n0 501 240\n0 0 1\n")
    (tmp_path / "frames.txt").write_text("00003.png\n00001.jpg\n")
    poses = np.stack([np.eye(4), 2 * np.eye(4)])
    np.savetxt(tmp_path / "poses.txt", poses.reshape(2, 16))
    return tmp_path


def test_lines_of_poses_belong_to_lines_of_frames(recording):
    listing = list_folder(recording)
    assert [entry.rgb.name for entry in listing.entries] == ["00003.png", "00001.jpg"]
    assert [entry.depth.name for entry in listing.entries] == ["00003.png", "00001.png"]
    assert [entry.world_from_cam[0, 0] for entry in listing.entries] == [1, 2]
    assert listing.intrinsics.tolist() == [500, 501, 320, 240]
    assert listing.depth_scale == 1000


def test_without_a_list_images_come_by_name(recording):
    (recording / "frames.txt").unlink()
    assert [entry.rgb.name for entry in list_folder(recording).entries] == [
        "00001.jpg",
        "00003.png",
    ]


def test_without_poses_none_is_known(recording):
    (recording / "poses.txt").unlink()
    assert all(np.isnan(entry.world_from_cam).all() for entry in list_folder(recording).entries)


def test_without_a_depth_folder_there_is_no_depth(recording):
    (recording / "depth").rename(recording / "other")
    assert all(entry.depth is None for entry in list_folder(recording).entries)


def test_a_folder_is_known_by_images_and_camera(recording):
    assert is_folder(recording)
    (recording / "K.txt").unlink()
    assert not is_folder(recording)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("frames.txt", "00003.png\n../K.txt\n", r"frames\.txt:2: '\.\./K\.txt' must lie inside"),
        ("frames.txt", "00003.png\n00004.png\n", r"frames\.txt:2: .*00004\.png is missing"),
        ("frames.txt", "", "must hold at least one frame, got none"),
        (
            "poses.txt",
            "1 " * 16 + "\n",
            r"poses\.txt: must hold a pose for each of 2 frames, got 1",
        ),
        ("poses.txt", "1 2\n", r"poses\.txt:1: must hold 16 numbers, got 2"),
        ("K.txt", "1 2\n", r"K\.txt:1: must hold 4 numbers, got 2"),
    ],
)
def test_broken_text_is_refused(recording, name, text, message):
    (recording / name).write_text(text)
    with pytest.raises(DataError, match=message):
        list_folder(recording)


def test_missing_depth_of_one_frame_is_refused(recording):
    (recording / "depth" / "00001.png").unlink()
    with pytest.raises(DataError, match=r"frames\.txt:2: .*depth/00001\.png is missing"):
        list_folder(recording)
