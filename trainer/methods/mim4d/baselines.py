"""Rules that render nothing: the mean depth image, and the nearest frame copied by ego motion."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from geomim.warping import sample_bilinear
from geomim_data.clip_batch import ClipBatch
from trainer.config_mim4d_model import RenderConfig
from trainer.methods.mim4d.planning import lidar_of, views_of
from trainer.methods.mim4d.rays import TargetRays
from trainer.methods.mim4d.rigs import RigMotion

CELL_PIXELS = 16
"""Side of the cells that depth is averaged over."""


@torch.no_grad()
def mean_depth(
    batches: Iterable[ClipBatch], render: RenderConfig
) -> Float[Tensor, "view h w"] | None:
    """Return each camera's mean of lidar depth over clips of their key frame, in cells, in metres.

    A cell that no point ever hit has the mean of its camera, a camera without points that of all.

    Returns:
        None without a point.
    """
    total = count = None
    for batch in batches:
        if batch.lidar is None:
            return None
        keys = torch.zeros(len(batch.scene), 1, dtype=torch.int64, device=batch.images.device)
        views = views_of(batch, keys)
        seen = lidar_of(render, batch.lidar, views)
        depth, number = (
            _over_cells(part.double()).sum(dim=(0, 1)) for part in (seen.depth, seen.valid)
        )
        total = depth if total is None else total + depth
        count = number if count is None else count + number
    if total is None or count is None or not count.any():
        return None
    overall = total.sum() / count.sum()
    camera_count = count.sum(dim=(1, 2), keepdim=True)
    camera = total.sum(dim=(1, 2), keepdim=True) / camera_count.clamp(min=1)
    camera = torch.where(camera_count > 0, camera, overall)
    return torch.where(count > 0, total / count.clamp(min=1), camera).float()


def depth_at(
    cells: Float[Tensor, "view h w"], targets: TargetRays
) -> Float[Tensor, "batch frame ray"]:
    """Read the mean depth at the pixels of rays, along the optical axis."""
    column, row = (targets.pixels / CELL_PIXELS).long().unbind(dim=-1)
    row, column = row.clamp(0, cells.shape[1] - 1), column.clamp(0, cells.shape[2] - 1)
    return cells[targets.view.expand_as(row), row, column]


@torch.no_grad()
def copy_nearest(
    batch: ClipBatch,
    motion: RigMotion,
    frames: Int[Tensor, "batch frame"],
    targets: TargetRays,
    depth: Float[Tensor, "batch frame ray"],
) -> Float[Tensor, "batch frame ray 3"]:
    """Fetch the colour of rays from the frame nearest in time, moved by the rig's motion.

    Each ray ends at ``depth``, that of the mean depth image, as nothing else is known of a dropped
    frame. The end is looked at in the nearest frame that is there: by the same camera if it sees
    it, else by the first that does. Where none does the colour is the mean of that frame.
    """
    copied = [
        _copied(batch, motion, frame, targets, depth, index)
        for index, frame in enumerate(frames.unbind(dim=1))
    ]
    return torch.stack(copied, dim=1)


def _copied(
    batch: ClipBatch,
    motion: RigMotion,
    frame: Int[Tensor, " batch"],
    targets: TargetRays,
    depth: Float[Tensor, "batch frame ray"],
    index: int,
) -> Float[Tensor, "batch ray 3"]:
    items = torch.arange(len(frame), device=frame.device)
    source = views_of(batch, _nearest(motion, frame)[:, None])
    ends = _ends(targets, depth)[:, index]
    world_from_rig = motion.world_from_rig[items, frame]
    pixels, _, seen = source.camera.project(
        source.world_from_cam.inverse().apply(
            world_from_rig.apply(ends)[:, None, None].expand(-1, 1, source.images.shape[2], -1, -1)
        )
    )
    height, width = batch.camera.size
    inside = (
        torch.arange(height, device=frame.device)[:, None] < source.unpadded[..., 0, None, None]
    ) & (torch.arange(width, device=frame.device) < source.unpadded[..., 1, None, None])
    inside = inside & source.valid[..., None, None]
    # One row of as many pixels as there are rays.
    read = sample_bilinear(source.images, inside, pixels.unsqueeze(-3))
    found = (read.valid.squeeze(-2) & seen)[:, 0]
    own = torch.arange(found.shape[1], device=frame.device)[:, None] == targets.view
    best = (found.long() * (1 + own.long())).argmax(dim=1)
    colours = read.values[:, 0].squeeze(-2).movedim(2, -1)
    picked = colours.gather(1, best[:, None, :, None].expand(-1, -1, -1, 3))[:, 0]
    weight = inside.unsqueeze(-3).to(source.images.dtype)
    mean = (source.images * weight).sum(dim=(1, 2, 4, 5)) / weight.sum(dim=(1, 2, 4, 5)).clamp(
        min=1
    )
    return torch.where(found.any(dim=1)[..., None], picked, mean[:, None])


def _nearest(motion: RigMotion, frame: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    items = torch.arange(len(frame), device=frame.device)
    apart = (motion.seconds - motion.seconds[items, frame][:, None]).abs()
    moments = torch.arange(apart.shape[1], device=frame.device)
    known = motion.valid & (moments != frame[:, None])
    return torch.where(known, apart, torch.inf).argmin(dim=1)


def _ends(
    targets: TargetRays, depth: Float[Tensor, "batch frame ray"]
) -> Float[Tensor, "batch frame ray 3"]:
    """Return where rays are at a depth along the optical axes of their cameras."""
    ahead = targets.rays.valid & (targets.slant > 0)
    reach = torch.where(ahead, depth / torch.where(ahead, targets.slant, 1.0), 0.0)
    return targets.rays.points_at(reach)


def _over_cells(maps: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch rows columns"]:
    """Add up over cells; the sides are multiples of theirs."""
    flat = maps.flatten(0, -3).unsqueeze(1)
    summed = avg_pool2d(flat, CELL_PIXELS) * CELL_PIXELS**2
    return summed.squeeze(1).unflatten(0, maps.shape[:-2])
