"""Cameras that see around themselves by way of spheres and ellipsoids."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.cameras.distortion import distort_plane, opencv_coefficients, undistort_plane
from geomim.cameras.lens import (
    Bent,
    LensCamera,
    Sights,
    check_coefficients,
    parameters_over,
    root_or_zero,
)
from geomim.cameras.plane import PlaneCamera
from geomim.cameras.protocol import NEAREST_DEPTH


@final
@dataclass(frozen=True, slots=True, eq=False)
class ExtendedUnifiedCamera(LensCamera):
    """EUCM, a projection by way of an ellipsoid (Khomutenko et al. 2016).

    ``coefficients`` are alpha, from 0 (a pinhole camera) to 1, and beta, which is positive::

        d = sqrt(beta (x**2 + y**2) + z**2)
        pixel = focal * (x, y) / (alpha d + (1 - alpha) z) + principal_point

    Valid where ``z > -w d`` with w the smaller of ``alpha / (1 - alpha)`` and its inverse, and the
    divisor exceeds a micrometre; of pixels, where ``beta (2 alpha - 1) (x**2 + y**2) < 1`` on the
    plane (Usenko et al. 2018).

    Raises:
        ValueError: If the parts differ in batch, dtype or device, or are not two coefficients.
    """

    coefficients: Float[Tensor, "*batch 2"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        PlaneCamera.__post_init__(self)
        check_coefficients(self.coefficients, self.focal, counts=(2,), names="alpha beta")

    def _bend(self, points: Tensor) -> Bent:
        alpha, beta = parameters_over(self.coefficients, self.shape, points)
        x, y, z = points.unbind(dim=-1)
        d = root_or_zero(beta * (x * x + y * y) + z * z)
        divisor = alpha * d + (1 - alpha) * z
        holds = (z > -_cone(alpha) * d) & (divisor > NEAREST_DEPTH)
        return Bent(points[..., :2] / divisor[..., None], holds)

    def _straighten(self, plane: Tensor) -> Sights:
        alpha, beta = parameters_over(self.coefficients, self.shape, plane)
        squared = beta * plane.square().sum(dim=-1)
        inside = 1 - (2 * alpha - 1) * squared
        holds = inside > 0
        # As in Usenko et al. 2018, but times the divisor of the height, which is positive.
        height = 1 - alpha * alpha * squared
        scale = alpha * root_or_zero(inside) + (1 - alpha)
        vectors = torch.cat([plane * scale[..., None], height[..., None]], dim=-1)
        return Sights(_where_it(holds, vectors), holds)


@final
@dataclass(frozen=True, slots=True, eq=False)
class DoubleSphereCamera(LensCamera):
    """A projection by way of two spheres (Usenko et al. 2018).

    ``coefficients`` are xi, the distance of the spheres' centres, and alpha, from 0 to 1::

        d1 = |(x, y, z)|
        d2 = |(x, y, xi d1 + z)|
        pixel = focal * (x, y) / (alpha d2 + (1 - alpha) (xi d1 + z)) + principal_point

    Valid where ``xi d1 + z > -w d2`` with w the smaller of ``alpha / (1 - alpha)`` and its inverse,
    ``d1 + xi z > 0``, and the divisor exceeds a micrometre; of pixels, where
    ``(2 alpha - 1) (x**2 + y**2) < 1`` on the plane. The first says of the second sphere
    what the paper's bound ``w2`` on ``z / d1`` says of the first, there only nearly.

    Raises:
        ValueError: If the parts differ in batch, dtype or device, or are not two coefficients.
    """

    coefficients: Float[Tensor, "*batch 2"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        PlaneCamera.__post_init__(self)
        check_coefficients(self.coefficients, self.focal, counts=(2,), names="xi alpha")

    def _bend(self, points: Tensor) -> Bent:
        xi, alpha = parameters_over(self.coefficients, self.shape, points)
        x, y, z = points.unbind(dim=-1)
        squared = x * x + y * y
        d1 = root_or_zero(squared + z * z)
        ahead = xi * d1 + z
        d2 = root_or_zero(squared + ahead * ahead)
        divisor = alpha * d2 + (1 - alpha) * ahead
        holds = (ahead > -_cone(alpha) * d2) & (d1 + xi * z > 0) & (divisor > NEAREST_DEPTH)
        return Bent(points[..., :2] / divisor[..., None], holds)

    def _straighten(self, plane: Tensor) -> Sights:
        xi, alpha = parameters_over(self.coefficients, self.shape, plane)
        bound = (2 * alpha - 1).clamp(min=0)
        within = bound * plane.square().sum(dim=-1) < 1
        # Masked beforehand: at the bound and beyond, quotients and roots have no slope.
        plane = torch.where(within[..., None], plane, 0.0)
        squared = plane.square().sum(dim=-1)
        inside = 1 - (2 * alpha - 1) * squared
        height = (1 - alpha * alpha * squared) / (alpha * root_or_zero(inside) + 1 - alpha)
        reached = height * height + (1 - xi * xi) * squared
        scale = (height * xi + root_or_zero(reached)) / (height * height + squared)
        vectors = torch.cat([plane * scale[..., None], (scale * height - xi)[..., None]], dim=-1)
        holds = within & (reached > 0) & (scale > 0)
        return Sights(_where_it(holds, vectors), holds)


@final
@dataclass(frozen=True, slots=True, eq=False)
class MeiCamera(LensCamera):
    """The unified omnidirectional model of ``cv2.omnidir`` (Mei and Rives 2007).

    ``coefficients`` are xi, k1 k2 p1 p2. With ``d = |(x, y, z)|``, the plane of a Brown-Conrady
    lens holds ``(x, y) / (z + xi d)``; its distortion then makes the pixel, as in
    :class:`geomim.cameras.BrownConradyCamera`.

    Valid where ``z > -w d`` with w the smaller of xi and its inverse, the divisor exceeds a
    micrometre, and within the reach of the distortion.

    Raises:
        ValueError: If the parts differ in batch, dtype or device, or are not five coefficients.
    """

    coefficients: Float[Tensor, "*batch 5"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        PlaneCamera.__post_init__(self)
        check_coefficients(self.coefficients, self.focal, counts=(5,), names="xi k1 k2 p1 p2")

    def _bend(self, points: Tensor) -> Bent:
        (xi,) = parameters_over(self.coefficients[..., :1], self.shape, points)
        xy, z = points[..., :2], points[..., 2]
        d = root_or_zero(points.square().sum(dim=-1))
        divisor = z + xi * d
        plane, regular = distort_plane(
            xy / divisor[..., None], opencv_coefficients(self.coefficients[..., 1:])
        )
        holds = (z > -torch.where(xi > 1, 1 / xi, xi) * d) & (divisor > NEAREST_DEPTH)
        return Bent(plane, regular & holds)

    def _straighten(self, plane: Tensor) -> Sights:
        (xi,) = parameters_over(self.coefficients[..., :1], self.shape, plane)
        xy, known = undistort_plane(plane, opencv_coefficients(self.coefficients[..., 1:]))
        squared = xy.square().sum(dim=-1)
        inside = 1 + (1 - xi * xi) * squared
        scale = (xi + root_or_zero(inside)) / (squared + 1)
        vectors = torch.cat([xy * scale[..., None], (scale - xi)[..., None]], dim=-1)
        holds = known & (inside > 0)
        return Sights(_where_it(holds, vectors), holds)


def _cone(alpha: Tensor) -> Tensor:
    """Return the smaller of ``alpha / (1 - alpha)`` and its inverse, with no gradient."""
    alpha = alpha.detach()
    return torch.where(alpha > 0.5, (1 - alpha) / alpha, alpha / (1 - alpha))


def _where_it(holds: Tensor, vectors: Tensor) -> Tensor:
    return torch.where(holds[..., None], vectors, 0.0)
