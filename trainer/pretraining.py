"""Pre-train: the whole run behind ``geomim-train``, as a function."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from rich.console import Console
from torch import nn

from trainer.checkpoint import Checkpoint, model_weights, newest_checkpoint
from trainer.clip_data import open_clips
from trainer.config import AnyRun
from trainer.config_errors import ConfigError
from trainer.config_file import load_config
from trainer.config_mim4d import Mim4dConfig
from trainer.config_run import RunConfig
from trainer.data import MeasuredT, RunData, open_data
from trainer.distributed import device_of, world
from trainer.export import loading_snippet
from trainer.learner import Learner, load_weights
from trainer.logs import Journal, duration
from trainer.loop import Run, on_device, save, train
from trainer.methods import make_clip_method, make_method
from trainer.methods.method import BatchT, Method
from trainer.optim import run_steps
from trainer.report import TRAINED, UNTRAINED, Metrics, Report, print_report, write_report
from trainer.run_folder import claim, digest, sign, write_status
from trainer.seeding import seed_everything
from trainer.stopping import Stopped, StopRequest

LONG_WAIT = 0.05


@final
@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    ``report`` is None where the run was stopped, or holds out no frames; ``signal`` names what
    stopped it. A stopped run goes on when it is called again.
    """

    out: Path
    state: Literal["finished", "stopped"]
    step: int
    report: Report | None = None
    signal: str | None = None


def pretrain(
    config: str | Path | RunConfig, /, *, console: Console | None = None, **overrides: object
) -> RunResult:
    """Train as a file, a packaged name or a configuration says, and report what was learnt.

    Overrides are nested, underscored or dotted: ``pretrain("mask3d-demo.yaml", seed=3,
    data={"path": "x"}, optim__steps=100, **{"log.every": 5})``.

    Raises:
        ConfigError: Listing every mistake, or saying whose folder ``out`` is.
        DataError: If the store is broken.
        NonFiniteError: If more steps were not finite than the budget allows.
    """
    world()
    resolved = load_config(config, overrides)
    out = resolved.out or Path("runs")
    with claim(out, resolved) as is_resumed, StopRequest() as stop, _noting_failure(out):
        if resolved.speed.threads is not None:
            torch.set_num_threads(resolved.speed.threads)
        device = device_of(resolved.speed.device)
        pin_memory = device.type == "cuda"
        begin = _Beginning(device, stop, console or Console(), is_resumed=is_resumed)
        match resolved:
            case Mim4dConfig():
                with closing(open_clips(resolved, pin_memory=pin_memory)) as clips:
                    method = make_clip_method(resolved, clips.constants)
                    return begin.run(make_run(resolved, method, clips, device=device))
            case _:
                with closing(open_data(resolved, pin_memory=pin_memory)) as frames:
                    method = make_method(resolved, frames.constants)
                    return begin.run(make_run(resolved, method, frames, device=device))


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Beginning:
    """What a run is started with, whatever its data."""

    device: torch.device
    stop: StopRequest
    console: Console
    is_resumed: bool

    def run(self, run: Run[BatchT]) -> RunResult:
        """Sign the folder, then train and report."""
        checkpoint, lines = _newest(run) if self.is_resumed else (None, [])
        learner = start(run, device=self.device, checkpoint=checkpoint)
        sign(run.out, run.config)
        return _run(run, learner, self.stop, self.console, lines)


@contextmanager
def closing(data: RunData[BatchT, MeasuredT]) -> Generator[RunData[BatchT, MeasuredT]]:
    """Stop loading ahead at the end of the block."""
    try:
        yield data
    finally:
        data.train.close()


def make_run(
    config: AnyRun,
    method: Method[BatchT],
    data: RunData[BatchT, object],
    *,
    device: torch.device,
) -> Run[BatchT]:
    """Join a configuration, its method and its data."""
    speed = config.speed
    return Run(
        config=config,
        out=config.out or Path("runs"),
        method=method,
        data=data,
        steps=run_steps(config.optim, frames=data.train_frames, batch_size=config.data.batch_size),
        amp=speed.amp == "bf16" or (speed.amp == "auto" and device.type == "cuda"),
    )


def start(
    run: Run[BatchT], *, device: torch.device, checkpoint: Checkpoint | None = None
) -> Learner:
    """Return a learner as a checkpoint holds it, or at step 0: then a function of the seed alone.

    With ``init_from``, step 0 has the weights of that checkpoint instead.
    """
    config = run.config
    seed_everything(config.seed)
    model: nn.Module = run.method.build().to(device)
    if config.init_from is not None and checkpoint is None:
        load_weights(model, model_weights(config.init_from), str(config.init_from))
    if config.speed.compile == "auto" and device.type == "cuda":
        model.compile()
    learner = Learner(model, config.optim, run.data.train.state())
    if checkpoint is not None:
        learner.restore(checkpoint)
        run.data.train.load_state(learner.position)
    return learner


def _run(
    run: Run[BatchT], learner: Learner, stop: StopRequest, console: Console, lines: list[str]
) -> RunResult:
    with Journal(run.out, step=learner.step, steps=run.steps, console=console) as journal:
        for line in [*_introduction(run, learner), *lines]:
            journal.say(line)
        write_status(run.out, "running", step=learner.step, steps=run.steps)
        began, first = time.perf_counter(), learner.step
        try:
            train(run, learner, journal, stop)
            report = _report(run, learner, journal, stop)
        except Stopped as stopped:
            return _stopped(run, learner, journal, stopped.signal_name)
        took = duration(time.perf_counter() - began)
        journal.say(f"{learner.step - first} steps in {took}{_data_wait(journal)}")
    _conclude(run, report, console)
    write_status(run.out, "finished", step=learner.step, steps=run.steps)
    return RunResult(run.out, "finished", learner.step, report)


def _newest(run: Run[BatchT]) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint of the run, and lines about it and broken newer ones."""
    checkpoint, warnings = newest_checkpoint(run.out / "checkpoints")
    lines = [f"warning: passed over a broken checkpoint: {warning}" for warning in warnings]
    if checkpoint is None:
        return None, lines
    expected = {"digest": digest(run.config), "frames": run.data.train_frames}
    for name, value in expected.items():
        found = checkpoint.state.get(name)
        if found != value:
            rule = f"{name} must be that of this run, {value}"
            raise ConfigError(f"{checkpoint.folder}: {rule}, got {found}; choose another out")
    return checkpoint, [*lines, f"resumed from {checkpoint.folder}"]


def _introduction(run: Run[BatchT], learner: Learner) -> Iterator[str]:
    config, data = run.config, run.data
    count = sum(parameter.numel() for parameter in learner.model.parameters())
    parts = f" in {config.optim.accumulate} parts" if config.optim.accumulate > 1 else ""
    yield f"{config.method}: {count / 1e6:.2f} M parameters on {learner.device}, out {run.out}"
    frames = f"{data.train_frames} {data.unit}s to train on, {data.val_frames} held out"
    yield f"data {config.data.path}: {frames}"
    rate = f"lr {run.peak_lr:.3g} = blr {config.optim.blr:g} * {config.data.batch_size} / 256"
    yield from data.notes
    yield f"{run.steps} steps of {config.data.batch_size} {data.unit}s{parts}, {rate}"


def _data_wait(journal: Journal) -> str:
    """Tell how long the device waited for data, and the remedy if it was long."""
    share = journal.data_wait
    hint = "; more data.workers may help" if share > LONG_WAIT else ""
    return f", {share:.1%} of it waiting for data{hint}"


def _report(
    run: Run[BatchT], learner: Learner, journal: Journal, stop: StopRequest
) -> Report | None:
    """Judge the trained model beside the untrained one and the rules that learn nothing."""
    if not run.data.val_frames:
        return None
    trained, untrained = journal.validated(learner.step), journal.validated(0)
    baselines = run.method.baselines(on_device(run.data.val(), learner.device, stop))
    rows: dict[str, Metrics] = {TRAINED: trained or {}, UNTRAINED: untrained or {}, **baselines}
    report = Report(rows, frames=run.data.val_frames, step=learner.step, unit=run.data.unit)
    write_report(run.out, report)
    return report


def _stopped(run: Run[BatchT], learner: Learner, journal: Journal, signal: str) -> RunResult:
    folder = save(run, learner)
    write_status(run.out, "stopped", step=learner.step, steps=run.steps, signal=signal)
    journal.say(f"stopped by {signal} after step {learner.step}: {folder}; run again to go on")
    return RunResult(run.out, "stopped", learner.step, signal=signal)


def _conclude(run: Run[BatchT], report: Report | None, console: Console) -> None:
    if report is None:
        console.print(
            f"no {run.data.unit}s were held out (data.val), so nothing is known of what was learnt"
        )
    else:
        print_report(report, console)
    pictures = sorted((run.out / "images").glob("*.png"))
    if pictures:
        console.print(f"pictures: {pictures[-1]}", soft_wrap=True, highlight=False)
    console.print("the backbone loads into timm with:\n", highlight=False)
    snippet = loading_snippet(run.out / "exported")
    console.print(snippet, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def _noting_failure(out: Path) -> Generator[None]:
    try:
        yield
    except Exception as error:
        write_status(out, "failed", error=str(error))
        raise
