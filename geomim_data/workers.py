"""Run tasks in processes that die with their parent, and outlive the death of each other."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar, final

Result = TypeVar("Result")

_LEAVING_SECONDS = 10.0

# Runs a task in a worker, given a function that reports the task's progress.
Task = Callable[[str, Callable[[int, int], None]], Result]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A task got on: ``done`` of ``total`` parts."""

    name: str
    done: int
    total: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class Done(Generic[Result]):
    """A task returned ``result``."""

    name: str
    result: Result


@final
@dataclass(frozen=True, slots=True, eq=False)
class Lost:
    """The process of a task died: it raised, or was killed."""

    name: str
    reason: str


def run_tasks_or_here(
    task: "Task[Result]",
    names: Sequence[str],
    *,
    workers: int,
    hear: "Callable[[Step | Done[Result] | Lost], None]",
) -> None:
    """Run ``task`` for each name as ``run_tasks`` does, telling ``hear`` the events.

    One worker, or one name, needs no process: the task runs in this one. What it raises is then
    raised, and nothing is lost.
    """
    if min(workers, len(names)) > 1:
        for event in run_tasks(task, names, workers=workers):
            hear(event)
        return
    for name in names:
        hear(Done(name, task(name, functools.partial(_hear_step, hear, name))))


def _hear_step(hear: Callable[[Step], None], name: str, done: int, total: int) -> None:
    hear(Step(name, done, total))


def run_tasks(
    task: "Task[Result]", names: Sequence[str], *, workers: int
) -> "Iterator[Step | Done[Result] | Lost]":
    """Run ``task`` once for each name, in spawned processes, and yield what becomes of each.

    A process that dies loses its own task alone; another takes its place. All processes end with
    the iterator, and with this process, however it dies.

    Args:
        task: A picklable callable; its result and ``names`` travel through pipes.
        names: What to run it with, started in this order.
        workers: How many processes to use at most.
    """
    waiting = list(reversed(names))
    running: dict[Connection, _Worker[Result]] = {}
    leaving: list[_Worker[Result]] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                worker = _Worker(task)
                running[worker.pipe] = worker
                worker.start_task(waiting.pop())
            for pipe in wait(list(running)):
                worker = running[pipe]  # pyright: ignore[reportArgumentType] - our own pipes
                event = worker.receive()
                yield event
                if isinstance(event, Step):
                    continue
                if isinstance(event, Done) and waiting:
                    worker.start_task(waiting.pop())
                else:
                    leaving.append(running.pop(worker.pipe))
                    worker.pipe.close()
        for worker in leaving:
            worker.wait()
    finally:
        for worker in [*running.values(), *leaving]:
            worker.stop()


@final
class _Worker(Generic[Result]):
    """One spawned process and the pipe to it."""

    def __init__(self, task: "Task[Result]"):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._name = ""
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(task, theirs), daemon=True
        )
        with _interrupts_ignored():
            self._process.start()
        theirs.close()

    def start_task(self, name: str) -> None:
        self._name = name
        with suppress(BrokenPipeError):  # its death is read from the pipe next
            self.pipe.send(name)

    def receive(self) -> "Step | Done[Result] | Lost":
        try:
            event = self.pipe.recv()
        except (EOFError, OSError):  # it died between messages, or in the middle of one
            self._process.join()
            return Lost(self._name, _cause(self._process.exitcode))
        return event

    def wait(self) -> None:
        """Give a process that has no more tasks the time to clean up behind itself."""
        self._process.join(_LEAVING_SECONDS)

    def stop(self) -> None:
        self.pipe.close()
        self._process.kill()
        self._process.join()


@contextmanager
def _interrupts_ignored() -> Generator[None, None, None]:
    """Start processes that ignore Ctrl-C from their first instruction on.

    It reaches the whole group, and the parent decides what becomes of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        hint = ": out of memory?" if -code == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"
    return f"its process ended with exit code {code}"


def _serve(task: "Task[object]", pipe: Connection) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(EOFError):
        while True:
            name: str = pipe.recv()
            result = task(name, functools.partial(_hear_step, pipe.send, name))
            pipe.send(Done(name, result))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
