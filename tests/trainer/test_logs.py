import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.logs import Journal, duration, train_line

RECORD: dict[str, object] = {
    "step": 20,
    "epoch": 1.5,
    "loss": 0.25,
    "terms": {"loss_depth": 0.2, "loss_rgb": 0.05},
    "lr": 1e-3,
    "grad_norm": 1.0,
    "samples_per_s": 100.0,
    "data_wait": 0.02,
    "memory_mb": 512.0,
    "eta_s": 3725.0,
    "skipped": 0,
}


def console(**options: object) -> Console:
    return Console(file=io.StringIO(), width=80, **options)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def journal(out: Path, step: int = 0, **options: object) -> Journal:
    return Journal(out, step=step, steps=100, console=console(**options))


def test_a_record_becomes_one_line_of_json_and_one_of_text(tmp_path: Path):
    with journal(tmp_path) as told:
        told.train(RECORD)
        printed = told.console.file.getvalue()
    assert lines(tmp_path / "metrics.jsonl") == [RECORD]
    assert printed.count("\n") == 1
    assert printed.startswith("step 20  loss 0.25  loss_depth 0.2  loss_rgb 0.05  lr 1.00e-03")
    assert "100.0 samples/s  data 2%  512 MB  eta 1:02:05" in printed


def test_a_terminal_gets_a_bar_instead(tmp_path: Path):
    with journal(tmp_path, force_terminal=True) as told:
        told.train(RECORD)
    printed = told.console.file.getvalue()
    assert "samples/s" not in printed
    assert "20/100" in printed


def test_skipped_steps_are_told_when_there_are_some():
    assert "skipped" not in train_line(RECORD)
    assert train_line({**RECORD, "skipped": 3}).endswith("skipped 3")


def test_a_single_term_is_not_told_twice():
    assert "loss_depth" not in train_line({**RECORD, "terms": {"loss_depth": 0.25}})


def test_numbers_that_are_not_finite_become_null(tmp_path: Path):
    with journal(tmp_path) as told:
        told.train({**RECORD, "loss": math.nan, "terms": {"loss_depth": math.inf}})
    (record,) = lines(tmp_path / "metrics.jsonl")
    assert record["loss"] is None
    assert record["terms"] == {"loss_depth": None}


def test_validation_shows_the_headline_and_writes_all(tmp_path: Path):
    with journal(tmp_path) as told:
        told.validation(5, {"loss": 1.0, "abs_rel": 0.5, "silog": 9.0})
        assert told.console.file.getvalue() == "step 5  validation  abs_rel 0.5000  loss 1.0000\n"
    (record,) = lines(tmp_path / "metrics.jsonl")
    assert record == {"step": 5, "split": "val", "loss": 1.0, "abs_rel": 0.5, "silog": 9.0}


def test_validation_can_be_asked_for_again_even_by_a_later_run(tmp_path: Path):
    with journal(tmp_path) as told:
        told.validation(0, {"abs_rel": 0.5, "loss": math.nan})
    with journal(tmp_path, step=10) as told:
        found = told.validated(0)
        assert told.validated(10) is None
    assert found is not None
    assert found["abs_rel"] == 0.5
    assert math.isnan(found["loss"])


@pytest.mark.parametrize("tail", ["", '{"step": 30, "lo', "\n"])
def test_lines_past_the_step_are_dropped(tmp_path: Path, tail: str):
    with journal(tmp_path) as told:
        for step in (10, 20, 30):
            told.train({**RECORD, "step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    with journal(tmp_path, step=20) as told:
        told.train({**RECORD, "step": 30})
    assert [record["step"] for record in lines(tmp_path / "metrics.jsonl")] == [10, 20, 30]


def test_a_picture_is_kept_as_png_and_in_tensorboard(tmp_path: Path):
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    with journal(tmp_path) as told:
        told.train(RECORD)
        told.validation(20, {"abs_rel": 0.5})
        path = told.picture(20, image)
    assert path.name == "step-0000020.png"
    assert np.array_equal(np.asarray(Image.open(path)), image)
    board = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert board.Tags()["images"] == ["samples"]
    assert {"train/loss", "train/terms/loss_rgb", "val/abs_rel"} <= set(board.Tags()["scalars"])


def test_words_are_printed_as_they_are(tmp_path: Path):
    with journal(tmp_path) as told:
        told.say("[64, 96] " + "x" * 100)
        assert told.console.file.getvalue() == "[64, 96] " + "x" * 100 + "\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (90061, "25:01:01")]
)
def test_durations_are_hours_minutes_seconds(seconds: float, text: str):
    assert duration(seconds) == text
