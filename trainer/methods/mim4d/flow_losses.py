"""What velocities of scene flow are told by boxes or by lidar, beside what rendering tells them.

Both are our choice and off by default: the paper's flow learns from rendering alone.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomim.grids import VoxelGrid
from geomim.sceneflow import flow_from_boxes
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBatch, ClipBoxes, ClipLidar
from trainer.config_mim4d_model import LossConfig
from trainer.methods.mim4d.losses import masked_mean
from trainer.methods.mim4d.model import others_of
from trainer.methods.mim4d.rigs import RigMotion
from trainer.methods.mim4d.scene_flow import trace

MOST_POINTS = 2048
"""Lidar points of a sweep that are traced; they are compared with four times as many."""
LARGEST_M = 2.0
"""Points farther from all others than this have none that is theirs (Li et al. 2021)."""
GROUND_M = 0.5
"""Points this little above the ground are left out: its rings follow the lidar, not the ground."""


class CellVelocities(NamedTuple):
    """What is known of the velocity of every cell's centre, in m/s; 0 where it is not ``valid``."""

    velocity: Float[Tensor, "z y x 3"]
    in_box: Bool[Tensor, "z y x"]
    valid: Bool[Tensor, "z y x"]


def flow_losses(
    velocity: Float[Tensor, "batch frame 3 z y x"],
    batch: ClipBatch,
    motion: RigMotion,
    frames: Int[Tensor, "batch frame"],
    *,
    grid: VoxelGrid,
    weights: LossConfig,
    ground_m: float,
) -> dict[str, Float[Tensor, ""]]:
    """Return the weighted terms whose weight is not 0, of clips that have what they need.

    Args:
        velocity: Of the volumes of some moments, along the rig's axes of each.
        batch: With the boxes of the key frames, or with sweeps.
        motion: Of the rig.
        frames: The moments.
        grid: Of the volumes.
        weights: Of the terms.
        ground_m: Height of the ground in the rig's frame.
    """
    items = torch.arange(len(frames), device=frames.device)[:, None]
    rebuilt = motion.valid[items, frames] & others_of(motion.valid, frames).any(dim=-1)
    rigs, seconds = motion.world_from_rig[items, frames], motion.seconds[items, frames]
    then = RigMotion(rigs, seconds, rebuilt)
    terms: dict[str, Tensor] = {}
    if weights.flow_boxes and batch.boxes is not None:
        loss = box_flow_loss(velocity, batch.boxes, then, grid=grid)
        terms["flow_boxes"] = weights.flow_boxes * loss
    if weights.flow_lidar and batch.lidar is not None:
        loss = lidar_flow_loss(velocity, batch.lidar, then, grid=grid, ground_m=ground_m)
        terms["flow_lidar"] = weights.flow_lidar * loss
    return terms


def box_flow_loss(
    velocity: Float[Tensor, "batch frame 3 z y x"],
    boxes: ClipBoxes,
    motion: RigMotion,
    *,
    grid: VoxelGrid,
) -> Float[Tensor, ""]:
    """Return the mean L1 at cells in boxes plus that at all others, in m/s.

    Two means, since one cell in a hundred moves: of one, resting everywhere would be close to the
    least. Boxes are given at the key frame and moved by their velocity to the moment's time.

    Args:
        velocity: As a network says, of some moments.
        boxes: Of the key frames of all clips.
        motion: Of the rig, at those moments; where not valid, they have no say.
        grid: Of the velocities.
    """
    found = list[CellVelocities]()
    ends = boxes.offset.tolist()
    for clip, own in enumerate(map(slice, ends[:-1], ends[1:])):
        there, speed = boxes.world_from_box[own], boxes.velocity[own]
        for frame, seconds in enumerate(motion.seconds[clip]):
            shift = torch.where(speed.isfinite(), speed * seconds, 0.0)
            moved = RigidTransform(there.rotation, there.translation + shift)
            rig = motion.world_from_rig[clip, frame]
            size = boxes.size[own]
            found.append(velocities_in_boxes(moved, size, speed, world_from_rig=rig, grid=grid))
    truth, in_box, valid = (torch.stack(part) for part in zip(*found, strict=True))
    valid = valid & motion.valid.flatten()[:, None, None, None]
    error = (velocity.flatten(0, 1).movedim(1, -1) - truth).abs().mean(dim=-1)
    return masked_mean(error, valid & in_box) + masked_mean(error, valid & ~in_box)


def velocities_in_boxes(
    world_from_box: RigidTransform,
    size: Float[Tensor, "box 3"],
    velocity_mps: Float[Tensor, "box 3"],
    *,
    world_from_rig: RigidTransform,
    grid: VoxelGrid,
) -> CellVelocities:
    """Return the velocity of every cell's centre, along the rig's axes.

    Cells in a box have the box's, cells in none rest; those in one of unknown velocity are not
    known. Boxes of one clip, at one instant; of several, the first counts.

    Args:
        world_from_box: One a box,
        size: with its full extent in metres,
        velocity_mps: and its velocity in the world, NaN where unknown.
        world_from_rig: Of the grid's frame.
        grid: Whose cells they are.
    """
    centres = grid.centres(dtype=size.dtype, device=size.device)
    owner = flow_from_boxes(
        world_from_rig.apply(centres.reshape(-1, 3)),
        world_from_box_source=world_from_box,
        world_from_box_target=world_from_box,
        size=size,
    ).box
    turned = world_from_rig.inverse().rotate(velocity_mps)
    # A last box, of what rests: no box is number -1.
    velocity = torch.cat([turned, centres.new_zeros(1, 3)])[owner.long()]
    velocity, in_box = velocity.reshape(centres.shape), (owner >= 0).reshape(centres.shape[:-1])
    valid = velocity.isfinite().all(dim=-1)
    return CellVelocities(torch.where(valid[..., None], velocity, 0.0), in_box, valid)


def lidar_flow_loss(
    velocity: Float[Tensor, "batch frame 3 z y x"],
    lidar: ClipLidar,
    motion: RigMotion,
    *,
    grid: VoxelGrid,
    ground_m: float,
) -> Float[Tensor, ""]:
    """Return how far, in metres, sweeps carried by the flow are from the sweeps they arrive at.

    Every sweep's points, seen from the moment's rig, follow the velocities to the time of the
    sweep behind and of that before; the mean is over their distances to the nearest point there
    (Li et al. 2021), none beyond ``LARGEST_M``. No box is needed, and where nothing moves, sweeps
    accumulate. A clip with a single sweep has no say.

    Args:
        velocity: As a network says, of some moments.
        lidar: The sweeps of all clips.
        motion: Of the rig, at those moments; where not valid, they have no say.
        grid: Of the velocities.
        ground_m: Height of the ground in the rig's frame.
    """
    errors = [velocity.new_zeros(0)]
    for clip, frame in motion.valid.nonzero().tolist():
        rig = motion.world_from_rig[clip, frame]
        seen = [
            _Sweep(_above(sweep.points, grid, ground_m + GROUND_M), sweep.time_us)
            for sweep in _sweeps_in_order(lidar, clip, rig)
        ]
        for pair in pairwise(seen):
            for here, there in (pair, pair[::-1]):
                errors.append(_distances(velocity[clip, frame], here, there, grid))
    found = torch.cat(errors)
    return found.sum() / max(1, len(found))


class _Sweep(NamedTuple):
    """Points in the rig's frame of a moment, and when they were measured."""

    points: Float[Tensor, "point 3"]
    time_us: int


def _sweeps_in_order(lidar: ClipLidar, clip: int, world_from_rig: RigidTransform) -> list[_Sweep]:
    rig_from_lidar = world_from_rig.inverse() @ lidar.world_from_lidar[clip]
    times = lidar.timestamp_us[clip].tolist()
    there = sorted(lidar.valid[clip].nonzero().flatten().tolist(), key=times.__getitem__)
    return [_Sweep(rig_from_lidar[s].apply(lidar.of(clip, s)), times[s]) for s in there]


def _above(
    points: Float[Tensor, "point 3"], grid: VoxelGrid, height_m: float
) -> Float[Tensor, "_point 3"]:
    return points[grid.contains(points) & (points[:, 2] >= height_m)]


def _distances(
    velocity: Float[Tensor, "3 z y x"], here: _Sweep, there: _Sweep, grid: VoxelGrid
) -> Float[Tensor, " some"]:
    points, others = _thinned(here.points, MOST_POINTS), _thinned(there.points, 4 * MOST_POINTS)
    if not len(points) or not len(others):
        return velocity.new_zeros(0)
    seconds = points.new_full((1, 1), (there.time_us - here.time_us) * 1e-6)
    carried = trace(points[None], velocity[None], seconds, grid=grid)[0]
    with torch.no_grad():
        nearest = torch.cdist(carried, others).argmin(dim=1)
    squared = (carried - others[nearest]).square().sum(dim=-1)
    # Of points that are where they should be, the root has no slope.
    return torch.where(squared > 0, squared.clamp(min=1e-12).sqrt(), 0.0).clamp(max=LARGEST_M)


def _thinned(points: Tensor, most: int) -> Tensor:
    return points[:: max(1, -(-len(points) // most))]
