"""Speak while a run goes on: ``metrics.jsonl``, TensorBoard, and lines or a bar on the console."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import final

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard.writer import SummaryWriter

from trainer.files import replace_text
from trainer.methods.method import HEADLINE
from trainer.pictures import save_png

Record = Mapping[str, object]


@final
class Journal:
    """The voice of a run whose folder is ``out`` and which has taken ``step`` of ``steps`` steps.

    Lines of ``metrics.jsonl`` past ``step``, left by a run that died after its checkpoint, are
    dropped, so no step is told twice.
    """

    def __init__(self, out: Path, *, step: int, steps: int, console: Console):
        self.console = console
        self._path = out / "metrics.jsonl"
        self._images = out / "images"
        self._records = _keep_until(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(out / "tb"), purge_step=step + 1)
        self._bar = _bar(console)
        self._task = self._bar.add_task("", total=steps, completed=step, note="")

    def __enter__(self) -> "Journal":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ):
        self._bar.stop()
        self._file.close()
        self._board.close()

    def train(self, record: Record) -> None:
        """Tell about the steps since the last such line."""
        self._write(record)
        step, line = _step(record), train_line(record)
        self._bar.update(self._task, completed=step, note=_short(record))
        if not self.console.is_terminal:
            self.say(line)

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step)

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell what validation found after a step."""
        self._write({"step": step, "split": "val", **metrics})
        numbers = [f"{name} {metrics[name]:.4f}" for name in HEADLINE if name in metrics]
        self.say(f"step {step}  validation  {'  '.join(numbers)}")

    def validated(self, step: int) -> dict[str, float] | None:
        """Return what validation found after a step, in this run or before its interruption."""
        for record in self._records:
            if record.get("split") == "val" and record.get("step") == step:
                named = {k: v for k, v in record.items() if k not in ("step", "split")}
                return {k: math.nan if v is None else float(str(v)) for k, v in named.items()}
        return None

    @property
    def data_wait(self) -> float:
        """The mean share of time spent waiting for data; 0 before the first record."""
        shares = [float(str(r["data_wait"])) for r in self._records if "data_wait" in r]
        return sum(shares) / len(shares) if shares else 0.0

    def picture(self, step: int, image: UInt8[np.ndarray, "h w 3"]) -> Path:
        """Keep a picture as PNG and in TensorBoard."""
        self._images.mkdir(exist_ok=True)
        path = self._images / f"step-{step:07d}.png"
        save_png(image, path)
        self._board.add_image("samples", image, step, dataformats="HWC")
        return path

    def say(self, text: str) -> None:
        """Print one line, whatever the width of the console."""
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _write(self, record: Record) -> None:
        plain = _plain(record)
        self._records.append(plain)
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()
        prefix = str(record.get("split", "train"))
        for name, value in _scalars(record):
            self._board.add_scalar(f"{prefix}/{name}", value, _step(record))


def train_line(record: Record) -> str:
    """Write a training record as one plain line."""
    terms = record.get("terms")
    parts = [f"step {record['step']}", f"loss {_number(record['loss'])}"]
    if isinstance(terms, Mapping) and len(terms) > 1:
        parts += [f"{name} {_number(value)}" for name, value in terms.items()]
    parts += [f"lr {record['lr']:.2e}", f"grad {_number(record['grad_norm'])}"]
    parts += [f"{record['samples_per_s']:.1f} samples/s", f"data {record['data_wait']:.0%}"]
    parts += [f"{record['memory_mb']:.0f} MB", f"eta {duration(record['eta_s'])}"]
    if record.get("skipped"):
        parts.append(f"skipped {record['skipped']}")
    return "  ".join(parts)


def duration(seconds: object) -> str:
    """Write seconds as ``h:mm:ss``."""
    whole = round(float(str(seconds)))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _bar(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    note = TextColumn("{task.fields[note]}")
    return Progress(*columns, note, console=console, disable=not console.is_terminal)


def _short(record: Record) -> str:
    return f"loss {_number(record['loss'])}  data {record['data_wait']:.0%}"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _step(record: Record) -> int:
    return int(str(record["step"]))


def _scalars(record: Record) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars({f"{name}/{inner}": item for inner, item in value.items()})
        elif isinstance(value, (int, float)) and name != "step":
            yield name, float(value)


def _plain(record: Record) -> dict[str, object]:
    """Replace what JSON cannot hold: a number that is not finite becomes null."""
    plain = dict[str, object]()
    for name, value in record.items():
        if isinstance(value, Mapping):
            plain[name] = _plain({str(key): item for key, item in value.items()})
        else:
            lost = isinstance(value, float) and not math.isfinite(value)
            plain[name] = None if lost else value
    return plain


def _keep_until(path: Path, step: int) -> list[dict[str, object]]:
    """Drop the lines past a step, and a last line that was cut off; return what remains."""
    if not path.exists():
        return []
    kept = list[dict[str, object]]()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["step"] <= step:
            kept.append(record)
    replace_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept
