"""Take one step without a run folder, and say what a run would cost."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Generic, NamedTuple, TypeVar, final

import torch
from rich.console import Console
from torch import nn

from geomim_data.clip_batch import ClipBatch
from geomim_data.dataset import RgbdBatch
from geomim_data.sampler import SamplerState
from trainer.capture import NonFiniteWatch
from trainer.clip_data import noise_clips, open_clips
from trainer.config import AnyRun, FramesRun
from trainer.config_errors import ConfigError
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
LONG_S = 60.0
"""A first step that took longer is not repeated: what it compiled is a small share."""
SIGN_S = 15.0

ConfigT = TypeVar("ConfigT", FramesRun, Mim4dConfig)
DataT = TypeVar("DataT")


class _Timed(NamedTuple):
    """A step, less the wait for its data."""

    step_s: float
    waited_s: float
    loss: float


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

    Of a batch computed in parts it is a step of one part. A store too small for the run's batch or
    split is checked all the same, as far as one part; that a run would be refused is said.

    Returns:
        0, or 1 where the loss was not finite.
    """
    device = device_of(config.speed.device)
    if config.speed.threads is not None:
        torch.set_num_threads(config.speed.threads)
    check = _Check(device, console or Console(), uses_store=uses_store)
    match config:
        case Mim4dConfig():
            read = check.opened(config, open_clips) if uses_store else _noise_clips(config)
            with closing(read) as clips:
                method = make_clip_method(config, clips.constants)
                return check.step(make_run(config, method, clips, device=device))
        case _:
            read = check.opened(config, open_data) if uses_store else _noise_data(config)
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

    def opened(self, config: ConfigT, open_run: Callable[..., DataT]) -> DataT:
        """Open the store in this process; a step needs no other to load ahead."""
        data = config.data.model_copy(update={"workers": 0})
        here = config.model_copy(update={"data": data})
        pin_memory = self.device.type == "cuda"
        try:
            return open_run(here, pin_memory=pin_memory)
        except ConfigError as error:
            # One part is enough, of all that the store holds.
            part = data.model_copy(update={"val": "none", "batch_size": _part(config)})
            optim = config.optim.model_copy(update={"accumulate": 1})
            few = here.model_copy(update={"data": part, "optim": optim})
            read = open_run(few, pin_memory=pin_memory)
            self._say(f"store           checked, though a run would be refused: {error}")
            return read

    def step(self, run: Run[BatchT]) -> int:
        """Take a step and print what it took."""
        learner = start(run, device=self.device)
        with _showing_life(self.console):
            timed = _timed_step(run, learner)
        for line in _lines(run, learner, timed, uses_store=self.uses_store):
            self._say(line)
        is_finite = learner.skipped == 0
        self._say(f"loss            {timed.loss:.4f} ({'ok' if is_finite else 'NOT finite'})")
        return 0 if is_finite else 1

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


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


def _timed_step(run: Run[BatchT], learner: Learner) -> _Timed:
    """Time a step of one part that follows a first one, or that one if it took minutes."""
    optim = run.config.optim.model_copy(update={"accumulate": 1})
    run = replace(run, config=run.config.model_copy(update={"optim": optim}))
    timed = _Timed(0.0, 0.0, 0.0)
    with TemporaryDirectory() as folder, StopRequest() as stop:
        watch = NonFiniteWatch(Path(folder), budget=WARM_UP_STEPS + 1, skipped=0)
        batches = run.data.train.forever()
        for _ in range(WARM_UP_STEPS + 1):
            began = time.perf_counter()
            result = take_step(run, learner, batches, stop, watch)
            loss, waited_s = result.loss.item(), result.waited_s
            timed = _Timed(time.perf_counter() - began - waited_s, waited_s, loss)
            if timed.step_s > LONG_S:
                break
        learner.skipped = watch.settle()
    return timed


@contextmanager
def _showing_life(console: Console) -> Generator[None]:
    """Say every now and then that a step is being taken."""
    ended, began = Event(), time.perf_counter()

    def speak() -> None:
        while not ended.wait(SIGN_S):
            seconds = time.perf_counter() - began
            sign = f"  taking a step: {seconds:.0f} s so far, {peak_memory_mb():.0f} MB"
            console.print(sign, highlight=False)

    speaker = Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        ended.set()
        speaker.join()


def _lines(run: Run[BatchT], learner: Learner, timed: _Timed, *, uses_store: bool) -> Iterator[str]:
    config = run.config
    batch, parts = config.data.batch_size, config.optim.accumulate
    seconds = parts * timed.step_s
    backbone = sum(tensor.numel() for tensor in run.method.backbone(learner.model).state.values())
    yield f"method          {config.method} on {learner.device}, {_precision(run)}"
    yield f"parameters      {_count(learner.model) / 1e6:.2f} M, backbone {backbone / 1e6:.2f} M"
    yield f"effective batch {batch} = {parts} x {batch // parts} on 1 process"
    yield f"learning rate   {run.peak_lr:.3g} = {config.optim.blr:g} * {batch} / 256"
    each = f"{parts} x {timed.step_s:.3f} s = " if parts > 1 else ""
    yield f"step            {each}{seconds:.3f} s, {batch / seconds:.3g} samples/s"
    if uses_store:
        yield f"loading         {timed.waited_s:.3f} s for {batch // parts}, in one process"
    yield f"memory          {_memory_mb(learner.model, parts):.0f} MB at most"
    if config.optim.steps is None and not uses_store:
        yield f"length          {config.optim.epochs:g} epochs; for an ETA: --check data=store"
        return
    steps = run_steps(config.optim, frames=run.data.train_frames, batch_size=batch)
    yield f"length          {steps} steps, ETA {duration(steps * seconds)} without validation"


def _memory_mb(model: nn.Module, parts: int) -> float:
    """Return the most memory held; parts but the first find the gradient of those before."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradient = sum(parameter.nbytes for parameter in trained) / 2**20
    return peak_memory_mb() + (gradient if parts > 1 else 0)


def _precision(run: Run[BatchT]) -> str:
    return "bfloat16 autocast" if run.amp else "float32"


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
