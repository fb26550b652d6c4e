"""Turn SIGTERM, SIGUSR1 and SIGINT into one exception at a moment when saving is safe."""

import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar, final

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
Item = TypeVar("Item")


class Stopped(BaseException):
    """The run was asked to stop; not an Exception, so that nothing on the way swallows it."""

    def __init__(self, signal_name: str):
        super().__init__(signal_name)
        self.signal_name = signal_name


@final
class StopRequest:
    """Listens for the signals while it is entered.

    A signal is noted, and raised as ``Stopped`` by the next ``check``, or at once while
    ``waiting``. A second SIGINT is an ordinary KeyboardInterrupt. Forked children ignore the
    signals, and outside the main thread, where Python delivers none, nothing is installed.
    """

    def __init__(self):
        self._asked: str | None = None
        self._waiting = False
        self._owner = os.getpid()
        self._before = dict[signal.Signals, object]()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object):
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] - was installed

    def check(self) -> None:
        """Raise ``Stopped`` if a signal came."""
        if self._asked is not None:
            raise Stopped(self._asked)

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Let a signal interrupt the block at once; nothing in it may need finishing."""
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, with a check before each."""
        for item in items:
            self.check()
            yield item
        self.check()

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        name = signal.Signals(number).name
        if self._asked == name == "SIGINT":
            raise KeyboardInterrupt
        self._asked = name
        if self._waiting:
            self.check()
