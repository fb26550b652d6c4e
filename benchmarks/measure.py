"""Time implementations of one piece of work side by side, in one run, and keep the figures.

Machines drift: a ratio of two figures holds only if they were taken in turns. Each round gives
every contender one turn, starting with another one each time; a copy of as many bytes runs among
them, so that each figure can be read as a share of what the memory gives.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch

from benchmarks import machine

COPY = "copy"
TURN_S = 0.02
ENOUGH_S = 10.0
_MOST_RUNS = 10
_FEWEST_ROUNDS = 3


@final
class Missing(Exception):  # noqa: N818 - what it says, not an error
    """Raised by a contender's ``run`` that cannot be had here; says what it would take."""


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

    The contender to beat comes first. ``note`` is printed with the figures. ``check``, where there
    is one, raises if results differ; it is called once before anything is timed, whereas a check
    while workloads are made is repeated by the process of every contender.
    """

    name: str
    contenders: tuple[Contender, ...]
    nbytes: int
    dtype: str = "float32"
    device: str = "cpu"
    note: str = ""
    check: Callable[[], None] | None = None

    def outline(self) -> "Outline":
        """Return what another process may know."""
        return Outline(
            self.name,
            tuple(contender.implementation for contender in self.contenders),
            self.nbytes,
            self.dtype,
            self.device,
            self.note,
        )


@final
@dataclass(frozen=True, slots=True)
class Outline:
    """A workload without the work."""

    name: str
    implementations: tuple[str, ...]
    nbytes: int
    dtype: str
    device: str
    note: str


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
    iqr_ms: float
    runs: int
    bytes: int
    gb_per_s: float
    commit: str
    hardware: str
    versions: dict[str, str]


@final
@dataclass(frozen=True, slots=True)
class Result:
    """The records of one workload, and a line on each contender that has none."""

    outline: Outline
    records: tuple[Record, ...]
    absent: tuple[str, ...]


class Player(Protocol):
    """Someone who takes turns, in this process or in one of its own."""

    def warm_up(self) -> None:
        """Run, uncounted, and find how many runs make a turn."""
        ...

    def turn(self) -> list[float]:
        """Return the seconds that each run of one turn took."""
        ...


@final
class Runner:
    """A contender that plays in this process."""

    def __init__(self, contender: Contender, *, device: str, turn_s: float = TURN_S) -> None:
        self._contender = contender
        self._device = device
        self._turn_s = turn_s
        self._runs = 1

    def warm_up(self) -> None:
        """Run, uncounted, and find how many runs make a turn."""
        _seconds(self._contender, self._device)
        if self._turn_s > 0:
            taken = _seconds(self._contender, self._device)
            self._runs = min(_MOST_RUNS, 1 + int(self._turn_s / taken))

    def turn(self) -> list[float]:
        """Return the seconds that each run took.

        Short runs begin with one that does not count: others have just had the caches.
        """
        if self._runs > 1:
            _seconds(self._contender, self._device)
        return [_seconds(self._contender, self._device) for _ in range(self._runs)]


def measure(workload: Workload, *, rounds: int, threads: int, turn_s: float = TURN_S) -> Result:
    """Time the workload's contenders and a copy of its bytes, in turns, all in this process."""
    contenders = [*workload.contenders, copy_contender(workload.nbytes, device=workload.device)]
    if workload.check is not None:
        workload.check()
    with _threads(threads):
        players: dict[str, Player] = {
            contender.implementation: Runner(contender, device=workload.device, turn_s=turn_s)
            for contender in contenders
        }
        times, absent = take_turns(players, rounds=rounds)
    return result(workload.outline(), times, absent, threads=threads)


def take_turns(
    players: Mapping[str, Player],
    *,
    rounds: int,
    failures: tuple[type[Exception], ...] = (Missing,),
) -> tuple[dict[str, list[float]], tuple[str, ...]]:
    """Give every player up to ``rounds`` turns; return the seconds, and a line on who fell out.

    Where turns are long, three rounds will do: the next begins only while ``ENOUGH_S`` last.
    """
    times: dict[str, list[float]] = {}
    absent: list[str] = []
    for name, player in players.items():
        try:
            player.warm_up()
        except failures as error:
            absent.append(f"{name}: {error}")
        else:
            times[name] = []
    began = time.perf_counter()
    for turn in range(rounds):
        if turn >= _FEWEST_ROUNDS and time.perf_counter() - began > ENOUGH_S:
            break
        names = list(times)
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            try:
                times[name] += players[name].turn()
            except failures as error:
                absent.append(f"{name}: {error}")
                del times[name]
    return times, tuple(absent)


def result(
    outline: Outline,
    times: Mapping[str, Sequence[float]],
    absent: tuple[str, ...],
    *,
    threads: int,
) -> Result:
    """Turn seconds into records."""
    described = {
        "commit": machine.commit(),
        "hardware": machine.hardware(outline.device),
        "versions": machine.versions(),
    }
    records = (_record(outline, name, times[name], threads, described) for name in times)
    return Result(outline, tuple(records), absent)


def _record(
    outline: Outline,
    implementation: str,
    seconds: Sequence[float],
    threads: int,
    described: dict[str, Any],
) -> Record:
    quarters = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return Record(
        workload=outline.name,
        implementation=implementation,
        device=outline.device,
        dtype=outline.dtype,
        threads=threads,
        median_ms=1e3 * statistics.median(seconds),
        min_ms=1e3 * min(seconds),
        iqr_ms=1e3 * (quarters[2] - quarters[0]),
        runs=len(seconds),
        bytes=outline.nbytes,
        gb_per_s=outline.nbytes / min(seconds) / 1e9,
        **described,
    )


def copy_contender(nbytes: int, *, device: str = "cpu") -> Contender:
    """Return a copy that reads and writes ``nbytes`` in total: the bandwidth to compare with."""
    source = torch.ones(max(1, nbytes // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Contender(COPY, lambda: target.copy_(source))


def torch_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function behind ``torch.compile``; calling it is ``Missing`` without g++."""
    if shutil.which("g++") or torch.cuda.is_available():
        return torch.compile(function, fullgraph=True, dynamic=False)

    def missing(*_: object) -> None:
        raise Missing("torch.compile needs a C++ compiler: install g++")

    return missing


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
