"""The order of samples: a pure function of (seed, epoch), whoever asks and wherever one resumes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, final

import numpy as np
from jaxtyping import Int64


class SampleKey(NamedTuple):
    """Which sample: number ``sample`` of the data set, as epoch ``epoch`` shows it."""

    epoch: int
    sample: int


class SamplerState(TypedDict):
    """How far the samples are consumed, in JSON's own types.

    ``consumed`` counts the samples of ``epoch`` over all ranks.
    """

    seed: int
    epoch: int
    consumed: int


class PlannedBatch(NamedTuple):
    """One rank's part of a global batch, and the state once that batch is consumed."""

    keys: list[SampleKey]
    after: SamplerState


@final
@dataclass(frozen=True, slots=True, eq=False)
class EpochSampler:
    """Cut each epoch's order into batches, and each batch into one part a rank.

    ``batch_size`` is global. The order knows nothing of ranks and batch sizes, so a state resumes
    exactly on any number of them. With ``drop_last`` (training) the samples that do not fill a
    batch are left out; each epoch shuffles anew, so in the long run none is favoured. Without it
    (validation) every sample comes once an epoch; the last batch is short, parts of it differ by
    at most one sample, and a rank whose part would be empty is given no batch.

    Raises:
        ValueError: If the ranks cannot share a batch equally, or no batch would ever be full.
    """

    length: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    drop_last: bool = True

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be 0 to {self.world_size - 1}, got {self.rank}")
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size must be a multiple of world_size {self.world_size}, "
                f"got {self.batch_size}"
            )
        if self.drop_last and self.length < self.batch_size:
            raise ValueError(
                f"batch_size must be at most the number of samples, {self.length}, "
                f"got {self.batch_size}; no batch would ever be full"
            )

    @property
    def batches_per_epoch(self) -> int:
        """How many global batches an epoch has when it starts at its first sample."""
        whole, rest = divmod(self.length, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def order(self, epoch: int) -> Int64[np.ndarray, " sample"]:
        """Return the indices of the data set in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self.length)
        # NumPy keeps the raw words of a bit generator the same in all releases (NEP 19), which it
        # does not promise of permutation().
        words = np.random.Philox(np.random.SeedSequence((self.seed, epoch)))
        return np.argsort(words.random_raw(self.length), kind="stable")

    def start(self) -> SamplerState:
        """Return the state before the first sample."""
        return SamplerState(seed=self.seed, epoch=0, consumed=0)

    def check(self, state: SamplerState) -> SamplerState:
        """Return ``state`` if this sampler can go on from it.

        Raises:
            ValueError: If it was saved under another seed, or lies outside the data set.
        """
        if state["seed"] != self.seed:
            raise ValueError(f"the state's seed must be {self.seed}, got {state['seed']}")
        if state["epoch"] < 0:
            raise ValueError(f"the state's epoch must not be negative, got {state['epoch']}")
        if not 0 <= state["consumed"] <= self.length:
            raise ValueError(
                f"the state must have consumed 0 to {self.length} samples, "
                f"got {state['consumed']}; the data set has changed"
            )
        return state

    def forever(self, state: SamplerState) -> Iterator[PlannedBatch]:
        """Plan batches from ``state`` on, through the end of each epoch into the next."""
        epoch, consumed = self.check(state)["epoch"], state["consumed"]
        while True:
            yield from self._epoch(epoch, consumed)
            epoch, consumed = epoch + 1, 0

    def epoch(self, epoch: int) -> Iterator[PlannedBatch]:
        """Plan the batches of one epoch."""
        return self._epoch(epoch, 0)

    def _epoch(self, epoch: int, consumed: int) -> Iterator[PlannedBatch]:
        starts = range(consumed, self._end(consumed), self.batch_size)
        order = self.order(epoch) if starts else np.empty(0, dtype=np.int64)
        for start in starts:
            stop = min(start + self.batch_size, self.length)
            part = order[start:stop][self._part(stop - start)]
            if part.size:
                keys = [SampleKey(epoch, sample) for sample in part.tolist()]
                yield PlannedBatch(keys, self._state(epoch, stop))

    def _end(self, consumed: int) -> int:
        rest = (self.length - consumed) % self.batch_size if self.drop_last else 0
        return self.length - rest

    def _part(self, samples: int) -> slice:
        first, last = (samples * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def _state(self, epoch: int, consumed: int) -> SamplerState:
        if consumed >= self._end(consumed):
            return SamplerState(seed=self.seed, epoch=epoch + 1, consumed=0)
        return SamplerState(seed=self.seed, epoch=epoch, consumed=consumed)
