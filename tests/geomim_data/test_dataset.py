import dataclasses
import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geomim.cameras import PinholeCamera
from geomim.depth import unproject_depth
from geomim.raycasting import Primitives, cast_rays
from geomim.transforms import RigidTransform
from geomim_data.augment import CentreFit, JointAugment
from geomim_data.convert import convert
from geomim_data.dataset import RgbdDataset, collate
from geomim_data.errors import DataError
from geomim_data.loader import make_loader
from geomim_data.recording import Frame
from geomim_data.sampler import EpochSampler, SampleKey
from geomim_data.split import split_frames
from geomim_data.store import open_store
from tests.geomim_data.recordings import FakeRecording, FakeSource, camera, pose

IMAGE_SIZE = (12, 16)


def converted(source, folder):
    report = convert(source, folder / "shards")
    assert not report.failed
    return open_store(folder / "shards")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    source = FakeSource(count=2, frames=4, labels=True, broken={"scene0000_00": {1: "pose"}})
    return converted(source, tmp_path_factory.mktemp("store"))


def dataset(store, **options):
    train, _ = split_frames(store, val="none")
    return RgbdDataset(store, train, **{"image_size": IMAGE_SIZE} | options)


NORMAL, OFFSET = np.array([0.3, -0.2, 1.0]), 2.0


def slanted(size, intrinsics):
    """Depth of the plane ``NORMAL @ point == OFFSET``, in tenths of a millimetre."""
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = (u - intrinsics[2]) / intrinsics[0], (v - intrinsics[3]) / intrinsics[1]
    depth = OFFSET / (x * NORMAL[0] + y * NORMAL[1] + NORMAL[2])
    return depth, np.sqrt(1 + x**2 + y**2)


@dataclass(frozen=True)
class PlaneFrames:
    """One frame of a slanted plane; its colour says where each pixel is."""

    kind: str = "depth"
    coding: str = "PNG"
    count: int = 1
    labels: bool = False
    rgb_size: tuple[int, int] = (96, 128)
    rgb_intrinsics: tuple[float, ...] = (110.0, 112.0, 65.0, 47.0)

    @property
    def depth_size(self):
        return 75, 100  # as ScanNet: another resolution of the same view

    @property
    def depth_intrinsics(self):
        scale = 75 / 96
        return tuple(scale * number for number in self.rgb_intrinsics)

    def frames(self):
        depth, slant = slanted(self.depth_size, self.depth_intrinsics)
        depth = depth * slant if self.kind == "distance" else depth
        depth[20:30, 40:60] = 0
        v, u = np.mgrid[: self.rgb_size[0], : self.rgb_size[1]]
        buffer = io.BytesIO()
        Image.fromarray(np.stack([u, v, 0 * u], axis=-1).astype(np.uint8)).save(
            buffer, self.coding, **({"quality": 98} if self.coding == "JPEG" else {})
        )
        yield Frame(buffer.getvalue(), np.round(depth * 1e4).astype(np.uint16), pose(2), 0, 0)


@dataclass(frozen=True)
class PlaneSource:
    frames: PlaneFrames = field(default_factory=PlaneFrames)
    changes: dict[str, object] = field(default_factory=dict)
    dataset: str = "plane"
    root: Path = Path("plane")

    def arguments(self):
        return {}

    def scenes(self):
        return ["room"]

    def open(self, scene):
        frames = self.frames
        values = {
            "rgb_size": frames.rgb_size,
            "rgb_intrinsics": np.array(frames.rgb_intrinsics),
            "depth_size": frames.depth_size,
            "depth_intrinsics": np.array(frames.depth_intrinsics),
            "depth_unit_m": 1e-4,
            "depth_kind": frames.kind,
        }
        return FakeRecording(scene, (camera(frames, **values | self.changes),))


def plane_batch(folder, frames=None, *, augment=None, changes=None, image_size=(30, 40), epochs=8):
    store = converted(PlaneSource(frames or PlaneFrames(), changes or {}), folder)
    samples = RgbdDataset(store, [("room", 0)], image_size=image_size, augment=augment)
    return collate([samples[epoch, 0] for epoch in range(epochs)])


@pytest.mark.parametrize("augment", [CentreFit(), JointAugment()])
@pytest.mark.parametrize("kind", ["depth", "distance"])
def test_depth_unprojects_onto_the_surface(tmp_path, augment, kind):
    batch = plane_batch(tmp_path, PlaneFrames(kind), augment=augment)
    points, valid = unproject_depth(batch.depth, batch.camera)
    torch.testing.assert_close(valid, batch.depth_valid)
    off = points[valid].double() @ torch.from_numpy(NORMAL) - OFFSET
    # Nearest takes depth from at most half a source pixel away, each way.
    rays = NORMAL @ [-0.59, 0.44, 1]  # the corner where the plane is furthest
    assert off.abs().max() < OFFSET / rays * 0.5 * np.abs(NORMAL[:2]).sum() / 85.9
    assert off.abs().mean() < 0.004
    assert 0.8 < valid.float().mean() < 1


@pytest.mark.parametrize("coding", ["PNG", "JPEG"])
@pytest.mark.parametrize("image_size", [(30, 40), (12, 12)])
def test_colour_and_camera_see_the_same_rays(tmp_path, coding, image_size):
    frames = PlaneFrames(coding=coding)
    batch = plane_batch(tmp_path, frames, augment=JointAugment(), image_size=image_size)
    rays = batch.camera.pixel_grid() - batch.camera.principal_point[:, None, None]
    rays = rays / batch.camera.focal[:, None, None]
    fx, fy, cx, cy = frames.rgb_intrinsics
    source = rays * torch.tensor([fx, fy]) + torch.tensor([cx, cy]) - 0.5  # red and green
    inner = (slice(None), slice(1, -1), slice(1, -1))  # antialiasing stops at the window's edge
    error = (255 * batch.rgb[:, :2].movedim(1, -1) - source)[inner].abs()
    assert error.mean() < 0.5
    assert error.max() < (1.1 if coding == "PNG" else 5)


def test_colour_and_depth_are_mirrored_together(tmp_path):
    store = converted(PlaneSource(), tmp_path)
    frames = [("room", 0)]
    plain, flipped = (
        RgbdDataset(
            store, frames, image_size=(31, 41), augment=JointAugment(scale=(0.5, 0.9), flip=chance)
        )[0, 0]
        for chance in (0.0, 1.0)
    )
    torch.testing.assert_close(flipped.rgb, plain.rgb.flip(-1))
    torch.testing.assert_close(flipped.depth, plain.depth.flip(-1))


def test_a_flip_leaves_the_pose_alone(tmp_path):
    batch = plane_batch(tmp_path, augment=JointAugment(flip=0.5))
    assert set(batch.camera.focal[:, 0].sign().tolist()) == {-1.0, 1.0}
    expected = torch.from_numpy(pose(2)).float().expand(8, 4, 4)
    torch.testing.assert_close(batch.world_from_cam.matrix(), expected)


def test_holes_stay_zero(tmp_path):
    batch = plane_batch(tmp_path, augment=JointAugment())
    assert (batch.depth[~batch.depth_valid] == 0).all()
    nearest_surface = slanted((75, 100), PlaneFrames().depth_intrinsics)[0].min()
    assert batch.depth[batch.depth_valid].min() >= nearest_surface - 1e-4


def test_a_batch_holds_what_was_asked_for(store):
    samples = dataset(store)
    batch = collate([samples[0, index] for index in range(8)])
    assert batch.rgb.shape == (8, 3, *IMAGE_SIZE)
    assert batch.depth.shape == batch.depth_valid.shape == (8, *IMAGE_SIZE)
    assert batch.camera.size == IMAGE_SIZE
    assert batch.scene == ("scene0000_00",) * 4 + ("scene0001_00",) * 4
    assert batch.frame == (0, 1, 2, 3) * 2
    assert batch.label is None
    assert batch.instance is None
    assert (batch.depth[:, 0, 0] > 0.9).all()  # about 1000 mm
    assert (batch.depth[:, 0, 0] < 2.1).all()


def test_a_pose_that_is_none_is_the_identity(store):
    samples = dataset(store)
    batch = collate([samples[0, 0], samples[0, 1]])
    assert batch.pose_valid.tolist() == [True, False]
    torch.testing.assert_close(batch.world_from_cam[1].matrix(), torch.eye(4))
    torch.testing.assert_close(batch.world_from_cam[0].translation, torch.tensor([0, 0.5, -1]))


def test_a_rounded_rotation_becomes_the_nearest_one(tmp_path):
    rounded = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    rounded[:3, :3] += 0.003
    frames = dataclasses.make_dataclass(
        "Rounded",
        [],
        bases=(PlaneFrames,),
        frozen=True,
        namespace={
            "frames": lambda self: (
                dataclasses.replace(frame, world_from_cam=rounded)
                for frame in PlaneFrames.frames(self)
            )
        },
    )()
    pose_read = plane_batch(tmp_path, frames, epochs=1).world_from_cam[0]
    identity = pose_read.rotation @ pose_read.rotation.T
    torch.testing.assert_close(identity, torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        pose_read.rotation.double(), torch.from_numpy(rounded[:3, :3]), atol=0.005, rtol=0
    )


def test_labels_are_taken_like_depth(store):
    samples = dataset(store, labels=True, image_size=(12, 16))
    batch = collate([samples[0, 0], samples[0, 1]])
    assert batch.label is not None
    assert batch.instance is not None
    counts = (batch.depth[0] / 0.001).round().long()
    torch.testing.assert_close(batch.label[0], counts % 7)
    torch.testing.assert_close(batch.instance[0], counts % 5)
    assert batch.label[1].count_nonzero() == 0  # this frame has none


def same(first, second):
    for name in ("rgb", "depth", "depth_valid", "pose_valid"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0)
    torch.testing.assert_close(first.camera.focal, second.camera.focal, rtol=0, atol=0)
    assert (first.scene, first.frame) == (second.scene, second.frame)
    return True


def test_a_sample_depends_on_seed_epoch_and_index_alone(store):
    def view(seed, epoch, index):
        return dataset(store, augment=JointAugment(), seed=seed)[SampleKey(epoch, index)]

    reference = view(1, 2, 3)
    torch.testing.assert_close(view(1, 2, 3).rgb, reference.rgb, rtol=0, atol=0)
    for other in (view(0, 2, 3), view(1, 0, 3)):
        assert not torch.equal(other.rgb, reference.rgb)


def parallel_work():
    """Use whatever is said not to survive a fork: torch's and numba's thread pools."""
    torch.randn(300, 300) @ torch.randn(300, 300)
    boxes = Primitives(
        kind=torch.zeros(1, dtype=torch.int64),
        world_from_primitive=RigidTransform.identity(1),
        half_size=torch.ones(1, 3),
    )
    directions = torch.nn.functional.normalize(torch.randn(4000, 3), dim=-1)
    assert cast_rays(torch.zeros(4000, 3), directions, boxes).valid.all()


@pytest.mark.parametrize(("start_method", "workers"), [("fork", 1), ("fork", 2), ("spawn", 2)])
def test_workers_load_what_the_main_process_loads(store, start_method, workers):
    samples = dataset(store, augment=JointAugment(), seed=5)
    sampler = EpochSampler(len(samples), 4, seed=5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        parallel_work()
        with make_loader(samples, sampler) as alone:
            expected = list(alone.epoch(0)) + list(alone.epoch(1))
        with make_loader(samples, sampler, workers=workers, start_method=start_method) as loader:
            for batch, reference in zip(loader.forever(), expected, strict=False):
                assert same(batch, reference)
            parallel_work()
    finally:
        torch.set_num_threads(threads)


def test_a_data_set_can_be_pickled(store):
    samples = dataset(store, augment=JointAugment())
    copied = pickle.loads(pickle.dumps(samples))  # noqa: S301 - our own bytes
    torch.testing.assert_close(copied[3, 2].rgb, samples[3, 2].rgb)


def test_batches_move_between_devices(store):
    samples = dataset(store, labels=True)
    moved = collate([samples[0, 0]]).to("meta")
    assert {moved.rgb.device.type, moved.depth.device.type, moved.depth_valid.device.type} == {
        "meta"
    }
    assert moved.camera.device.type == moved.world_from_cam.device.type == "meta"
    assert moved.label is not None
    assert moved.label.device.type == "meta"
    assert moved.scene == ("scene0000_00",)


def test_pinning_reaches_every_tensor(store, monkeypatch):
    samples = dataset(store)
    batch = collate([samples[0, 0]])
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: (pinned.append(t.shape), t)[1])
    assert same(batch.pin_memory(), batch)
    assert len(pinned) == 8


def without_depth(folder):
    frames = dataclasses.make_dataclass(
        "Colour",
        [],
        bases=(PlaneFrames,),
        frozen=True,
        namespace={
            "frames": lambda self: (
                dataclasses.replace(frame, depth=None) for frame in PlaneFrames.frames(self)
            )
        },
    )()
    return converted(PlaneSource(frames, {"depth_size": None, "depth_intrinsics": None}), folder)


def test_a_store_without_depth_is_refused_by_name(tmp_path):
    store = without_depth(tmp_path)
    with pytest.raises(DataError, match=rf"^{store.path}/room: must have depth, got none; leave"):
        RgbdDataset(store, [("room", 0)], image_size=IMAGE_SIZE)


def test_colour_alone_is_enough_for_those_who_ask_for_no_depth(tmp_path):
    store = without_depth(tmp_path)
    samples = RgbdDataset(store, [("room", 0)], image_size=IMAGE_SIZE, needs_depth=False)
    assert collate([samples[0, 0]]).depth_valid.count_nonzero() == 0


def test_labels_that_are_not_there_are_missed(tmp_path):
    store = converted(PlaneSource(), tmp_path)
    with pytest.raises(DataError, match=r"/room: must have labels, got none"):
        RgbdDataset(store, [("room", 0)], image_size=IMAGE_SIZE, labels=True)


def test_no_frames_make_no_data_set(store):
    with pytest.raises(
        ValueError, match=r"frames must hold at least one \(scene, frame\), got none"
    ):
        RgbdDataset(store, [], image_size=IMAGE_SIZE)


@pytest.fixture
def damaged(tmp_path):
    """A store in which frames 1 and 2 of the first scene have lost their depth."""
    store = converted(FakeSource(count=2, frames=4), tmp_path)
    (shard,) = (store.path / "scenes" / "scene0000_00" / "camera" / "depth" / "c").rglob("0/0/0")
    content = bytearray(shard.read_bytes())
    for frame in (1, 2):
        offset, nbytes = np.frombuffer(content[-68:-4], "<u8").reshape(4, 2)[frame]
        content[offset + nbytes // 2] ^= 0xFF
    shard.write_bytes(content)
    return store


def test_a_broken_frame_is_an_error(damaged):
    message = rf"^{damaged.path}/scene0000_00\[frame 1\]: .*crc32c"
    with pytest.raises(DataError, match=message) as caught:
        dataset(damaged)[0, 1]
    assert "\n" not in str(caught.value)


def test_a_broken_frame_can_be_skipped(damaged):
    skipping = dataset(damaged, augment=JointAugment(), on_corrupt="skip")
    sample = skipping[0, 1]
    assert (sample.scene, sample.frame) == ("scene0000_00", 3)
    assert len(sample.skipped) == 2
    assert "scene0000_00[frame 1]" in sample.skipped[0]
    assert "scene0000_00[frame 2]" in sample.skipped[1]
    torch.testing.assert_close(sample.rgb, skipping[0, 1].rgb, rtol=0, atol=0)
    assert skipping[0, 0].skipped == ()


def test_skipping_ends_when_nothing_can_be_read(damaged):
    broken = [("scene0000_00", 1), ("scene0000_00", 2)]
    skipping = RgbdDataset(damaged, broken, image_size=IMAGE_SIZE, on_corrupt="skip")
    with pytest.raises(DataError, match="crc32c"):
        skipping[0, 1]


def test_a_missing_shard_is_an_error(damaged):
    for shard in (damaged.path / "scenes" / "scene0001_00" / "camera" / "rgb" / "c").iterdir():
        shard.unlink()
    with pytest.raises(DataError, match=r"scene0001_00\[frame 0\]: "):
        dataset(damaged)[0, 4]


def test_the_camera_is_that_of_the_image(store):
    samples = dataset(store, image_size=(24, 32))
    batch = collate([samples[0, 0]])
    whole = PinholeCamera(torch.tensor([30.0, 31.0]), torch.tensor([16.5, 12.5]), (24, 32))
    torch.testing.assert_close(batch.camera.focal[0], whole.focal)
    torch.testing.assert_close(batch.camera.principal_point[0], whole.principal_point)
