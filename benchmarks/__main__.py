"""Run every ``bench_NAME.py`` beside this file, or those named.

A benchmark module has ``workloads(*, tiny)``, which yields ``measure.Workload``s one at a time:
what one needs on disk may be gone once the next is asked for. ``tiny`` is for the tests.
"""

import argparse
import importlib
import os
from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """List the benchmarks."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and append the records to a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each contender")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="one run for each")
    parser.add_argument("--json", type=Path, help="append the records to this file")
    parser.add_argument("--tiny", action="store_true", help="small inputs, only to see it run")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names())
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    # Idle threads that spin take time from whoever is being measured. OpenMP reads it on loading.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    measure = importlib.import_module("benchmarks.measure")
    for name in options.names or names():
        module = importlib.import_module(f"benchmarks.bench_{name}")
        for workload in module.workloads(tiny=options.tiny):
            records = [
                record
                for threads in options.threads
                for record in measure.measure(workload, rounds=options.rounds, threads=threads)
            ]
            print(measure.table(records), workload.note, sep="\n", flush=True)
            if options.json:
                measure.write_records(records, options.json)


if __name__ == "__main__":
    main()
