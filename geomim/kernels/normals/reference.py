"""Define surface normals from depth in plain torch.

The normal is the cross product of two central differences, from the point above to the one below
and from the point left to the one right: the 3D gradients of Holzer et al. 2012, without averaging.
"""

import torch
from torch import Tensor

from geomim.kernels.unproject import reference as unprojection


def normals(
    depth: Tensor, focal: Tensor, centre: Tensor, *, nearest: float
) -> tuple[Tensor, Tensor]:
    """Return the normals of what pinhole cameras see, and where there is one.

    Args:
        depth: Image by row by column, along the optical axis.
        focal: Image by 2, in pixels.
        centre: Image by 2, the principal point in pixels.
        nearest: Depths must be finite and above it.

    Returns:
        Image by row by column by 3, in the intrinsics' dtype, 0 where invalid; and image by row by
        column.
    """
    lengths = depth.to(focal.dtype)
    still = torch.eye(3, dtype=focal.dtype, device=focal.device).expand(len(focal), 3, 3)
    points, known = unprojection.unproject(
        lengths,
        focal,
        centre,
        still,
        torch.zeros_like(still[..., 0]),
        along_ray=False,
        nearest=nearest,
    )
    return normals_of_points(points, known, lengths)


def normals_of_points(points: Tensor, known: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normals of a map of points, which face the origin, and where there is one.

    A point needs itself and its four neighbours to be known.

    Args:
        points: Any axes, then row by column by 3.
        known: Where there are points.
        scale: Of each point's size, a positive number where there is one; it changes nothing else.
    """
    # A surface patch keeps its shape at any scale; at unit depth nothing over- or underflows.
    reach = torch.where(known, scale, 1.0).detach()[..., None]
    across, across_known = _central_difference(points, known, axis=-2)
    down, down_known = _central_difference(points, known, axis=-3)
    cross = torch.linalg.cross(down / reach, across / reach)
    squared = cross.square().sum(dim=-1)
    valid = known & across_known & down_known & (squared > 0) & squared.isfinite()
    unit = cross / torch.where(valid, squared, 1.0).sqrt()[..., None]
    away = (unit * points).sum(dim=-1, keepdim=True) > 0
    return torch.where(valid[..., None], torch.where(away, -unit, unit), 0.0), valid


def _central_difference(points: Tensor, known: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """Subtract the previous point from the next along an axis; unknown at both ends."""
    count = points.shape[axis]
    place = torch.arange(count, device=points.device)
    inner = ((place > 0) & (place < count - 1)).reshape(-1, *(1,) * (-axis - 2))
    following, preceding = (known.roll(step, dims=axis + 1) for step in (-1, 1))
    difference = points.roll(-1, dims=axis) - points.roll(1, dims=axis)
    return difference, inner & following & preceding
