"""Cameras: from points in their own frame to pixels and back.

Camera axes are x right, y down, z forward. Pixels are ``(u, v)``, continuous, ``(0, 0)`` at the
outer corner of the first pixel, whose centre is ``(0.5, 0.5)``; sizes are ``(height, width)``.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.batching import over_points

# Closer to the camera's plane than a micrometre, a projection means nothing.
NEAREST_DEPTH = 1e-6


class Projection(NamedTuple):
    """Where points appear. Where ``valid`` is False all else is 0, with zero gradient."""

    pixels: Float[Tensor, "*point 2"]
    depth: Float[Tensor, "*point"]
    """Along the optical axis."""
    valid: Bool[Tensor, "*point"]
    """The projection is defined; it may lie outside the image, see ``contains``."""


class Unprojection(NamedTuple):
    """Points in the camera's frame. Where ``valid`` is False they are 0, with zero gradient."""

    points: Float[Tensor, "*point 3"]
    valid: Bool[Tensor, "*point"]


class RayDirections(NamedTuple):
    """Unit vectors in the camera's frame. Where ``valid`` is False they are 0."""

    directions: Float[Tensor, "*point 3"]
    valid: Bool[Tensor, "*point"]


@runtime_checkable
class Camera(Protocol):
    """What every camera can do. Batches lead: cameras ``(b,)`` take pixels ``(b, h, w, 2)``.

    ``crop``, ``resize``, ``flip_horizontal`` and ``pad`` return the camera of the changed image:
    every point in space moves along with its pixel, so poses stay as they are.
    """

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        ...

    @property
    def shape(self) -> torch.Size:
        """The batch shape."""
        ...

    def project(self, points_cam: Float[Tensor, "*point 3"]) -> Projection:
        """Return the pixels and depths of points."""
        ...

    def unproject(
        self, pixels: Float[Tensor, "*#point 2"], depth: Float[Tensor, "*#point"]
    ) -> Unprojection:
        """Return the points that appear at pixels, at depths along the optical axis."""
        ...

    def ray_directions(self, pixels: Float[Tensor, "*point 2"]) -> RayDirections:
        """Return the unit directions in which pixels look."""
        ...

    def contains(self, pixels: Float[Tensor, "*point 2"]) -> Bool[Tensor, "*point"]:
        """Tell which pixels lie on the image, its outer edge included."""
        ...

    def pixel_grid(self) -> Float[Tensor, "h w 2"]:
        """Return the centres of all pixels."""
        ...

    def crop(self, *, top: int, left: int, height: int, width: int) -> "Camera":
        """Return the camera of a window of the image."""
        ...

    def pad(self, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> "Camera":
        """Return the camera of the image with a border added."""
        ...

    def resize(self, height: int, width: int) -> "Camera":
        """Return the camera of the image at another size."""
        ...

    def flip_horizontal(self) -> "Camera":
        """Return the camera of the image mirrored left to right."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class PinholeCamera:
    """A camera without distortion: ``pixel = focal * (x, y) / z + principal_point``.

    ``focal`` and ``principal_point`` are in pixels, x first. A mirrored image has a negative first
    focal length. One size serves the whole batch.

    Raises:
        ValueError: If the two differ in shape, dtype or device, or the size is not positive.
    """

    focal: Float[Tensor, "*batch 2"]
    principal_point: Float[Tensor, "*batch 2"]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        parts = [(tuple(p.shape), p.dtype, p.device) for p in (self.focal, self.principal_point)]
        if parts[0] != parts[1] or parts[0][0][-1:] != (2,):
            raise ValueError(
                "focal and principal_point must be (*batch, 2) of one dtype and device, "
                f"got {parts[0]} and {parts[1]}"
            )
        if min(self.size) < 1:
            raise ValueError(f"size must be at least one pixel each way, got {self.size}")

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
        if matrix[..., [0, 1], [1, 0]].count_nonzero():
            raise ValueError(f"matrix must have no skew, got {matrix.tolist()}")
        match source_pixel_centre:
            case "integer":
                shift = 0.5
            case "half":
                shift = 0.0
        focal = matrix[..., [0, 1], [0, 1]]
        return cls(focal, matrix[..., :2, 2] + shift, size)

    @property
    def shape(self) -> torch.Size:
        """The batch shape."""
        return self.focal.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the intrinsics."""
        return self.focal.dtype

    @property
    def device(self) -> torch.device:
        """The device of the intrinsics."""
        return self.focal.device

    def matrix(self) -> Float[Tensor, "*batch 3 3"]:
        """Return the calibration matrix, for pixel centres at (0.5, 0.5)."""
        upper = torch.cat([torch.diag_embed(self.focal), self.principal_point[..., None]], dim=-1)
        last = upper.new_tensor([0.0, 0.0, 1.0]).expand(*self.shape, 1, 3)
        return torch.cat([upper, last], dim=-2)

    def project(self, points_cam: Float[Tensor, "*point 3"]) -> Projection:
        """Return the pixels and depths of points; invalid from the camera's plane backwards."""
        focal, principal_point = self._over(points_cam)
        with torch.no_grad():
            pixels = focal * (points_cam[..., :2] / points_cam[..., 2:]) + principal_point
            in_front = points_cam[..., 2] > NEAREST_DEPTH
            valid = in_front & _all_finite(points_cam) & _all_finite(pixels)
        # Masked before and after: neither the quotient nor the intrinsics feel an invalid point.
        ahead = points_cam.new_tensor([0.0, 0.0, 1.0])
        xy, z = torch.where(valid[..., None], points_cam, ahead).split([2, 1], dim=-1)
        pixels = torch.where(valid[..., None], focal * (xy / z) + principal_point, 0.0)
        return Projection(pixels, torch.where(valid, z[..., 0], 0.0), valid)

    def unproject(
        self, pixels: Float[Tensor, "*#point 2"], depth: Float[Tensor, "*#point"]
    ) -> Unprojection:
        """Return the points at depths along the optical axis; invalid where the depth is."""
        with torch.no_grad():
            points = self._at_depth(pixels, depth)
            valid = _all_finite(points) & (depth > NEAREST_DEPTH)
        pixels = torch.where(valid[..., None], pixels, 0.0)
        points = self._at_depth(pixels, torch.where(valid, depth, 1.0))
        return Unprojection(torch.where(valid[..., None], points, 0.0), valid)

    def ray_directions(self, pixels: Float[Tensor, "*point 2"]) -> RayDirections:
        """Return the unit directions in which pixels look; invalid where they are not finite."""
        points, valid = self.unproject(pixels, torch.ones_like(pixels[..., 0]))
        # Length 1 stands in where there is no direction, whose norm has no gradient.
        length = torch.where(valid, points.square().sum(dim=-1), 1.0).sqrt()
        return RayDirections(points / length[..., None], valid)

    def contains(self, pixels: Float[Tensor, "*point 2"]) -> Bool[Tensor, "*point"]:
        """Tell which pixels lie on the image, its outer edge included."""
        height, width = self.size
        u, v = pixels.unbind(dim=-1)
        return (u >= 0) & (u <= width) & (v >= 0) & (v <= height)

    def pixel_grid(self) -> Float[Tensor, "h w 2"]:
        """Return the centres of all pixels."""
        height, width = (
            torch.arange(side, dtype=self.dtype, device=self.device) + 0.5 for side in self.size
        )
        v, u = torch.meshgrid(height, width, indexing="ij")
        return torch.stack([u, v], dim=-1)

    def crop(self, *, top: int, left: int, height: int, width: int) -> "PinholeCamera":
        """Return the camera of a window of the image.

        Raises:
            ValueError: If the window is empty or reaches beyond the image.
        """
        inside = top >= 0 and left >= 0 and top + height <= self.size[0]
        if not inside or left + width > self.size[1] or min(height, width) < 1:
            raise ValueError(
                f"the crop must lie inside the {self.size[0]}x{self.size[1]} image, got "
                f"top {top}, left {left}, height {height}, width {width}; call pad first"
            )
        return self._shifted(-left, -top, (height, width))

    def pad(
        self, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0
    ) -> "PinholeCamera":
        """Return the camera of the image with a border added.

        Raises:
            ValueError: If a border is negative.
        """
        if min(left, top, right, bottom) < 0:
            raise ValueError(
                f"padding must not be negative, got {(left, top, right, bottom)}; call crop"
            )
        height, width = self.size
        return self._shifted(left, top, (height + top + bottom, width + left + right))

    def resize(self, height: int, width: int) -> "PinholeCamera":
        """Return the camera of the image at another size, stretched if the aspect differs."""
        scale = self.focal.new_tensor([width / self.size[1], height / self.size[0]])
        return PinholeCamera(self.focal * scale, self.principal_point * scale, (height, width))

    def flip_horizontal(self) -> "PinholeCamera":
        """Return the camera of the image mirrored left to right.

        The same point appears at ``(width - u, v)``: the first focal length changes its sign, and
        poses stay as they are.
        """
        mirror = self.focal.new_tensor([-1.0, 1.0])
        edge = self.focal.new_tensor([float(self.size[1]), 0.0])
        return PinholeCamera(self.focal * mirror, edge + self.principal_point * mirror, self.size)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "PinholeCamera":
        """Return the same camera on a device, in a dtype."""
        return PinholeCamera(
            self.focal.to(device=device, dtype=dtype),
            self.principal_point.to(device=device, dtype=dtype),
            self.size,
        )

    def _over(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return focal and principal point, with point axes behind their batch."""
        axes = over_points(self.shape, points)
        return self.focal.reshape(*axes, 2), self.principal_point.reshape(*axes, 2)

    def _at_depth(self, pixels: Tensor, depth: Tensor) -> Tensor:
        focal, principal_point = self._over(pixels)
        xy = (pixels - principal_point) / focal * depth[..., None]
        return torch.cat([xy, depth[..., None].expand(*xy.shape[:-1], 1)], dim=-1)

    def _shifted(self, right: int, down: int, size: tuple[int, int]) -> "PinholeCamera":
        shift = self.principal_point.new_tensor([float(right), float(down)])
        return PinholeCamera(self.focal, self.principal_point + shift, size)


def _all_finite(vectors: Tensor) -> Tensor:
    return vectors.isfinite().all(dim=-1)
