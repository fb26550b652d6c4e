import itertools
import pickle

import numpy as np
import pytest
import torch

from geomim.transforms import RigidTransform
from geomim_data.clip_times import ClipTimes
from geomim_data.clips import ClipDataset
from geomim_data.codecs import decode_rgb
from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.loader import make_loader
from geomim_data.sampler import EpochSampler
from geomim_data.sources.nuscenes import NuScenesSource
from geomim_data.split import split_samples
from geomim_data.store import open_store
from tests.geomim_data.recordings import FakeSource
from tests.geomim_data.sources.nuscenes_roots import CAMERAS, MATRIX, SIZE, VERSION, Root, points

SCENES = ("scene-0001", "scene-0002")
PAST = ClipTimes((-3 / 12, -2 / 12, -1 / 12, 0.0))


def converted(root, folder):
    root.write()
    report = convert(NuScenesSource(root.folder, version=VERSION), folder / "shards")
    assert not report.failed
    return open_store(folder / "shards")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return converted(Root(folder / "root", scenes=SCENES), folder)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """A store whose second scene lacks a camera and the lidar, and whose first has a gap."""
    folder = tmp_path_factory.mktemp("ragged")
    root = Root(folder / "root", scenes=SCENES)
    rows = root.tables["sample_data"]
    late = 1_532_402_930_000_000
    gap = next(row for row in rows if "/CAM_FRONT/" in row["filename"] and not row["is_key_frame"])
    root.tables["sample_data"] = [
        row
        for row in rows
        if row is not gap
        and not (
            row["timestamp"] > late and ("BACK" in row["filename"] or "pcd" in row["filename"])
        )
    ]
    return converted(root, folder)


def clips(store, **options):
    anchors, _ = split_samples(store, val="none")
    values = {"times": PAST, "multiple": 8}
    return ClipDataset(store, anchors, **values | options)


def batch_of(dataset, *anchors):
    return dataset.collate([dataset[0, anchor] for anchor in anchors])


def own_frame(camera, sample):
    [frame] = np.flatnonzero(camera.key_frame & (camera.sample == sample))
    return int(frame)


def test_a_clip_takes_each_cameras_frames_before_its_own_key_frame(store):
    batch = batch_of(clips(store), 1)
    scene = store.scene(SCENES[0])
    assert batch.images.shape == (1, 4, 2, 3, 16, 16)
    assert batch.valid.all()
    for view, name in enumerate(CAMERAS):
        camera = scene.camera(name)
        last = own_frame(camera, 1)
        expected = camera.rgb_timestamp_us[last - 3 : last + 1]
        assert batch.timestamp_us[0, :, view].tolist() == expected.tolist()
        assert camera.sample[last - 3] == 1  # it leads up to the sample,
        assert not camera.key_frame[last - 3]  # from behind the one before


def test_frames_counted_and_frames_timed_are_the_same_here(store):
    counted = clips(store, times=ClipTimes((-3, -2, -1, 0), unit="frames"))
    for anchor in range(len(counted)):
        by_count, by_time = batch_of(counted, anchor), batch_of(clips(store), anchor)
        torch.testing.assert_close(by_count.timestamp_us, by_time.timestamp_us)
        torch.testing.assert_close(by_count.images, by_time.images)


def test_clips_cross_key_frames_and_reach_into_the_future(store):
    times = ClipTimes((-8, 0, 7), unit="frames")
    clip = clips(store, times=times)[0, 1]
    camera = store.scene(SCENES[0]).camera("CAM_FRONT")
    assert clip.valid[:, 0].tolist() == [False, True, False]  # six frames each way
    clip = clips(store, times=ClipTimes((-6, 0, 6), unit="frames"))[0, 1]
    frames = [own_frame(camera, sample) for sample in (0, 1, 2)]
    assert clip.timestamp_us[:, 0].tolist() == camera.rgb_timestamp_us[frames].tolist()


def test_what_lies_before_the_first_frame_is_masked(store):
    batch = batch_of(clips(store), 0)
    assert batch.valid[0, :, 0].tolist() == [False, False, False, True]
    hidden = ~batch.valid[0]
    assert batch.images[0][hidden].count_nonzero() == 0
    assert batch.timestamp_us[0][hidden].count_nonzero() == 0
    assert batch.unpadded[0][hidden].count_nonzero() == 0
    identity = RigidTransform.identity(int(hidden.sum())).matrix()
    torch.testing.assert_close(batch.world_from_cam.matrix()[0][hidden], identity)
    assert batch.camera.focal[0][hidden].eq(1).all()


def test_a_gap_is_masked_and_not_filled_by_a_neighbour(ragged):
    dataset = clips(ragged, times=ClipTimes((0.0, 1 / 12, 2 / 12)))
    assert dataset[0, 0].valid[:, 0].tolist() == [True, False, True]
    assert dataset[0, 0].valid[:, 1].all()
    counted = clips(ragged, times=ClipTimes((0, 1), unit="frames"))
    clip = counted[0, 0]
    assert clip.valid.all()
    assert clip.timestamp_us[1, 0] - clip.timestamp_us[0, 0] == 2 * 83_333


def test_what_a_rig_lacks_is_masked(ragged):
    dataset = clips(ragged, lidar="LIDAR_TOP")
    assert dataset.cameras == CAMERAS
    batch = batch_of(dataset, 1, 4)
    assert batch.scene == SCENES
    assert batch.valid[1, :, 0].all()
    assert not batch.valid[1, :, 1].any()
    assert batch.lidar is not None
    assert batch.lidar.valid.tolist() == [[True], [False]]
    assert batch.lidar.of(1).shape == (0, 3)
    only = clips(ragged, cameras=("CAM_BACK",))
    assert not only[0, 4].valid.any()


def test_images_are_scaled_and_padded_with_their_cameras(store):
    dataset = clips(store, scale=0.5, multiple=32)
    assert dataset.image_size == (32, 32)
    batch = batch_of(dataset, 1)
    camera = store.scene(SCENES[0]).camera("CAM_FRONT")
    assert batch.unpadded[0, 3, 0].tolist() == [9, 16]
    image = batch.images[0, 3, 0]
    assert image[:, 9:].count_nonzero() == image[:, :, 16:].count_nonzero() == 0
    half = decode_rgb(camera.rgb_bytes(own_frame(camera, 1)), min_height=9, min_width=16)
    expected = torch.from_numpy(half).movedim(-1, 0) / 255
    torch.testing.assert_close(image[:, :9, :16], expected)
    (fx, _, cx), (_, fy, cy), _ = MATRIX
    assert batch.camera.focal[0, 3, 0].tolist() == [fx / 2, fy / 2]
    assert batch.camera.principal_point[0, 3, 0].tolist() == [(cx + 0.5) / 2, (cy + 0.5) / 2]


@pytest.mark.parametrize("scale", [0.3, 0.7, 1.0])
def test_a_point_appears_at_its_scaled_pixel(store, scale):
    batch = batch_of(clips(store, scale=scale), 1)
    camera = store.scene(SCENES[0]).camera("CAM_FRONT")
    frame = own_frame(camera, 1)
    point_cam = np.array([0.4, -0.3, 5.0])
    point_world = camera.world_from_cam[frame] @ [*point_cam, 1]
    local = torch.from_numpy(point_world[:3] - batch.origin[0].numpy()).float()
    cam_from_world = batch.world_from_cam[0, 3, 0].inverse()
    pixels = batch.camera.project(
        cam_from_world.apply(local).expand(*batch.camera.shape, 3)
    ).pixels[0, 3, 0]
    fx, fy, cx, cy = camera.rgb_intrinsics[frame]
    u, v = fx * point_cam[0] / 5 + cx, fy * point_cam[1] / 5 + cy
    height, width = batch.unpadded[0, 3, 0].tolist()
    expected = torch.tensor([u * width / SIZE[1], v * height / SIZE[0]]).float()
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)


def test_poses_lose_nothing_to_far_origins(store):
    batch = batch_of(clips(store, lidar="LIDAR_TOP"), 1)
    camera = store.scene(SCENES[0]).camera("CAM_BACK")
    assert batch.world_from_cam.translation.abs().max() < 100 < batch.origin.abs().max()
    exact = camera.world_from_cam[own_frame(camera, 1)][:3, 3]
    ours = batch.world_from_cam.translation[0, 3, 1].double() + batch.origin[0]
    np.testing.assert_allclose(ours.numpy(), exact, atol=1e-6)


def test_sweeps_and_boxes_of_all_clips_lie_end_to_end(store):
    lidar_times = ClipTimes((-0.05, 0.0), tolerance_s=0.02)
    dataset = clips(store, lidar="LIDAR_TOP", lidar_times=lidar_times, boxes=True)
    batch = batch_of(dataset, 0, 2, 5)
    lidar, boxes = batch.lidar, batch.boxes
    assert lidar is not None
    assert boxes is not None
    assert lidar.valid.tolist() == [[False, True], [True, True], [True, True]]
    assert len(lidar.points) == lidar.offset[-1]
    for clip, sweep in itertools.product(range(3), range(2)):
        if lidar.valid[clip, sweep]:
            numbers = points(int(lidar.timestamp_us[clip, sweep]))
            assert np.array_equal(lidar.of(clip, sweep).numpy(), numbers[:, :3])
    assert boxes.offset.tolist() == [0, 2, 4, 6]
    assert boxes.categories == ("human.pedestrian.adult", "vehicle.car")
    assert boxes.track.tolist() == [0, 1] * 3
    stored = store.scene(SCENES[1]).boxes()
    world = boxes.world_from_box.translation[4:].double() + batch.origin[2]
    np.testing.assert_allclose(world, stored.world_from_box[4:, :3, 3], atol=1e-5)
    np.testing.assert_allclose(boxes.velocity[4:], stored.velocity[4:])


def test_lidar_and_boxes_are_optional(store):
    batch = batch_of(clips(store), 1)
    assert (batch.lidar, batch.boxes) == (None, None)


def test_one_moment_of_one_camera_is_a_clip(store):
    batch = batch_of(clips(store, times=ClipTimes((0.0,)), cameras=("CAM_BACK",)), 0, 1)
    assert batch.images.shape[:3] == (2, 1, 1)
    assert batch.valid.all()


def test_a_frame_whose_pose_is_unknown_is_masked(tmp_path):
    convert(FakeSource(driving=True, broken={"scene0000_00": {0: "pose"}}), tmp_path)
    dataset = clips(open_store(tmp_path), times=ClipTimes((0, 1), unit="frames"), lidar="top")
    assert dataset[0, 0].valid[:, 0].tolist() == [False, True]
    assert dataset[0, 2].valid.all()
    assert dataset[0, 0].lidar.valid.all()


@pytest.fixture
def damaged(tmp_path):
    """A store in which an image and a sweep are broken."""
    convert(FakeSource(driving=True), tmp_path)
    folder = tmp_path / "scenes/scene0000_00"
    for name in ("camera/rgb/c/0", "lidar/top/points/c/0/0"):
        content = bytearray((folder / name).read_bytes())
        content[40] ^= 0xFF
        (folder / name).write_bytes(content)
    return open_store(tmp_path)


def test_a_broken_frame_is_an_error(damaged):
    with pytest.raises(DataError, match=r"scene0000_00\[frame 0\]: .*crc32c"):
        clips(damaged, times=ClipTimes((0.0,)))[0, 0]


def test_a_broken_frame_can_be_masked(damaged):
    times = ClipTimes((0, 1), unit="frames")
    dataset = clips(damaged, times=times, lidar="top", on_corrupt="mask")
    clip = dataset[0, 0]
    assert clip.valid[:, 0].tolist() == [False, True]
    assert not clip.lidar.valid.any()
    assert [message.count("crc32c") for message in clip.skipped] == [1, 1]
    sampler = EpochSampler(len(dataset), 2, shuffle=False)
    with make_loader(dataset, sampler) as loader:
        next(loader.forever())
        assert loader.skipped == 3  # the broken chunk holds points of both key frames


def same(first, second):
    pairs = ((first, second), (first.lidar, second.lidar), (first.boxes, second.boxes))
    for ours, theirs in pairs:
        for name in ours.__slots__:
            value = getattr(ours, name)
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, getattr(theirs, name), equal_nan=True)
    assert (first.scene, first.sample) == (second.scene, second.sample)
    return True


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_load_what_the_main_process_loads_and_resume(store, start_method):
    dataset = clips(store, lidar="LIDAR_TOP", boxes=True)
    sampler = EpochSampler(len(dataset), 2, seed=3)
    with make_loader(dataset, sampler) as alone:
        expected = list(itertools.islice(alone.forever(), 5))
    with make_loader(dataset, sampler, workers=2, start_method=start_method) as loader:
        batches = loader.forever()
        assert all(same(next(batches), expected[index]) for index in range(2))
        state = loader.state()
    with make_loader(dataset, sampler) as resumed:
        resumed.load_state(state)
        assert same(next(resumed.forever()), expected[2])


def test_a_data_set_can_be_pickled(store):
    dataset = clips(store)
    copied = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes
    torch.testing.assert_close(copied[0, 2].images, dataset[0, 2].images)


def test_batches_move_and_are_pinned_whole(store, monkeypatch):
    batch = batch_of(clips(store, lidar="LIDAR_TOP", boxes=True), 1)
    moved = batch.to("meta")
    for part in (moved, moved.lidar, moved.boxes):
        for name in part.__slots__:
            value = getattr(part, name)
            assert not isinstance(value, torch.Tensor) or value.device.type == "meta"
    assert moved.camera.device.type == moved.world_from_cam.device.type == "meta"
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: (pinned.append(t.shape), t)[1])
    assert same(batch.pin_memory(), batch)
    assert len(pinned) == 9 + 6 + 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offsets": ()}, "offsets must be different moments, got"),
        ({"offsets": (0.0, 0.0)}, "offsets must be different moments, got"),
        ({"offsets": (0.5,), "unit": "frames"}, "offsets in frames must be whole numbers"),
        ({"offsets": (0.0, -0.08)}, "tolerance_s must be under half of the offsets' least dist"),
    ],
)
def test_times_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ClipTimes(**values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, r"scale must be in \(0, 1\] and multiple at least 1, got 0.0 and"),
        ({"multiple": 2**15}, "images must be at most 16384 wide"),
        ({"cameras": ("CAM_TOP",)}, "must have one of the cameras CAM_TOP"),
    ],
)
def test_options_out_of_range_are_refused(store, options, message):
    with pytest.raises(ValueError, match=message):
        clips(store, **options)


def test_anchors_that_are_not_there_are_refused(store, tmp_path):
    with pytest.raises(ValueError, match=r"anchors must hold at least one \(scene, sample\)"):
        ClipDataset(store, [], times=PAST)
    with pytest.raises(DataError, match="scene-0001: must have sample 7, it has 3; convert a so"):
        ClipDataset(store, [(SCENES[0], 7)], times=PAST)
    convert(FakeSource(), tmp_path)
    plain = open_store(tmp_path)
    with pytest.raises(ValueError, match="val must leave frames to train on"):
        clips(plain)
    with pytest.raises(DataError, match="must have sample 0, it has 0; convert a source with key"):
        ClipDataset(plain, [("scene0000_00", 0)], times=PAST)


def test_boxes_that_are_not_there_are_missed(tmp_path):
    root = Root(tmp_path / "root")
    root.tables["sample_annotation"] = []
    with pytest.raises(DataError, match="scene-0001: must have boxes, got none; leave the scene"):
        clips(converted(root, tmp_path), boxes=True)


def test_a_sample_that_no_sensor_saw_is_an_error(tmp_path):
    root = Root(tmp_path / "root")
    for row in root.tables["sample_data"]:
        row["is_key_frame"] = row["is_key_frame"] and "sample-0-1" not in row["sample_token"]
    dataset = clips(converted(root, tmp_path))
    with pytest.raises(DataError, match=r"scene-0001\[sample 1\]: no sensor has a key frame of it"):
        dataset[0, 1]


def test_a_camera_without_its_own_key_frame_goes_by_the_rigs_time(tmp_path):
    root = Root(tmp_path / "root")
    for row in root.tables["sample_data"]:
        if "CAM_FRONT" in row["filename"] and "sample-0-1" in row["sample_token"]:
            row["is_key_frame"] = False
    store = converted(root, tmp_path)
    clip = clips(store, times=ClipTimes((0.0,)))[0, 1]
    camera = store.scene("scene-0001").camera("CAM_FRONT")
    lidar = store.scene("scene-0001").lidar("LIDAR_TOP")
    assert clip.valid.all()
    apart = np.abs(camera.rgb_timestamp_us - lidar.timestamp_us[own_frame(lidar, 1)])
    assert clip.timestamp_us[0, 0] == camera.rgb_timestamp_us[apart.argmin()]
    counted = clips(store, times=ClipTimes((0,), unit="frames"))[0, 1]
    assert counted.valid[0].tolist() == [False, True]
