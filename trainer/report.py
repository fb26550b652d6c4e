"""Say what was learnt: the trained model beside the untrained one and rules that learn nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from rich.console import Console
from rich.table import Column, Table

from trainer.files import replace_json
from trainer.methods.method import HEADLINE

TRAINED, UNTRAINED = "trained", "untrained"
JUDGES = ("abs_rel", "depth_abs_rel", "depth_abs_rel_rebuilt", "psnr_rebuilt")
Metrics = Mapping[str, float]


@final
@dataclass(frozen=True, slots=True)
class Report:
    """The metrics of each row, judged on the same validation frames under the same masks."""

    rows: Mapping[str, Metrics]
    frames: int
    step: int
    unit: Literal["frame", "clip"] = "frame"

    @property
    def judges(self) -> tuple[str, ...]:
        """The metrics that there is a verdict on: errors of depth, or else the loss."""
        return tuple(name for name in JUDGES if name in self.rows[TRAINED]) or ("loss",)

    @property
    def judge(self) -> str:
        """The first of them."""
        return self.judges[0]

    def best(self, metric: str) -> str | None:
        """Return the row that is best at a metric, None where no row has a number."""
        found = {
            name: row[metric] for name, row in self.rows.items() if _is_number(row.get(metric))
        }
        if not found:
            return None
        pick = max if _higher_is_better(metric) else min
        return pick(found, key=lambda name: found[name])

    def beaten(self, judge: str | None = None) -> dict[str, bool]:
        """Tell for each other row that has a metric whether the trained model beats it.

        A number that is not finite beats nothing.

        Args:
            judge: The metric; by default the first of ``judges``.
        """
        judge = judge or self.judge
        own = self.rows[TRAINED][judge]
        others = {name: row.get(judge) for name, row in self.rows.items() if name != TRAINED}
        return {
            name: _is_number(own) and _is_better(own, value, judge)
            for name, value in others.items()
            if value is not None
        }

    def verdict(self, judge: str | None = None) -> str:
        """Return one line that names what the trained model beats and what it does not."""
        judge = judge or self.judge
        own, beaten = self.rows[TRAINED][judge], self.beaten(judge)
        won = [self._quoted(name, judge) for name, is_beaten in beaten.items() if is_beaten]
        lost = [self._quoted(name, judge) for name, is_beaten in beaten.items() if not is_beaten]
        parts = [f"beats {' and '.join(won)}"] * bool(won)
        parts += [f"does NOT beat {' or '.join(lost)}"] * bool(lost)
        return f"{judge} {own:.4f}: the trained model {'; it '.join(parts)}"

    def _quoted(self, name: str, judge: str) -> str:
        return f"{name} ({self.rows[name][judge]:.4f})"


def write_report(out: Path, report: Report) -> Path:
    """Write ``report.json``."""
    path = out / "report.json"
    value = {
        "step": report.step,
        "validation_frames": report.frames,
        "rows": {name: _jsonable(row) for name, row in report.rows.items()},
        "judge": report.judge,
        "beaten": report.beaten(),
    }
    replace_json(path, value)
    return path


def print_report(report: Report, console: Console) -> None:
    """Print the headline metrics as a table, the best of each column marked, and the verdict."""
    frames = f"{report.frames} validation {report.unit}{'s' * (report.frames != 1)}"
    console.print(f"What was learnt in {report.step} steps, on {frames}:", highlight=False)
    columns = [name for name in HEADLINE if any(name in row for row in report.rows.values())]
    table = Table("", *(_heading(name) for name in columns))
    for name, row in report.rows.items():
        table.add_row(name, *_cells(report, columns, name, row))
    console.print(table)
    for judge in report.judges:
        console.print(report.verdict(judge), soft_wrap=True, markup=False, highlight=False)


def print_reports(reports: Mapping[str, Report], console: Console) -> None:
    """Print what there is a verdict on of several runs, a table each under its name."""
    for run, report in reports.items():
        table = Table("", *(_heading(name) for name in report.judges), title=run)
        for name, row in report.rows.items():
            table.add_row(name, *_cells(report, report.judges, name, row))
        console.print(table)
        for judge in report.judges:
            line = f"{run}: {report.verdict(judge)}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)


def _heading(metric: str) -> Column:
    arrow = "↑" if _higher_is_better(metric) else "↓"
    return Column(f"{metric} {arrow}", justify="right", no_wrap=True)


def _cells(report: Report, columns: Sequence[str], name: str, row: Metrics) -> list[str]:
    return [_cell(row.get(metric), best=report.best(metric) == name) for metric in columns]


def _cell(value: float | None, *, best: bool) -> str:
    if value is None:
        return "-"
    # The star is for where there is no bold.
    return f"[bold]{value:.4f}*[/bold]" if best else f"{value:.4f} "


def _higher_is_better(metric: str) -> bool:
    return metric.startswith(("delta", "psnr"))


def _is_better(own: float, other: float, metric: str) -> bool:
    if not _is_number(other):
        return True
    return own > other if _higher_is_better(metric) else own < other


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _jsonable(row: Metrics) -> dict[str, float | None]:
    return {name: value if _is_number(value) else None for name, value in row.items()}
