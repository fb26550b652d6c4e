import numpy as np
import pytest

from geomim_data.errors import DataError
from geomim_data.sources.rgbd_7scenes import is_7scenes, list_7scenes


@pytest.fixture
def sequence(tmp_path):
    folder = tmp_path / "chess" / "seq-01"
    folder.mkdir(parents=True)
    for number in (10, 2, 0):
        for kind in ("color", "depth"):
            (folder / f"frame-{number:06}.{kind}.png").touch()
        pose = np.eye(4)
        pose[0, 3] = number
        np.savetxt(folder / f"frame-{number:06}.pose.txt", pose)
    return folder


def test_frames_come_in_order_with_their_poses(sequence):
    listing = list_7scenes(sequence)
    assert [entry.world_from_cam[0, 3] for entry in listing.entries] == [0, 2, 10]
    assert [entry.rgb.name[:12] for entry in listing.entries] == [
        "frame-000000",
        "frame-000002",
        "frame-000010",
    ]
    assert all(entry.label is None for entry in listing.entries)
    assert (listing.depth_scale, listing.no_depth) == (1000, 65535)


def test_labels_are_found_beside_the_frames(sequence):
    (sequence / "frame-000002.segm.png").touch()
    labels = [entry.label for entry in list_7scenes(sequence).entries]
    assert labels == [None, sequence / "frame-000002.segm.png", None]


def test_the_camera_is_the_published_one_unless_a_file_says_otherwise(sequence):
    assert list_7scenes(sequence).intrinsics.tolist() == [585, 585, 320, 240]
    (sequence.parent / "camera-intrinsics.txt").write_text("600 0 1\n0 601 2\n0 0 1\n")
    assert list_7scenes(sequence).intrinsics.tolist() == [600, 601, 1, 2]
    (sequence / "camera-intrinsics.color.txt").write_text("700 0 1\n0 701 2\n0 0 1\n")
    assert list_7scenes(sequence).intrinsics.tolist() == [700, 701, 1, 2]


def test_a_folder_is_known_by_its_colour_frames(sequence):
    assert is_7scenes(sequence)
    assert not is_7scenes(sequence.parent)


def test_a_frame_without_depth_or_pose_is_refused(sequence):
    (sequence / "frame-000002.depth.png").unlink()
    with pytest.raises(DataError, match=r"frame-000002\.depth\.png: is missing beside frame-00"):
        list_7scenes(sequence)
    (sequence / "frame-000002.depth.png").touch()
    (sequence / "frame-000002.pose.txt").unlink()
    with pytest.raises(DataError, match=r"frame-000002\.pose\.txt: cannot be read: No such file"):
        list_7scenes(sequence)


def test_a_frame_twice_is_refused(sequence):
    (sequence / "frame-2.color.png").touch()
    with pytest.raises(DataError, match=r"frame-2\.color\.png: frame 2 must have one file, has"):
        list_7scenes(sequence)


def test_no_frames_are_refused(tmp_path):
    (tmp_path / "frame-x.color.png").touch()
    with pytest.raises(DataError, match="must hold at least one frame-NNNNNN"):
        list_7scenes(tmp_path)


def test_a_broken_pose_is_refused(sequence):
    (sequence / "frame-000002.pose.txt").write_text("1 0 0 0\n0 1 0\n0 0 1 0\n0 0 0 1\n")
    with pytest.raises(DataError, match=r"frame-000002\.pose\.txt:2: must hold 4 numbers, got 3"):
        list_7scenes(sequence)
