"""The fisheye lens of OpenCV, here with all of its field of view."""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.cameras.distortion import angle_coefficients, distort_plane, undistort_plane
from geomim.cameras.lens import Bent, LensCamera, Sights, check_coefficients
from geomim.cameras.plane import PlaneCamera, read_matrix
from geomim.cameras.protocol import NEAREST_DEPTH

# Below this square, series of five terms are exact to double precision.
_SMALL = 1e-4


@final
@dataclass(frozen=True, slots=True, eq=False)
class KannalaBrandtCamera(LensCamera):
    """A fisheye camera: the radius is a polynomial in the angle from the axis.

    Kannala and Brandt 2006, equation 6, with the four ``coefficients`` k1 k2 k3 k4 of
    ``cv2.fisheye``. With ``theta`` the angle between the ray and the optical axis::

        theta_d = theta (1 + k1 theta**2 + k2 theta**4 + k3 theta**6 + k4 theta**8)
        pixel = focal * theta_d * (x, y) / hypot(x, y) + principal_point

    Angles beyond 90 degrees are as good as any. Valid up to the angle at which ``theta_d`` stops
    rising, or short of the point right behind the camera.

    Raises:
        ValueError: If the parts differ in batch, dtype or device, or are not four coefficients.
    """

    coefficients: Float[Tensor, "*batch 4"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        PlaneCamera.__post_init__(self)
        check_coefficients(self.coefficients, self.focal, counts=(4,), names="k1 k2 k3 k4")

    @classmethod
    def from_matrix(
        cls,
        matrix: Float[Tensor, "*batch 3 3"],
        coefficients: Float[Tensor, "*batch 4"],
        *,
        size: tuple[int, int],
        source_pixel_centre: Literal["integer", "half"] = "half",
    ) -> "KannalaBrandtCamera":
        """Read a calibration; see :meth:`geomim.cameras.PinholeCamera.from_matrix`.

        Raises:
            ValueError: If the matrix has skew.
        """
        return cls(*read_matrix(matrix, source_pixel_centre), size, coefficients)

    def _bend(self, points: Tensor) -> Bent:
        angles = points[..., :2] * _angle_over_radius(points)[..., None]
        plane, regular = distort_plane(
            angles, angle_coefficients(self.coefficients), farthest=math.pi
        )
        return Bent(plane, regular & (points.norm(dim=-1) > NEAREST_DEPTH))

    def _straighten(self, plane: Tensor) -> Sights:
        angles, known = undistort_plane(
            plane, angle_coefficients(self.coefficients), farthest=math.pi
        )
        sinc, cosine = _sinc_and_cosine(angles.square().sum(dim=-1))
        return Sights(torch.cat([angles * sinc[..., None], cosine[..., None]], dim=-1), known)


def _angle_over_radius(points: Tensor) -> Tensor:
    """Return ``theta / hypot(x, y)``, on the axis its limit ``1 / z``."""
    x, y, z = points.unbind(dim=-1)
    squared = x * x + y * y
    near = (z > 0) & (squared < _SMALL * z * z)
    depth = torch.where(near, z, 1.0)
    t = torch.where(near, squared, 0.0) / (depth * depth)
    series = (1 + t * (-1 / 3 + t * (1 / 5 + t * (-1 / 7 + t / 9)))) / depth
    radius = torch.where(near, 1.0, squared).sqrt()
    return torch.where(near, series, torch.atan2(radius, z) / radius)


def _sinc_and_cosine(squared: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``sin(a) / a`` and ``cos(a)`` of the root of a square."""
    near = squared < _SMALL
    s = torch.where(near, squared, 0.0)
    angle = torch.where(near, 1.0, squared).sqrt()
    sinc = 1 + s * (-1 / 6 + s * (1 / 120 - s / 5040))
    cosine = 1 + s * (-1 / 2 + s * (1 / 24 - s / 720))
    return torch.where(near, sinc, angle.sin() / angle), torch.where(near, cosine, angle.cos())
