"""``python -m trainer.demo --out demo``: from nothing to a pre-trained backbone in minutes.

Synthetic rooms in ScanNet's own format, converted, and a small Mask3D pre-trained on them. What is
there already is kept, so a demo that was stopped goes on.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from geomim_data.console import showing_progress
from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.sources.scannet import ScanNetSource
from geomim_data.sources.synthetic import synthesize_scannet
from geomim_data.store import is_store
from trainer.config_errors import ConfigError
from trainer.logs import duration
from trainer.pretraining import RunResult, pretrain

CONFIG = "mask3d-demo.yaml"
SCENES, FRAMES = 10, 40
COLOUR_SIZE, DEPTH_SIZE = (145, 194), (96, 128)
# Enough to leave the rules that learn nothing behind; the configuration itself goes on for longer.
STEPS = 800


def run_demo(
    out: Path,
    *,
    scenes: int = SCENES,
    frames: int = FRAMES,
    workers: int = 1,
    console: Console | None = None,
    **overrides: object,
) -> RunResult:
    """Make data in ``out/scannet``, a store in ``out/shards`` and a run in ``out/mask3d``."""
    console, began = console or Console(), time.perf_counter()
    raw, store = out / "scannet", out / "shards"
    _say(console, f"1/3  {scenes} synthetic rooms in ScanNet's own format: {raw}")
    if not raw.exists():
        _synthesize(raw, scenes=scenes, frames=frames, workers=workers)
    _say(console, f"2/3  converted to shards: {store} ({_since(began)})")
    if not is_store(store):
        _convert(raw, store, workers=workers)
    _say(console, f"3/3  pre-trained by {CONFIG}: {out / 'mask3d'} ({_since(began)})")
    given = {"data.path": str(store), "out": str(out / "mask3d"), "optim.steps": STEPS}
    result = pretrain(CONFIG, console=console, **(given | overrides))
    _say(console, f"\nthe demo took {_since(began)}; pictures are in {result.out / 'images'}")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all it makes")
    parsed = parser.parse_args(arguments)
    try:
        result = run_demo(parsed.out, workers=min(os.cpu_count() or 1, 8))
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if result.state == "finished" else 130


def _synthesize(raw: Path, *, scenes: int, frames: int, workers: int) -> None:
    with showing_progress("synth") as progress:
        synthesize_scannet(
            raw,
            scenes=scenes,
            frames=frames,
            colour_size=COLOUR_SIZE,
            depth_size=DEPTH_SIZE,
            workers=workers,
            progress=progress,
        )


def _convert(raw: Path, store: Path, *, workers: int) -> None:
    with showing_progress("convert") as progress:
        report = convert(ScanNetSource(raw), store, workers=workers, progress=progress)
    if report.failed:
        raise DataError(next(iter(report.failed.values())))


def _since(began: float) -> str:
    return duration(time.perf_counter() - began)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
