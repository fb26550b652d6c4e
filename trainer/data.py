"""Open a run's store: batches to train on, frames to validate on, and what is measured once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, final, runtime_checkable

import torch
from torch import Generator

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.augment import JointAugment
from geomim_data.clip_batch import ClipBatch
from geomim_data.dataset import RgbdBatch, RgbdDataset, collate
from geomim_data.errors import DataError
from geomim_data.loader import Loader, make_loader
from geomim_data.sampler import EpochSampler, SamplerState
from geomim_data.split import FrameKey, split_frames
from geomim_data.store import Store, open_store
from trainer.config import DataConfig, FramesRun, MaeConfig, Mask3DConfig
from trainer.config_errors import ConfigError
from trainer.methods.method import BatchT, DataConstants

MEASURED_FRAMES = 64
Item = TypeVar("Item")
GivenT = TypeVar("GivenT", RgbdBatch, ClipBatch, covariant=True)
MeasuredT = TypeVar("MeasuredT", covariant=True)


@runtime_checkable
class TrainingBatches(Protocol[GivenT]):
    """Batches without end, from a position that is always known."""

    def forever(self) -> Iterator[GivenT]:
        """Yield batches from the position on."""
        ...

    def state(self) -> SamplerState:
        """Return the position after the last batch handed out."""
        ...

    def load_state(self, state: SamplerState) -> None:
        """Go on from a saved position."""
        ...

    def close(self) -> None:
        """Stop loading ahead."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class RunData(Generic[BatchT, MeasuredT]):
    """What a run reads: frames, or clips.

    ``val`` starts over at each call; ``pictured`` holds those of the pictures, None without
    pictures; ``constants`` is what was measured on the training split; ``notes`` are lines that
    the user should see.
    """

    train: TrainingBatches[BatchT]
    train_frames: int
    val: Callable[[], Iterable[BatchT]]
    val_frames: int
    pictured: BatchT | None
    constants: MeasuredT
    unit: Literal["frame", "clip"] = "frame"
    notes: tuple[str, ...] = ()


def open_data(config: FramesRun, *, pin_memory: bool) -> RunData[RgbdBatch, DataConstants]:
    """Open the store of a run.

    Raises:
        ConfigError: If the split leaves nothing to train on, or less than a batch.
        DataError: If the store is broken, or lacks depth that the method needs.
    """
    data = config.data
    store = open_store(data.path)
    try:
        train, held_out = split_frames(store, val=data.val, stride=data.stride)
    except DataError:
        raise
    except ValueError as error:
        raise ConfigError(f"data.val: {error}") from None
    if data.batch_size > len(train):
        rule = f"data.batch_size must be at most the {len(train)} frames to train on"
        raise ConfigError(f"{rule}, got {data.batch_size}")
    val = spread(held_out, data.val_frames or len(held_out))
    # Without validation the pictures show what was trained on.
    pictured = spread(val or train, config.log.pictures)
    still = _Stills(store, config)
    return RunData(
        train=_training_loader(store, train, config, pin_memory=pin_memory),
        train_frames=len(train),
        val=lambda: still.batches(val),
        val_frames=len(val),
        pictured=next(still.batches(pictured), None),
        constants=still.constants(train),
        notes=stride_note(store, data.stride),
    )


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Choose at most ``count`` items, evenly spread from the first on."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def fake_batch(config: DataConfig, *, batch_size: int, generator: Generator) -> RgbdBatch:
    """Draw a batch of noise in the form of a real one; a tenth of its depth is invalid."""
    size = height, width = config.image_size
    depth = 0.5 + 4 * torch.rand(batch_size, height, width, generator=generator)
    valid = torch.rand(batch_size, height, width, generator=generator) > 0.1
    return RgbdBatch(
        rgb=torch.rand(batch_size, 3, height, width, generator=generator),
        depth=torch.where(valid, depth, 0.0),
        depth_valid=valid,
        camera=PinholeCamera(
            focal=torch.full((batch_size, 2), float(width)),
            principal_point=torch.tensor([width / 2, height / 2]).expand(batch_size, 2),
            size=size,
        ),
        world_from_cam=RigidTransform.identity(batch_size),
        pose_valid=torch.ones(batch_size, dtype=torch.bool),
        scene=("noise",) * batch_size,
        frame=tuple(range(batch_size)),
    )


def stride_note(store: Store, stride: int) -> tuple[str, ...]:
    """Return a line where a store that was thinned is thinned again."""
    kept = store.attributes.converter.arguments.get("stride", 1)
    if stride == 1 or kept == 1:
        return ()
    thinned = f"the store was converted with --stride {kept}"
    return (f"note: {thinned}, and data.stride takes every {stride}th of its frames",)


@final
class _Stills:
    """Frames as they are: the centre at the run's size, nothing random."""

    def __init__(self, store: Store, config: FramesRun):
        self._store = store
        self._config = config

    def batches(self, frames: Sequence[FrameKey]) -> Iterator[RgbdBatch]:
        """Yield frames in order, ``data.val_batch_size`` at a time."""
        if not frames:
            return
        data = self._config.data
        stills = RgbdDataset(
            self._store,
            frames,
            image_size=data.image_size,
            needs_depth=isinstance(self._config, Mask3DConfig),
        )
        for start in range(0, len(frames), data.val_batch_size):
            stop = min(start + data.val_batch_size, len(frames))
            yield collate([stills[0, index] for index in range(start, stop)])

    def constants(self, train: Sequence[FrameKey]) -> DataConstants:
        """Return the configured mean and deviation of depth, or measure them on training frames."""
        match self._config:
            case Mask3DConfig(model=model) if model.depth_mean_m and model.depth_std_m:
                return DataConstants(model.depth_mean_m, model.depth_std_m)
            case Mask3DConfig(model=model):
                return self._measured(spread(train, MEASURED_FRAMES), model.max_depth_m)
            case MaeConfig():
                return DataConstants(depth_mean_m=0.0, depth_std_m=1.0)

    def _measured(self, frames: Sequence[FrameKey], max_depth_m: float) -> DataConstants:
        seen = [
            batch.depth[batch.depth_valid & (batch.depth < max_depth_m)]
            for batch in self.batches(frames)
        ]
        depth = torch.cat(seen).double()
        if depth.numel() < 2:
            path, count = self._store.path, len(frames)
            raise ConfigError(
                f"data.path: {path} must hold valid depth, got none in {count} frames"
            )
        return DataConstants(depth.mean().item(), depth.std().item())


def _training_loader(
    store: Store,
    frames: Sequence[FrameKey],
    config: FramesRun,
    *,
    pin_memory: bool,
) -> Loader[RgbdBatch]:
    data = config.data
    samples = RgbdDataset(
        store,
        frames,
        image_size=data.image_size,
        augment=JointAugment(
            scale=data.augment.scale, ratio=data.augment.ratio, flip=data.augment.flip
        ),
        seed=config.seed,
        needs_depth=isinstance(config, Mask3DConfig),
        on_corrupt=data.on_corrupt,
    )
    part = data.batch_size // config.optim.accumulate
    sampler = EpochSampler(length=len(frames), batch_size=part, seed=config.seed)
    return make_loader(samples, sampler, workers=data.workers, pin_memory=pin_memory)
