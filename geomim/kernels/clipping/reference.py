"""Define, in plain torch, how rays are clipped to boxes along the axes."""

import torch
from torch import Tensor


def clip_rays(
    origins: Tensor,
    directions: Tensor,
    lower: Tensor,
    upper: Tensor,
    valid: Tensor,
    near: float,
    far: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where each ray enters and leaves its box, and whether it does.

    Args:
        origins: Ray by 3.
        directions: Ray by 3.
        lower: Ray (or 1) by 3.
        upper: Ray (or 1) by 3.
        valid: For each ray whether there is one.
        near: Nothing closer counts,
        far: and nothing farther.

    Returns:
        Twice a distance, 0 where not valid; and which are valid.
    """
    o, d, low, high = torch.broadcast_tensors(origins, directions, lower, upper)
    ahead = d > 0
    front, back = torch.where(ahead, low, high), torch.where(ahead, high, low)
    with torch.no_grad():
        inside = torch.where((low <= o) & (o <= high), torch.inf, -torch.inf)
        entry, entry_axis = _crossings(front, o, d, -inside).max(dim=-1)
        leave, leave_axis = _crossings(back, o, d, inside).min(dim=-1)
        first, last = entry.clamp(min=near), leave.clamp(max=far)
        valid = valid & (first <= last) & first.isfinite() & last.isfinite()
        valid = valid & o.isfinite().all(dim=-1) & d.isfinite().all(dim=-1)
        first, last = (torch.where(valid, bound, 0.0) for bound in (first, last))
        entered, left = valid & (entry >= near), valid & (leave <= far)
    # Divided again by what counted alone: no other slope can spoil a gradient of 0.
    return (
        torch.where(entered, _crossing(front, o, d, entry_axis, entered), first),
        torch.where(left, _crossing(back, o, d, leave_axis, left), last),
        valid,
    )


def _crossings(faces: Tensor, o: Tensor, d: Tensor, parallel: Tensor) -> Tensor:
    """Return where rays cross the face of each axis, ``parallel`` if they never do."""
    # A number too small to divide by moves nothing within any distance.
    moving = d.abs() >= torch.finfo(d.dtype).tiny
    return torch.where(moving, (faces - o) / torch.where(moving, d, 1.0), parallel)


def _crossing(faces: Tensor, o: Tensor, d: Tensor, axis: Tensor, valid: Tensor) -> Tensor:
    """Return where rays cross the face of one axis each, 0 where that is not valid."""
    face, start, step = (part.gather(-1, axis[..., None])[..., 0] for part in (faces, o, d))
    gap = torch.where(valid, face, 0.0) - torch.where(valid, start, 0.0)
    return gap / torch.where(valid, step, 1.0)
