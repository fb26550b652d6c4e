import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from trainer.report import Report, print_report, print_reports, write_report

ROWS = {
    "trained": {"loss": 0.2, "abs_rel": 0.1, "delta1": 0.9},
    "untrained": {"loss": 1.2, "abs_rel": 0.4, "delta1": 0.3},
    "visible_mean": {"abs_rel": 0.3, "delta1": 0.5},
    "nearest_visible": {"abs_rel": 0.09, "delta1": 0.92},
}
REPORT = Report(rows=ROWS, frames=12, step=100)


def printed(report: Report, **options: object) -> str:
    console = Console(file=io.StringIO(), width=120, **options)
    print_report(report, console)
    return console.file.getvalue()


def test_the_verdict_names_what_is_beaten_and_what_is_not():
    assert REPORT.verdict() == (
        "abs_rel 0.1000: the trained model beats untrained (0.4000) and visible_mean (0.3000); "
        "it does NOT beat nearest_visible (0.0900)"
    )


def test_a_model_that_beats_nothing_says_so():
    rows = {**ROWS, "trained": {"abs_rel": 0.5}, "untrained": {"abs_rel": 0.5}}
    verdict = Report(rows=rows, frames=1, step=1).verdict()
    assert "the trained model does NOT beat untrained (0.5000) or visible_mean" in verdict
    assert " beats " not in verdict


def test_a_number_that_is_not_finite_beats_nothing_and_is_beaten():
    rows = {"trained": {"loss": math.nan}, "untrained": {"loss": 1.0}}
    assert Report(rows=rows, frames=1, step=1).beaten() == {"untrained": False}
    rows = {"trained": {"loss": 1.0}, "untrained": {"loss": math.nan}}
    assert Report(rows=rows, frames=1, step=1).beaten() == {"untrained": True}


def test_without_depth_metrics_the_loss_is_judged():
    rows = {"trained": {"loss": 0.5}, "untrained": {"loss": 1.0}}
    assert Report(rows=rows, frames=1, step=1).judge == "loss"


@pytest.mark.parametrize(
    ("metric", "name"),
    [("abs_rel", "nearest_visible"), ("delta1", "nearest_visible"), ("loss", "trained")],
)
def test_the_best_of_each_metric_is_known(metric: str, name: str):
    assert REPORT.best(metric) == name


def test_a_metric_without_numbers_has_no_best():
    assert Report(rows={"trained": {"loss": math.nan}}, frames=1, step=1).best("loss") is None


def test_the_table_marks_the_best_and_leaves_gaps():
    lines = printed(REPORT).splitlines()
    header = next(line for line in lines if "abs_rel" in line)
    assert "abs_rel ↓" in header
    assert "delta1 ↑" in header
    (nearest,) = [line for line in lines if line.strip("│ ").startswith("nearest_visible")]
    assert "0.0900*" in nearest
    assert " - " in nearest
    assert "on 12 validation frames" in lines[0]


def test_a_narrow_pipe_does_not_break_the_table():
    console = Console(file=io.StringIO(), width=80)
    print_report(REPORT, console)
    assert max(len(line) for line in console.file.getvalue().splitlines()[:-1]) <= 80


def test_the_report_is_written_as_json(tmp_path: Path):
    rows = {**ROWS, "untrained": {"abs_rel": math.nan}}
    value = json.loads(write_report(tmp_path, Report(rows=rows, frames=3, step=9)).read_text())
    assert value["rows"]["trained"] == ROWS["trained"]
    assert value["rows"]["untrained"] == {"abs_rel": None}
    assert (value["step"], value["validation_frames"], value["judge"]) == (9, 3, "abs_rel")
    assert value["beaten"]["nearest_visible"] is False


def test_each_of_several_runs_has_a_table_that_fits_a_terminal_and_its_verdicts():
    other = Report(
        rows={
            "trained": {
                "depth_abs_rel": 0.2,
                "depth_abs_rel_rebuilt": 0.3,
                "psnr_rebuilt": 20.0,
            },
            "copy_nearest": {"psnr_rebuilt": 22.0},
        },
        frames=4,
        step=9,
    )
    console = Console(file=io.StringIO(), width=80)
    print_reports({"rooms": REPORT, "streets": other}, console)
    text = console.file.getvalue()
    cells = {
        parts[0]: parts[1:]
        for line in text.splitlines()
        if (parts := [part.strip() for part in line.strip("│┃ ").split("│")]) and len(parts) > 1
    }
    assert cells["nearest_visible"] == ["0.0900*"]
    assert cells["copy_nearest"] == ["-", "-", "22.0000*"]
    assert f"rooms: {REPORT.verdict()}\n" in text
    assert "streets: psnr_rebuilt 20.0000: the trained model does NOT beat copy_nearest" in text
