"""Time implementations of one piece of work side by side, in one run, and keep the figures.

Machines drift: a ratio of two figures holds only if they were taken in turns. Each round runs every
contender once, starting with another one each time; a copy of as many bytes runs among them, so
that each figure can be read as a share of what the memory gives.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch

COPY = "copy"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One implementation; ``run`` does the whole work once, its result ready when it returns.

    On CUDA it may return early: the clock waits for the device.
    """

    implementation: str
    run: Callable[[], object]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A piece of work, the memory traffic it cannot avoid, and who does it.

    The contender to beat comes first. ``note`` is printed with the figures.
    """

    name: str
    contenders: tuple[Contender, ...]
    nbytes: int
    dtype: str = "float32"
    device: str = "cpu"
    note: str = ""


@final
@dataclass(frozen=True, slots=True)
class Record:
    """What one contender took; ``gb_per_s`` is the unavoidable traffic over the least time."""

    workload: str
    implementation: str
    device: str
    dtype: str
    threads: int
    median_ms: float
    min_ms: float
    bytes: int
    gb_per_s: float
    commit: str
    hardware: str


def measure(workload: Workload, *, rounds: int, threads: int) -> list[Record]:
    """Time the workload's contenders and a copy of its bytes, in turns.

    The first run of each is not counted.
    """
    contenders = [*workload.contenders, copy_contender(workload.nbytes, device=workload.device)]
    with _threads(threads):
        times = _times(contenders, rounds=rounds, device=workload.device)
    commit, hardware = describe_commit(), describe_hardware(workload.device)
    return [
        Record(
            workload=workload.name,
            implementation=contender.implementation,
            device=workload.device,
            dtype=workload.dtype,
            threads=threads,
            median_ms=1e3 * statistics.median(taken),
            min_ms=1e3 * min(taken),
            bytes=workload.nbytes,
            gb_per_s=workload.nbytes / min(taken) / 1e9,
            commit=commit,
            hardware=hardware,
        )
        for contender, taken in zip(contenders, times, strict=True)
    ]


def copy_contender(nbytes: int, *, device: str = "cpu") -> Contender:
    """Return a copy that reads and writes ``nbytes`` in total: the bandwidth to compare with."""
    source = torch.ones(max(1, nbytes // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Contender(COPY, lambda: target.copy_(source))


def _times(contenders: Sequence[Contender], *, rounds: int, device: str) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        _seconds(contender, device)
    for turn in range(rounds):
        for place in range(len(contenders)):
            index = (turn + place) % len(contenders)
            times[index].append(_seconds(contenders[index], device))
    return times


def _seconds(contender: Contender, device: str) -> float:
    if not device.startswith("cuda"):
        start = time.perf_counter()
        contender.run()
        return time.perf_counter() - start
    # What the last contender left in the device's cache must not help this one.
    torch.empty(2**28, dtype=torch.uint8, device=device).zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    contender.run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


@contextmanager
def _threads(threads: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_commit() -> str:
    """Return the short hash of the checkout, with ``+`` if files have changed since."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def describe_hardware(device: str = "cpu") -> str:
    """Name the processor and the number of cores this process may use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def table(records: Sequence[Record]) -> str:
    """Lay records out for reading; ``ratio`` is the least time over the first contender's."""
    heads = ("workload", "implementation", "thr", "median", "min ms", "GB/s", "ratio")
    lines = ["{:<34} {:<28} {:>3} {:>10} {:>10} {:>8} {:>6}".format(*heads)]
    first: dict[tuple[str, int], float] = {}
    for record in records:
        reference = first.setdefault((record.workload, record.threads), record.min_ms)
        lines.append(
            f"{record.workload:<34} {record.implementation:<28} {record.threads:>3} "
            f"{record.median_ms:>10.3f} {record.min_ms:>10.3f} {record.gb_per_s:>8.3f} "
            f"{record.min_ms / reference:>6.2f}"
        )
    return "\n".join(lines)


def write_records(records: Sequence[Record], path: Path) -> None:
    """Append records to a file, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(record)) + "\n" for record in records)
