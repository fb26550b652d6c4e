"""Measure steps between two lines of the log, without making the device wait."""

import resource
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.distributed import mean_across_ranks


class StepResult(NamedTuple):
    """What a step found, still on the device."""

    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]
    grad_norm: Float[Tensor, ""]
    skipped: Float[Tensor, ""]
    lr: float
    waited_s: float


@final
class Meter:
    """Adds up steps until they are recorded; skipped ones count for speed alone."""

    def __init__(self, *, batch_size: int, steps: int):
        self._batch_size = batch_size
        self._steps = steps
        self._sums = dict[str, Tensor]()
        self._begin(time.perf_counter())

    def add(self, result: StepResult) -> None:
        """Count one step."""
        values = {"loss": result.loss, "grad_norm": result.grad_norm, **result.terms}
        taken = 1 - result.skipped
        for name, value in (values | {"taken": taken}).items():
            # A product would carry NaN on: NaN * 0 is NaN.
            counted = torch.where(taken > 0, value.detach().float(), 0.0)
            self._sums[name] = self._sums.get(name, torch.zeros_like(counted)) + counted
        self._count += 1
        self._waited_s += result.waited_s
        self._lr = result.lr

    def record(self, step: int, *, epoch: float, skipped: int) -> dict[str, object]:
        """Return the log's record of the steps added since the last one.

        Means are over the steps that were not skipped, NaN where all were. ``data_wait`` is the
        share of time spent waiting for data.
        """
        values = mean_across_ranks(torch.stack(list(self._sums.values()))).tolist()
        sums = dict(zip(self._sums, values, strict=True))
        taken = sums.pop("taken")
        means = {name: value / taken if taken else float("nan") for name, value in sums.items()}
        now = time.perf_counter()
        elapsed_s = max(now - self._since, 1e-9)
        record: dict[str, object] = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": means.pop("loss"),
            "terms": {name: means[name] for name in means if name != "grad_norm"},
            "lr": self._lr,
            "grad_norm": means["grad_norm"],
            "samples_per_s": self._count * self._batch_size / elapsed_s,
            "data_wait": min(self._waited_s / elapsed_s, 1.0),
            "memory_mb": peak_memory_mb(),
            "eta_s": (self._steps - step) * elapsed_s / self._count,
            "skipped": skipped,
        }
        self._begin(now)
        return record

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leave the block out of the time measured."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    def _begin(self, now: float) -> None:
        self._sums.clear()
        self._count = 0
        self._waited_s = 0.0
        self._lr = 0.0
        self._since = now


def peak_memory_mb() -> float:
    """Return the most memory ever held: on the GPU if one is in use, else by this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
