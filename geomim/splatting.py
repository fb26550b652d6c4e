"""Points into depth maps: where lidar appears in cameras, and what of it is nearest."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from geomim.cameras import NEAREST_DEPTH, Camera, PinholeCamera
from geomim.kernels.splat.op import project_pinhole, splat
from geomim.transforms import RigidTransform


class PointProjection(NamedTuple):
    """Where points appear on images. Where ``valid`` is False all is 0, with zero gradient."""

    pixels: Float[Tensor, "*batch point 2"]
    depth: Float[Tensor, "*batch point"]
    """Along the optical axis."""
    valid: Bool[Tensor, "*batch point"]
    """The point is in front of the camera and on its image, outer edge included."""


class SplattedDepth(NamedTuple):
    """Depth maps of points. Where ``valid`` is False the depth is 0, the point -1."""

    depth: Float[Tensor, "*batch h w"]
    """Along the optical axis."""
    point: Int32[Tensor, "*batch h w"]
    """Place of the point that is seen among its cloud's."""
    valid: Bool[Tensor, "*batch h w"]


def project_lidar(
    points_lidar: Float[Tensor, "*points 3"],
    camera: Camera,
    *,
    cam_from_lidar: RigidTransform,
    near: float = NEAREST_DEPTH,
) -> PointProjection:
    """Return where points appear on the images of cameras.

    Points are ``(*batch, point, 3)``, where the batch broadcasts with that of cameras and of poses:
    one cloud serves six cameras. Cameras and lidar of a vehicle that drives measure at different
    times: ``cam_from_lidar`` leads over the world, from the lidar's own time to each camera's.

    Args:
        points_lidar: In the lidar's frame, or any other.
        camera: One or many.
        cam_from_lidar: From the points' frame to each camera's.
        near: A point is valid if it is deeper.

    Raises:
        ValueError: If ``near`` is negative, or batches do not broadcast.
        TypeError: If the points are neither float32 nor float64.
    """
    return PointProjection(*_project(points_lidar, camera, cam_from_lidar, near, margin=0.0))


def splat_depth(
    points: Float[Tensor, "*points 3"],
    camera: Camera,
    *,
    cam_from_points: RigidTransform | None = None,
    radius: float = 0.0,
    near: float = NEAREST_DEPTH,
) -> SplattedDepth:
    """Draw points into depth maps; the nearest is seen, of points equally near the first.

    A point covers the pixel it lies in, and all pixels whose centres are within ``radius`` pixels
    of it. The depth is differentiable by the point that is seen; which one that is has no
    derivative. Only points in front of the camera's plane appear, also to cameras that see beyond.

    Args:
        points: ``(*batch, point, 3)`` as for ``project_lidar``; in the cameras' own frames, if
            not said otherwise.
        camera: One or many.
        cam_from_points: From the points' frame to each camera's.
        radius: In pixels.
        near: A point appears if it is deeper.

    Raises:
        ValueError: If ``radius`` or ``near`` is negative, or batches do not broadcast.
        TypeError: If the points are neither float32 nor float64.
    """
    if not radius >= 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    if cam_from_points is None:
        cam_from_points = RigidTransform.identity(dtype=points.dtype, device=points.device)
    pixels, depth, valid = _project(points, camera, cam_from_points, near, margin=radius)
    batch, flat = valid.shape[:-1], (valid.shape[:-1].numel(), valid.shape[-1])
    depth_map, point = splat(
        pixels.reshape(*flat, 2),
        depth.reshape(flat),
        valid.reshape(flat),
        size=camera.size,
        radius=radius,
    )
    point = point.reshape(*batch, *camera.size)
    return SplattedDepth(depth_map.reshape(*batch, *camera.size), point, point >= 0)


def _project(
    points: Tensor, camera: Camera, cam_from_points: RigidTransform, near: float, *, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Project points, valid up to some pixels outside the image."""
    if not near >= 0:
        raise ValueError(f"near must not be negative, got {near}")
    if points.dtype not in (torch.float32, torch.float64) or points.ndim < 2:
        raise TypeError(
            "points must be (*batch, point, 3) in float32 or float64, got "
            f"{points.dtype} {tuple(points.shape)}"
        )
    batch = _broadcast(points.shape[:-2], camera.shape, cam_from_points.shape)
    transform = cam_from_points.to(dtype=points.dtype)
    if isinstance(camera, PinholeCamera):
        return _project_pinhole(points, camera, transform, batch, near=near, margin=margin)
    pose = RigidTransform(
        transform.rotation.expand(*batch, 3, 3), transform.translation.expand(*batch, 3)
    )
    # A point that is nowhere must not reach the pose's gradient.
    known = points.isfinite().all(dim=-1)
    points = torch.where(known[..., None], points, 0.0)
    pixels, depth, valid = camera.project(pose.apply(points.expand(*batch, -1, 3)))
    height, width = camera.size
    u, v = pixels.unbind(dim=-1)
    inside = (u >= -margin) & (u <= width + margin) & (v >= -margin) & (v <= height + margin)
    valid = valid & known & inside & (depth > near)
    pixels, depth = torch.where(valid[..., None], pixels, 0.0), torch.where(valid, depth, 0.0)
    return pixels.to(points.dtype), depth.to(points.dtype), valid


def _broadcast(points: torch.Size, cameras: torch.Size, poses: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(points, cameras, poses)
    except RuntimeError as error:
        raise ValueError(
            f"batches of points, cameras and poses must broadcast, got {tuple(points)}, "
            f"{tuple(cameras)} and {tuple(poses)}"
        ) from error


def _project_pinhole(
    points: Tensor,
    camera: PinholeCamera,
    transform: RigidTransform,
    batch: torch.Size,
    *,
    near: float,
    margin: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move and project in one pass; a cloud that all cameras share is not copied."""
    count, dtype = points.shape[-2], points.dtype
    cameras = batch.numel()
    shared = points.shape[:-2].numel() == 1
    clouds = points if shared else points.expand(*batch, -1, -1)
    matrix = torch.cat([transform.rotation, transform.translation[..., None]], dim=-1)
    pixels, depth, valid = project_pinhole(
        clouds.reshape(1 if shared else cameras, count, 3),
        matrix.expand(*batch, 3, 4).reshape(cameras, 3, 4),
        camera.focal.to(dtype).expand(*batch, 2).reshape(cameras, 2),
        camera.principal_point.to(dtype).expand(*batch, 2).reshape(cameras, 2),
        size=camera.size,
        near=near,
        margin=margin,
    )
    return (
        pixels.reshape(*batch, count, 2),
        depth.reshape(*batch, count),
        valid.reshape(*batch, count),
    )
