"""Regular grids of cells in space, and volumes of values over them.

A grid counts along x, y, z; the volume over it is ``(c, z, y, x)``, as torch's 3-D convolutions
have it. Index coordinates are metres counted in cells: the first cell spans 0 to 1 and its centre
is at 0.5, along every axis. The frame of a grid is its user's; points must be in the same.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.kernels.trilinear.op import (
    compute_dtype,
    gradient_mix,
    trilinear,
    trilinear_dots,
)
from geomim.transforms import RigidTransform

Vector = tuple[float, float, float]
Padding = Literal["zeros", "border"]


class VolumeSamples(NamedTuple):
    """Values read between cell centres. Where ``valid`` is False they are 0, with zero gradient."""

    values: Float[Tensor, "*batch point c"]
    valid: Bool[Tensor, "*batch point"]


class VolumeSlopes(NamedTuple):
    """Values and their slopes. Where ``valid`` is False all is 0, with zero gradient."""

    values: Float[Tensor, "*batch point c"]
    gradient: Float[Tensor, "*batch point c 3"]
    """Change per metre along x, y, z."""
    valid: Bool[Tensor, "*batch point"]


class WarpedVolume(NamedTuple):
    """A volume seen from another frame. Where ``valid`` is False it is 0, with zero gradient."""

    volume: Float[Tensor, "*batch c z y x"]
    valid: Bool[Tensor, "*batch z y x"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class VoxelGrid:
    """A box of equal cells.

    ``lower`` is its corner, ``cell`` the size of a cell and ``shape`` the number of cells, each in
    the order x, y, z; lengths are metres.

    Raises:
        ValueError: If there is no cell, or a cell has no volume.
    """

    lower: Vector
    cell: Vector
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Refuse a grid without cells, or cells without volume."""
        if min(self.shape) < 1:
            raise ValueError(f"shape must be at least one cell each way, got {self.shape}")
        if not all(math.isfinite(side) and side > 0 for side in self.cell):
            raise ValueError(f"cell must be positive metres, got {self.cell}")

    @classmethod
    def from_bounds(
        cls, lower: Vector, upper: Vector, *, shape: tuple[int, int, int]
    ) -> "VoxelGrid":
        """Divide the box from ``lower`` to ``upper`` into ``shape`` cells along x, y, z."""
        sides = [(high - low) / n for low, high, n in zip(lower, upper, shape, strict=True)]
        return cls(lower, (sides[0], sides[1], sides[2]), shape)

    @property
    def upper(self) -> Vector:
        """The corner opposite to ``lower``."""
        x, y, z = (
            low + side * n for low, side, n in zip(self.lower, self.cell, self.shape, strict=True)
        )
        return x, y, z

    def centres(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Float[Tensor, "z y x 3"]:
        """Return the points in the middle of all cells."""
        x, y, z = (torch.arange(n, dtype=dtype, device=device) + 0.5 for n in self.shape)
        grid = torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)
        return self.from_index(grid)

    def to_index(self, points: Float[Tensor, "*point 3"]) -> Float[Tensor, "*point 3"]:
        """Return the index coordinates (x, y, z) of points; cell ``i`` spans ``i`` to ``i + 1``."""
        return (points - points.new_tensor(self.lower)) / points.new_tensor(self.cell)

    def from_index(self, index: Float[Tensor, "*point 3"]) -> Float[Tensor, "*point 3"]:
        """Return the points at index coordinates (x, y, z)."""
        return index * index.new_tensor(self.cell) + index.new_tensor(self.lower)

    def contains(self, points: Float[Tensor, "*point 3"]) -> Bool[Tensor, "*point"]:
        """Tell which points lie in some cell; a cell has its lower faces but not its upper ones."""
        index = self.to_index(points)
        return ((index >= 0) & (index < index.new_tensor(self.shape))).all(dim=-1)


def sample_volume(
    volume: Float[Tensor, "*batch c z y x"],
    points: Float[Tensor, "*batch point 3"],
    grid: VoxelGrid,
    *,
    padding: Padding = "zeros",
) -> VolumeSamples:
    """Interpolate a volume trilinearly at points, in the volume's dtype.

    The value at a cell's centre is the cell's. Beyond the outermost centres the volume fades to 0
    over one cell (``zeros``: a point is valid up to half a cell outside the grid) or stays as it is
    (``border``: every finite point is valid). Differentiable any number of times with respect to
    both tensors. Fastest where channels lie together in memory (``torch.channels_last_3d``).

    Raises:
        ValueError: If the volume is not over the grid, or the batches differ.
    """
    values, valid = _interpolate(volume, points, grid, padding, mix=None)
    return VolumeSamples(values.squeeze(-2), valid)


def sample_volume_with_gradient(
    volume: Float[Tensor, "*batch c z y x"],
    points: Float[Tensor, "*batch point 3"],
    grid: VoxelGrid,
    *,
    padding: Padding = "zeros",
) -> VolumeSlopes:
    """Interpolate a volume and its spatial gradient, as :func:`sample_volume` does, in one pass.

    The gradient jumps where a point passes from one pair of centres to the next; there it is that
    of the upper side. A loss on it may be differentiated without ``create_graph``.

    Raises:
        ValueError: If the volume is not over the grid, or the batches differ.
    """
    mix = gradient_mix(points.to(compute_dtype(volume)))
    values, valid = _interpolate(volume, points, grid, padding, mix=mix)
    # Split rather than indexed: the gradient of an index is a volume of zeros to add to.
    value, slopes = values.split([1, 3], dim=-2)
    return VolumeSlopes(value.squeeze(-2), slopes.mT / values.new_tensor(grid.cell), valid)


def sample_gradient_along(
    volume: Float[Tensor, "*batch c z y x"],
    points: Float[Tensor, "*batch point 3"],
    along: Float[Tensor, "*batch point c"],
    grid: VoxelGrid,
    *,
    padding: Padding = "zeros",
) -> Float[Tensor, "*batch point 3"]:
    """Return the gradient, per metre, of what channels weighed by ``along`` add up to at points.

    With the slopes of a function by the values of :func:`sample_volume` it is the function's own
    gradient, by the chain rule; that of each channel is never in memory. Differentiable as that is,
    with respect to ``along`` too, and 0 where that is not valid.

    Raises:
        ValueError: If the volume is not over the grid, or the batches or channels differ.
    """
    cells, index, border = _by_cell(volume, points, grid, padding)
    if along.shape != (*points.shape[:-1], cells.shape[-1]):
        raise ValueError(
            f"along must be {cells.shape[-1]} channels of each point, got {tuple(along.shape)}"
        )
    grad = along.reshape(*index.shape[:2], 1, cells.shape[-1])
    derivatives = trilinear_dots(cells, index, grad, border=border)[:, :, 0, 1:4]
    return (derivatives / index.new_tensor(grid.cell)).reshape(points.shape).to(volume.dtype)


def warp_volume(
    volume: Float[Tensor, "*batch c z y x"],
    grid: VoxelGrid,
    *,
    target_from_source: RigidTransform,
) -> WarpedVolume:
    """Resample a volume over the same grid in a frame that has moved.

    The motion is in metres, between the two frames that the grid is fixed to: a vehicle that drove
    forward has a ``target_from_source`` that moves points backward.

    Raises:
        ValueError: If the volume is not over the grid, or the motion has another batch.
    """
    batch = volume.shape[:-4]
    if target_from_source.shape not in (batch, torch.Size()):
        raise ValueError(
            f"target_from_source must have the batch {tuple(batch)} or none, "
            f"got {tuple(target_from_source.shape)}"
        )
    motion = target_from_source.inverse()
    centres = grid.centres(dtype=motion.dtype, device=motion.device)
    points = motion.apply(centres.reshape(*(1,) * len(motion.shape), -1, 3)).expand(*batch, -1, 3)
    values, valid = sample_volume(volume, points, grid)
    cells = grid.shape[::-1]
    return WarpedVolume(values.unflatten(-2, cells).movedim(-1, -4), valid.unflatten(-1, cells))


def _interpolate(
    volume: Tensor, points: Tensor, grid: VoxelGrid, padding: Padding, mix: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return combinations of the volume's derivatives at points, and which are valid."""
    batch = volume.shape[:-4]
    cells, index, border = _by_cell(volume, points, grid, padding)
    values, valid = trilinear(cells, index, mix, border=border)
    return values.reshape(*batch, *values.shape[1:]), valid.reshape(*batch, points.shape[-2])


def _by_cell(
    volume: Tensor, points: Tensor, grid: VoxelGrid, padding: Padding
) -> tuple[Tensor, Tensor, bool]:
    """Return volumes, channels last, and index coordinates, both with one batch axis."""
    batch = volume.shape[:-4]
    if volume.shape[-3:] != grid.shape[::-1]:
        raise ValueError(
            f"volume must be {grid.shape[::-1]} cells over the grid, got {tuple(volume.shape[-3:])}"
        )
    if points.shape[:-2] != batch:
        raise ValueError(
            f"points must have the volume's batch {tuple(batch)}, got {tuple(points.shape)}"
        )
    match padding:
        case "zeros":
            border = False
        case "border":
            border = True
    items = math.prod(batch)
    cells = volume.reshape(items, *volume.shape[-4:]).movedim(1, -1)
    index = grid.to_index(points.to(compute_dtype(volume))).reshape(items, points.shape[-2], 3)
    return cells, index, border
