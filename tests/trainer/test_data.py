from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.recording import Frame
from tests.geomim_data.recordings import FakeFrames, FakeRecording, FakeSource, camera
from trainer.config import MaeConfig, Mask3DConfig
from trainer.config_errors import ConfigError
from trainer.config_file import load_config
from trainer.data import fake_batch, open_data, spread

FRAMES = 6


@dataclass(frozen=True)
class Colour:
    """The colour of other frames."""

    frames_of: FakeFrames

    def frames(self) -> Iterator[Frame]:
        return (replace(frame, depth=None) for frame in self.frames_of.frames())


@dataclass(frozen=True)
class ColourSource:
    """A source without depth."""

    fake: FakeSource = field(default_factory=lambda: FakeSource(count=2, frames=FRAMES))
    dataset: str = "fake"
    root: Path = Path("fake")

    def arguments(self) -> dict[str, object]:
        return {}

    def scenes(self) -> list[str]:
        return self.fake.scenes()

    def open(self, scene: str) -> FakeRecording:
        reader = self.fake.reader(scene)
        without = {"depth_size": None, "depth_intrinsics": None, "read": Colour(reader)}
        return FakeRecording(scene, (camera(reader, **without),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    convert(FakeSource(count=2, frames=FRAMES), path)
    return path


@pytest.fixture(scope="module")
def colour_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "colour"
    convert(ColourSource(), path)
    return path


def config(store: Path, name: str = "mask3d-demo", **overrides: object) -> Mask3DConfig | MaeConfig:
    data = {"path": str(store), "val": "scenes:1", "image_size": (16, 24), "batch_size": 4}
    return load_config(load_config(name, {"data": data, "data.workers": 0}), overrides)


def test_a_store_is_split_batched_and_measured(store: Path):
    data = open_data(config(store), pin_memory=False)
    assert (data.train_frames, data.val_frames) == (FRAMES, FRAMES)
    batch = next(data.train.forever())
    assert batch.rgb.shape == (4, 3, 16, 24)
    assert set(batch.scene) == {"scene0000_00"}
    assert [b.scene[0] for b in data.val()] == ["scene0001_00"]
    # Depth of the fake is 1 m and a few centimetres.
    assert data.constants.depth_mean_m == pytest.approx(1.06, abs=0.03)
    assert 0 < data.constants.depth_std_m < 0.1


def test_validation_frames_are_the_same_each_time_and_not_augmented(store: Path):
    data = open_data(config(store, **{"data.val_batch_size": 4}), pin_memory=False)
    first, again = list(data.val()), list(data.val())
    assert [len(batch.scene) for batch in first] == [4, 2]
    assert all(torch.equal(one.rgb, other.rgb) for one, other in zip(first, again, strict=True))
    assert [frame for batch in first for frame in batch.frame] == list(range(FRAMES))


def test_validation_and_pictures_can_be_thinned(store: Path):
    overrides = {"data.val_frames": 3, "log.pictures": 2}
    data = open_data(config(store, **overrides), pin_memory=False)
    assert data.val_frames == 3
    assert [frame for batch in data.val() for frame in batch.frame] == [0, 2, 4]
    assert data.pictured is not None
    assert data.pictured.frame == (0, 2)


def test_without_validation_the_pictures_show_training_frames(store: Path):
    data = open_data(config(store, **{"data.val": "none"}), pin_memory=False)
    assert data.val_frames == 0
    assert data.pictured is not None
    assert data.pictured.scene[0] == "scene0000_00"
    none = open_data(config(store, **{"log.pictures": 0}), pin_memory=False)
    assert none.pictured is None


def test_a_stride_thins_every_scene(store: Path):
    data = open_data(config(store, **{"data.stride": 3, "data.batch_size": 2}), pin_memory=False)
    assert (data.train_frames, data.val_frames) == (2, 2)


def test_thinning_twice_is_noted(tmp_path: Path):
    convert(FakeSource(count=2, frames=FRAMES, stride=5), tmp_path / "store")
    settings = config(tmp_path / "store", **{"data.stride": 2, "data.batch_size": 2})
    (note,) = open_data(settings, pin_memory=False).notes
    assert "converted with --stride 5, and data.stride takes every 2th of its frames" in note


def test_given_constants_are_not_measured(store: Path):
    overrides = {"model.depth_mean_m": 3.0, "model.depth_std_m": 0.5}
    constants = open_data(config(store, **overrides), pin_memory=False).constants
    assert (constants.depth_mean_m, constants.depth_std_m) == (3.0, 0.5)


def test_accumulation_loads_parts_of_a_batch(store: Path):
    data = open_data(config(store, **{"optim.accumulate": 2}), pin_memory=False)
    assert next(data.train.forever()).rgb.shape[0] == 2


def test_a_store_without_depth_is_refused_by_mask3d_alone(colour_store: Path):
    with pytest.raises(DataError, match=r"must have depth, got none; .*method: mae"):
        open_data(config(colour_store), pin_memory=False)
    data = open_data(config(colour_store, "mae-demo"), pin_memory=False)
    assert next(data.train.forever()).rgb.isfinite().all()


def test_depth_that_is_all_too_deep_is_refused(store: Path):
    words = r"data.path: .*store must hold valid depth, got none in 6 frames"
    with pytest.raises(ConfigError, match=words):
        open_data(config(store, **{"model.max_depth_m": 0.5}), pin_memory=False)


def test_a_batch_larger_than_the_training_split_is_refused(store: Path):
    words = "data.batch_size must be at most the 6 frames to train on, got 8"
    with pytest.raises(ConfigError, match=words):
        open_data(config(store, **{"data.batch_size": 8}), pin_memory=False)


def test_a_split_that_leaves_nothing_is_refused(store: Path):
    with pytest.raises(ConfigError, match=r"data.val: val=scenes:2 must leave scenes to train on"):
        open_data(config(store, **{"data.val": "scenes:2"}), pin_memory=False)


def test_a_store_that_is_absent_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="absent"):
        open_data(config(tmp_path / "absent"), pin_memory=False)


@pytest.mark.parametrize(
    ("count", "chosen"), [(0, []), (1, [0]), (2, [0, 3]), (3, [0, 2, 4]), (9, list(range(7)))]
)
def test_spreading_starts_at_the_first(count: int, chosen: list[int]):
    assert spread(range(7), count) == chosen


def test_noise_has_the_form_of_a_batch():
    settings = config(Path("x")).data
    batch = fake_batch(settings, batch_size=3, generator=torch.Generator().manual_seed(0))
    again = fake_batch(settings, batch_size=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(batch.rgb, again.rgb)
    assert batch.rgb.shape == (3, 3, 16, 24)
    assert torch.equal(batch.depth > 0, batch.depth_valid)
    assert 0.8 < batch.depth_valid.float().mean() < 1
