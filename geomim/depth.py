"""Depth maps: to points, to distances and back, to surface normals."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.batching import over_points
from geomim.cameras import NEAREST_DEPTH, Camera, PinholeCamera
from geomim.kernels.normals import op as normals_op
from geomim.kernels.normals.reference import normals_of_points
from geomim.kernels.unproject import op as unproject_op
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
    _check_size("depth", depth, camera)
    if isinstance(camera, PinholeCamera):
        return _unproject_pinhole(depth, camera, world_from_cam, along_ray=False)
    return _moved(*camera.unproject(_pixels_of(depth, camera), depth), world_from_cam)


def unproject_distance(
    distance: Float[Tensor, "*batch h w"],
    camera: Camera,
    *,
    world_from_cam: RigidTransform | None = None,
) -> DepthPoints:
    """Return the point that each pixel's centre sees at a distance from the camera's centre.

    Unlike a depth, a distance has a point wherever the camera looks: beside it and behind it too.

    Raises:
        ValueError: If the distance map is not of the camera's size.
    """
    _check_size("distance", distance, camera)
    if isinstance(camera, PinholeCamera):
        return _unproject_pinhole(distance, camera, world_from_cam, along_ray=True)
    directions, sees = camera.ray_directions(_pixels_of(distance, camera))
    valid = sees & valid_depth(distance)
    points = directions * torch.where(valid, distance, 0.0)[..., None]
    return _moved(points, valid, world_from_cam)


def distance_from_depth(depth: Float[Tensor, "*batch h w"], camera: Camera) -> Distance:
    """Measure along each pixel's ray what was measured along the optical axis.

    Raises:
        ValueError: If the depth map is not of the camera's size.
    """
    _check_size("depth", depth, camera)
    slant, sees = _slant(depth, camera)
    valid = sees & valid_depth(depth)
    return Distance(torch.where(valid, depth, 0.0) / slant, valid)


def depth_from_distance(distance: Float[Tensor, "*batch h w"], camera: Camera) -> Depth:
    """Measure along the optical axis what was measured along each pixel's ray.

    Raises:
        ValueError: If the distance map is not of the camera's size.
    """
    _check_size("distance", distance, camera)
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
    _check_size("depth", depth, camera)
    if not isinstance(camera, PinholeCamera):
        points, known = unproject_depth(depth, camera)
        return Normals(*normals_of_points(points, known, depth))
    batch, intrinsics = _intrinsics(depth, camera)
    maps, parameters, dtype = _images(depth, batch, intrinsics)
    normals, valid = normals_op.normals(maps, *parameters, nearest=NEAREST_DEPTH)
    size = depth.shape[-2:]
    return Normals(normals.reshape(*batch, *size, 3).to(dtype), valid.reshape(*batch, *size))


def _unproject_pinhole(
    lengths: Tensor,
    camera: PinholeCamera,
    world_from_cam: RigidTransform | None,
    *,
    along_ray: bool,
) -> DepthPoints:
    """Unproject and move in one pass, unless the pose learns or differs within an image."""
    batch, parameters = _intrinsics(lengths, camera)
    pose = world_from_cam
    if pose is None:
        pose = RigidTransform.identity(dtype=camera.dtype, device=camera.device)
    learns = pose.rotation.requires_grad or pose.translation.requires_grad
    if len(pose.shape) > len(batch) or (learns and torch.is_grad_enabled()):
        here = _unproject_pinhole(lengths, camera, None, along_ray=along_ray)
        return _moved(here.points, here.valid, world_from_cam)
    size = lengths.shape[-2:]
    poses = over_points(pose.shape, lengths.expand(*batch, *size)[..., None])[:-2]
    batch = torch.broadcast_shapes(batch, poses)
    parameters += [pose.rotation.reshape(*poses, 3, 3), pose.translation.reshape(*poses, 3)]
    maps, parameters, dtype = _images(lengths, batch, parameters)
    points, valid = unproject_op.unproject(
        maps, *parameters, along_ray=along_ray, nearest=NEAREST_DEPTH
    )
    return DepthPoints(points.reshape(*batch, *size, 3).to(dtype), valid.reshape(*batch, *size))


def _moved(points: Tensor, valid: Tensor, pose: RigidTransform | None) -> DepthPoints:
    """Apply a pose, and keep 0 where there is no point."""
    if pose is not None:
        points = pose.apply(points)
        valid = valid.expand(points.shape[:-1])
        points = torch.where(valid[..., None], points, 0.0)
    return DepthPoints(points, valid)


def _intrinsics(
    lengths: Tensor, camera: PinholeCamera
) -> tuple[tuple[int, ...] | torch.Size, list[Tensor]]:
    """Return the batch of maps and cameras together, and the intrinsics with as many axes."""
    axes = max(lengths.ndim - 2, len(camera.shape))
    cameras = (*camera.shape, *(1,) * (axes - len(camera.shape)))
    batch = torch.broadcast_shapes(lengths.shape[:-2], cameras)
    return batch, [part.reshape(*cameras, 2) for part in (camera.focal, camera.principal_point)]


def _images(
    lengths: Tensor, batch: tuple[int, ...] | torch.Size, parameters: list[Tensor]
) -> tuple[Tensor, list[Tensor], torch.dtype]:
    """Flatten the batch for a kernel, which computes in single precision at least.

    Also returns the dtype that torch's promotion would give the result.
    """
    dtype = lengths.dtype
    for part in parameters:
        dtype = torch.promote_types(dtype, part.dtype)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    count = math.prod(batch)
    tails = [(2,), (2,), (3, 3), (3,)]
    flat = [
        part.to(arithmetic).expand(*batch, *tail).reshape(count, *tail)
        for part, tail in zip(parameters, tails, strict=False)
    ]
    size = lengths.shape[-2:]
    return lengths.expand(*batch, *size).reshape(count, *size), flat, dtype


def _slant(lengths: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Return depth over distance for every pixel, 1 where its ray does not lead forward."""
    directions, valid = camera.ray_directions(_pixels_of(lengths, camera))
    forward = valid & (directions[..., 2] > 0)
    return torch.where(forward, directions[..., 2], 1.0), forward


def _check_size(name: str, lengths: Tensor, camera: Camera) -> None:
    if tuple(lengths.shape[-2:]) != camera.size:
        raise ValueError(
            f"{name} must have the camera's size {camera.size}, got {tuple(lengths.shape[-2:])}"
        )


def _pixels_of(lengths: Tensor, camera: Camera) -> Tensor:
    """Return the camera's pixel centres behind an axis of 1 for every batch axis."""
    grid = camera.pixel_grid()
    return grid.reshape(*(1,) * max(lengths.ndim - 2, len(camera.shape)), *grid.shape)
