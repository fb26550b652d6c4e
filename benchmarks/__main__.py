"""Run every ``bench_NAME.py`` beside this file, or those named, and keep the figures.

A benchmark module has ``workloads(*, tiny)``, which yields ``measure.Workload``s one at a time:
what one needs on disk may be gone once the next is asked for. Each process makes them anew, so they
must come from seeds. ``tiny`` is for the tests.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measure import Record, Result

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def names() -> list[str]:
    """List the benchmarks."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print tables and write ``results/NAME.json``; return 1 if a benchmark broke."""
    options = _options(arguments)
    # Idle threads that spin take time from whoever is being measured. OpenMP reads it on loading.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    done = [(_show if options.table else _run)(name, options) for name in options.names]
    return 0 if all(done) else 1


def _show(name: str, options: argparse.Namespace) -> bool:
    """Print what was measured before."""
    report = importlib.import_module("benchmarks.report")
    path = (options.out or RESULTS) / f"{name}.json"
    if path.exists():
        print(report.table(report.read_records(path)))
    return True


def _run(name: str, options: argparse.Namespace) -> bool:
    """Measure one benchmark; where it breaks, the file of former figures stays."""
    report = importlib.import_module("benchmarks.report")
    failed = importlib.import_module("benchmarks.processes").Failed
    records: list[Record] = []
    try:
        for result in _results(name, options):
            records += result.records
            print(report.table(result.records), result.outline.note, sep="\n")
            print(*(f"no figures of {line}\n" for line in result.absent), sep="", flush=True)
    except failed as error:
        print(f"{name} broke: {error}", file=sys.stderr)
        return False
    # Tiny figures say nothing, and must not replace those that do.
    folder = options.out or (None if options.tiny else RESULTS)
    if folder:
        report.write_records(records, folder / f"{name}.json")
    return True


def _results(name: str, options: argparse.Namespace) -> "Iterator[Result]":
    for threads in options.threads:
        print(f"# {name}, {threads} thread(s)", file=sys.stderr, flush=True)
        if options.in_process:
            measure = importlib.import_module("benchmarks.measure")
            module = importlib.import_module(f"benchmarks.bench_{name}")
            for workload in module.workloads(tiny=options.tiny):
                yield measure.measure(workload, rounds=options.rounds, threads=threads)
        else:
            processes = importlib.import_module("benchmarks.processes")
            yield from processes.measure_apart(
                name, tiny=options.tiny, rounds=options.rounds, threads=threads
            )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    parser.add_argument("--rounds", type=int, default=15, help="most turns of each contender")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="measure with each")
    parser.add_argument("--out", type=Path, help="folder of NAME.json files, benchmarks/results")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    parser.add_argument("--tiny", action="store_true", help="small inputs, only to see it run")
    parser.add_argument("--in-process", action="store_true", help="no process a contender: quicker")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names())
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    options.names = options.names or names()
    return options


if __name__ == "__main__":
    sys.exit(main())
