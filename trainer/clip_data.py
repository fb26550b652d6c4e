"""Open a run's store for clips of a rig: batches to train on, clips to validate on."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Generator, Tensor

from geomim.cameras import PinholeCamera
from geomim.rotations import matrix_from_rotation_vector
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBatch, ClipBoxes, ClipLidar
from geomim_data.clip_times import ClipTimes
from geomim_data.clips import ClipDataset
from geomim_data.errors import DataError
from geomim_data.loader import make_loader
from geomim_data.sampler import EpochSampler
from geomim_data.split import FrameKey, split_samples
from geomim_data.store import Store, open_store
from trainer.config_errors import ConfigError
from trainer.config_mim4d import Mim4dConfig
from trainer.data import RunData, spread, stride_note
from trainer.methods.method import ClipConstants

MEASURED_CLIPS = 32
_LOOKED_AT = 3
NOISE_VIEWS = 6
NOISE_POINTS = 4096
_NOISE_RATE = 12


def open_clips(config: Mim4dConfig, *, pin_memory: bool) -> RunData[ClipBatch, ClipConstants]:
    """Open the store of a run over clips.

    Raises:
        ConfigError: If the split leaves nothing to train on, or less than a batch, or the store
            has other sizes, cameras or lidars than the configuration says.
        DataError: If the store is broken.
    """
    data = config.data
    store = open_store(data.path)
    try:
        train, held_out = split_samples(store, val=data.val, stride=data.stride)
    except DataError:
        raise
    except ValueError as error:
        raise ConfigError(f"data.val: {error}") from None
    if data.batch_size > len(train):
        rule = f"data.batch_size must be at most the {len(train)} clips to train on"
        raise ConfigError(f"{rule}, got {data.batch_size}")
    _check_lidar(store, config)
    clips = _Clips(store, config)
    samples = clips.of(train)
    if samples.image_size != data.image_size:
        rule = f"data.image_size must be that of the store's images at scale {data.scale:g}"
        raise ConfigError(f"{rule}, {list(samples.image_size)}, got {list(data.image_size)}")
    part = data.batch_size // config.optim.accumulate
    sampler = EpochSampler(length=len(train), batch_size=part, seed=config.seed)
    val = spread(held_out, data.val_frames or len(held_out))
    # Without validation the pictures show what was trained on.
    pictured = clips.telling(val or train, config.log.pictures)
    measured = spread(train, MEASURED_CLIPS)
    return RunData(
        train=make_loader(samples, sampler, workers=data.workers, pin_memory=pin_memory),
        train_frames=len(train),
        val=lambda: clips.batches(val, 1),
        val_frames=len(val),
        pictured=next(clips.batches(pictured, len(pictured)), None),
        constants=ClipConstants(
            samples.cameras, lambda: clips.batches(measured, 1, anchors_only=True)
        ),
        unit="clip",
        notes=stride_note(store, data.stride),
    )


@final
class _Clips:
    """Clips of a store as a run wants them, all with the cameras of the whole store."""

    def __init__(self, store: Store, config: Mim4dConfig):
        self._store = store
        self._config = config
        there = dict.fromkeys(name for scene in store.scenes for name in store.scene(scene).cameras)
        self._cameras = config.data.cameras or tuple(there)
        unknown = [name for name in self._cameras if name not in there]
        if unknown:
            rule = f"data.cameras must be of {', '.join(there)}"
            raise ConfigError(f"{rule}, got {', '.join(unknown)}")

    def of(self, anchors: Sequence[FrameKey], *, anchors_only: bool = False) -> ClipDataset:
        """Return the data set of some anchors."""
        data = self._config.data
        offsets = (0,) if anchors_only else data.offsets
        return ClipDataset(
            self._store,
            anchors,
            times=ClipTimes(offsets, data.offset_unit, data.tolerance_s),
            cameras=self._cameras,
            scale=data.scale,
            lidar=data.lidar,
            lidar_times=ClipTimes(data.lidar_offsets_s, "seconds", data.tolerance_s),
            boxes=self._config.model.loss.flow_boxes > 0,
            on_corrupt=data.on_corrupt,
        )

    def telling(self, anchors: Sequence[FrameKey], count: int) -> list[FrameKey]:
        """Choose evenly spread anchors, of clips that lack nothing where one is close behind.

        The first key frame of a scene has no past, so that nothing can be rebuilt of it.
        """
        starts = spread(range(len(anchors)), count)
        parts = [
            anchors[start:end][:_LOOKED_AT] for start, end in pairwise([*starts, len(anchors)])
        ]
        return [next((key for key in part if self._is_whole(key)), part[0]) for part in parts]

    def _is_whole(self, anchor: FrameKey) -> bool:
        return bool(self.of([anchor])[0, 0].valid.all())

    def batches(
        self, anchors: Sequence[FrameKey], size: int, *, anchors_only: bool = False
    ) -> Iterator[ClipBatch]:
        """Yield clips in order, ``size`` at a time."""
        if not anchors:
            return
        clips = self.of(anchors, anchors_only=anchors_only)
        for start in range(0, len(anchors), size):
            stop = min(start + size, len(anchors))
            yield clips.collate([clips[0, index] for index in range(start, stop)])


def _check_lidar(store: Store, config: Mim4dConfig) -> None:
    wanted = config.data.lidar
    there = dict.fromkeys(name for scene in store.scenes for name in store.scene(scene).lidars)
    if wanted is not None and wanted not in there:
        known = ", ".join(there) or "null, as the store has none"
        raise ConfigError(f"data.lidar must be of {known}, got {wanted}")


def noise_clips(config: Mim4dConfig, *, batch_size: int, generator: Generator) -> ClipBatch:
    """Draw clips of noise in the form of real ones: a rig that looks all around, driving ahead."""
    data = config.data
    time, view = len(data.offsets), len(data.cameras or ()) or NOISE_VIEWS
    shape, (height, width) = (batch_size, time, view), data.image_size
    rate = _NOISE_RATE if data.offset_unit == "frames" else 1
    seconds = torch.tensor(data.offsets, dtype=torch.float64) / rate
    return ClipBatch(
        images=torch.rand(*shape, 3, height, width, generator=generator),
        unpadded=torch.tensor([height, width]).expand(*shape, 2).contiguous(),
        camera=PinholeCamera(
            focal=torch.full((*shape, 2), width * 0.8),
            principal_point=torch.tensor([width / 2, height / 2]).repeat(*shape, 1),
            size=data.image_size,
        ),
        world_from_cam=_noise_poses(batch_size, seconds.float(), view),
        timestamp_us=(seconds * 1e6).round().long()[:, None].expand(shape).contiguous(),
        valid=torch.ones(shape, dtype=torch.bool),
        origin=torch.zeros(batch_size, 3, dtype=torch.float64),
        scene=("noise",) * batch_size,
        sample=tuple(range(batch_size)),
        lidar=None if data.lidar is None else _noise_lidar(config, batch_size, generator),
        boxes=_noise_boxes(batch_size) if config.model.loss.flow_boxes else None,
    )


def _noise_poses(batch: int, seconds: Tensor, view: int) -> RigidTransform:
    """Look around at 10 m/s, 1.5 m above the ground."""
    angles = torch.arange(view) * (2 * torch.pi / view)
    turns = matrix_from_rotation_vector(angles[:, None] * torch.tensor([0.0, 0.0, 1.0]))
    ahead = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    rotation = (turns @ ahead).expand(batch, len(seconds), view, 3, 3)
    places = torch.stack([10 * seconds, torch.zeros_like(seconds), torch.full_like(seconds, 1.5)])
    return RigidTransform(
        rotation.contiguous(), places.T[:, None].expand(batch, -1, view, 3).contiguous()
    )


def _noise_lidar(config: Mim4dConfig, batch: int, generator: Generator) -> ClipLidar:
    sweeps = len(config.data.lidar_offsets_s)
    count = batch * sweeps
    angle = torch.rand(count * NOISE_POINTS, generator=generator) * 2 * torch.pi
    reach = 4 + 40 * torch.rand(count * NOISE_POINTS, generator=generator)
    up = 4 * torch.rand(count * NOISE_POINTS, generator=generator) - 2
    identity = RigidTransform.identity(batch, sweeps)
    return ClipLidar(
        points=torch.stack([reach * angle.cos(), reach * angle.sin(), up], dim=1),
        offset=torch.arange(count + 1) * NOISE_POINTS,
        world_from_lidar=RigidTransform(
            identity.rotation, identity.translation + torch.tensor([0.0, 0.0, 1.8])
        ),
        timestamp_us=torch.zeros(batch, sweeps, dtype=torch.int64),
        valid=torch.ones(batch, sweeps, dtype=torch.bool),
    )


def _noise_boxes(batch: int) -> ClipBoxes:
    """Let a car drive beside the rig."""
    beside = torch.tensor([0.0, 6.0, 0.8]).expand(batch, 3)
    return ClipBoxes(
        offset=torch.arange(batch + 1),
        world_from_box=RigidTransform(torch.eye(3).repeat(batch, 1, 1), beside.contiguous()),
        size=torch.tensor([4.5, 1.9, 1.6]).repeat(batch, 1),
        velocity=torch.tensor([10.0, 0.0, 0.0]).repeat(batch, 1),
        category=torch.zeros(batch, dtype=torch.int64),
        track=torch.zeros(batch, dtype=torch.int64),
        categories=("car",),
    )
