import functools
import hashlib
import zlib

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.errors import DataError
from geomim_data.sources.scannet import ScanNetSource
from geomim_data.sources.sens import SensFile
from geomim_data.sources.synthetic import scannet
from geomim_data.sources.synthetic.scannet import scaled_sizes, scan_room, synthesize_scannet

from .surfaces import distances_to_surface

SIZES = {"colour_size": (48, 64), "depth_size": (24, 32)}


@pytest.fixture(scope="module", autouse=True)
def _rooms_are_built_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scannet, "room", functools.cache(scannet.room))
        yield


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "scannet"
    synthesize_scannet(out, scenes=1, frames=1, seed=5, **SIZES)
    return out


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "scannet"
    synthesize_scannet(out, scenes=2, frames=4, seed=5, lost_frames=1, **SIZES)
    return out


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_files_lie_as_in_the_release(root):
    files = set(digests(root))
    assert {"scannetv2-labels.combined.tsv", "scannetv2_train.txt", "scannetv2_val.txt"} <= files
    for name in ("scene9000_00", "scene9001_00"):
        scan = f"scans/{name}"
        assert {f"{scan}/{name}.sens", f"{scan}/{name}.txt"} <= files
        assert {f"{scan}/label-filt/{frame}.png" for frame in range(4)} <= files
        assert {f"{scan}/instance-filt/{frame}.png" for frame in range(4)} <= files
    assert len(files) == 3 + 2 * (2 + 8)


def test_splits_hold_each_scan_once(root):
    assert (root / "scannetv2_train.txt").read_text() == "scene9000_00\n"
    assert (root / "scannetv2_val.txt").read_text() == "scene9001_00\n"


def test_the_reader_of_scannet_reads_it(root):
    source = ScanNetSource(root)
    assert source.scenes() == ["scene9000_00", "scene9001_00"]
    with source.open("scene9000_00") as recording:
        (camera,) = recording.cameras
        frames = list(camera.read.frames())
        info = recording.scan_info()
    assert (camera.rgb_size, camera.depth_size) == ((48, 64), (24, 32))
    assert camera.source_pixel_centre == "integer"
    assert len(frames) == int(info["numColorFrames"]) == 4
    assert simplejpeg.decode_jpeg(frames[0].rgb).shape == (48, 64, 3)
    assert [frame.rgb_timestamp_us for frame in frames] == [0, 200_000, 400_000, 600_000]
    seen = set(np.unique([frame.label for frame in frames]).tolist())
    assert {1, 2} <= seen <= set(range(1, 41))
    assert all(frame.instance.shape == (48, 64) for frame in frames)


def test_intrinsics_show_the_same_field_of_view(root):
    with ScanNetSource(root).open("scene9000_00") as recording:
        (camera,) = recording.cameras
    np.testing.assert_allclose(camera.rgb_intrinsics[2:], (32, 24), atol=1e-5)
    np.testing.assert_allclose(camera.depth_intrinsics[2:], (16, 12), atol=1e-5)
    np.testing.assert_allclose(camera.rgb_intrinsics, 2 * camera.depth_intrinsics, rtol=1e-6)
    assert camera.depth_intrinsics[0] == pytest.approx(577.87 * 32 / 640)


def test_stored_depth_lies_on_the_surfaces_of_the_room(root):
    primitives = scan_room("scene9000_00", seed=5).scene.primitives
    with SensFile(root / "scans/scene9000_00/scene9000_00.sens") as file:
        frame = next(f for f in map(file.frame, range(4)) if np.isfinite(f.world_from_cam).all())
        depth = decoded(frame.depth)
        matrix = torch.from_numpy(file.header.depth_intrinsics[:3, :3].copy())
    camera = PinholeCamera.from_matrix(matrix, size=(24, 32), source_pixel_centre="integer")
    points, valid = camera.unproject(camera.pixel_grid(), torch.from_numpy(depth / 1000.0))
    pose = RigidTransform.from_matrix(torch.from_numpy(frame.world_from_cam))
    points_world = pose.apply(points).numpy().reshape(-1, 3)
    assert valid.all()
    nearest = np.min(
        [
            distances_to_surface(points_world, np.full(len(points_world), solid), primitives)
            for solid in range(len(primitives.kind))
        ],
        axis=0,
    )
    assert nearest.max() <= 0.6e-3
    assert np.median(nearest) < 0.3e-3


def decoded(payload):
    return np.frombuffer(zlib.decompress(payload), "<u2").reshape(24, 32).astype(np.float64)


def test_labels_are_sixteen_bit_and_instances_eight(root):
    scan = root / "scans/scene9000_00"
    label, instance = (
        np.asarray(Image.open(scan / f"{kind}-filt/0.png")) for kind in ("label", "instance")
    )
    assert (label.dtype, instance.dtype) == (np.uint16, np.uint8)
    assert label.shape == instance.shape == (48, 64)
    assert label.min() > 0


def test_a_lost_frame_has_no_pose(root):
    for name in ("scene9000_00", "scene9001_00"):
        with SensFile(root / f"scans/{name}/{name}.sens") as file:
            poses = np.stack([file.frame(index).world_from_cam for index in range(4)])
        assert np.isneginf(poses).all(axis=(1, 2)).sum() == 1
        assert np.isfinite(poses[0]).all()


def test_the_same_seed_gives_the_same_bytes(root, tmp_path):
    synthesize_scannet(tmp_path, scenes=1, frames=4, seed=5, lost_frames=1, **SIZES)
    again, before = digests(tmp_path), digests(root)
    scans = [name for name in again if name.startswith("scans/")]
    assert len(scans) == 10
    assert all(again[name] == before[name] for name in scans)


def test_another_seed_and_another_scene_differ(root):
    label = "scans/{0}/label-filt/0.png"
    planes = [(root / label.format(name)).read_bytes() for name in ("scene9000_00", "scene9001_00")]
    assert planes[0] != planes[1]
    assert scan_room("scene9000_00", seed=6).size != scan_room("scene9000_00", seed=5).size


@pytest.mark.slow
def test_the_number_of_workers_leaves_the_bytes_alone(root, tmp_path):
    out = tmp_path / "out"
    synthesize_scannet(out, scenes=2, frames=4, seed=5, lost_frames=1, workers=2, **SIZES)
    assert digests(out) == digests(root)


def test_holes_appear_when_asked_for(single, tmp_path):
    out = tmp_path / "out"
    synthesize_scannet(out, scenes=1, frames=1, seed=5, hole_fraction=0.2, **SIZES)
    with SensFile(out / "scans/scene9000_00/scene9000_00.sens") as file:
        holed = decoded(file.frame(0).depth)
    with SensFile(single / "scans/scene9000_00/scene9000_00.sens") as file:
        whole = decoded(file.frame(0).depth)
    assert (whole > 0).all()
    assert 0.15 < (holed == 0).mean() < 0.6
    np.testing.assert_array_equal(holed[holed > 0], whole[holed > 0])


def test_progress_hears_of_scenes_and_frames(tmp_path):
    heard = []

    class Listener:
        def start(self, scenes):
            heard.append(scenes)

        def advance(self, scene, done, total):
            heard.append((scene, done, total))

        def finish(self, scene, error):
            heard.append((scene, error))

    out = tmp_path / "out"
    synthesize_scannet(out, scenes=1, frames=2, seed=5, progress=Listener(), **SIZES)
    name = "scene9000_00"
    assert heard == [1, (name, 1, 2), (name, 2, 2), (name, None)]


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="must be a new or empty folder; remove it or name another"):
        synthesize_scannet(tmp_path, scenes=1, frames=1, **SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(scannet, "write_sens", broken)
    with pytest.raises(OSError, match="disk full"):
        synthesize_scannet(tmp_path / "out", scenes=1, frames=1, **SIZES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": 0}, "scenes must be 1 to 1000, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"lost_frames": 2}, "lost_frames must be 0 to 1, fewer than there are frames, got 2"),
        ({"hole_fraction": 1.0}, "hole_fraction must be at least 0 and below 1, got 1.0"),
        (
            {"colour_size": (4, 64)},
            r"colour_size must be at least 8 pixels each way, got \(4, 64\)",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        synthesize_scannet(tmp_path / "out", **{"scenes": 1, "frames": 2, **SIZES, **options})
    assert list(tmp_path.iterdir()) == []


def test_sizes_scale_with_those_of_scannet():
    assert scaled_sizes(1.0) == ((968, 1296), (480, 640))
    assert scaled_sizes(0.25) == ((242, 324), (120, 160))


def test_a_scale_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"image_scale must be 0\.05 to 1, got 2\.0"):
        scaled_sizes(2.0)
