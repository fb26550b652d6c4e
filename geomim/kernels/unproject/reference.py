"""Define depth maps to points in plain torch.

Hartley and Zisserman 2004, equation 6.14 solved for the point at a given length: with the ray
``r = ((u - cx) / fx, (v - cy) / fy, 1)`` of the pixel centre ``(u, v)``, the point is
``rotation (depth r) + translation``, or ``rotation (distance r / |r|) + translation``.
"""

import torch
from torch import Tensor


def unproject(
    depth: Tensor,
    focal: Tensor,
    centre: Tensor,
    rotation: Tensor,
    translation: Tensor,
    *,
    along_ray: bool,
    nearest: float,
) -> tuple[Tensor, Tensor]:
    """Return the points that pixels see, and where there is one.

    Args:
        depth: Image by row by column; lengths along the optical axis, or along the ray.
        focal: Image by 2, in pixels.
        centre: Image by 2, the principal point in pixels.
        rotation: Image by 3 by 3, applied to the points of the camera's frame.
        translation: Image by 3, added last.
        along_ray: Whether lengths are distances from the camera's centre.
        nearest: Lengths must be finite and above it.

    Returns:
        Image by row by column by 3, in the intrinsics' dtype, 0 where invalid; and image by row by
        column: the length is valid, and the point in the camera's frame finite.
    """
    lengths = depth.to(focal.dtype)
    with torch.no_grad():
        valid = _points(lengths, focal, centre, along_ray).isfinite().all(dim=-1)
        valid &= (lengths > nearest) & lengths.isfinite()
    usable = torch.where(valid, lengths, 1.0)
    # Masked before and after: neither intrinsics nor pose feel an invalid point.
    points = _points(usable, *_masked_intrinsics(valid, focal, centre), along_ray)
    moved = (rotation[:, None, None] * points[..., None, :]).sum(dim=-1)
    moved = moved + translation[:, None, None]
    return torch.where(valid[..., None], moved, 0.0), valid


def unproject_backward(
    grad: Tensor,
    valid: Tensor,
    focal: Tensor,
    centre: Tensor,
    rotation: Tensor,
    *,
    along_ray: bool,
) -> Tensor:
    """Return the gradient of the depth; it does not depend on the depth but for ``valid``."""
    rays = directions(valid, focal, centre, rotation, along_ray=along_ray)
    return (torch.where(valid[..., None], grad, 0.0) * rays).sum(dim=-1)


def directions(
    valid: Tensor, focal: Tensor, centre: Tensor, rotation: Tensor, *, along_ray: bool
) -> Tensor:
    """Return what a point moves by as its length grows, 0 where it is not valid."""
    ones = torch.ones_like(valid, dtype=focal.dtype)
    rays = _points(ones, *_masked_intrinsics(valid, focal, centre), along_ray)
    turned = (rotation[:, None, None] * rays[..., None, :]).sum(dim=-1)
    return torch.where(valid[..., None], turned, 0.0)


def _masked_intrinsics(valid: Tensor, focal: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intrinsics for every pixel, harmless ones where it is not valid."""
    usable = valid[..., None]
    return (
        torch.where(usable, focal[:, None, None], 1.0),
        torch.where(usable, centre[:, None, None], 0.0),
    )


def _points(lengths: Tensor, focal: Tensor, centre: Tensor, along_ray: bool) -> Tensor:
    if focal.ndim == 2:
        focal, centre = focal[:, None, None], centre[:, None, None]
    v, u = (
        torch.arange(side, dtype=lengths.dtype, device=lengths.device) + 0.5
        for side in lengths.shape[-2:]
    )
    x = ((u - centre[..., 0]) / focal[..., 0]).expand(lengths.shape)
    y = ((v[:, None] - centre[..., 1]) / focal[..., 1]).expand(lengths.shape)
    z = lengths / (x * x + y * y + 1).sqrt() if along_ray else lengths
    return torch.stack([x * z, y * z, z], dim=-1)
