import math

import pytest
import torch

from trainer import meter as meter_module
from trainer.meter import Meter, StepResult, peak_memory_mb


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose only item is the time."""
    now = [0.0]
    monkeypatch.setattr(meter_module.time, "perf_counter", lambda: now[0])
    return now


def result(loss: float, *, skipped: float = 0.0, waited_s: float = 0.1) -> StepResult:
    loss_tensor = torch.tensor(loss)
    return StepResult(
        loss=loss_tensor,
        terms={"loss_depth": loss_tensor / 2},
        grad_norm=2 * loss_tensor,
        skipped=torch.tensor(skipped),
        lr=0.5,
        waited_s=waited_s,
    )


def test_a_record_holds_the_means_of_the_interval(clock: list[float]):
    meter = Meter(batch_size=8, steps=10)
    for loss in (1.0, 3.0):
        clock[0] += 1
        meter.add(result(loss))
    record = meter.record(2, epoch=0.5, skipped=0)
    assert record["loss"] == 2
    assert record["terms"] == {"loss_depth": 1}
    assert record["grad_norm"] == 4
    assert record["samples_per_s"] == 8
    assert record["data_wait"] == pytest.approx(0.1)
    assert record["eta_s"] == 8
    assert (record["step"], record["epoch"], record["lr"]) == (2, 0.5, 0.5)


def test_a_record_starts_the_next_interval(clock: list[float]):
    meter = Meter(batch_size=8, steps=10)
    clock[0] = 1.0
    meter.add(result(1.0))
    meter.record(1, epoch=0.0, skipped=0)
    clock[0] = 3.0
    meter.add(result(5.0, waited_s=1.0))
    record = meter.record(2, epoch=0.0, skipped=0)
    assert record["loss"] == 5
    assert record["data_wait"] == 0.5
    assert record["samples_per_s"] == 4


def test_skipped_steps_count_for_speed_alone(clock: list[float]):
    meter = Meter(batch_size=8, steps=10)
    clock[0] = 2.0
    meter.add(result(1.0))
    meter.add(result(math.nan, skipped=1.0))
    record = meter.record(2, epoch=0.0, skipped=1)
    assert record["loss"] == 1
    assert record["samples_per_s"] == 8
    assert record["skipped"] == 1


def test_an_interval_of_skipped_steps_has_no_loss(clock: list[float]):
    meter = Meter(batch_size=8, steps=10)
    clock[0] = 1.0
    meter.add(result(math.inf, skipped=1.0))
    assert math.isnan(meter.record(1, epoch=0.0, skipped=1)["loss"])


def test_pauses_are_not_measured(clock: list[float]):
    meter = Meter(batch_size=8, steps=10)
    clock[0] = 1.0
    meter.add(result(1.0))
    with meter.paused():
        clock[0] += 100
    assert meter.record(1, epoch=0.0, skipped=0)["samples_per_s"] == 8


def test_this_process_holds_some_memory():
    assert peak_memory_mb() > 10
