"""Clips of a driving rig side by side: what a network reads of some moments around an anchor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform


@final
@dataclass(frozen=True, slots=True, eq=False)
class SweepParts:
    """The sweeps of one clip, end to end; ``counts`` are their numbers of points."""

    points: Float32[np.ndarray, "point 3"]
    counts: Int64[np.ndarray, " sweep"]
    world_from_lidar: Float64[np.ndarray, "sweep 4 4"]
    timestamp_us: Int64[np.ndarray, " sweep"]
    valid: Bool[np.ndarray, " sweep"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class BoxParts:
    """The boxes of one clip; see ``ClipBoxes``."""

    world_from_box: Float64[np.ndarray, "box 4 4"]
    size: Float32[np.ndarray, "box 3"]
    velocity: Float32[np.ndarray, "box 3"]
    category: Int64[np.ndarray, " box"]
    track: Int64[np.ndarray, " box"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One clip; see ``ClipBatch`` for what each field holds. Poses are in the store's world."""

    images: Float32[Tensor, "time view 3 h w"]
    unpadded: Int64[np.ndarray, "time view 2"]
    intrinsics: Float64[np.ndarray, "time view 4"]
    world_from_cam: Float64[np.ndarray, "time view 4 4"]
    timestamp_us: Int64[np.ndarray, "time view"]
    valid: Bool[np.ndarray, "time view"]
    origin: Float64[np.ndarray, "3"]
    scene: str
    sample: int
    lidar: SweepParts | None = None
    boxes: BoxParts | None = None
    skipped: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClipLidar:
    """Sweeps of all clips, end to end, each in its own lidar's frame, in metres.

    Sweep j of clip i is ``points[offset[k] : offset[k + 1]]`` with ``k = i * sweeps + j``; one
    that is missing has no point.
    """

    points: Float32[Tensor, "point 3"]
    offset: Int64[Tensor, " ends"]
    world_from_lidar: RigidTransform
    timestamp_us: Int64[Tensor, "batch sweep"]
    valid: Bool[Tensor, "batch sweep"]

    def of(self, clip: int, sweep: int = 0) -> Float32[Tensor, "_point 3"]:
        """Return the points of a sweep."""
        index = clip * self.valid.shape[1] + sweep
        start, stop = self.offset[index : index + 2].tolist()
        return self.points[start:stop]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClipBoxes:
    """Boxes at the anchors of all clips; clip i has ``offset[i]`` to ``offset[i + 1]``.

    Box axes are x forward, y left, z up; ``size`` is in metres along each. ``velocity`` is in the
    world's frame, in m/s, NaN where unknown. ``category`` numbers ``categories``.
    """

    offset: Int64[Tensor, " ends"]
    world_from_box: RigidTransform
    size: Float32[Tensor, "box 3"]
    velocity: Float32[Tensor, "box 3"]
    category: Int64[Tensor, " box"]
    track: Int64[Tensor, " box"]
    categories: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClipBatch:
    """Clips side by side: ``view`` runs over the rig's cameras, ``time`` over the offsets.

    Images have colours of 0 to 1 and are padded with 0 at the bottom and the right, behind
    ``unpadded`` (height, width). ``camera`` is theirs, padding included. Where ``valid`` is False
    there is no image: it is 0, as its time and ``unpadded``; its camera has focal length 1 and its
    pose is the identity.

    The world's axes are the store's, its origin is each clip's ``origin`` in the store's world:
    city coordinates of kilometres would leave float32 a tenth of a millimetre.
    """

    images: Float32[Tensor, "batch time view 3 h w"]
    unpadded: Int64[Tensor, "batch time view 2"]
    camera: PinholeCamera
    world_from_cam: RigidTransform
    timestamp_us: Int64[Tensor, "batch time view"]
    valid: Bool[Tensor, "batch time view"]
    origin: Float64[Tensor, "batch 3"]
    scene: tuple[str, ...]
    sample: tuple[int, ...]
    lidar: ClipLidar | None = None
    boxes: ClipBoxes | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "ClipBatch":
        """Return the batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ClipBatch":
        """Return the batch in page-locked memory, from where copies to a GPU run beside it."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> "ClipBatch":
        return ClipBatch(
            images=move(self.images),
            unpadded=move(self.unpadded),
            camera=PinholeCamera(
                focal=move(self.camera.focal),
                principal_point=move(self.camera.principal_point),
                size=self.camera.size,
            ),
            world_from_cam=_map_pose(self.world_from_cam, move),
            timestamp_us=move(self.timestamp_us),
            valid=move(self.valid),
            origin=move(self.origin),
            scene=self.scene,
            sample=self.sample,
            lidar=None if self.lidar is None else _map_lidar(self.lidar, move),
            boxes=None if self.boxes is None else _map_boxes(self.boxes, move),
        )


def _map_pose(pose: RigidTransform, move: Callable[[Tensor], Tensor]) -> RigidTransform:
    return RigidTransform(move(pose.rotation), move(pose.translation))


def _map_lidar(lidar: ClipLidar, move: Callable[[Tensor], Tensor]) -> ClipLidar:
    return ClipLidar(
        points=move(lidar.points),
        offset=move(lidar.offset),
        world_from_lidar=_map_pose(lidar.world_from_lidar, move),
        timestamp_us=move(lidar.timestamp_us),
        valid=move(lidar.valid),
    )


def _map_boxes(boxes: ClipBoxes, move: Callable[[Tensor], Tensor]) -> ClipBoxes:
    return ClipBoxes(
        offset=move(boxes.offset),
        world_from_box=_map_pose(boxes.world_from_box, move),
        size=move(boxes.size),
        velocity=move(boxes.velocity),
        category=move(boxes.category),
        track=move(boxes.track),
        categories=boxes.categories,
    )


def collate_clips(clips: Sequence[Clip], *, categories: tuple[str, ...] = ()) -> ClipBatch:
    """Lay clips of one size side by side."""
    images = torch.stack([clip.images for clip in clips])
    valid = np.stack([clip.valid for clip in clips])
    origin = np.stack([clip.origin for clip in clips])
    intrinsics = torch.from_numpy(np.stack([clip.intrinsics for clip in clips])).float()
    poses = np.stack([clip.world_from_cam for clip in clips])
    return ClipBatch(
        images=images,
        unpadded=torch.from_numpy(np.stack([clip.unpadded for clip in clips])),
        camera=PinholeCamera(
            focal=intrinsics[..., :2],
            principal_point=intrinsics[..., 2:],
            size=(images.shape[-2], images.shape[-1]),
        ),
        world_from_cam=_from_origin(poses, origin[:, None, None], valid),
        timestamp_us=torch.from_numpy(np.stack([clip.timestamp_us for clip in clips])),
        valid=torch.from_numpy(valid),
        origin=torch.from_numpy(origin),
        scene=tuple(clip.scene for clip in clips),
        sample=tuple(clip.sample for clip in clips),
        lidar=_collate_lidar([clip.lidar for clip in clips], origin),
        boxes=_collate_boxes([clip.boxes for clip in clips], origin, categories),
    )


def _from_origin(
    poses: Float64[np.ndarray, "*pose 4 4"],
    origin: Float64[np.ndarray, "*#pose 3"],
    valid: Bool[np.ndarray, "*pose"],
) -> RigidTransform:
    """Move poses into the clip's own world, in float64, before they become float32."""
    moved = poses.copy()
    moved[..., :3, 3] -= np.where(valid[..., None], origin, 0.0)
    return RigidTransform.from_matrix(torch.from_numpy(moved).float())


def _collate_lidar(
    parts: Sequence[SweepParts | None], origin: Float64[np.ndarray, "batch 3"]
) -> ClipLidar | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    counts = np.concatenate([part.counts for part in present])
    valid = np.stack([part.valid for part in present])
    poses = np.stack([part.world_from_lidar for part in present])
    return ClipLidar(
        points=torch.from_numpy(np.concatenate([part.points for part in present])),
        offset=torch.from_numpy(_offsets(counts)),
        world_from_lidar=_from_origin(poses, origin[:, None], valid),
        timestamp_us=torch.from_numpy(np.stack([part.timestamp_us for part in present])),
        valid=torch.from_numpy(valid),
    )


def _collate_boxes(
    parts: Sequence[BoxParts | None],
    origin: Float64[np.ndarray, "batch 3"],
    categories: tuple[str, ...],
) -> ClipBoxes | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    counts = np.array([len(part.size) for part in present])
    poses = np.concatenate([part.world_from_box for part in present])
    return ClipBoxes(
        offset=torch.from_numpy(_offsets(counts)),
        world_from_box=_from_origin(
            poses, np.repeat(origin, counts, axis=0), np.ones(len(poses), dtype=np.bool_)
        ),
        size=torch.from_numpy(np.concatenate([part.size for part in present])),
        velocity=torch.from_numpy(np.concatenate([part.velocity for part in present])),
        category=torch.from_numpy(np.concatenate([part.category for part in present])),
        track=torch.from_numpy(np.concatenate([part.track for part in present])),
        categories=categories,
    )


def _offsets(counts: Int64[np.ndarray, " item"]) -> Int64[np.ndarray, " ends"]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
