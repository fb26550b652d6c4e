"""Rays through a field: colour, distance and normals, as NeuS renders them, in float32.

72 samples a ray, and 24 more where the surface seems to be (release; one step of NeuS's own
up-sampling). Rays that miss the box, or have no pixel, are not valid; nothing is asserted.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.cameras import Camera
from geomim.grids import VoxelGrid
from geomim.pixel_choice import stride_grid
from geomim.rays import Rays, clip_rays_to_box, ray_depths_from_distances, rays_of_pixels
from geomim.rendering import mean_distance, mean_normals, render_alpha
from geomim.sampling import SampledRays, even_samples, neus_samples, stratified_samples
from geomim.surfaces import neus_alpha
from geomim.transforms import RigidTransform
from trainer.methods.mim4d.field import SdfField


@final
@dataclass(frozen=True, slots=True, eq=False)
class SamplePlan:
    """Where rays are looked at.

    ``inv_s`` is the sharpness that places the last ``importance`` samples, per unit of scaled
    distance, as the field's own is in the release. Nothing nearer than ``near_m`` is looked at.
    """

    samples: int = 72
    importance: int = 24
    inv_s: float = 64.0
    near_m: float = 1.0


class RenderedRays(NamedTuple):
    """What rays see. Where ``valid`` is False all is 0, with zero gradient."""

    rgb: Float[Tensor, "batch ray 3"]
    """Of 0 to 1, times the opacity: behind the box it is black (release)."""
    distance: Float[Tensor, "batch ray"]
    """Metres along the ray, the mean over what is seen."""
    normal: Float[Tensor, "batch ray 3"]
    """In the frame of the rays; 0 where there is none."""
    opacity: Float[Tensor, "batch ray"]
    valid: Bool[Tensor, "batch ray"]
    weights: Float[Tensor, "batch ray sample"]
    places: Float[Tensor, "batch ray sample"]
    """Distances of the samples, for losses on them; so is what follows."""
    sdf: Float[Tensor, "batch ray sample"]
    gradient: Float[Tensor, "batch ray sample 3"]


class RenderedImage(NamedTuple):
    """Views rendered at every so-manieth pixel. Where ``valid`` is False all is 0."""

    rgb: Float[Tensor, "batch view 3 h w"]
    distance: Float[Tensor, "batch view h w"]
    depth: Float[Tensor, "batch view h w"]
    """Along the optical axis."""
    normal: Float[Tensor, "batch view 3 h w"]
    """In the rig's frame."""
    opacity: Float[Tensor, "batch view h w"]
    valid: Bool[Tensor, "batch view h w"]


def render_rays(
    field: SdfField,
    volume: Float[Tensor, "batch c z y x"],
    rays: Rays,
    *,
    plan: SamplePlan,
    generator: torch.Generator | None = None,
) -> RenderedRays:
    """Render rays, each through the volume of its batch item, whose frame they are in.

    Float32 under autocast too: half precision has steps of 3 cm at 60 m.

    Args:
        field: Its grid is the volume's.
        volume: Features.
        rays: With the batch ``(batch, ray)``; there may be none.
        plan: Where to look.
        generator: Moves the samples of each ray together (release); without, they are even.
    """
    with torch.autocast(volume.device.type, enabled=False):
        volume = volume if volume.dtype == torch.float64 else volume.float()
        rays = rays.to(dtype=volume.dtype)
        samples = _place(field, volume, rays, plan, generator)
        points = rays.points_at(samples.distances).flatten(1, 2)
        surface = field.surface(volume, points)
        directions = rays.directions[:, :, None].expand(*samples.distances.shape, 3)
        colours = field.colour(points, directions.flatten(1, 2), surface)
        axes = samples.distances.shape[1:]
        sdf, gradient = surface.sdf.unflatten(1, axes), surface.gradient.unflatten(1, axes)
        alphas = neus_alpha(
            sdf, gradient, directions, samples.starts, samples.ends, inv_s=field.inv_s
        )
        seen = render_alpha(
            alphas,
            samples.distances,
            colours.unflatten(1, axes),
            valid=samples.valid[..., None],
        )
        normal = mean_normals(seen.weights, gradient)
        valid = samples.valid & seen.valid
        return RenderedRays(
            rgb=seen.values,
            distance=mean_distance(seen),
            normal=torch.where(valid[..., None], normal, 0.0),
            opacity=seen.opacity,
            valid=valid,
            weights=seen.weights,
            places=samples.distances,
            sdf=sdf,
            gradient=gradient,
        )


@torch.no_grad()
def render_image(
    field: SdfField,
    volume: Float[Tensor, "batch c z y x"],
    *,
    camera: Camera,
    rig_from_cam: RigidTransform,
    plan: SamplePlan,
    stride: int = 8,
    chunk: int = 4096,
) -> RenderedImage:
    """Render whole views at every ``stride``-th pixel, without gradient, ``chunk`` rays at a time.

    Args:
        field: Its grid is the volume's.
        volume: Features.
        camera: With the batch ``(batch, view)``,
        rig_from_cam: and their poses in the volume's frame.
        plan: Where to look; nothing is drawn at random.
        stride: In pixels; the first is half of it from the left and the top.
        chunk: Rays of each batch item that are rendered at once.
    """
    device = volume.device
    pixels = stride_grid(camera.size, stride=stride, device=device, dtype=rig_from_cam.dtype).pixels
    pixels = pixels.expand(*rig_from_cam.shape, *pixels.shape)
    rays = rays_of_pixels(camera, pixels, world_from_cam=rig_from_cam)
    whole = rays.reshape(len(volume), -1)
    parts = [
        _for_picture(render_rays(field, volume, part, plan=plan)) for part in _chunks(whole, chunk)
    ]
    rgb, normal, distance, opacity, valid = (
        torch.cat(part, dim=1).unflatten(1, rays.shape[1:]) for part in zip(*parts, strict=True)
    )
    depth = ray_depths_from_distances(
        rays, distance.to(rays.dtype), world_from_cam=rig_from_cam
    ).depths
    rows, columns = (len(range(stride // 2, side, stride)) for side in camera.size)

    def image(values: Tensor) -> Tensor:
        return values.unflatten(2, (rows, columns))

    return RenderedImage(
        rgb=image(rgb).movedim(-1, 2),
        distance=image(distance),
        depth=image(depth),
        normal=image(normal).movedim(-1, 2),
        opacity=image(opacity),
        valid=image(valid),
    )


@torch.no_grad()
def _place(
    field: SdfField,
    volume: Tensor,
    rays: Rays,
    plan: SamplePlan,
    generator: torch.Generator | None,
) -> SampledRays:
    """Choose where to look, without gradient."""
    grid: VoxelGrid = field.grid
    near, far, hit = clip_rays_to_box(rays, grid.lower, grid.upper, near=plan.near_m)
    if generator is None:
        samples = even_samples(near, far, count=plan.samples, valid=hit)
    else:
        samples = stratified_samples(
            near, far, count=plan.samples, generator=generator, jitter="ray", valid=hit
        )
    if not plan.importance:
        return _centred(samples)

    def measure(distances: Tensor) -> Tensor:
        points = rays.points_at(distances).flatten(1, 2)
        return field.sdf(volume, points).unflatten(1, distances.shape[1:])

    samples = neus_samples(
        samples,
        measure,
        count=plan.importance,
        steps=1,
        inv_s=plan.inv_s * field.scale,
        generator=generator,
    )
    return _centred(samples)


def _centred(samples: SampledRays) -> SampledRays:
    """Look at the middle of each stretch, from which the distance is carried to its ends (NeuS)."""
    return samples._replace(distances=(samples.starts + samples.ends) / 2)


def _for_picture(rendered: RenderedRays) -> tuple[Tensor, ...]:
    return (
        rendered.rgb,
        rendered.normal,
        rendered.distance,
        rendered.opacity,
        rendered.valid,
    )


def _chunks(rays: Rays, chunk: int) -> list[Rays]:
    parts = (part.split(chunk, dim=1) for part in (rays.origins, rays.directions, rays.valid))
    return [Rays(*part) for part in zip(*parts, strict=True)]
