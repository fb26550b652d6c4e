"""What cameras share whose pixels are ``focal * plane + principal_point`` of some plane."""

# ruff: noqa: PYI019 - the run-time shape check cannot read typing.Self

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.batching import over_points
from geomim.cameras.protocol import Projection, RayDirections, Unprojection

_C = TypeVar("_C", bound="PlaneCamera")


@dataclass(frozen=True, slots=True, eq=False)
class PlaneCamera(ABC):
    """A camera whose model ends in ``pixel = focal * plane + principal_point``.

    ``focal`` and ``principal_point`` are in pixels, x first. A mirrored image has a negative first
    focal length. One size serves the whole batch. Changes of the image change these three alone;
    what is in front of them, lenses included, stays as it is.

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

    @abstractmethod
    def project(self, points_cam: Float[Tensor, "*point 3"]) -> Projection:
        """Return the pixels and depths of points."""

    @abstractmethod
    def unproject(
        self, pixels: Float[Tensor, "*#point 2"], depth: Float[Tensor, "*#point"]
    ) -> Unprojection:
        """Return the points that appear at pixels, at depths along the optical axis."""

    @abstractmethod
    def ray_directions(self, pixels: Float[Tensor, "*point 2"]) -> RayDirections:
        """Return the unit directions in which pixels look."""

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

    def crop(self: _C, *, top: int, left: int, height: int, width: int) -> _C:
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
        return _shifted(self, -left, -top, (height, width))

    def pad(self: _C, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> _C:
        """Return the camera of the image with a border added.

        Raises:
            ValueError: If a border is negative.
        """
        if min(left, top, right, bottom) < 0:
            raise ValueError(
                f"padding must not be negative, got {(left, top, right, bottom)}; call crop"
            )
        height, width = self.size
        return _shifted(self, left, top, (height + top + bottom, width + left + right))

    def resize(self: _C, height: int, width: int) -> _C:
        """Return the camera of the image at another size, stretched if the aspect differs."""
        scale = self.focal.new_tensor([width / self.size[1], height / self.size[0]])
        focal, principal_point = self.focal * scale, self.principal_point * scale
        return replace(self, focal=focal, principal_point=principal_point, size=(height, width))

    def flip_horizontal(self: _C) -> _C:
        """Return the camera of the image mirrored left to right.

        The same point appears at ``(width - u, v)``: the first focal length changes its sign, and
        poses and lenses stay as they are.
        """
        mirror = self.focal.new_tensor([-1.0, 1.0])
        edge = self.focal.new_tensor([float(self.size[1]), 0.0])
        flipped = edge + self.principal_point * mirror
        return replace(self, focal=self.focal * mirror, principal_point=flipped)

    def to(
        self: _C, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> _C:
        """Return the same camera on a device, in a dtype."""
        parts = {name: part.to(device=device, dtype=dtype) for name, part in self.parts().items()}
        return replace(self, **parts)

    def reshape(self: _C, *shape: int) -> _C:
        """Return the same cameras in another batch shape."""
        parts = {name: part.reshape(*shape, part.shape[-1]) for name, part in self.parts().items()}
        return replace(self, **parts)

    def parts(self) -> dict[str, Tensor]:
        """Return the tensors that make up the camera, by the names of their fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _over(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return focal and principal point, with point axes behind their batch."""
        axes = over_points(self.shape, points)
        return self.focal.reshape(*axes, 2), self.principal_point.reshape(*axes, 2)


def read_matrix(
    matrix: Tensor, source_pixel_centre: Literal["integer", "half"]
) -> tuple[Tensor, Tensor]:
    """Return focal and principal point of ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]``.

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
    return matrix[..., [0, 1], [0, 1]], matrix[..., :2, 2] + shift


def stack_cameras(cameras: Sequence[_C]) -> _C:
    """Return single cameras of one model and size as one batch ``(camera,)``."""
    names = cameras[0].parts()
    parts = {name: torch.stack([camera.parts()[name] for camera in cameras]) for name in names}
    return replace(cameras[0], **parts)


def take_cameras(camera: _C, members: Sequence[int]) -> _C:
    """Return some of a batch ``(camera,)``, by their places in it."""
    if list(members) == list(range(*camera.shape)):
        return camera
    parts = {
        name: torch.stack([part[member] for member in members])
        for name, part in camera.parts().items()
    }
    return replace(camera, **parts)


def all_finite(vectors: Tensor) -> Tensor:
    """Tell which vectors have only finite numbers."""
    # Reductions over an axis this short take several times as long as its parts one by one.
    return reduce(operator.and_, (vectors.abs() < math.inf).unbind(dim=-1))


def length(vectors: Tensor) -> Tensor:
    """Return the Euclidean norms, which overflow where a square does; 0 has no gradient."""
    return reduce(operator.add, [part * part for part in vectors.unbind(dim=-1)]).sqrt()


def _shifted(camera: _C, right: int, down: int, size: tuple[int, int]) -> _C:
    shift = camera.principal_point.new_tensor([float(right), float(down)])
    return replace(camera, principal_point=camera.principal_point + shift, size=size)
