"""Batches, loaded ahead by worker processes, from a position that is always known."""

import atexit
import logging
import os
import signal
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, cast, final, runtime_checkable

import torch
from torch.utils.data import DataLoader

from geomim_data.errors import DataError
from geomim_data.sampler import EpochSampler, PlannedBatch, SampleKey, SamplerState

StartMethod = Literal["fork", "spawn", "forkserver"]
DEFAULT_START: StartMethod = "fork" if sys.platform == "linux" else "spawn"

_IGNORED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_log = logging.getLogger(__name__)


@runtime_checkable
class Skipping(Protocol):
    """A sample that tells of the broken frames it does without."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """One message a broken frame."""
        ...


Sample = TypeVar("Sample", bound=Skipping)
Batch = TypeVar("Batch")
Made = TypeVar("Made", covariant=True)


@runtime_checkable
class Samples(Protocol[Sample, Made]):
    """A data set, asked by (epoch, sample)."""

    def __getitem__(self, key: SampleKey) -> Sample:
        """Read one sample."""
        ...

    def collate(self, samples: Sequence[Sample]) -> Made:
        """Lay samples side by side."""
        ...


class _Loaded(NamedTuple):
    batch: object
    skipped: tuple[str, ...]


@final
class _Fetch(Generic[Sample, Batch]):
    """Read whole batches for torch's loader, which asks by ``__getitems__``.

    A broken frame travels as a value: raised in a worker it would arrive wrapped in a traceback.
    """

    def __init__(self, samples: "Samples[Sample, Batch]"):
        self._samples = samples

    def __getitem__(self, key: SampleKey) -> Sample:
        return self._samples[key]

    def __getitems__(self, keys: Sequence[SampleKey]) -> _Loaded | DataError:
        try:
            samples = [self._samples[key] for key in keys]
        except DataError as error:
            return error
        skipped = tuple(message for sample in samples for message in sample.skipped)
        return _Loaded(self._samples.collate(samples), skipped)


def _as_it_is(loaded: object) -> object:
    return loaded


@final
class _Plan:
    """The batches to load, for torch's loader, which iterates over it once after each ``begin``."""

    def __init__(self):
        self._planned: Iterator[PlannedBatch] = iter(())
        self._after: deque[SamplerState] = deque()

    def begin(self, planned: Iterator[PlannedBatch]) -> deque[SamplerState]:
        """Plan anew; the result queues the state that follows each batch, in order."""
        self._planned, self._after = planned, deque()
        return self._after

    def __iter__(self) -> Iterator[list[SampleKey]]:
        after = self._after
        for planned in self._planned:
            after.append(planned.after)
            yield planned.keys


def _start_worker(worker: int) -> None:
    del worker
    # Launchers signal whole process groups, but only the training process may act on it: it still
    # needs its batches to reach a checkpoint.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    torch.set_num_threads(1)


@contextmanager
def _starting_workers() -> Generator[None]:
    """Hold signals back until each worker, which inherits the mask, ignores them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork beside threads. Ours are safe: workers open their own
            # files, run serial kernels only, and touch no lock that another thread may hold.
            warnings.filterwarnings(
                "ignore", "This process .* is multi-threaded", DeprecationWarning
            )
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@final
class Loader(Generic[Batch]):
    """Give batches in the sampler's order and know how far they have been consumed.

    ``state`` follows the batch handed out last, not those already loaded ahead. Loading ahead runs
    on through the end of an epoch. Only one iteration is live at a time: starting another ends it.
    Workers stop with ``close``, on leaving the context, or when the process exits.
    """

    def __init__(self, loader: "DataLoader[object]", sampler: EpochSampler, plan: _Plan):
        self.sampler = sampler
        self.skipped = 0  # broken frames that others have stood in for, so far
        self._loader: DataLoader[object] | None = loader
        self._loaded: object = None
        self._plan = plan
        self._state = sampler.start()
        self._turn = 0
        self._at_exit = _close_at_exit(self)

    def state(self) -> SamplerState:
        """Return the position after the last batch handed out."""
        return self._state.copy()

    def load_state(self, state: SamplerState) -> None:
        """Go on from a saved position; an iteration that is under way ends.

        Raises:
            ValueError: If the sampler cannot go on from it.
        """
        self._state = self.sampler.check(state).copy()
        self._turn += 1

    def forever(self) -> Iterator[Batch]:
        """Yield batches from the position on, epoch after epoch, and move the position.

        Raises:
            DataError: If a frame is broken and the data set does not skip it.
        """
        for batch, after in self._run(self.sampler.forever(self._state)):
            self._state = after
            yield batch

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """Yield all batches of one epoch; the position stays.

        Raises:
            DataError: If a frame is broken and the data set does not skip it.
        """
        for batch, _ in self._run(self.sampler.epoch(epoch)):
            yield batch

    def _run(self, planned: Iterator[PlannedBatch]) -> Iterator[tuple[Batch, SamplerState]]:
        if self._loader is None:
            raise ValueError("the loader must be open, got one that was closed")
        self._turn += 1
        turn = self._turn
        after = self._plan.begin(planned)
        with _starting_workers():
            self._loaded = iter(self._loader)
        batches = cast("Iterator[_Loaded | DataError]", self._loaded)
        while turn == self._turn:
            loaded = next(batches, None)
            if loaded is None:
                return
            if isinstance(loaded, DataError):
                raise loaded
            self._report(loaded.skipped)
            yield cast("Batch", loaded.batch), after.popleft()

    def _report(self, skipped: tuple[str, ...]) -> None:
        for message in skipped:
            _log.warning("skipped a broken frame: %s", message)
        self.skipped += len(skipped)

    def close(self) -> None:
        """Stop the workers; the position can still be read."""
        atexit.unregister(self._at_exit)
        self._turn += 1
        # Dropping it would end its workers, were it not for tracebacks that may keep it alive.
        shut_down = getattr(self._loaded, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        self._loaded = self._loader = None

    def __enter__(self) -> "Loader[Batch]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _close_at_exit(loader: "Loader[Batch]") -> Callable[[], None]:
    """Close the loader before multiprocessing ends its children by SIGTERM, which they ignore."""
    reference = weakref.ref(loader)

    def close() -> None:
        if (alive := reference()) is not None:
            alive.close()

    atexit.register(close)
    return close


def make_loader(
    dataset: "Samples[Sample, Batch]",
    sampler: EpochSampler,
    *,
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = False,
    start_method: StartMethod = DEFAULT_START,
) -> "Loader[Batch]":
    """Make a loader of the sampler's batches.

    Args:
        dataset: Where samples come from.
        sampler: Which samples make up each batch, and in what order.
        workers: Processes that load; with 0 the calling process loads when asked.
        prefetch: Batches each worker loads ahead.
        pin_memory: Whether batches come in page-locked memory.
        start_method: How workers start. ``spawn`` and ``forkserver`` import the main module anew,
            so a script needs its ``if __name__ == "__main__"``.
    """
    plan = _Plan()
    loader = DataLoader(
        _Fetch(dataset),  # pyright: ignore[reportArgumentType]  # torch asks for no more than this
        batch_sampler=plan,  # pyright: ignore[reportArgumentType]  # as above
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator(),  # or torch would draw from the global one
    )
    return Loader(loader, sampler, plan)
