"""What every camera can do, and what its answers look like."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Closer to the camera's plane than a micrometre, a projection means nothing.
NEAREST_DEPTH = 1e-6


class Projection(NamedTuple):
    """Where points appear. Where ``valid`` is False all else is 0, with zero gradient."""

    pixels: Float[Tensor, "*point 2"]
    depth: Float[Tensor, "*point"]
    """Along the optical axis: 0 beside, negative behind a camera that sees so far."""
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

    Cameras that see 90 degrees from their axis and beyond have pixels whose depth is 0 or negative.
    There, distances along ``ray_directions`` lose nothing; ``unproject`` takes a negative depth
    where the ray looks backwards, and has no answer where it runs along the camera's plane.
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
