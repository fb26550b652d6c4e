"""The camera without a lens."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.cameras.plane import PlaneCamera, all_finite, read_matrix
from geomim.cameras.protocol import NEAREST_DEPTH, Projection, RayDirections, Unprojection


@final
@dataclass(frozen=True, slots=True, eq=False)
class PinholeCamera(PlaneCamera):
    """A camera without distortion: ``pixel = focal * (x, y) / z + principal_point``.

    ``focal`` and ``principal_point`` are in pixels, x first. A mirrored image has a negative first
    focal length. One size serves the whole batch.

    Raises:
        ValueError: If the two differ in shape, dtype or device, or the size is not positive.
    """

    @classmethod
    def from_matrix(
        cls,
        matrix: Float[Tensor, "*batch 3 3"],
        *,
        size: tuple[int, int],
        source_pixel_centre: Literal["integer", "half"] = "half",
    ) -> "PinholeCamera":
        """Read a calibration matrix.

        Args:
            matrix: ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]``.
            size: Height and width of the image.
            source_pixel_centre: Where the calibration puts the centre of the first pixel: at
                (0, 0), as OpenCV does, or at (0.5, 0.5), as everything here does.

        Raises:
            ValueError: If the matrix has skew.
        """
        return cls(*read_matrix(matrix, source_pixel_centre), size)

    def project(self, points_cam: Float[Tensor, "*point 3"]) -> Projection:
        """Return the pixels and depths of points; invalid from the camera's plane backwards."""
        focal, principal_point = self._over(points_cam)
        xy, z = points_cam.split([2, 1], dim=-1)
        pixels = focal * (xy / z) + principal_point
        valid = (z[..., 0] > NEAREST_DEPTH) & all_finite(points_cam) & all_finite(pixels)
        if pixels.requires_grad:
            # Masked before, too: neither the quotient nor the intrinsics feel an invalid point.
            ahead = points_cam.new_tensor([0.0, 0.0, 1.0])
            xy, z = torch.where(valid[..., None], points_cam, ahead).split([2, 1], dim=-1)
            pixels = focal * (xy / z) + principal_point
        pixels = torch.where(valid[..., None], pixels, 0.0)
        return Projection(pixels, torch.where(valid, z[..., 0], 0.0), valid)

    def unproject(
        self, pixels: Float[Tensor, "*#point 2"], depth: Float[Tensor, "*#point"]
    ) -> Unprojection:
        """Return the points at depths along the optical axis; invalid where the depth is."""
        points = self._at_depth(pixels, depth)
        valid = all_finite(points) & (depth > NEAREST_DEPTH)
        if points.requires_grad:
            # Masked before, too: the intrinsics must not feel what is not finite.
            pixels = torch.where(valid[..., None], pixels, 0.0)
            points = self._at_depth(pixels, torch.where(valid, depth, 1.0))
        return Unprojection(torch.where(valid[..., None], points, 0.0), valid)

    def ray_directions(self, pixels: Float[Tensor, "*point 2"]) -> RayDirections:
        """Return the unit directions in which pixels look; invalid where they are not finite."""
        points, valid = self.unproject(pixels, torch.ones_like(pixels[..., 0]))
        # Length 1 stands in where there is no direction, whose norm has no gradient.
        length = torch.where(valid, points.square().sum(dim=-1), 1.0).sqrt()
        return RayDirections(points / length[..., None], valid)

    def _at_depth(self, pixels: Tensor, depth: Tensor) -> Tensor:
        focal, principal_point = self._over(pixels)
        xy = (pixels - principal_point) / focal * depth[..., None]
        return torch.cat([xy, depth[..., None].expand(*xy.shape[:-1], 1)], dim=-1)
