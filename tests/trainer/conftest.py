"""A method of one tiny transformer on noise, for tests of everything around methods."""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from timm.models import VisionTransformer
from torch import nn

from geomim_data.dataset import RgbdBatch, Sample, collate
from geomim_data.loader import make_loader
from geomim_data.sampler import EpochSampler, SampleKey
from trainer.config import MaeConfig
from trainer.config_file import load_config
from trainer.data import RunData
from trainer.methods.method import BackboneExport, DataConstants, Losses
from trainer.pretraining import RunResult, pretrain

SIZE = (16, 24)
ARGUMENTS: dict[str, object] = {
    "img_size": list(SIZE),
    "patch_size": 8,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 0,
}
TRAIN_FRAMES = 10


class NoiseSamples:
    """Samples that are a function of their key; ``poisoned`` ones hold NaN."""

    def __init__(
        self, poisoned: frozenset[int] = frozenset(), before: Callable[[], None] | None = None
    ):
        self.poisoned = poisoned
        self.before = before

    def collate(self, samples: Sequence[Sample]) -> RgbdBatch:
        return collate(samples)

    def __getitem__(self, key: SampleKey) -> Sample:
        if self.before is not None:
            self.before()
        generator = torch.Generator().manual_seed(key[0] * 1000 + key[1])
        rgb = torch.rand(3, *SIZE, generator=generator)
        if key[1] in self.poisoned:
            rgb[:] = torch.nan
        return Sample(
            rgb=rgb,
            depth=1 + rgb.mean(dim=0),
            intrinsics=np.array([20.0, 20.0, 12.0, 8.0]),
            world_from_cam=np.eye(4),
            pose_valid=True,
            scene="noise",
            frame=key[1],
        )


class NoiseMethod:
    """Predict mean depth from colour to which the step's generator adds noise."""

    needs_depth = False

    def __init__(self):
        self.noise = 0.1
        self.before_loss = self.before_batch = lambda: None
        self.loss_dtypes = set[torch.dtype]()

    def build(self) -> nn.Module:
        return VisionTransformer(**ARGUMENTS)

    def loss(self, model: nn.Module, batch: RgbdBatch, generator: torch.Generator) -> Losses:
        self.before_loss()
        noise = self.noise * torch.rand(batch.rgb.shape, generator=generator)
        error = model(batch.rgb + noise.to(batch.rgb.device)).float().mean(
            dim=1
        ) - batch.depth.mean(dim=(1, 2))
        loss = error.square().mean()
        self.loss_dtypes.add(loss.dtype)
        return Losses(loss, {"loss_depth": loss})

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batches: Iterable[RgbdBatch]) -> dict[str, float]:
        errors = list[torch.Tensor]()
        for batch in batches:
            self.before_batch()
            errors.append((model(batch.rgb).mean(dim=1) - batch.depth.mean(dim=(1, 2))).abs())
        error = torch.cat(errors).mean().item()
        return {"loss": error, "abs_rel": error, "delta1": 1 / (1 + error)}

    def baselines(self, batches: Iterable[RgbdBatch], /) -> dict[str, dict[str, float]]:
        count = sum(len(batch.scene) for batch in batches)
        return {"perfect": {"abs_rel": 0.0, "delta1": 1.0}, "hopeless": {"abs_rel": 1e9 * count}}

    def picture(self, model: nn.Module, batch: RgbdBatch) -> np.ndarray:
        value = model(batch.rgb).sum().clamp(0, 255).item()
        return np.full((8, 8, 3), value, dtype=np.uint8)

    def backbone(self, model: nn.Module) -> BackboneExport:
        return BackboneExport(dict(model.state_dict()), ARGUMENTS)


def noise_config(out: Path, **overrides: object) -> MaeConfig:
    """Return a run of six steps over four frames each, which the noise method will take."""
    basic = {
        "out": str(out),
        "data": {"image_size": SIZE, "batch_size": 4, "workers": 0, "val": "last:1"},
        "model.encoder": {"dim": 8, "heads": 2, "depth": 1},
        "optim": {"steps": 6, "epochs": None, "blr": 0.1, "warmup": 0.4},
        "log": {"every": 2, "val_every": 4, "pictures_every": 4},
        "checkpoint": {"every": 3},
        "speed": {"device": "cpu", "threads": 1},
    }
    config = load_config(load_config("mae-demo", basic), overrides)
    assert isinstance(config, MaeConfig)
    return config


def noise_data(config: MaeConfig, samples: NoiseSamples | None = None) -> RunData:
    """Return the data of a run over noise."""
    samples = samples or NoiseSamples()
    part = config.data.batch_size // config.optim.accumulate
    sampler = EpochSampler(length=TRAIN_FRAMES, batch_size=part, seed=config.seed)
    still = collate([NoiseSamples()[SampleKey(0, index)] for index in range(3)])
    return RunData(
        train=make_loader(samples, sampler, workers=config.data.workers),
        train_frames=TRAIN_FRAMES,
        val=lambda: [still, still],
        val_frames=6,
        pictured=still,
        constants=DataConstants(depth_mean_m=1.5, depth_std_m=0.5),
    )


class Noise:
    """Runs of the noise method on noise."""

    def __init__(self):
        self.samples = NoiseSamples()
        self.method = NoiseMethod()
        self.printed = ""

    def config(self, out: Path, **overrides: object) -> MaeConfig:
        return noise_config(out, **overrides)

    def data(self, config: MaeConfig) -> RunData:
        return noise_data(config, self.samples)

    def pretrain(self, out: Path, **overrides: object) -> RunResult:
        console = Console(file=io.StringIO(), width=200)
        try:
            return pretrain(self.config(out, **overrides), console=console)
        finally:
            self.printed = console.file.getvalue()


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Noise:
    """Let ``pretrain`` take the noise method and noise, whatever the configuration says."""
    noise = Noise()
    monkeypatch.setattr("trainer.pretraining.open_data", lambda config, **_: noise.data(config))
    monkeypatch.setattr("trainer.pretraining.make_method", lambda *_: noise.method)
    return noise
