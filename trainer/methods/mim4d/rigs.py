"""Where the rig is: one frame a moment, rigid to its cameras.

The origin is the middle of the cameras and up the mean of their ups, in which the pitch of one
side's cameras cancels the other's; forward is the first camera's view, level. Both from the moment
that most cameras saw; at other moments the frame follows the cameras, whose places on the vehicle
do not change. Lidar and ego poses are not needed.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipBatch


class RigMotion(NamedTuple):
    """The rig at every moment. Where ``valid`` is False the pose is the identity, the time 0."""

    world_from_rig: RigidTransform
    """Axes x forward, y left, z up; with the batch ``(batch, time)``."""
    seconds: Float[Tensor, "batch time"]
    """After the key frame: the mean over the moment's cameras."""
    valid: Bool[Tensor, "batch time"]


def rig_motion(batch: ClipBatch, *, key: int) -> RigMotion:
    """Return where the rig of each clip was, and when.

    A moment is valid if one of its cameras also saw the moment that most saw.

    Args:
        batch: Clips, in whatever order of moments.
        key: Which moment times are counted from.
    """
    best = _fullest(batch.valid, key)
    items = torch.arange(len(best), device=best.device)
    common = batch.valid & batch.valid[items, best][:, None]
    valid, view = common.any(dim=-1), common.long().argmax(dim=-1)
    times = torch.arange(batch.valid.shape[1], device=best.device)
    then = batch.world_from_cam[items[:, None], times, view]
    there = batch.world_from_cam[items[:, None], best[:, None], view]
    rig = _frame(batch.world_from_cam[items, best], batch.valid[items, best])
    rigs = RigidTransform(rig.rotation[:, None], rig.translation[:, None])
    moved = then @ (there.inverse() @ rigs)
    identity = RigidTransform.identity(*valid.shape, dtype=moved.dtype, device=moved.device)
    keep = valid[..., None]
    return RigMotion(
        RigidTransform(
            torch.where(keep[..., None], moved.rotation, identity.rotation),
            torch.where(keep, moved.translation, identity.translation),
        ),
        torch.where(valid, _seconds(batch, key, best), 0.0),
        valid,
    )


def _fullest(valid: Bool[Tensor, "batch time view"], key: int) -> Int[Tensor, " batch"]:
    """Choose the moment that most cameras saw; the key frame, if it is one of those."""
    counts = 2 * valid.sum(dim=-1)
    counts[:, key] += 1
    return counts.argmax(dim=-1)


def _frame(world_from_cam: RigidTransform, valid: Bool[Tensor, "batch view"]) -> RigidTransform:
    """Return the rig's frame from its cameras at one moment; of clips without any, some frame."""
    rotation, weight = world_from_cam.rotation, valid[..., None].to(world_from_cam.dtype)
    count = weight.sum(dim=1).clamp(min=1)
    first = valid.long().argmax(dim=1)
    ahead = rotation[torch.arange(len(first), device=first.device), first][..., 2]
    # Where cameras look in all directions of space their ups may cancel: then the first one's.
    up = -(rotation[..., 1] * weight).sum(dim=1) / count
    own = -rotation[torch.arange(len(first), device=first.device), first][..., 1]
    up = torch.where((up.norm(dim=-1) > 0.1)[..., None], up, own)
    up = up / up.norm(dim=-1, keepdim=True)
    ahead = ahead - (ahead * up).sum(dim=-1, keepdim=True) * up
    ahead = ahead / ahead.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    left = torch.linalg.cross(up, ahead)
    middle = (world_from_cam.translation * weight).sum(dim=1) / count
    return RigidTransform(torch.stack([ahead, left, up], dim=-1), middle)


def _seconds(batch: ClipBatch, key: int, best: Int[Tensor, " batch"]) -> Float[Tensor, "..."]:
    """Average in whole microseconds from a time nearby: float32 has no room for years of them."""
    items = torch.arange(len(best), device=best.device)
    near = batch.timestamp_us[items, best].amax(dim=-1)[:, None, None]
    apart = torch.where(batch.valid, batch.timestamp_us - near, 0).double()
    mean = apart.sum(dim=-1) / batch.valid.sum(dim=-1).clamp(min=1)
    seen = batch.valid[:, key].any(dim=-1)
    start = torch.where(seen, mean[:, key], mean[items, best])
    return ((mean - start[:, None]) * 1e-6).to(batch.images.dtype)
