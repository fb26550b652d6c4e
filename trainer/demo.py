"""``python -m trainer.demo --out demo``: from nothing to two pre-trained backbones in minutes.

Synthetic rooms in ScanNet's own format and a small Mask3D pre-trained on them, then synthetic
streets in nuScenes' own format and a small MIM4D. What is there already is kept, so a demo that was
stopped goes on.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

from rich.console import Console

from geomim_data.console import showing_progress
from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.recording import Source
from geomim_data.schema import MANIFEST_JSON
from geomim_data.sources.nuscenes import NuScenesSource
from geomim_data.sources.scannet import ScanNetSource
from geomim_data.sources.synthetic.nuscenes import VERSION, synthesize_nuscenes
from geomim_data.sources.synthetic.scannet import synthesize_scannet
from geomim_data.store import read_manifest
from trainer.config_errors import ConfigError
from trainer.logs import duration
from trainer.pretraining import RunResult, pretrain
from trainer.report import print_reports


@final
@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One method of the demo: its data, from nothing, and its run, all in folders by name."""

    run: str
    what: str
    raw: str
    shards: str
    synthesize: Callable[..., None]
    source: Callable[[Path], Source]
    settings: Mapping[str, object]


def mask3d_part(*, scenes: int = 10, frames: int = 40, **settings: object) -> Part:
    """Return Mask3D on rooms: 800 steps leave the rules that learn nothing behind."""
    return Part(
        run="mask3d",
        what=f"{scenes} synthetic rooms in ScanNet's own format",
        raw="scannet",
        shards="shards",
        synthesize=partial(
            synthesize_scannet,
            scenes=scenes,
            frames=frames,
            colour_size=(145, 194),
            depth_size=(96, 128),
        ),
        source=ScanNetSource,
        settings={"optim.steps": 600} | settings,
    )


def mim4d_part(*, scenes: int = 20, seconds: float = 1.5, **settings: object) -> Part:
    """Return MIM4D on streets: many short drives, as what is held out is a street."""
    return Part(
        run="mim4d",
        what=f"{scenes} synthetic streets in nuScenes' own format",
        raw="nuscenes",
        shards="drives",
        synthesize=partial(
            synthesize_nuscenes, scenes=scenes, seconds=seconds, image_scale=0.1, between=False
        ),
        source=partial(NuScenesSource, version=VERSION),
        settings={"data.val": "scenes:4"} | settings,
    )


def run_demo(
    out: Path,
    parts: Sequence[Part] | None = None,
    *,
    workers: int = 1,
    console: Console | None = None,
) -> list[RunResult]:
    """Make data, stores and runs in folders of ``out``, and print what was learnt.

    Returns:
        The result of each part, up to the first that was stopped.
    """
    console, began = console or Console(), time.perf_counter()
    parts = parts or (mask3d_part(), mim4d_part())
    results = list[RunResult]()
    for number, part in enumerate(parts):
        results.append(_run(part, out, workers=workers, console=console, step=3 * number))
        if results[-1].state == "stopped":
            return results
        _say(console, f"{_since(began)} so far\n")
    reports = {part.run: result.report for part, result in zip(parts, results, strict=True)}
    print_reports({name: report for name, report in reports.items() if report}, console)
    for part, result in zip(parts, results, strict=True):
        newest = max((result.out / "images").glob("*.png"), default=result.out / "images")
        _say(console, f"{part.run}: pictures {newest}, backbone {result.out / 'exported'}")
    _say(console, f"the demo took {_since(began)}")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all it makes")
    parsed = parser.parse_args(arguments)
    try:
        results = run_demo(parsed.out, workers=min(os.cpu_count() or 1, 8))
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if results[-1].state == "finished" else 130


def _run(part: Part, out: Path, *, workers: int, console: Console, step: int) -> RunResult:
    raw, store, run = (out / name for name in (part.raw, part.shards, part.run))
    _say(console, f"{step + 1}/6  {part.what}: {raw}")
    if not raw.exists():
        with showing_progress("synth") as progress:
            part.synthesize(raw, workers=workers, progress=progress)
    _say(console, f"{step + 2}/6  converted to shards: {store}")
    if not _is_whole(store):
        _convert(part.source(raw), store, workers=workers)
    config = f"{part.run}-demo.yaml"
    _say(console, f"{step + 3}/6  pre-trained by {config}: {run}")
    settings = {"data.path": str(store), "out": str(run), **part.settings}
    return pretrain(config, console=console, **settings)


def _is_whole(store: Path) -> bool:
    """Tell whether a conversion is done: its manifest comes last, and names what failed."""
    return (store / MANIFEST_JSON).exists() and not read_manifest(store).failed


def _convert(source: Source, store: Path, *, workers: int) -> None:
    with showing_progress("convert") as progress:
        report = convert(source, store, workers=workers, progress=progress)
    if report.failed:
        raise DataError(next(iter(report.failed.values())))


def _since(began: float) -> str:
    return duration(time.perf_counter() - began)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
