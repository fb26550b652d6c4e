"""Rays: of pixels, in any frame, as far as a box reaches."""

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.batching import over_points
from geomim.cameras import NEAREST_DEPTH, Camera
from geomim.cameras.lens import GRAZING
from geomim.kernels.clipping.op import clip_rays as clip_flat_rays
from geomim.transforms import RigidTransform

Corner = tuple[float, float, float]


class RayDistances(NamedTuple):
    """Lengths along rays. Where ``valid`` is False they are 0, with zero gradient."""

    distances: Float[Tensor, "*ray"]
    valid: Bool[Tensor, "*ray"]


class RayDepths(NamedTuple):
    """Lengths along an optical axis. Where ``valid`` is False they are 0, with zero gradient."""

    depths: Float[Tensor, "*ray"]
    """Negative where a ray leads backwards, 0 where it leads neither forward nor backwards."""
    valid: Bool[Tensor, "*ray"]


class RaySpan(NamedTuple):
    """The part of each ray in a box. Where ``valid`` is False it is 0 to 0, with zero gradient."""

    near: Float[Tensor, "*ray"]
    far: Float[Tensor, "*ray"]
    """At least ``near``; equal to it where a ray only touches the box."""
    valid: Bool[Tensor, "*ray"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """Half lines ``origin + distance * direction``, all in one frame, which is the user's.

    Directions have unit length, so that distances are metres. Where ``valid`` is False there is no
    ray: the functions that return rays put 0 there, with zero gradient, and those that take them
    look no further.

    Raises:
        ValueError: If the parts differ in batch shape, dtype or device.
    """

    origins: Float[Tensor, "*ray 3"]
    directions: Float[Tensor, "*ray 3"]
    valid: Bool[Tensor, "*ray"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        shapes = tuple(tuple(p.shape) for p in (self.origins, self.directions, self.valid))
        if shapes[0] != shapes[1] or shapes[0] != (*shapes[2], 3):
            raise ValueError(
                "origins, directions and valid must be (*ray, 3), (*ray, 3) and (*ray,), got "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
            )
        kinds = [(part.dtype, part.device) for part in (self.origins, self.directions)]
        if kinds[0] != kinds[1] or self.valid.device != kinds[0][1]:
            raise ValueError(
                "origins, directions and valid must share device, the first two dtype, got "
                f"{kinds[0]}, {kinds[1]} and {self.valid.device}"
            )

    @classmethod
    def along(
        cls, origins: Float[Tensor, "*#ray 3"], directions: Float[Tensor, "*#ray 3"]
    ) -> "Rays":
        """Return rays in directions of any length but zero; invalid where they are not finite."""
        origins, directions = torch.broadcast_tensors(origins, directions)
        # The largest part first: squares of tiny and of huge directions leave their range.
        reach = directions.detach().abs().amax(dim=-1, keepdim=True)
        valid = (origins.isfinite().all(dim=-1)) & (reach.isfinite() & (reach > 0))[..., 0]
        keep = valid[..., None]
        ahead = directions.new_tensor([0.0, 0.0, 1.0])
        scaled = torch.where(keep, directions, ahead) / torch.where(keep, reach, 1.0)
        units = scaled / scaled.square().sum(dim=-1, keepdim=True).sqrt()
        return cls(torch.where(keep, origins, 0.0), torch.where(keep, units, 0.0), valid)

    @property
    def shape(self) -> torch.Size:
        """The batch shape."""
        return self.valid.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of origins and directions."""
        return self.origins.dtype

    @property
    def device(self) -> torch.device:
        """The device of all parts."""
        return self.origins.device

    def points_at(self, distances: Float[Tensor, "*distance"]) -> Float[Tensor, "*distance 3"]:
        """Return points along the rays; 0, with zero gradient, where a ray is not valid.

        The leading axes of ``distances`` are the rays', all further ones are samples: rays
        ``(b, n)`` take distances ``(b, n, sample)``.

        Raises:
            ValueError: If ``distances`` does not lead with the rays' batch.
        """
        count = len(self.shape)
        if distances.shape[:count] != self.shape:
            raise ValueError(
                f"distances must lead with the rays {tuple(self.shape)}, "
                f"got {tuple(distances.shape)}"
            )
        axes = (*self.shape, *(1,) * (distances.ndim - count))
        origins, directions = (p.reshape(*axes, 3) for p in (self.origins, self.directions))
        keep = self.valid.reshape(*axes, 1)
        along = torch.where(keep, distances[..., None], 0.0) * torch.where(keep, directions, 0.0)
        return torch.where(keep, origins, 0.0) + along

    def transform(self, target_from_source: RigidTransform) -> "Rays":
        """Return the same rays in another frame; the transform's batch leads theirs.

        A ray is not valid where the transform is not finite, as poses of lost cameras are not.

        Raises:
            ValueError: If the rays do not lead with the transform's batch.
        """
        rotation, translation = target_from_source.rotation, target_from_source.translation
        known = rotation.isfinite().all(dim=-1).all(dim=-1) & translation.isfinite().all(dim=-1)
        turn = torch.where(known[..., None, None], rotation, 0.0)
        finite = RigidTransform(turn, torch.where(known[..., None], translation, 0.0))
        valid = self.valid & known.reshape(over_points(known.shape, self.origins))
        keep = valid[..., None]
        origins = torch.where(keep, finite.apply(torch.where(keep, self.origins, 0.0)), 0.0)
        directions = finite.rotate(torch.where(keep, self.directions, 0.0))
        return Rays(origins, directions, valid)

    def reshape(self, *shape: int) -> "Rays":
        """Return the same rays in another batch shape."""
        return Rays(
            self.origins.reshape(*shape, 3),
            self.directions.reshape(*shape, 3),
            self.valid.reshape(shape),
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Rays":
        """Return the same rays on a device, in a dtype."""
        origins, directions = (
            part.to(device=device, dtype=dtype) for part in (self.origins, self.directions)
        )
        return Rays(origins, directions, self.valid.to(device=device))


def rays_of_pixels(
    camera: Camera,
    pixels: Float[Tensor, "*point 2"],
    *,
    world_from_cam: RigidTransform | None = None,
) -> Rays:
    """Return the rays that pixels see, in the camera's frame or in the world.

    They start at the camera's centre; ``pixels`` lead with the camera's batch, and with that of the
    pose. Invalid where the pixel has no ray or the pose is not finite.

    Raises:
        ValueError: If ``pixels`` does not lead with the batch.
    """
    directions, valid = camera.ray_directions(pixels)
    rays = Rays(torch.zeros_like(directions), directions, valid)
    return rays if world_from_cam is None else rays.transform(world_from_cam)


def ray_distances_from_depths(
    rays: Rays, depths: Float[Tensor, "*ray"], *, world_from_cam: RigidTransform | None = None
) -> RayDistances:
    """Measure along the rays of a camera what was measured along its optical axis.

    Valid where ``camera.unproject`` is: the depth has the sign of the ray's own, which is negative
    beyond 90 degrees from the axis, and the ray does not run along the camera's plane.

    Args:
        rays: As :func:`rays_of_pixels` returns them,
        depths: one for each,
        world_from_cam: and its pose, if the rays are in the world.

    Raises:
        ValueError: If ``depths`` are not one for each ray.
    """
    slant = _slant(rays, depths, "depths", world_from_cam)
    with torch.no_grad():
        known = rays.valid & slant.isfinite() & (slant.abs() > GRAZING)
        distances = depths / torch.where(known, slant, 1.0)
        valid = known & (distances > 0) & distances.isfinite() & (depths.abs() > NEAREST_DEPTH)
    return RayDistances(torch.where(valid, depths, 0.0) / torch.where(valid, slant, 1.0), valid)


def ray_depths_from_distances(
    rays: Rays, distances: Float[Tensor, "*ray"], *, world_from_cam: RigidTransform | None = None
) -> RayDepths:
    """Measure along a camera's optical axis what was measured along its rays.

    Valid where the ray is and the distance is finite and more than a micrometre.

    Args:
        rays: As :func:`rays_of_pixels` returns them,
        distances: one for each,
        world_from_cam: and the camera's pose, if the rays are in the world.

    Raises:
        ValueError: If ``distances`` are not one for each ray.
    """
    slant = _slant(rays, distances, "distances", world_from_cam)
    valid = rays.valid & slant.isfinite() & distances.isfinite() & (distances > NEAREST_DEPTH)
    return RayDepths(torch.where(valid, distances, 0.0) * torch.where(valid, slant, 0.0), valid)


def clip_rays_to_box(
    rays: Rays,
    lower: Float[Tensor, "*#box 3"] | Corner,
    upper: Float[Tensor, "*#box 3"] | Corner,
    *,
    near: float = 0.0,
    far: float = math.inf,
) -> RaySpan:
    """Return where rays enter and leave boxes along the axes: Kay and Kajiya 1986, exactly.

    Faces belong to a box, so a ray may run in one or touch a corner. Rays and boxes broadcast as
    tensors do. No ray hits a box whose lower corner is above its upper one. Differentiable, once,
    in rays and corners; a ray that starts inside has its ``near`` from the argument, without
    gradient.

    Args:
        rays: In the frame of the boxes.
        lower: Corners of least x, y and z.
        upper: Opposite corners.
        near: Nothing closer counts,
        far: and nothing farther.

    Raises:
        TypeError: If the rays are neither float32 nor float64.
    """
    boxes = [torch.as_tensor(c, dtype=rays.dtype, device=rays.device) for c in (lower, upper)]
    low, high = torch.broadcast_tensors(*boxes)
    origins, _ = torch.broadcast_tensors(rays.origins, low)
    batch = origins.shape[:-1]
    # One box for all is never written out.
    low, high = (c.reshape(1, 3) if c.numel() == 3 else c.expand_as(origins) for c in (low, high))
    first, last, valid = clip_flat_rays(
        origins.reshape(-1, 3),
        rays.directions.expand_as(origins).reshape(-1, 3),
        low.reshape(-1, 3),
        high.reshape(-1, 3),
        rays.valid.expand(batch).reshape(-1),
        near=near,
        far=far,
    )
    return RaySpan(first.reshape(batch), last.reshape(batch), valid.reshape(batch))


def _slant(rays: Rays, lengths: Tensor, name: str, world_from_cam: RigidTransform | None) -> Tensor:
    """Return depth over distance for every ray."""
    if lengths.shape != rays.shape:
        raise ValueError(
            f"{name} must be one for each ray {tuple(rays.shape)}, got {tuple(lengths.shape)}"
        )
    if world_from_cam is None:
        return rays.directions[..., 2]
    axis = world_from_cam.rotation[..., 2]
    axis = axis.reshape(*over_points(world_from_cam.shape, rays.directions), 3)
    return (torch.where(rays.valid[..., None], axis, 0.0) * rays.directions).sum(dim=-1)
