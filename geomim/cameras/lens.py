"""Cameras whose rays are bent before they meet the plane: what all of them do alike."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.batching import over_points
from geomim.cameras.plane import PlaneCamera, all_finite, length
from geomim.cameras.protocol import NEAREST_DEPTH, Projection, RayDirections, Unprojection

# A ray this close to the camera's plane, in radians, crosses no depth but 0.
GRAZING = 1e-6


class Bent(NamedTuple):
    """Where rays meet the plane, and where the model holds; anything elsewhere."""

    plane: Tensor
    holds: Tensor


class Sights(NamedTuple):
    """Vectors along rays, of any positive length, and where the model holds."""

    vectors: Tensor
    holds: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LensCamera(PlaneCamera):
    """A camera given by ``_bend``, from points to the plane, and by its inverse ``_straighten``."""

    @abstractmethod
    def _bend(self, points: Tensor) -> Bent:
        """Carry points to the plane; with finite gradient where the model holds."""

    @abstractmethod
    def _straighten(self, plane: Tensor) -> Sights:
        """Carry the plane to rays; with gradient 0 where the model does not hold."""

    def project(self, points_cam: Float[Tensor, "*point 3"]) -> Projection:
        """Return the pixels and depths of points; invalid where the model does not hold."""
        focal, principal_point = self._over(points_cam)
        plane, holds = self._bend(points_cam)
        pixels = focal * plane + principal_point
        valid = holds & all_finite(points_cam) & all_finite(pixels)
        if pixels.requires_grad:
            # Once more without the others: their infinite slopes would spoil a gradient of 0.
            plane, _ = self._bend(_or_ahead(valid, points_cam))
            pixels = focal * plane + principal_point
        pixels = torch.where(valid[..., None], pixels, 0.0)
        return Projection(pixels, torch.where(valid, points_cam[..., 2], 0.0), valid)

    def unproject(
        self, pixels: Float[Tensor, "*#point 2"], depth: Float[Tensor, "*#point"]
    ) -> Unprojection:
        """Return the points at depths along the optical axis; invalid where the depth is.

        So it is where a depth differs in sign from that of the ray, or the ray runs along the
        camera's plane.
        """
        vectors, holds = self._sights(pixels)
        along = vectors[..., 2]
        with torch.no_grad():
            stretch = depth / along
            crosses = along.abs() > GRAZING * length(vectors)
            meets = holds & crosses & (stretch > 0) & (stretch < math.inf)
            meets = meets & (depth.abs() > NEAREST_DEPTH)
        # Masked before and after: no quotient is felt that is not one.
        stretch = torch.where(meets, depth, 1.0) / torch.where(meets, along, 1.0)
        points = vectors * stretch[..., None]
        valid = meets & all_finite(points.detach())
        return Unprojection(torch.where(valid[..., None], points, 0.0), valid)

    def ray_directions(self, pixels: Float[Tensor, "*point 2"]) -> RayDirections:
        """Return the unit directions in which pixels look; invalid where the model holds none."""
        vectors, holds = self._sights(pixels)
        directions = vectors / length(vectors)[..., None]
        return RayDirections(torch.where(holds[..., None], directions, 0.0), holds)

    def _sights(self, pixels: Tensor) -> Sights:
        """Return vectors along the rays of pixels, straight ahead where there is none."""
        focal, principal_point = self._over(pixels)
        plane = (pixels - principal_point) / focal
        finite = all_finite(plane)
        if plane.requires_grad:
            # Once more without the others: intrinsics must not feel what is not finite.
            plane = (torch.where(finite[..., None], pixels, 0.0) - principal_point) / focal
        vectors, holds = self._straighten(torch.where(finite[..., None], plane, 0.0))
        holds = holds & finite & length(vectors.detach()).isfinite()
        return Sights(_or_ahead(holds, vectors), holds)


def parameters_over(parameters: Tensor, batch: torch.Size, points: Tensor) -> tuple[Tensor, ...]:
    """Return each parameter with an axis of 1 for every axis of points behind the batch."""
    axes = over_points(batch, points)
    return parameters.reshape(*axes, parameters.shape[-1]).unbind(dim=-1)


def check_coefficients(
    coefficients: Tensor, focal: Tensor, *, counts: tuple[int, ...], names: str
) -> None:
    """Refuse coefficients that do not belong to the focal length, or are of another number."""
    like = (tuple(focal.shape[:-1]), focal.dtype, focal.device)
    own = (tuple(coefficients.shape[:-1]), coefficients.dtype, coefficients.device)
    if coefficients.ndim == 0 or coefficients.shape[-1] not in counts or own != like:
        raise ValueError(
            f"coefficients must be {names}: {' or '.join(map(str, counts))} for each of the "
            f"batch {like}, got {tuple(coefficients.shape)}, {own[1]}, {own[2]}"
        )


def root_or_zero(square: Tensor) -> Tensor:
    """Return the square root, 0 with gradient 0 where there is none or its slope is infinite."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _or_ahead(valid: Tensor, vectors: Tensor) -> Tensor:
    """Put (0, 0, 1) in place of vectors that are not valid."""
    return torch.where(valid[..., None], vectors, vectors.new_tensor([0.0, 0.0, 1.0]))
