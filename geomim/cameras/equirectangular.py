"""Panoramas."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.cameras.lens import Bent, LensCamera, Sights, root_or_zero
from geomim.cameras.protocol import NEAREST_DEPTH


@final
@dataclass(frozen=True, slots=True, eq=False)
class EquirectangularCamera(LensCamera):
    """A panorama: its columns are longitudes and its rows are latitudes.

    In radians, both 0 along the optical axis::

        longitude = atan2(x, z)
        latitude = atan2(y, hypot(x, z))
        pixel = focal * (longitude, latitude) + principal_point

    ``focal`` is in pixels a radian, ``principal_point`` is where the optical axis appears.
    Longitudes run from -pi on the left to pi on the right, latitudes from -pi / 2 above to pi / 2
    below; pixels outside see nothing, and there is no second turn. To roll a panorama, turn its
    pose. The poles, which a whole row of pixels sees, and the points within a micrometre of their
    axis have no pixel.
    """

    @classmethod
    def panorama(
        cls,
        size: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> "EquirectangularCamera":
        """Return the camera of an image that shows all directions once."""
        height, width = size
        focal = torch.tensor([width / (2 * math.pi), height / math.pi], dtype=dtype, device=device)
        middle = torch.tensor([width / 2, height / 2], dtype=dtype, device=device)
        return cls(focal, middle, size)

    def _bend(self, points: Tensor) -> Bent:
        x, y, z = points.unbind(dim=-1)
        beside = root_or_zero(x * x + z * z)
        plane = torch.stack([torch.atan2(x, z), torch.atan2(y, beside)], dim=-1)
        return Bent(plane, beside > NEAREST_DEPTH)

    def _straighten(self, plane: Float[Tensor, "*point 2"]) -> Sights:
        longitude, latitude = plane.unbind(dim=-1)
        # The outer edge of the image belongs to it, whichever way its angle was rounded.
        rounding = 1 + 8 * torch.finfo(plane.dtype).eps
        holds = (longitude.abs() <= math.pi * rounding) & (latitude.abs() <= math.pi / 2 * rounding)
        across = latitude.cos()
        vectors = [across * longitude.sin(), latitude.sin(), across * longitude.cos()]
        return Sights(torch.stack(vectors, dim=-1), holds)
