"""The lens of most calibrations: radial, tangential and thin prism distortion."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.cameras.distortion import distort_plane, opencv_coefficients, undistort_plane
from geomim.cameras.lens import Bent, LensCamera, Sights, check_coefficients
from geomim.cameras.plane import PlaneCamera, read_matrix
from geomim.cameras.protocol import NEAREST_DEPTH


@final
@dataclass(frozen=True, slots=True, eq=False)
class BrownConradyCamera(LensCamera):
    """A pinhole camera with OpenCV's lens distortion (Brown 1966, Conrady 1919).

    ``coefficients`` are the first 4, 5, 8 or 12 of k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4, OpenCV's
    order. With ``(x, y)`` the point over its depth and ``s = x**2 + y**2``::

        radial = (1 + k1 s + k2 s**2 + k3 s**3) / (1 + k4 s + k5 s**2 + k6 s**3)
        x' = x radial + 2 p1 x y + p2 (s + 2 x**2) + s1 s + s2 s**2
        y' = y radial + p1 (s + 2 y**2) + 2 p2 x y + s3 s + s4 s**2
        pixel = focal * (x', y') + principal_point

    Valid where the depth exceeds a micrometre, up to the radius at which ``r radial`` stops rising,
    and where the map keeps its orientation: beyond, a lens would show the scene a second time.
    ``unproject`` finds no point for pixels farther out than that.

    Raises:
        ValueError: If the parts differ in batch, dtype or device, or in number from OpenCV's.
    """

    coefficients: Float[Tensor, "*batch k"]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        PlaneCamera.__post_init__(self)
        names = "k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4"
        check_coefficients(self.coefficients, self.focal, counts=(4, 5, 8, 12), names=names)

    @classmethod
    def from_matrix(
        cls,
        matrix: Float[Tensor, "*batch 3 3"],
        coefficients: Float[Tensor, "*batch k"],
        *,
        size: tuple[int, int],
        source_pixel_centre: Literal["integer", "half"] = "half",
    ) -> "BrownConradyCamera":
        """Read a calibration; see :meth:`geomim.cameras.PinholeCamera.from_matrix`.

        Raises:
            ValueError: If the matrix has skew.
        """
        return cls(*read_matrix(matrix, source_pixel_centre), size, coefficients)

    def _bend(self, points: Tensor) -> Bent:
        xy, z = points.split([2, 1], dim=-1)
        plane, regular = distort_plane(xy / z, opencv_coefficients(self.coefficients))
        return Bent(plane, regular & (z[..., 0] > NEAREST_DEPTH))

    def _straighten(self, plane: Tensor) -> Sights:
        xy, known = undistort_plane(plane, opencv_coefficients(self.coefficients))
        return Sights(torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1), known)
