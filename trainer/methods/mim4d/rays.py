"""Which rays are cast through which pixels of the supervised frames, and what they should see.

Lidar pixels first, others from a grid below the sky (release). Rays are in the rig's frame of
their own moment and start from where each camera truly was: the release gives the others of a past
frame directions of the key frame's lidar, and so wrong ones whenever the vehicle drives.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from geomim.cameras import PinholeCamera
from geomim.pixel_choice import depth_aware_pixels, pixels_from_mask
from geomim.rays import Rays, ray_distances_from_depths, rays_of_pixels
from geomim.splatting import project_lidar, splat_depth
from geomim.transforms import RigidTransform
from geomim_data.clip_batch import ClipLidar


@final
@dataclass(frozen=True, slots=True, eq=False)
class RayPlan:
    """How many rays a view gets, and through which pixels.

    Args:
        count: Rays of a view (release: 512 or 2048).
        lidar: Largest share that lidar pixels take; the others come from the grid (release: 1).
        stride: Of the grid, in pixels (release).
        sky: Share of the image, from its top, without others (release).
    """

    count: int = 512
    lidar: float = 1.0
    stride: int = 4
    sky: float = 0.4


class LidarPixels(NamedTuple):
    """The nearest lidar point in every pixel. Where ``valid`` is False all is 0."""

    depth: Float[Tensor, "batch frame view h w"]
    """Along the optical axis."""
    pixels: Float[Tensor, "batch frame view h w 2"]
    """Where the point is within its pixel: on the road, half a pixel can be a metre."""
    valid: Bool[Tensor, "batch frame view h w"]


class TargetRays(NamedTuple):
    """Rays of all views of a frame, as many a view, and what they should see."""

    rays: Rays
    """In the rig's frame of their moment, ``(batch, frame, ray)``; not valid where there are
    fewer pixels to choose from."""
    rgb: Float[Tensor, "batch frame ray 3"]
    distance: Float[Tensor, "batch frame ray"]
    """Metres along the ray."""
    measured: Bool[Tensor, "batch frame ray"]
    """Where there is a distance; else it is 0."""
    slant: Float[Tensor, "batch frame ray"]
    """Depth along the optical axis of a distance of 1."""
    pixels: Float[Tensor, "batch frame ray 2"]
    view: Int[Tensor, " ray"]


def choose_rays(
    images: Float[Tensor, "batch frame view 3 h w"],
    camera: PinholeCamera,
    *,
    rig_from_cam: RigidTransform,
    unpadded: Int64[Tensor, "batch frame view 2"],
    valid: Bool[Tensor, "batch frame view"],
    plan: RayPlan,
    generator: torch.Generator,
    lidar: LidarPixels | None = None,
) -> TargetRays:
    """Choose pixels of every view, and say what their rays should see.

    A ray through a lidar pixel goes through the point itself. Without lidar all are from the grid.

    Args:
        images: Colours of 0 to 1, nothing masked.
        camera: Of the images,
        rig_from_cam: and their poses, in the rig's frame of each frame.
        unpadded: Height and width of what is image; there are no rays through the padding.
        valid: False for images that are missing.
        plan: How many, and through which pixels.
        generator: On the images' device.
        lidar: Of the same frames, as :func:`lidar_pixels` returns it.
    """
    height, width = camera.size
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    ends = unpadded[..., None, None]
    inside = (rows < ends[..., 0, :, :]) & (columns < ends[..., 1, :, :]) & valid[..., None, None]
    sky = ~inside | (rows + 0.5 < plan.sky * ends[..., 0, :, :])
    known = torch.zeros_like(inside) if lidar is None else lidar.valid & inside
    first = known
    if plan.lidar < 1:
        first = _share(known, round(plan.lidar * plan.count), generator)
    chosen = depth_aware_pixels(
        first,
        count=plan.count,
        generator=generator,
        stride=plan.stride,
        sky_fraction=0.0,
        sky=sky,
        dtype=rig_from_cam.dtype,
    )
    rgb = _read(images.movedim(-3, -1), chosen.flat_index)
    pixels, depth, measured = chosen.pixels, torch.zeros_like(chosen.pixels[..., 0]), chosen.valid
    if lidar is None:
        measured = torch.zeros_like(measured)
    else:
        measured = measured & _read(known[..., None], chosen.flat_index)[..., 0]
        exact = _read(lidar.pixels, chosen.flat_index).to(pixels.dtype)
        pixels = torch.where(measured[..., None], exact, pixels)
        there = _read(lidar.depth[..., None], chosen.flat_index)[..., 0].to(pixels.dtype)
        depth = torch.where(measured, there, 0.0)
    rays = rays_of_pixels(camera, pixels)
    rays = Rays(rays.origins, rays.directions, rays.valid & chosen.valid)
    distances = ray_distances_from_depths(rays, depth)
    slant = torch.where(rays.valid, rays.directions[..., 2], 0.0)
    rays = rays.transform(rig_from_cam)
    views = torch.arange(images.shape[2], device=images.device).repeat_interleave(plan.count)
    return TargetRays(
        rays=rays.reshape(*images.shape[:2], len(views)),
        rgb=torch.where(chosen.valid[..., None], rgb, 0.0).flatten(2, 3),
        distance=distances.distances.flatten(2, 3),
        measured=(distances.valid & measured).flatten(2, 3),
        slant=slant.flatten(2, 3),
        pixels=pixels.flatten(2, 3),
        view=views,
    )


def lidar_pixels(
    lidar: ClipLidar,
    camera: PinholeCamera,
    *,
    world_from_cam: RigidTransform,
    timestamp_us: Int64[Tensor, "batch frame view"],
    valid: Bool[Tensor, "batch frame view"],
    near_m: float = 3.0,
    far_m: float = 100.0,
) -> LidarPixels:
    """Draw the nearest sweep in time into every view; what moves by itself is where it was then.

    Points go over the world, from the sweep's own pose to each camera's own.

    Args:
        lidar: Sweeps; where none is valid there are no points.
        camera: With the batch ``(batch, frame, view)``,
        world_from_cam: and their poses,
        timestamp_us: and times.
        valid: False for images that are missing.
        near_m: Points count beyond this horizontal distance from the lidar (release: 3 m),
        far_m: and up to this one (release: 50 or 100 m).
    """
    sweeps = _nearest_sweeps(lidar, timestamp_us, valid).tolist()
    maps: list[LidarPixels] = []
    for clip, of_frame in enumerate(sweeps):
        for frame, sweep in enumerate(of_frame):
            points = lidar.points[:0] if sweep < 0 else lidar.of(clip, sweep)
            reach = points[:, :2].norm(dim=-1)
            points = points[(reach > near_m) & (reach < far_m)]
            world_from_lidar = lidar.world_from_lidar[clip, max(sweep, 0)]
            cameras = PinholeCamera(
                camera.focal[clip, frame], camera.principal_point[clip, frame], camera.size
            )
            cam_from_lidar = world_from_cam[clip, frame].inverse() @ world_from_lidar
            maps.append(_draw(points, cameras, cam_from_lidar, valid[clip, frame]))
    batch = valid.shape[:2]
    return LidarPixels(
        *(torch.stack(parts).unflatten(0, batch) for parts in zip(*maps, strict=True))
    )


def _draw(
    points: Tensor, camera: PinholeCamera, cam_from_lidar: RigidTransform, valid: Tensor
) -> LidarPixels:
    """Draw one sweep into the views of one frame, as if those were a batch."""
    drawn = splat_depth(points, camera, cam_from_points=cam_from_lidar)
    seen = drawn.valid & valid[:, None, None]
    pixels = project_lidar(points, camera, cam_from_lidar=cam_from_lidar).pixels
    # One place more, so that there is something to read without any point.
    pixels = torch.nn.functional.pad(pixels, (0, 0, 0, 1))
    place = torch.where(seen, drawn.point, 0).long().flatten(1)
    exact = pixels.gather(1, place[..., None].expand(-1, -1, 2)).unflatten(1, camera.size)
    return LidarPixels(
        torch.where(seen, drawn.depth, 0.0), torch.where(seen[..., None], exact, 0.0), seen
    )


def _nearest_sweeps(lidar: ClipLidar, timestamp_us: Tensor, valid: Tensor) -> Tensor:
    """Return the sweep nearest to the mean time of each frame's views, or -1."""
    never = torch.iinfo(torch.int64).max
    count = valid.sum(dim=-1).clamp(min=1)
    first = torch.where(valid, timestamp_us, never).amin(dim=-1, keepdim=True)
    # From the first view on: sums of times since 1970 might not fit.
    mean = first[..., 0] + torch.where(valid, timestamp_us - first, 0).sum(dim=-1) // count
    apart = (lidar.timestamp_us[:, None] - mean[..., None]).abs()
    apart = torch.where(lidar.valid[:, None], apart, never)
    known = valid.any(dim=-1) & lidar.valid.any(dim=-1, keepdim=True)
    return torch.where(known, apart.argmin(dim=-1), -1)


def _share(
    known: Bool[Tensor, "batch frame view h w"], count: int, generator: torch.Generator
) -> Bool[Tensor, "batch frame view h w"]:
    """Keep at most so many pixels of known depth a view, at random."""
    chosen = pixels_from_mask(known, count=count, generator=generator)
    flat = torch.zeros_like(known.flatten(-2))
    # Places that are not valid all point at the first pixel: add, so that none unsets it.
    flat = flat.to(torch.uint8).scatter_add(-1, chosen.flat_index, chosen.valid.to(torch.uint8))
    return (flat > 0).unflatten(-1, known.shape[-2:])


def _read(maps: Tensor, flat_index: Int[Tensor, "batch frame view pixel"]) -> Tensor:
    """Return what maps, channels last, hold at pixels."""
    index = flat_index[..., None].expand(*flat_index.shape, maps.shape[-1])
    return maps.flatten(-3, -2).gather(-2, index)
