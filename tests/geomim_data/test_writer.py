from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from geomim_data.errors import DataError
from geomim_data.moments import valid_poses
from geomim_data.recording import Deflated
from geomim_data.writer import SceneWriter
from tests.geomim_data.recordings import (
    DEPTH_SIZE,
    FakeFrames,
    camera,
    depth_plane,
    pose,
    rgb_file,
)


def reader(**changes):
    values = {"seed": 0, "count": 3, "deflated": True, "broken": {}, "seconds": 0, "labels": False}
    return FakeFrames(**values | changes)


def changed(frames, **changes):
    """Frames of which every one has these fields instead."""
    return SimpleNamespace(frames=lambda: (replace(frame, **changes) for frame in frames.frames()))


def write(folder, recording, *, depth_codec="auto"):
    with SceneWriter(folder, "a", place="fake/a", depth_codec=depth_codec) as writer:
        writer.write_camera(recording, lambda: None)
        return writer.commit()


def opened(folder):
    return zarr.open_group(folder / "a" / "camera", mode="r")


def test_plain_zarr_python_reads_what_was_written(tmp_path):
    write(tmp_path, camera(reader(labels=True)))
    group = opened(tmp_path)
    rgb, offset, nbytes = (group[name][...] for name in ("rgb", "rgb_offset", "rgb_nbytes"))
    for index in range(3):
        assert bytes(rgb[offset[index] : offset[index] + nbytes[index]]) == rgb_file(index)
        assert np.array_equal(group["depth"][index], depth_plane(index))
        assert np.array_equal(group["world_from_cam"][index], pose(index))
    assert np.array_equal(group["label"][0], depth_plane(0) % 7)
    assert group["label_valid"][...].tolist() == [True, False, True]
    assert group["rgb_timestamp_us"][...].tolist() == [0, 1000, 2000]
    assert group["rgb_intrinsics"][2].tolist() == [30.0, 31.0, 16.5, 12.5]


def test_attributes_say_units_and_sizes_to_any_reader(tmp_path):
    write(tmp_path, camera(reader(labels=True)))
    group = opened(tmp_path)
    assert dict(group["depth"].attrs) == {"depth_unit_m": 0.001, "depth_kind": "depth"}
    assert group["depth_intrinsics"].attrs["size"] == list(DEPTH_SIZE)
    assert group["rgb_intrinsics"].attrs["source_pixel_centre"] == "integer"
    assert group["label"].attrs["label_names"] == {"1": "wall"}


@pytest.mark.parametrize(
    ("deflated", "choice", "codec"),
    [
        (True, "auto", "gzip"),
        (False, "auto", "blosc"),
        (True, "blosc", "blosc"),
        (False, "gzip", "gzip"),
    ],
)
def test_the_depth_codec_is_kept_or_chosen(tmp_path, deflated, choice, codec):
    write(tmp_path, camera(reader(deflated=deflated)), depth_codec=choice)
    array = opened(tmp_path)["depth"]
    assert [part.to_dict()["name"] for part in array.compressors] == [codec, "crc32c"]
    assert np.array_equal(array[2], depth_plane(2))


def test_a_camera_without_depth_or_labels_has_no_such_arrays(tmp_path):
    frames = changed(reader(), depth=None)
    write(tmp_path, camera(reader(), read=frames, depth_size=None, depth_intrinsics=None))
    names = {name for name, _ in opened(tmp_path).arrays()}
    assert not names & {"depth", "label", "instance", "depth_intrinsics", "label_valid"}


def test_the_entry_counts_frames_and_valid_poses(tmp_path):
    entry = write(tmp_path, camera(reader(broken={1: "pose"})))
    assert (entry.frames, entry.valid_poses) == (3, 2)
    assert np.isneginf(opened(tmp_path)["world_from_cam"][1]).all()


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (camera(reader(broken={1: "rgb"})), r"fake/a\[frame 1\]: the JPEG has no end marker"),
        (camera(reader(broken={1: "source"})), r"fake/a: fake.sens\[frame 1\]: is truncated"),
        (camera(reader(), frames=4), "fake/a: there must be 4 frames, got 3"),
        (camera(reader(count=0)), "fake/a: there must be some frames, got 0"),
        (camera(reader(), rgb_size=(2, 2)), r"\[frame 0\]: rgb must be 2x2 pixels, got 24x32"),
        (camera(reader(), depth_size=(2, 2)), r"\[frame 0\]: depth must be 2x2 pixels, got 12x16"),
        (camera(reader(), depth_size=None), r"\[frame 0\]: depth must be absent, as the camera"),
        (
            camera(reader(), read=changed(reader(), depth=None)),
            r"\[frame 0\]: depth must be there in every frame of the camera, got none",
        ),
        (
            camera(reader(), read=changed(reader(), depth=Deflated(b"x", *DEPTH_SIZE))),
            r"\[frame 0\]: depth: the plane's stream is truncated",
        ),
        (
            camera(reader(labels=True), label_size=(1, 1)),
            r"\[frame 0\]: label must be 1x1 pixels, got 12x16",
        ),
        (
            camera(reader(), read=changed(reader(), rgb_timestamp_us=2**63)),
            r"\[frame 0\]: rgb_timestamp_us must fit int64, got 9223372036854775808",
        ),
        (
            camera(reader(), rgb_intrinsics=np.array([0.0, 1, 1, 1])),
            "fake/a: rgb_intrinsics must be finite with positive focal lengths",
        ),
        (
            camera(reader(), depth_intrinsics=None),
            "fake/a: depth_intrinsics must be finite with positive focal lengths, got None",
        ),
        (camera(reader(), name="a/b"), "a camera name must be one path component"),
    ],
)
def test_a_broken_recording_is_named_and_leaves_nothing(tmp_path, recording, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path, recording)
    assert list(tmp_path.iterdir()) == []


def test_a_second_camera_is_named_in_messages(tmp_path):
    with pytest.raises(DataError, match=r"fake/a/left\[frame 1\]: the JPEG"):
        write(tmp_path, camera(reader(broken={1: "rgb"}), name="left"))


def test_a_scene_name_that_leaves_its_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="a scene name must be one path component"):
        SceneWriter(tmp_path, "../a", place="fake/a", depth_codec="auto")


def test_every_file_is_recorded(tmp_path):
    write(tmp_path, camera(reader(labels=True)))
    recorded = zarr.open_group(tmp_path / "a", mode="r").attrs["geomim"]["files"]
    there = {
        path.relative_to(tmp_path / "a").as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert {record["path"] for record in recorded} == there - {"zarr.json"}


MIRROR = np.diag([-1.0, 1, 1, 1])


@pytest.mark.parametrize(
    ("matrix", "valid"),
    [
        (np.eye(4), True),
        (np.full((4, 4), -np.inf), False),
        (np.full((4, 4), np.nan), False),
        (np.zeros((4, 4)), False),
        (2 * np.eye(4), False),
        (MIRROR, False),
        (np.eye(4) + 1e-3, True),
        (np.full((4, 4), 1e300), False),
    ],
)
def test_a_pose_is_valid_if_it_is_a_finite_rigid_transform(matrix, valid):
    assert valid_poses(matrix[None].astype(np.float64)).tolist() == [valid]
