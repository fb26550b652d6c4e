"""Depth maps: to points, to distances and back, to surface normals."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.cameras import NEAREST_DEPTH, Camera
from geomim.transforms import RigidTransform


class DepthPoints(NamedTuple):
    """One point a pixel. Where ``valid`` is False it is 0, with zero gradient."""

    points: Float[Tensor, "*batch h w 3"]
    valid: Bool[Tensor, "*batch h w"]


class Distance(NamedTuple):
    """Lengths along the rays. Where ``valid`` is False they are 0, with zero gradient."""

    distance: Float[Tensor, "*batch h w"]
    valid: Bool[Tensor, "*batch h w"]


class Depth(NamedTuple):
    """Lengths along the optical axis. Where ``valid`` is False they are 0, with zero gradient."""

    depth: Float[Tensor, "*batch h w"]
    valid: Bool[Tensor, "*batch h w"]


class Normals(NamedTuple):
    """Unit vectors in the camera's frame that face it. Where ``valid`` is False they are 0."""

    normals: Float[Tensor, "*batch h w 3"]
    valid: Bool[Tensor, "*batch h w"]


def valid_depth(
    depth: Float[Tensor, "*batch h w"], *, near: float = NEAREST_DEPTH, far: float = math.inf
) -> Bool[Tensor, "*batch h w"]:
    """Tell which depths are finite, more than ``near`` and at most ``far``."""
    return depth.isfinite() & (depth > near) & (depth <= far)


def unproject_depth(
    depth: Float[Tensor, "*batch h w"],
    camera: Camera,
    *,
    world_from_cam: RigidTransform | None = None,
) -> DepthPoints:
    """Return the point that each pixel's centre sees, in the camera's frame or in the world.

    Raises:
        ValueError: If the depth map is not of the camera's size.
    """
    points, valid = camera.unproject(_pixels_of(depth, camera), depth)
    if world_from_cam is not None:
        points = torch.where(valid[..., None], world_from_cam.apply(points), 0.0)
    return DepthPoints(points, valid)


def distance_from_depth(depth: Float[Tensor, "*batch h w"], camera: Camera) -> Distance:
    """Measure along each pixel's ray what was measured along the optical axis.

    Raises:
        ValueError: If the depth map is not of the camera's size.
    """
    slant, sees = _slant(depth, camera)
    valid = sees & valid_depth(depth)
    return Distance(torch.where(valid, depth, 0.0) / slant, valid)


def depth_from_distance(distance: Float[Tensor, "*batch h w"], camera: Camera) -> Depth:
    """Measure along the optical axis what was measured along each pixel's ray.

    Raises:
        ValueError: If the distance map is not of the camera's size.
    """
    slant, sees = _slant(distance, camera)
    valid = sees & valid_depth(distance)
    return Depth(torch.where(valid, distance, 0.0) * slant, valid)


def normals_from_depth(depth: Float[Tensor, "*batch h w"], camera: Camera) -> Normals:
    """Return surface normals from the points left, right, above and below each pixel.

    Exact on planes. A pixel needs valid depth at itself and at all four neighbours, so the
    outermost rows and columns are invalid, as is the rim of every hole. No edge is looked for:
    where depth jumps, the normal is that of the plane through both surfaces.

    Raises:
        ValueError: If the depth map is not of the camera's size.
    """
    points, known = unproject_depth(depth, camera)
    # A surface patch keeps its shape at any scale; at unit depth nothing over- or underflows.
    reach = torch.where(known, depth, 1.0)[..., None]
    across, across_known = _central_difference(points, known, axis=-2)
    down, down_known = _central_difference(points, known, axis=-3)
    cross = torch.linalg.cross(down / reach, across / reach)
    squared = cross.square().sum(dim=-1)
    valid = known & across_known & down_known & (squared > 0) & squared.isfinite()
    normals = cross / torch.where(valid, squared, 1.0).sqrt()[..., None]
    away = (normals * points).sum(dim=-1, keepdim=True) > 0
    normals = torch.where(away, -normals, normals)
    return Normals(torch.where(valid[..., None], normals, 0.0), valid)


def _central_difference(points: Tensor, known: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """Subtract the previous point from the next along an axis; unknown at both ends."""
    count = points.shape[axis]
    place = torch.arange(count, device=points.device)
    inner = ((place > 0) & (place < count - 1)).reshape(-1, *(1,) * (-axis - 2))
    following, preceding = (known.roll(step, dims=axis + 1) for step in (-1, 1))
    difference = points.roll(-1, dims=axis) - points.roll(1, dims=axis)
    return difference, inner & following & preceding


def _slant(depth: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Return depth over distance for every pixel, 1 where its ray does not lead forward."""
    directions, valid = camera.ray_directions(_pixels_of(depth, camera))
    forward = valid & (directions[..., 2] > 0)
    return torch.where(forward, directions[..., 2], 1.0), forward


def _pixels_of(depth: Tensor, camera: Camera) -> Tensor:
    """Return the camera's pixel centres behind an axis of 1 for every batch axis."""
    if tuple(depth.shape[-2:]) != camera.size:
        raise ValueError(
            f"depth must have the camera's size {camera.size}, got {tuple(depth.shape[-2:])}"
        )
    grid = camera.pixel_grid()
    return grid.reshape(*(1,) * max(depth.ndim - 2, len(camera.shape)), *grid.shape)
