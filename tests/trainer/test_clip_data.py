from pathlib import Path

import pytest
import torch

from geomim_data.convert import convert
from geomim_data.sources.nuscenes import NuScenesSource
from tests.geomim_data.sources.nuscenes_roots import CAMERAS, VERSION, Root
from trainer.clip_data import noise_clips, open_clips
from trainer.config_errors import ConfigError
from trainer.config_file import load_config
from trainer.config_mim4d import Mim4dConfig
from trainer.pretraining import pretrain

SAMPLES = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    root = Root(folder / "root", scenes=("scene-0001", "scene-0002"), samples=SAMPLES)
    root.write()
    report = convert(NuScenesSource(root.folder, version=VERSION), folder / "shards")
    assert not report.failed
    return folder / "shards"


def config(path: Path, **overrides: object) -> Mim4dConfig:
    data = {
        "path": str(path),
        "image_size": [32, 32],
        "scale": 1.0,
        "offsets": [0, -6],
        "offset_unit": "frames",
        "workers": 0,
        "val_frames": None,
    }
    found = load_config(load_config("mim4d-demo", {"data": data}), overrides)
    assert isinstance(found, Mim4dConfig)
    return found


def test_a_store_is_split_by_scenes_and_batched(store: Path):
    data = open_clips(config(store, **{"data.batch_size": 2}), pin_memory=False)
    assert (data.train_frames, data.val_frames, data.unit) == (SAMPLES, SAMPLES, "clip")
    batch = next(data.train.forever())
    assert batch.images.shape == (2, 2, 2, 3, 32, 32)
    assert set(batch.scene) == {"scene-0001"}
    assert data.constants.cameras == CAMERAS
    assert batch.lidar is not None


def test_validation_clips_come_one_by_one_always_the_same(store: Path):
    data = open_clips(config(store), pin_memory=False)
    first, again = list(data.val()), list(data.val())
    assert [batch.sample for batch in first] == [(0,), (1,), (2,)]
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))


def test_pictured_clips_are_fixed_and_few(store: Path):
    data = open_clips(config(store, **{"log.pictures": 2}), pin_memory=False)
    assert data.pictured is not None
    assert data.pictured.scene == ("scene-0002",) * 2
    without = open_clips(config(store, **{"log.pictures": 0}), pin_memory=False)
    assert without.pictured is None


@pytest.mark.parametrize(("offsets", "sample"), [([0], 0), ([0, -1], 1), ([0, -999], 0)])
def test_a_pictured_clip_has_all_its_moments_if_one_close_by_does(store, offsets, sample):
    supervise = "key" if offsets == [0] else "key_and_other"
    changed = {"data.offsets": offsets, "model.supervise": supervise, "log.pictures": 1}
    data = open_clips(config(store, **changed, **{"data.lidar_offsets_s": [0]}), pin_memory=False)
    assert data.pictured is not None
    assert data.pictured.sample == (sample,)


def test_key_frames_of_training_clips_are_there_to_measure(store: Path):
    data = open_clips(config(store), pin_memory=False)
    sample = list(data.constants.sample())
    assert [batch.images.shape[:2] for batch in sample] == [(1, 1)] * SAMPLES


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"data.image_size": [64, 64]},
            r"data.image_size must be that of the store's images at scale 1, \[32, 32\], got",
        ),
        ({"data.lidar": "TOP"}, "data.lidar must be of LIDAR_TOP, got TOP"),
        ({"data.cameras": ["CAM_SIDE"]}, "data.cameras must be of CAM_FRONT, CAM_BACK, got CAM_S"),
        ({"data.batch_size": 4}, "data.batch_size must be at most the 3 clips to train on, got 4"),
        ({"data.val": "scenes:2"}, "data.val: val=scenes:2 must leave scenes to train on"),
    ],
)
def test_what_does_not_fit_the_store_is_refused(store: Path, overrides, words: str):
    with pytest.raises(ConfigError, match=words):
        open_clips(config(store, **overrides), pin_memory=False)


def test_boxes_are_read_where_scene_flow_learns_from_them(store: Path):
    flow = {"model.temporal.kind": "scene_flow", "model.loss.flow_boxes": 0.1}
    batch = next(open_clips(config(store, **flow), pin_memory=False).train.forever())
    assert batch.boxes is not None
    assert len(batch.boxes.velocity) == batch.boxes.offset[-1] > 0
    noise = noise_clips(
        config(store, **flow), batch_size=2, generator=torch.Generator().manual_seed(0)
    )
    assert noise.boxes is not None
    assert noise.boxes.offset.tolist() == [0, 1, 2]
    assert next(open_clips(config(store), pin_memory=False).train.forever()).boxes is None


def test_noise_has_the_form_of_a_batch(store: Path):
    settings = config(store, **{"data.cameras": list(CAMERAS)})
    batch = next(open_clips(settings, pin_memory=False).train.forever())
    noise = noise_clips(settings, batch_size=1, generator=torch.Generator().manual_seed(0))
    for name in ("images", "unpadded", "timestamp_us", "valid", "origin"):
        found, wanted = getattr(noise, name), getattr(batch, name)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert noise.camera.focal.shape == batch.camera.focal.shape
    assert noise.lidar is not None
    assert batch.lidar is not None
    assert noise.lidar.valid.shape == batch.lidar.valid.shape


def test_a_run_trains_validates_draws_and_exports(store: Path, tmp_path: Path):
    small = {
        "out": str(tmp_path / "run"),
        "optim.steps": 2,
        "log": {"every": 1, "val_every": None, "pictures_every": None},
        "model.volume.shape": [8, 8, 2],
        "model.volume.cell_m": [6.0, 6.0, 3.0],
        "model.render": {"rays": 8, "samples": 8, "importance": 4},
        "speed.device": "cpu",
    }
    result = pretrain(config(store, **small))
    assert (result.state, result.step) == ("finished", 2)
    assert result.report is not None
    assert list(result.report.rows) == ["trained", "untrained", "mean_depth", "copy_nearest"]
    assert {"psnr", "depth_abs_rel", "psnr_rebuilt"} <= result.report.rows["trained"].keys()
    files = {path.name for path in (tmp_path / "run" / "exported").iterdir()}
    assert {"backbone.safetensors", "neck.safetensors", "depth_net.safetensors"} <= files
    assert (tmp_path / "run" / "images" / "step-0000002.png").exists()
