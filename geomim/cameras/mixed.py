"""Cameras of several models side by side in one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.batching import over_points
from geomim.cameras.plane import PlaneCamera, stack_cameras, take_cameras
from geomim.cameras.protocol import Projection, RayDirections, Unprojection


@final
@dataclass(frozen=True, slots=True, eq=False)
class MixedCamera:
    """A batch of cameras of several models, which computes those of one model together.

    Build it by ``stack``. ``groups`` are batches ``(camera,)`` of one model each; ``rows`` says
    which camera, counted through the groups, is at each place of the flattened batch.

    Raises:
        ValueError: If the groups differ in size, dtype or device, or the rows do not fit.
    """

    groups: tuple[PlaneCamera, ...]
    rows: tuple[int, ...]
    shape: torch.Size

    def __post_init__(self) -> None:
        """Refuse cameras that do not belong together."""
        kinds = {(group.size, group.dtype, group.device) for group in self.groups}
        if len(kinds) != 1:
            raise ValueError(
                f"cameras must be some, alike in size, dtype and device, got {list(kinds)}"
            )
        count = sum(group.shape.numel() for group in self.groups)
        if len(self.rows) != self.shape.numel() or not set(self.rows) <= set(range(count)):
            raise ValueError(
                f"rows must be {self.shape.numel()} of {count} cameras, got {self.rows}"
            )

    @classmethod
    def stack(cls, cameras: Sequence[PlaneCamera]) -> "MixedCamera":
        """Return single cameras as one batch ``(camera,)``.

        Raises:
            ValueError: If one is a batch itself, or they differ in size, dtype or device.
        """
        shapes = [tuple(camera.shape) for camera in cameras]
        if any(shapes):
            raise ValueError(f"cameras must be single ones, got batches {shapes}")
        kinds = [(type(camera), _parameters(camera)) for camera in cameras]
        places = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in kinds}
        groups = tuple(stack_cameras([cameras[i] for i in group]) for group in places.values())
        order = [place for group in places.values() for place in group]
        rows = tuple(order.index(place) for place in range(len(cameras)))
        return cls(groups, rows, torch.Size([len(cameras)]))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.groups[0].size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the intrinsics."""
        return self.groups[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the intrinsics."""
        return self.groups[0].device

    def project(self, points_cam: Float[Tensor, "*point 3"]) -> Projection:
        """Return the pixels and depths of points; each camera as its model does."""
        over_points(self.shape, points_cam)
        return Projection(*self._each(lambda camera, p: camera.project(p), points_cam))

    def unproject(
        self, pixels: Float[Tensor, "*#point 2"], depth: Float[Tensor, "*#point"]
    ) -> Unprojection:
        """Return the points at depths along the optical axis; each camera as its model does."""
        over_points(self.shape, pixels)
        return Unprojection(*self._each(lambda camera, p, d: camera.unproject(p, d), pixels, depth))

    def ray_directions(self, pixels: Float[Tensor, "*point 2"]) -> RayDirections:
        """Return the unit directions in which pixels look; each camera as its model does."""
        over_points(self.shape, pixels)
        return RayDirections(*self._each(lambda camera, p: camera.ray_directions(p), pixels))

    def contains(self, pixels: Float[Tensor, "*point 2"]) -> Bool[Tensor, "*point"]:
        """Tell which pixels lie on the image, its outer edge included."""
        return self.groups[0].contains(pixels)

    def pixel_grid(self) -> Float[Tensor, "h w 2"]:
        """Return the centres of all pixels."""
        return self.groups[0].pixel_grid()

    def crop(self, *, top: int, left: int, height: int, width: int) -> "MixedCamera":
        """Return the cameras of a window of the image.

        Raises:
            ValueError: If the window is empty or reaches beyond the image.
        """
        return self._change(lambda c: c.crop(top=top, left=left, height=height, width=width))

    def pad(self, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> "MixedCamera":
        """Return the cameras of the image with a border added.

        Raises:
            ValueError: If a border is negative.
        """
        return self._change(lambda c: c.pad(left=left, top=top, right=right, bottom=bottom))

    def resize(self, height: int, width: int) -> "MixedCamera":
        """Return the cameras of the image at another size, stretched if the aspect differs."""
        return self._change(lambda camera: camera.resize(height, width))

    def flip_horizontal(self) -> "MixedCamera":
        """Return the cameras of the image mirrored left to right."""
        return self._change(lambda camera: camera.flip_horizontal())

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "MixedCamera":
        """Return the same cameras on a device, in a dtype."""
        return self._change(lambda camera: camera.to(device, dtype))

    def reshape(self, *shape: int) -> "MixedCamera":
        """Return the same cameras in another batch shape."""
        places = torch.empty(self.shape, device="meta").reshape(shape)
        return replace(self, shape=places.shape)

    def _change(self, change: Callable[[PlaneCamera], PlaneCamera]) -> "MixedCamera":
        return replace(self, groups=tuple(map(change, self.groups)))

    def _each(self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> list[Tensor]:
        """Apply a function to every group and its part of the inputs; put results in order."""
        axes = len(self.shape)
        lead = torch.broadcast_shapes(self.shape, *(t.shape[:axes] for t in inputs))
        rest = [t.shape[axes:] for t in inputs]
        flat = [
            t.expand(*lead, *r).reshape(lead.numel(), *r) for t, r in zip(inputs, rest, strict=True)
        ]
        rows = self._rows_over(lead)
        results: dict[int, tuple[Tensor, ...]] = {}
        first = 0
        for group in self.groups:
            last = first + group.shape.numel()
            places = [place for place, row in enumerate(rows) if first <= row < last]
            members = [rows[place] - first for place in places]
            if places:
                parts = [torch.stack([t[place] for place in places]) for t in flat]
                fields = function(take_cameras(group, members), *parts)
                results |= dict(zip(places, zip(*fields, strict=True), strict=True))
            first = last
        ordered: Any = zip(*(results[place] for place in range(len(rows))), strict=True)
        return [torch.stack(field).reshape(*lead, *field[0].shape) for field in ordered]

    def _rows_over(self, lead: torch.Size) -> list[int]:
        """Return the rows at all places of a larger batch, along whose new axes they repeat."""
        steps = torch.empty(self.shape, device="meta").expand(lead).stride()
        return [
            self.rows[sum(i * step for i, step in zip(place, steps, strict=True))]
            for place in product(*map(range, lead))
        ]


def _parameters(camera: PlaneCamera) -> int:
    """Count the numbers that make a camera of its model."""
    return sum(part.shape[-1] for part in camera.parts().values())
