"""Define, in plain torch, pinhole projection of moved points, and splatting with a z-buffer."""

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor


def project_pinhole(
    points: Tensor,
    cam_from_points: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    height: int,
    width: int,
    near: float,
    margin: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels and depths of points in every camera.

    Args:
        points: Camera (or 1) by point by 3.
        cam_from_points: Camera by 3 by 4.
        focal: Camera by 2.
        principal_point: Camera by 2.
        height: Of the images.
        width: Of the images.
        near: A point is valid if it is deeper,
        margin: and at most so many pixels outside the image.

    Returns:
        Camera by point by 2, and twice camera by point; 0 where not valid.
    """
    rotation, translation = cam_from_points[:, None, :, :3], cam_from_points[:, None, :, 3]
    x, y, z = (points[..., k, None] for k in range(3))
    at = rotation[..., 0] * x + rotation[..., 1] * y + rotation[..., 2] * z + translation
    scale, centre = focal[:, None], principal_point[:, None]
    with torch.no_grad():
        pixels = scale * (at[..., :2] / at[..., 2:]) + centre
        size = pixels.new_tensor([width, height])
        inside = ((pixels >= -margin) & (pixels <= size + margin)).all(dim=-1)
        valid = inside & (at[..., 2] > near) & at.isfinite().all(dim=-1)
    # A point that is nowhere must not reach the gradient of the camera that misses it.
    keep = valid[..., None]
    xyz = torch.where(keep, points, 0.0)
    rotation = torch.where(keep[..., None], rotation, torch.eye(3).to(rotation))
    x, y, z = (xyz[..., k, None] for k in range(3))
    at = rotation[..., 0] * x + rotation[..., 1] * y + rotation[..., 2] * z
    at = at + torch.where(keep, translation, at.new_tensor([0.0, 0.0, 1.0]))
    pixels = torch.where(keep, scale * (at[..., :2] / at[..., 2:]) + centre, 0.0)
    return pixels, torch.where(valid, at[..., 2], 0.0), valid


def splat(
    pixels: Tensor, depth: Tensor, valid: Tensor, height: int, width: int, radius: float
) -> tuple[Tensor, Tensor]:
    """Keep the nearest point of every pixel, of points as near the first one.

    A point covers the pixel that it lies in, and those whose centres are at most ``radius`` away.

    Args:
        pixels: Image by point by 2.
        depth: Image by point, positive.
        valid: Image by point.
        height: Of the images.
        width: Of the images.
        radius: In pixels.

    Returns:
        Image by row by column: depth, 0 where there is no point; and index of the point, or -1.
    """
    images, count = depth.shape
    nearest = depth.new_full((images, height * width + 1), torch.inf)
    covers = list(_covered(pixels.detach(), valid, height, width, radius))
    for place in covers:
        nearest = nearest.scatter_reduce(1, place, depth.detach(), "amin")
    index = torch.full_like(nearest, count, dtype=torch.int64)
    order = torch.arange(count, device=depth.device).expand(images, -1)
    for place in covers:
        wins = depth == nearest.gather(1, place)
        index = index.scatter_reduce(1, place, torch.where(wins, order, count), "amin")
    index = index[:, :-1]
    filled = index < count
    padded = torch.cat([depth, depth.new_zeros(images, 1)], dim=1)
    found = padded.gather(1, index)
    shape = (images, height, width)
    return found.reshape(shape), torch.where(filled, index, -1).to(torch.int32).reshape(shape)


def _covered(
    pixels: Tensor, valid: Tensor, height: int, width: int, radius: float
) -> Iterator[Tensor]:
    """Yield, for offset after offset, each point's flat pixel: height * width if it covers none."""
    u, v = torch.where(valid[..., None], pixels, 0.0).unbind(dim=-1)
    # The outer edge belongs to the last pixel.
    column = torch.where(u == width, width - 1, u.floor()).long()
    row = torch.where(v == height, height - 1, v.floor()).long()
    reach = ceil(radius)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            i, j = row + down, column + right
            du, dv = j + 0.5 - u, i + 0.5 - v
            near = du * du + dv * dv <= radius * radius
            if down == right == 0:
                near = torch.ones_like(valid)
            inside = valid & near & (i >= 0) & (i < height) & (j >= 0) & (j < width)
            yield torch.where(inside, i * width + j, height * width)
