"""Take one step without a run folder, and say what a run would cost."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, final

import torch
from rich.console import Console
from torch import nn

from geomim_data.clip_batch import ClipBatch
from geomim_data.dataset import RgbdBatch
from geomim_data.sampler import SamplerState
from trainer.capture import NonFiniteWatch
from trainer.clip_data import noise_clips, open_clips
from trainer.config import AnyRun, FramesRun
from trainer.config_mim4d import Mim4dConfig
from trainer.data import RunData, fake_batch, open_data
from trainer.distributed import device_of
from trainer.learner import Learner
from trainer.logs import duration
from trainer.loop import Run, take_step
from trainer.meter import peak_memory_mb
from trainer.methods import make_clip_method, make_method
from trainer.methods.method import BatchT, ClipConstants, DataConstants
from trainer.optim import run_steps
from trainer.pretraining import closing, make_run, start
from trainer.stopping import StopRequest

WARM_UP_STEPS = 1


@final
class _Noise(Generic[BatchT]):
    """Noise in the form of training batches."""

    def __init__(self, batch: BatchT, seed: int):
        self._batch = batch
        self._seed = seed

    def forever(self) -> Iterator[BatchT]:
        while True:
            yield self._batch

    def state(self) -> SamplerState:
        return SamplerState(seed=self._seed, epoch=0, consumed=0)

    def load_state(self, state: SamplerState) -> None:
        del state

    def close(self) -> None:
        pass


def check_run(config: AnyRun, *, uses_store: bool, console: Console | None = None) -> int:
    """Take one step on noise, or on the store, and print what it took.

    Returns:
        0, or 1 where the loss was not finite.
    """
    device = device_of(config.speed.device)
    if config.speed.threads is not None:
        torch.set_num_threads(config.speed.threads)
    pin_memory = device.type == "cuda"
    check = _Check(device, console or Console(), uses_store=uses_store)
    match config:
        case Mim4dConfig():
            read = open_clips(config, pin_memory=pin_memory) if uses_store else _noise_clips(config)
            with closing(read) as clips:
                method = make_clip_method(config, clips.constants)
                return check.step(make_run(config, method, clips, device=device))
        case _:
            read = open_data(config, pin_memory=pin_memory) if uses_store else _noise_data(config)
            with closing(read) as frames:
                method = make_method(config, frames.constants)
                return check.step(make_run(config, method, frames, device=device))


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Check:
    """What a step is checked with, whatever its data."""

    device: torch.device
    console: Console
    uses_store: bool

    def step(self, run: Run[BatchT]) -> int:
        """Take a step and print what it took."""
        learner = start(run, device=self.device)
        seconds, loss = _timed_step(run, learner)
        for line in _lines(run, learner, seconds, uses_store=self.uses_store):
            self.console.print(line, soft_wrap=True, markup=False, highlight=False)
        is_finite = learner.skipped == 0
        verdict = "ok" if is_finite else "NOT finite"
        self.console.print(f"loss            {loss:.4f} ({verdict})", highlight=False)
        return 0 if is_finite else 1


def _noise_data(config: FramesRun) -> RunData[RgbdBatch, DataConstants]:
    part, generator = _part(config), torch.Generator().manual_seed(config.seed)
    batch = fake_batch(config.data, batch_size=part, generator=generator)
    return RunData(
        train=_Noise(batch, config.seed),
        train_frames=config.data.batch_size,
        val=list[RgbdBatch],
        val_frames=0,
        pictured=None,
        constants=DataConstants(depth_mean_m=2.5, depth_std_m=1.0),
    )


def _noise_clips(config: Mim4dConfig) -> RunData[ClipBatch, ClipConstants]:
    part, generator = _part(config), torch.Generator().manual_seed(config.seed)
    batch = noise_clips(config, batch_size=part, generator=generator)
    return RunData(
        train=_Noise(batch, config.seed),
        train_frames=config.data.batch_size,
        val=list[ClipBatch],
        val_frames=0,
        pictured=None,
        constants=ClipConstants(config.data.cameras or (), tuple),
        unit="clip",
    )


def _part(config: AnyRun) -> int:
    return config.data.batch_size // config.optim.accumulate


def _timed_step(run: Run[BatchT], learner: Learner) -> tuple[float, float]:
    """Return the seconds of a step that follows a first one, and its loss."""
    seconds, loss = 0.0, 0.0
    with TemporaryDirectory() as folder, StopRequest() as stop:
        watch = NonFiniteWatch(Path(folder), budget=WARM_UP_STEPS + 1, skipped=0)
        batches = run.data.train.forever()
        for _ in range(WARM_UP_STEPS + 1):
            began = time.perf_counter()
            result = take_step(run, learner, batches, stop, watch)
            loss = result.loss.item()
            seconds = time.perf_counter() - began
        learner.skipped = watch.settle()
    return seconds, loss


def _lines(
    run: Run[BatchT], learner: Learner, seconds: float, *, uses_store: bool
) -> Iterator[str]:
    config = run.config
    batch, parts = config.data.batch_size, config.optim.accumulate
    backbone = sum(tensor.numel() for tensor in run.method.backbone(learner.model).state.values())
    yield f"method          {config.method} on {learner.device}, {_precision(run)}"
    yield f"parameters      {_count(learner.model) / 1e6:.2f} M, backbone {backbone / 1e6:.2f} M"
    yield f"effective batch {batch} = {parts} x {batch // parts} on 1 process"
    yield f"learning rate   {run.peak_lr:.3g} = {config.optim.blr:g} * {batch} / 256"
    yield f"step            {seconds:.3f} s, {batch / seconds:.1f} samples/s"
    yield f"memory          {peak_memory_mb():.0f} MB at most"
    if config.optim.steps is None and not uses_store:
        yield f"length          {config.optim.epochs:g} epochs; for an ETA: --check data=store"
        return
    steps = run_steps(config.optim, frames=run.data.train_frames, batch_size=batch)
    yield f"length          {steps} steps, ETA {duration(steps * seconds)} without validation"


def _precision(run: Run[BatchT]) -> str:
    return "bfloat16 autocast" if run.amp else "float32"


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
