import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trainer.capture import NonFiniteError
from trainer.checkpoint import save_checkpoint
from trainer.config_errors import ConfigError


def weights(out: Path, step: int) -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"step-{step}" / "model.safetensors")


def assert_same_weights(one: Path, other: Path, step: int) -> None:
    for part in ("model", "optimizer", "random"):
        first, second = (
            load_file(out / "checkpoints" / f"step-{step}" / f"{part}.safetensors")
            for out in (one, other)
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def metrics(out: Path, *, split: str | None = None) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record.get("split") == split]


def status(out: Path) -> dict[str, object]:
    return json.loads((out / "status.json").read_text())


def after(calls: int, act: Callable[[], None]) -> Callable[[], None]:
    """Return a function that acts at its n-th call."""
    left = iter(range(calls, -(10**6), -1))

    def call() -> None:
        if next(left) == 0:
            act()

    return call


def kill(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_a_run_fills_its_folder(noise, tmp_path: Path):
    result = noise.pretrain(tmp_path / "run")
    assert result.state == "finished"
    assert result.step == 6
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "environment.json",
        "exported",
        "images",
        "metrics.jsonl",
        "report.json",
        "status.json",
        "tb",
    }
    images = [path.name for path in sorted((tmp_path / "run" / "images").iterdir())]
    assert images == ["step-0000000.png", "step-0000004.png", "step-0000006.png"]
    assert status(tmp_path / "run") == {"state": "finished", "step": 6, "steps": 6}


def test_metrics_hold_a_record_for_each_interval_and_each_validation(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "run")
    records = metrics(tmp_path / "run")
    assert [record["step"] for record in records] == [2, 4, 6]
    wanted = "step epoch loss terms lr grad_norm samples_per_s data_wait memory_mb eta_s skipped"
    assert all(list(record) == wanted.split() for record in records)
    assert 0 <= records[0]["data_wait"] <= 1
    assert [r["step"] for r in metrics(tmp_path / "run", split="val")] == [0, 4, 6]


def test_two_runs_of_one_seed_are_equal_and_of_another_not(noise, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        noise.pretrain(tmp_path / name, seed=seed)
    assert_same_weights(tmp_path / "a", tmp_path / "b", 6)
    different = (weights(tmp_path / name, 6)["cls_token"] for name in "ac")
    assert not torch.equal(*different)


def test_workers_and_logging_change_no_bit(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "a")
    noise.pretrain(tmp_path / "b", data={"workers": 1}, log={"every": 1, "val_every": 1})
    assert_same_weights(tmp_path / "a", tmp_path / "b", 6)


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("calls", [12, 13])
def test_a_resumed_run_ends_bit_identical(noise, tmp_path: Path, calls: int, ema: float | None):
    """The signal comes at the first or the second frame of step 3."""
    overrides = {"optim.ema": ema}
    noise.pretrain(tmp_path / "straight", **overrides)
    noise.samples.before = after(calls, kill(signal.SIGTERM))
    assert noise.pretrain(tmp_path / "broken", **overrides).step < 6
    noise.samples.before = None
    assert noise.pretrain(tmp_path / "broken", **overrides).step == 6
    assert_same_weights(tmp_path / "straight", tmp_path / "broken", 6)


def test_a_resumed_run_tells_no_step_twice(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step-6" / "manifest.json").unlink()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    noise.pretrain(tmp_path / "run")
    assert [record["step"] for record in metrics(tmp_path / "run")] == [2, 4, 6]
    assert [r["step"] for r in metrics(tmp_path / "run", split="val")] == [0, 4, 6]


def test_a_corrupt_newest_checkpoint_costs_a_warning(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "a")
    noise.pretrain(tmp_path / "b")
    (tmp_path / "b" / "checkpoints" / "step-6" / "model.safetensors").write_bytes(b"\0")
    noise.pretrain(tmp_path / "b")
    assert "warning: passed over a broken checkpoint:" in noise.printed
    assert "resumed from" in noise.printed
    assert_same_weights(tmp_path / "a", tmp_path / "b", 6)


def test_accumulation_moves_the_weights_by_rounding_alone(noise, tmp_path: Path):
    noise.method.noise = 0.0
    overrides = {"data.batch_size": 10, "optim.steps": 2}
    noise.pretrain(tmp_path / "whole", **overrides)
    noise.pretrain(tmp_path / "parts", **overrides, **{"optim.accumulate": 5})
    whole, parts = (weights(tmp_path / name, 2) for name in ("whole", "parts"))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_waiting_for_data_saves_and_ends(noise, tmp_path: Path, number):
    noise.samples.before = after(5, kill(number))
    result = noise.pretrain(tmp_path / "run")
    assert (result.state, result.step, result.signal) == ("stopped", 1, number.name)
    assert weights(tmp_path / "run", 1)
    details = {"step": 1, "steps": 6, "signal": number.name}
    assert status(tmp_path / "run") == {"state": "stopped", **details}
    assert f"stopped by {number.name} after step 1" in noise.printed


def test_a_signal_within_a_step_ends_after_it(noise, tmp_path: Path):
    noise.method.before_loss = after(2, kill(signal.SIGTERM))
    assert noise.pretrain(tmp_path / "run").step == 3


@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_signal_in_a_validation_ends_it(noise, tmp_path: Path, call: int):
    noise.method.before_batch = after(call, kill(signal.SIGTERM))
    result = noise.pretrain(tmp_path / "run")
    assert (result.state, result.step) == ("stopped", 0 if call < 2 else 4)
    assert noise.pretrain(tmp_path / "run").state == "finished"
    assert [r["step"] for r in metrics(tmp_path / "run", split="val")] == [0, 4, 6]


def test_a_step_that_is_not_finite_is_skipped_and_counted(noise, tmp_path: Path):
    noise.samples.poisoned = frozenset({3})
    noise.pretrain(tmp_path / "run")
    records = metrics(tmp_path / "run")
    assert records[-1]["skipped"] >= 2
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run", 6).values())


def test_a_checkpoint_between_two_lines_of_the_log_knows_what_was_skipped(noise, tmp_path: Path):
    noise.samples.poisoned = frozenset(range(10))
    noise.pretrain(tmp_path / "run", **{"log.every": 100, "checkpoint.every": 1})
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-5" / "state.json").read_text())
    assert state["skipped"] == 5


def test_past_the_budget_the_batch_is_captured_and_the_run_stops(noise, tmp_path: Path):
    noise.samples.poisoned = frozenset(range(10))
    words = "3 steps had a loss or gradient that is not finite, more than optim.nonfinite_budget 2"
    with pytest.raises(NonFiniteError, match=words):
        noise.pretrain(tmp_path / "run", **{"optim.nonfinite_budget": 2})
    folder = tmp_path / "run" / "captured" / "step-3"
    assert load_file(folder / "part-0.safetensors")["rgb"].isnan().any()
    frames = json.loads((folder / "frames.json").read_text())["parts"]
    assert [len(part) for part in frames] == [4]
    assert status(tmp_path / "run")["state"] == "failed"


def test_a_folder_of_another_run_is_refused_with_what_differs(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "run", **{"optim.steps": 1})
    words = r"belongs to a run of another configuration \(optim.blr: 0.1 there, 0.2 here\)"
    with pytest.raises(ConfigError, match=words):
        noise.pretrain(tmp_path / "run", **{"optim.steps": 1, "optim.blr": 0.2})


def test_speed_moves_the_weights_by_rounding_alone(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "a", **{"speed.threads": 1})
    noise.pretrain(tmp_path / "b", **{"speed.threads": 2, "speed.compile": "auto"})
    one, other = (weights(tmp_path / name, 6) for name in "ab")
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


def test_the_start_of_another_run_is_not_needed_to_go_on(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "a", **{"optim.steps": 1})
    source = tmp_path / "a" / "checkpoints" / "step-1"
    started = {"init_from": str(source), "optim.steps": 2}
    noise.pretrain(tmp_path / "b", **started)
    shutil.rmtree(source)
    assert noise.pretrain(tmp_path / "b", **started).step == 2


def test_weights_that_do_not_fit_are_named(noise, tmp_path: Path):
    parts = {"model": {"cls_token": torch.zeros(3), "odd": torch.zeros(1)}}
    folder = save_checkpoint(tmp_path / "a", state={"step": 1}, parts=parts, keep=1)
    words = r"must fit the model: blocks.*is missing; .*; .* and \d+ more"
    with pytest.raises(ConfigError, match=words):
        noise.pretrain(tmp_path / "b", init_from=str(folder))


def test_a_checkpoint_of_other_data_is_refused(noise, tmp_path: Path, monkeypatch):
    noise.pretrain(tmp_path / "run")
    whole = noise.data
    monkeypatch.setattr(noise, "data", lambda config: replace(whole(config), train_frames=9))
    with pytest.raises(ConfigError, match=r"frames must be that of this run, 9, got 10"):
        noise.pretrain(tmp_path / "run")


def test_the_time_spent_waiting_is_told_with_the_remedy(noise, tmp_path: Path):
    noise.samples.before = lambda: time.sleep(0.02)
    noise.pretrain(tmp_path / "run")
    assert "waiting for data; more data.workers may help" in noise.printed


def test_without_validation_nothing_is_claimed(noise, tmp_path: Path, monkeypatch):
    whole = noise.data
    monkeypatch.setattr(noise, "data", lambda config: replace(whole(config), val_frames=0))
    result = noise.pretrain(tmp_path / "run", **{"optim.steps": 1})
    assert result.report is None
    assert "no frames were held out (data.val)" in noise.printed
    assert metrics(tmp_path / "run", split="val") == []


def test_speed_log_and_workers_may_differ_on_resume(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "run", **{"optim.steps": 1})
    free = {"speed.threads": 2, "log.every": 1, "data.workers": 1, "checkpoint.keep": 1}
    assert noise.pretrain(tmp_path / "run", **{"optim.steps": 1}, **free).step == 1


def test_a_folder_with_other_files_is_refused(noise, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"must be empty or hold a run, got .* with thesis.tex"):
        noise.pretrain(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_resume_never_refuses_a_folder_in_use(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "run", **{"optim.steps": 1})
    with pytest.raises(ConfigError, match="must be empty under resume=never"):
        noise.pretrain(tmp_path / "run", **{"optim.steps": 1, "resume": "never"})


def test_a_file_is_no_run_folder(noise, tmp_path: Path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="out must be a folder"):
        noise.pretrain(tmp_path / "run")


def test_weights_can_start_another_run(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "a", **{"optim.steps": 3})
    source = str(tmp_path / "a" / "checkpoints" / "step-3")
    result = noise.pretrain(tmp_path / "b", init_from=source, **{"optim.steps": 1})
    assert result.step == 1
    starts, ends = (metrics(tmp_path / name, split="val") for name in "ba")
    assert starts[0]["loss"] == ends[-1]["loss"]


def test_the_report_holds_trained_untrained_and_baselines(noise, tmp_path: Path):
    result = noise.pretrain(tmp_path / "run")
    assert list(result.report.rows) == ["trained", "untrained", "perfect", "hopeless"]
    validations = metrics(tmp_path / "run", split="val")
    assert result.report.rows["trained"]["abs_rel"] == validations[-1]["abs_rel"]
    assert result.report.rows["untrained"]["abs_rel"] == validations[0]["abs_rel"]
    written = json.loads((tmp_path / "run" / "report.json").read_text())
    assert written["beaten"] == {"untrained": True, "perfect": False, "hopeless": True}
    assert "does NOT beat perfect (0.0000)" in noise.printed


def test_a_finished_run_reports_again(noise, tmp_path: Path):
    first = noise.pretrain(tmp_path / "run")
    again = noise.pretrain(tmp_path / "run")
    assert again == first


def test_the_printed_snippet_loads_the_export_strictly(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "run")
    snippet = noise.printed[noise.printed.index("import json") :]
    scope: dict[str, object] = {}
    exec(snippet, scope)  # noqa: S102 - the printed lines themselves are tested
    loaded = scope["backbone"].state_dict()
    trained = weights(tmp_path / "run", 6)
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)


def test_the_averaged_weights_are_exported(noise, tmp_path: Path):
    noise.pretrain(tmp_path / "run", **{"optim.ema": 0.5})
    exported = load_file(tmp_path / "run" / "exported" / "backbone.safetensors")
    average = load_file(tmp_path / "run" / "checkpoints" / "step-6" / "average.safetensors")
    assert all(torch.equal(exported[name], average[name]) for name in average)


def test_bf16_trains_with_a_loss_in_float32(noise, tmp_path: Path):
    assert noise.pretrain(tmp_path / "run", **{"speed.amp": "bf16"}).step == 6
    assert noise.method.loss_dtypes == {torch.float32}
