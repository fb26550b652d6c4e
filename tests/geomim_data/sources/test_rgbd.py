import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geomim_data.errors import DataError
from geomim_data.sources.rgbd import RgbdSource

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
DEPTH = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def make_folder(folder: Path, frames: int = 3) -> Path:
    for index in range(frames):
        save(folder / f"images/{index:05}.png", RGB)
        save(folder / f"depth/{index:05}.png", DEPTH + np.uint16(index))
    (folder / "K.txt").write_text("6 0 2.5\n0 4 1.5\n0 0 1\n")
    return folder


def make_sequence(folder: Path, depth: np.ndarray = DEPTH) -> Path:
    save(folder / "frame-000000.color.png", RGB)
    save(folder / "frame-000000.depth.png", depth)
    np.savetxt(folder / "frame-000000.pose.txt", np.eye(4))
    return folder


def make_tum(folder: Path) -> Path:
    save(folder / "rgb/1.png", RGB)
    save(folder / "depth/1.png", DEPTH)
    (folder / "rgb.txt").write_text("1.0 rgb/1.png\n")
    (folder / "depth.txt").write_text("1.01 depth/1.png\n")
    (folder / "intrinsics.txt").write_text("6 4 2.5 1.5\n")
    return folder


def read(root: Path, **options: object):
    source = RgbdSource(root, **options)
    with source.open(source.scenes()[0]) as recording:
        return recording.cameras[0], list(recording.cameras[0].read.frames())


def test_a_root_is_one_recording_or_holds_several(tmp_path):
    make_folder(tmp_path / "b")
    make_folder(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    assert RgbdSource(tmp_path / "b").scenes() == ["b"]
    assert RgbdSource(tmp_path).scenes() == ["a", "b"]


def test_sequences_are_named_by_their_scene(tmp_path):
    for name in ("chess/seq-02", "chess/seq-01", "fire/seq-01"):
        make_sequence(tmp_path / name)
    assert RgbdSource(tmp_path).scenes() == ["chess_seq-01", "chess_seq-02", "fire_seq-01"]
    assert RgbdSource(tmp_path / "chess").scenes() == ["seq-01", "seq-02"]
    assert RgbdSource(tmp_path / "chess/seq-01").scenes() == ["seq-01"]


def test_the_layout_is_told_by_the_files(tmp_path):
    make_folder(tmp_path / "folder")
    make_sequence(tmp_path / "7scenes")
    make_tum(tmp_path / "tum")
    assert RgbdSource(tmp_path).scenes() == ["7scenes", "folder", "tum"]
    for layout, unit in (("7scenes", 1e-3), ("folder", 1e-3), ("tum", 2e-4)):
        assert RgbdSource(tmp_path, layout=layout).scenes() == [layout]
        assert read(tmp_path / layout)[0].depth_unit_m == unit


def test_two_possible_layouts_ask_for_a_choice(tmp_path):
    make_folder(make_tum(tmp_path / "both"))
    with pytest.raises(DataError, match="could be tum or folder; choose with --layout tum"):
        RgbdSource(tmp_path / "both").scenes()
    assert RgbdSource(tmp_path / "both", layout="folder").scenes() == ["both"]


def test_a_root_without_recordings_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"no recording of layout tum; expected rgb\.txt and dep"):
        RgbdSource(make_folder(tmp_path / "a"), layout="tum").scenes()
    with pytest.raises(DataError, match="none: no such folder; pass --root"):
        RgbdSource(tmp_path / "none").scenes()


def test_names_that_no_store_can_hold_are_refused(tmp_path):
    make_folder(tmp_path / "my room")
    with pytest.raises(DataError, match="a scene name must be one path component"):
        RgbdSource(tmp_path).scenes()


def test_another_recording_is_refused(tmp_path):
    make_folder(tmp_path / "a")
    with pytest.raises(DataError, match="holds no recording 'b'"):
        RgbdSource(tmp_path).open("b")


def test_a_source_travels_and_tells_its_arguments(tmp_path):
    source = RgbdSource(tmp_path, layout="tum", stride=2, depth_scale=1e3, depth_coding="sun3d")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - just made
    assert source.arguments() == {
        "layout": "tum",
        "stride": 2,
        "depth_scale": 1000.0,
        "depth_coding": "sun3d",
    }


def test_impossible_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="stride must be 1 or more, got 0"):
        RgbdSource(tmp_path, stride=0)
    with pytest.raises(ValueError, match=r"depth_scale must be positive and finite, got -1\.0"):
        RgbdSource(tmp_path, depth_scale=-1.0)


def test_the_camera_is_told_in_our_pixels_and_depth_at_its_own_size(tmp_path):
    camera, frames = read(make_folder(tmp_path / "a"), stride=2)
    assert (camera.frames, len(frames)) == (2, 2)
    assert (camera.rgb_size, camera.depth_size, camera.label_size) == ((4, 6), (2, 3), None)
    assert camera.rgb_intrinsics.tolist() == [6, 4, 3, 2]
    assert camera.depth_intrinsics is not None
    assert camera.depth_intrinsics.tolist() == [3, 2, 1.5, 1]
    assert camera.source_pixel_centre == "integer"
    assert frames[1].rgb == (tmp_path / "a/images/00002.png").read_bytes()
    np.testing.assert_array_equal(frames[1].depth, DEPTH + 2)


def test_a_recording_without_depth_has_none(tmp_path):
    folder = make_folder(tmp_path / "a")
    (folder / "depth").rename(folder / "other")
    camera, frames = read(folder)
    assert (camera.depth_size, camera.depth_intrinsics, frames[0].depth) == (None, None, None)


def test_7scenes_marks_missing_depth_with_its_highest_value(tmp_path):
    depth = np.array([[0, 1, 65535], [65534, 2, 3]], np.uint16)
    _, (frame,) = read(make_sequence(tmp_path / "a", depth))
    assert frame.depth.tolist() == [[0, 1, 0], [65534, 2, 3]]


def test_sun3d_depth_is_turned_back_by_three_bits(tmp_path):
    true = np.array([[0, 1, 8191], [8192, 12_345, 65535]], np.uint16)
    stored = ((true.astype(np.uint32) << 3) | (true >> 13)).astype(np.uint16)
    camera, (frame,) = read(make_sequence(tmp_path / "a", stored), depth_coding="sun3d")
    assert camera.depth_unit_m == 1e-4
    assert frame.depth.dtype == np.uint16
    np.testing.assert_array_equal(frame.depth, true)


def test_a_depth_scale_replaces_the_layouts_own(tmp_path):
    assert read(make_tum(tmp_path / "a"), depth_scale=500.0)[0].depth_unit_m == 0.002


def test_labels_may_be_missing_from_some_frames(tmp_path):
    folder = make_sequence(tmp_path / "a")
    for kind in ("color", "depth"):
        (folder / f"frame-000001.{kind}.png").write_bytes(
            (folder / f"frame-000000.{kind}.png").read_bytes()
        )
    np.savetxt(folder / "frame-000001.pose.txt", np.eye(4))
    save(folder / "frame-000001.segm.png", np.full((4, 6), 7, np.uint8))
    camera, frames = read(folder)
    assert camera.label_size == (4, 6)
    assert frames[0].label is None
    assert (frames[1].label == 7).all()


@pytest.mark.parametrize("kind", ["images", "depth"])
def test_images_of_another_size_or_broken_are_refused(tmp_path, kind):
    folder = make_folder(tmp_path / "a")
    path = folder / f"{kind}/00001.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{kind}/00001\.png: the PNG has no end marker"):
        read(folder)
    save(path, (RGB if kind == "images" else DEPTH)[1:])
    with pytest.raises(DataError, match=rf"{kind}/00001\.png: .* recording's size"):
        read(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=rf"{kind}/00001\.png is missing|Is a directory"):
        read(folder)


def test_8_bit_depth_is_refused(tmp_path):
    folder = make_folder(tmp_path / "a")
    save(folder / "depth/00000.png", DEPTH.astype(np.uint8))
    with pytest.raises(DataError, match="must be a greyscale PNG of 16 bits, got mode L"):
        read(folder)


def test_the_real_walk_is_read(real_data):
    camera, frames = read(real_data / "rgbd_hololens")
    assert (camera.frames, len(frames)) == (32, 32)
    assert (camera.rgb_size, camera.depth_size) == ((360, 540), (360, 540))
    np.testing.assert_allclose(camera.rgb_intrinsics[2:], [270.002897, 169.694112], atol=1e-5)
    names = (real_data / "rgbd_hololens/frames.txt").read_text().split()
    for name, frame in zip(names, frames, strict=True):
        assert frame.rgb == (real_data / "rgbd_hololens/images" / name).read_bytes()
        with Image.open(real_data / "rgbd_hololens/depth" / name) as depth:
            np.testing.assert_array_equal(frame.depth, np.asarray(depth))
        np.testing.assert_allclose(np.linalg.det(frame.world_from_cam[:3, :3]), 1, atol=1e-3)


def test_the_real_shelf_is_read_in_metres(real_data):
    camera, frames = read(real_data / "rgbd_labelled_shelf", depth_coding="sun3d")
    assert (camera.frames, camera.label_size, camera.depth_unit_m) == (8, (480, 640), 1e-4)
    np.testing.assert_allclose(
        camera.rgb_intrinsics, [611.68573, 611.685791, 318.176056, 243.65184]
    )
    labels = set(np.unique([frame.label for frame in frames]).tolist())
    assert labels == {0, 48, 132}
    metres = [frame.depth * camera.depth_unit_m for frame in frames]
    assert max(plane.max() for plane in metres) < 2
    # A surface is smooth where it is seen; read as plain counts it is noise.
    steps = np.concatenate([np.diff(plane)[(plane[:, 1:] * plane[:, :-1]) > 0] for plane in metres])
    assert np.median(abs(steps)) < 0.002
