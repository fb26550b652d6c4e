"""Train: accumulate, clip, step, log, validate, draw, save; stop within a step when asked."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, final

import torch
from torch import Tensor

from trainer.capture import NonFiniteWatch
from trainer.checkpoint import save_checkpoint
from trainer.config import AnyRun
from trainer.data import RunData
from trainer.export import export_backbone
from trainer.learner import Learner
from trainer.logs import Journal
from trainer.meter import Meter, StepResult
from trainer.methods.method import BatchT, Losses, Method
from trainer.optim import lr_at, peak_lr, step_optimizer
from trainer.run_folder import digest
from trainer.seeding import step_generator
from trainer.stopping import StopRequest


@final
@dataclass(frozen=True, slots=True, eq=False)
class Run(Generic[BatchT]):
    """What stays the same while a run trains."""

    config: AnyRun
    out: Path
    method: Method[BatchT]
    data: RunData[BatchT, object]
    steps: int
    amp: bool

    @property
    def peak_lr(self) -> float:
        """The highest learning rate."""
        return peak_lr(self.config.optim, self.config.data.batch_size)


def train(run: Run[BatchT], learner: Learner, journal: Journal, stop: StopRequest) -> None:
    """Take the steps that are left.

    Raises:
        Stopped: Within a step of a signal; the learner is then as after its last whole step.
        NonFiniteError: If more steps were skipped than the budget allows.
        DataError: If a frame is broken.
    """
    config = run.config
    batches = _started(run, learner, stop)
    observe(run, learner, journal, stop)
    meter = Meter(batch_size=config.data.batch_size, steps=run.steps)
    budget = config.optim.nonfinite_budget
    watch = NonFiniteWatch(run.out, budget=budget, skipped=learner.skipped)
    while learner.step < run.steps:
        stop.check()
        meter.add(take_step(run, learner, batches, stop, watch))
        step, learner.skipped = learner.step, watch.skipped
        journal.advance(step)
        if step % config.log.every == 0 or step == run.steps:
            learner.skipped = watch.settle()
            epoch = step * config.data.batch_size / run.data.train_frames
            journal.train(meter.record(step, epoch=epoch, skipped=learner.skipped))
        with meter.paused():
            if step % config.checkpoint.every == 0 or step == run.steps:
                learner.skipped = watch.settle()
                save(run, learner)
            observe(run, learner, journal, stop)


def observe(run: Run[BatchT], learner: Learner, journal: Journal, stop: StopRequest) -> None:
    """Validate and draw where this step asks for it and has not had it yet."""
    log, step = run.config.log, learner.step
    is_validated = not run.data.val_frames or journal.validated(step) is not None
    if not is_validated and _is_due(step, log.val_every, run.steps):
        journal.validation(step, validate(run, learner, stop))
    if run.data.pictured is not None and _is_due(step, log.pictures_every, run.steps):
        batch = run.data.pictured.to(learner.device)
        journal.picture(step, run.method.picture(learner.judged, batch))


def validate(run: Run[BatchT], learner: Learner, stop: StopRequest) -> dict[str, float]:
    """Return the metrics of the judged model on the validation frames."""
    return run.method.evaluate(learner.judged, on_device(run.data.val(), learner.device, stop))


def save(run: Run[BatchT], learner: Learner) -> Path:
    """Write a checkpoint and the exported backbone."""
    state = learner.state() | {"digest": digest(run.config), "frames": run.data.train_frames}
    keep = run.config.checkpoint.keep
    root = run.out / "checkpoints"
    folder = save_checkpoint(root, state=state, parts=learner.parts(), keep=keep)
    backbone = run.method.backbone(learner.judged)
    export_backbone(run.out, backbone, run.config, step=learner.step)
    return folder


def on_device(
    batches: Iterable[BatchT], device: torch.device, stop: StopRequest
) -> Iterator[BatchT]:
    """Yield batches on a device, minding the signals between them."""
    return (batch.to(device) for batch in stop.between(batches))


def _started(run: Run[BatchT], learner: Learner, stop: StopRequest) -> Iterator[BatchT]:
    """Begin loading now, so that it goes on beside the first validation."""
    if learner.step >= run.steps:
        return iter(())
    batches = run.data.train.forever()
    with stop.waiting():
        first = next(batches)
    return itertools.chain([first], batches)


def take_step(
    run: Run[BatchT],
    learner: Learner,
    batches: Iterator[BatchT],
    stop: StopRequest,
    watch: NonFiniteWatch,
) -> StepResult:
    """Take one step; the learner moves only if it is whole.

    Raises:
        Stopped: If a signal came while waiting for data.
        NonFiniteError: If more steps were skipped than the budget allows.
    """
    optim, used, waited_s = run.config.optim, list[BatchT](), 0.0
    losses = list[Losses]()
    for part in range(optim.accumulate):
        asked = time.perf_counter()
        with stop.waiting():
            batch = next(batches)
        waited_s += time.perf_counter() - asked
        used.append(batch.to(learner.device, non_blocking=True))
        losses.append(_backward(run, learner, used[-1], part))
    total = torch.stack([found.total.detach() for found in losses]).mean()
    lr = lr_at(learner.step, steps=run.steps, peak=run.peak_lr, config=optim)
    norm, skipped = step_optimizer(learner.optimizer, total, clip=optim.clip, lr=lr)
    learner.advance(run.data.train.state(), skipped)
    watch.note(learner.step, used, skipped)
    return StepResult(total, _mean_terms(losses), norm, skipped, lr, waited_s)


def _backward(run: Run[BatchT], learner: Learner, batch: BatchT, part: int) -> Losses:
    """Add the gradient of a part of the batch."""
    generator = step_generator(run.config.seed, learner.step, part=part)
    with torch.autocast(learner.device.type, dtype=torch.bfloat16, enabled=run.amp):
        losses = run.method.loss(learner.model, batch, generator)
    (losses.total / run.config.optim.accumulate).backward()
    return losses


def _mean_terms(losses: list[Losses]) -> dict[str, Tensor]:
    names = losses[0].terms
    return {name: torch.stack([x.terms[name].detach() for x in losses]).mean() for name in names}


def _is_due(step: int, every: int | None, steps: int) -> bool:
    return step in (0, steps) or (every is not None and step % every == 0)
