"""Keep records as JSON, and lay them out for reading."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import COPY, Record

_ROW = "{:<36} {:<30} {:>3} {:>10} {:>9} {:>10} {:>7} {:>6} {:>8}"
_HEADS = (
    "workload",
    "implementation",
    "thr",
    "median ms",
    "iqr",
    "min ms",
    "GB/s",
    "copy",
    "ratio",
)


def write_records(records: Iterable[Record], path: Path) -> None:
    """Replace a file by a JSON list of records, one a line, wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(record), ensure_ascii=False) for record in records)
    partial = path.with_suffix(".partial")
    partial.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105 - atomic, as the name says


def read_records(path: Path) -> list[Record]:
    """Read what ``write_records`` wrote."""
    return [Record(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]


def table(records: Sequence[Record]) -> str:
    """Lay records out, workload by workload.

    ``copy`` is the rate as a share of the copy's. ``ratio`` is the least time over geomim's, or
    over the first contender's where none is called that: 5.0x takes five times as long as we do.
    """
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        key = (record.workload, record.device, record.threads)
        groups.setdefault(key, []).append(record)
    lines = [_ROW.format(*_HEADS)]
    for group in groups.values():
        lines += _rows(group)
    return "\n".join(lines)


def _rows(group: Sequence[Record]) -> list[str]:
    by_name = {record.implementation: record for record in group}
    ours = min(
        (record.min_ms for name, record in by_name.items() if name.startswith("geomim")),
        default=group[0].min_ms,
    )
    if "geomim" in by_name:
        ours = by_name["geomim"].min_ms
    copied = by_name[COPY].gb_per_s if COPY in by_name else float("nan")
    return [
        _ROW.format(
            record.workload,
            record.implementation,
            record.threads,
            f"{record.median_ms:.3f}",
            f"{record.iqr_ms:.3f}",
            f"{record.min_ms:.3f}",
            f"{record.gb_per_s:.2f}",
            f"{record.gb_per_s / copied:.0%}",
            f"{record.min_ms / ours:.3g}x",
        )
        for record in group
    ]
