"""Time contenders that each live in a process of their own.

What one implementation loads, allocates or leaves running then touches no other. Every process
makes the workloads anew, which their seeds allow, and keeps to its contender; all but the one
whose turn it is sleep on a pipe. The process of the copy also says what there is to do.
"""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, final

from benchmarks.measure import (
    COPY,
    Outline,
    Player,
    Result,
    Runner,
    Workload,
    copy_contender,
    result,
    take_turns,
)

# What else than torch has threads is told through the environment, before it is loaded.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@final
class Failed(Exception):  # noqa: N818 - an outcome to report
    """Raised for what went wrong in another process."""


def measure_apart(name: str, *, tiny: bool, rounds: int, threads: int) -> Generator[Result]:
    """Time every workload of ``bench_<name>``, each of its implementations in its own process.

    Raises:
        Failed: If the workloads cannot be made or their contenders disagree.
    """
    workers: dict[str, Worker] = {}

    def worker(implementation: str) -> Worker:
        if implementation not in workers or not workers[implementation].is_alive():
            workers[implementation] = Worker(name, implementation, tiny=tiny, threads=threads)
        return workers[implementation]

    try:
        for index in count():
            outline = worker(COPY).call("outline", index)
            if outline is None:
                return
            yield _measure_one(outline, index, worker, rounds=rounds, threads=threads)
    finally:
        for each in workers.values():
            each.close()


def _measure_one(
    outline: Outline,
    index: int,
    worker: Callable[[str], "Worker"],
    *,
    rounds: int,
    threads: int,
) -> Result:
    workers = {name: worker(name) for name in (*outline.implementations, COPY)}
    for each in workers.values():
        each.send("enter", index)
    players: dict[str, Player] = {}
    late: list[str] = []
    for name, each in workers.items():
        try:
            each.receive()
            players[name] = each
        except Failed as error:
            late.append(f"{name}: {error}")
    times, absent = take_turns(players, rounds=rounds, failures=(Failed,))
    return result(outline, times, (*late, *absent), threads=threads)


@final
class Worker:
    """The parent's end of a process that plays one implementation."""

    def __init__(self, name: str, implementation: str, *, tiny: bool, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, name, implementation, tiny, threads), daemon=False
        )
        with _environment(threads):
            self._process.start()
        theirs.close()

    def warm_up(self) -> None:
        """Run, uncounted, and find how many runs make a turn."""
        self.call("warm_up")

    def turn(self) -> list[float]:
        """Return the seconds that each run of one turn took."""
        return self.call("turn")

    def call(self, method: str, *arguments: object) -> Any:
        """Have the process do something and wait for what comes of it."""
        self.send(method, *arguments)
        return self.receive()

    def send(self, method: str, *arguments: object) -> None:
        """Have the process do something; whether it still can, receiving will tell."""
        with suppress(OSError):
            self._connection.send((method, arguments))

    def receive(self) -> Any:
        """Wait for what comes of it."""
        try:
            value, failure = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            ended = f"its process ended with exit code {self._process.exitcode}"
            raise Failed(ended) from error
        if failure is not None:
            raise Failed(failure)
        return value

    def close(self) -> None:
        """Let the process end."""
        self._connection.close()
        self._process.join()

    def is_alive(self) -> bool:
        """Tell whether the process can still be asked."""
        return self._process.is_alive()


@final
class Stage:
    """The other end: makes workloads one after another and plays one implementation."""

    def __init__(self, name: str, implementation: str, *, tiny: bool) -> None:
        self._implementation = implementation
        module = import_module(f"benchmarks.bench_{name}")
        self._coming: Iterator[Workload] = module.workloads(tiny=tiny)
        self._index = -1
        self._workload: Workload | None = None
        self._runner: Runner | None = None

    def outline(self, index: int) -> Outline | None:
        """Check and describe a workload, None past the last."""
        workload = self._at(index)
        if workload is None:
            return None
        if workload.check is not None:
            workload.check()
        return workload.outline()

    def enter(self, index: int) -> None:
        """Get ready to play in a workload."""
        workload = self._at(index)
        if workload is None:
            raise ValueError(f"workloads must be the same every time, got none at {index}")
        contenders = {each.implementation: each for each in workload.contenders}
        if self._implementation == COPY:
            contenders[COPY] = copy_contender(workload.nbytes, device=workload.device)
        self._runner = Runner(contenders[self._implementation], device=workload.device)

    def warm_up(self) -> None:
        """Run, uncounted."""
        self._player().warm_up()

    def turn(self) -> list[float]:
        """Play one turn."""
        return self._player().turn()

    def _player(self) -> Runner:
        if self._runner is None:
            raise ValueError("enter must be called first, got no workload")
        return self._runner

    def _at(self, index: int) -> Workload | None:
        """Go on to a workload; what an earlier one holds is let go first."""
        while self._index < index:
            self._workload = self._runner = None
            self._workload = next(self._coming, None)
            self._index += 1
        return self._workload

    def close(self) -> None:
        """Let the workloads clean up after themselves."""
        close = getattr(self._coming, "close", None)
        if close is not None:
            close()


def _serve(
    connection: Connection, name: str, implementation: str, tiny: bool, threads: int
) -> None:
    _set_threads(threads)
    stage: Stage | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            break
        try:
            if stage is None:
                stage = Stage(name, implementation, tiny=tiny)
            outcome = getattr(stage, method)(*arguments), None
        except Exception as error:  # whatever a contender does must not sink the others
            outcome = None, _one_line(error)
        connection.send(outcome)
    if stage is not None:
        stage.close()


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _set_threads(threads: int) -> None:
    import_module("torch").set_num_threads(threads)
    try:
        import_module("cv2").setNumThreads(threads)
    except ImportError:
        return


@contextmanager
def _environment(threads: int) -> Generator[None]:
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
