"""Walk rays through the cells of a grid: which cells they pass, and samples where any are occupied.

Results are packed: ray after ray, with ``offsets`` that say where each begins, as the packed
functions of ``geomim.rendering`` take them. Rays are counted through their flattened batch. Where
cells begin and end is computed in double precision and without gradient; points along the rays at
these distances have one.

The number of results is the one thing read back from a device.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomim.grids import VoxelGrid
from geomim.kernels.traversal.op import Traversed, traverse
from geomim.rays import Rays

# Finer steps are mistakes: a single ray would have more samples than fit into memory.
_FINEST = 1e-9


class VoxelSegments(NamedTuple):
    """The parts of rays in cells, ray after ray in order of distance.

    A segment begins where the one before it ends, unless cells between them were left out. None is
    empty: a ray through an edge or a corner is in no more cells than it has length in.
    """

    offsets: Int[Tensor, " offset"]
    """Where each ray's segments start and, at the end, the number of segments."""
    ray: Int[Tensor, " segment"]
    voxel: Int[Tensor, " segment"]
    """The cell, x fastest: ``volume.flatten(-3)[..., voxel]`` reads it."""
    starts: Float[Tensor, " segment"]
    ends: Float[Tensor, " segment"]
    complete: Bool[Tensor, "*ray"]
    """False for rays that had more segments than they were allowed."""


class RaySamples(NamedTuple):
    """Samples along rays, ray after ray in order of distance."""

    offsets: Int[Tensor, " offset"]
    """Where each ray's samples start and, at the end, the number of samples."""
    ray: Int[Tensor, " sample"]
    starts: Float[Tensor, " sample"]
    ends: Float[Tensor, " sample"]
    complete: Bool[Tensor, "*ray"]
    """False for rays that had more samples than they were allowed."""


def traverse_voxels(
    rays: Rays,
    grid: VoxelGrid,
    occupied: Bool[Tensor, "*batch z y x"] | None = None,
    *,
    near: float | Float[Tensor, "*ray"] = 0.0,
    far: float | Float[Tensor, "*ray"] = math.inf,
    most: int | None = None,
) -> VoxelSegments:
    """Return the cells that rays pass through: Amanatides and Woo 1987.

    Rays that are not valid, not finite or pass the grid by have none; nor has one that only touches
    it. A ray within a face between cells is in those above it; in the grid's upper face, below.

    Args:
        rays: In the frame of the grid.
        grid: Divides space into cells.
        occupied: False for cells to leave out. Its batch leads that of the rays.
        near: Nothing closer counts, for all rays or for each,
        far: and nothing farther: up to a measured distance, these are the cells seen to be free.
        most: A ray's segments beyond so many are left out, and the ray is not ``complete``.

    Raises:
        TypeError: If the rays are neither float32 nor float64.
        ValueError: If ``occupied`` is not over the grid or has another batch, if a limit is not one
            for each ray, or if ``most`` is negative.
    """
    found = _traverse(rays, grid, occupied, (near, far), step=0.0, most=most)
    complete = found.complete.reshape(rays.shape)
    return VoxelSegments(found.offsets, found.ray, found.voxel, found.starts, found.ends, complete)


def samples_in_occupied(
    rays: Rays,
    grid: VoxelGrid,
    occupied: Bool[Tensor, "*batch z y x"],
    *,
    step: float,
    near: float | Float[Tensor, "*ray"] = 0.0,
    far: float | Float[Tensor, "*ray"] = math.inf,
    most: int | None = None,
) -> RaySamples:
    """Divide the parts of rays in occupied cells into equal samples, and skip all others.

    Occupied cells that follow each other along a ray are one stretch; a stretch is divided into as
    few samples as need be for none to be longer than ``step`` (but for a millionth). Together they
    cover it exactly.

    Args:
        rays: In the frame of the grid.
        grid: Divides space into cells.
        occupied: False for cells to skip. Its batch leads that of the rays.
        step: The greatest length of a sample.
        near: Nothing closer counts, for all rays or for each,
        far: and nothing farther.
        most: A ray's samples beyond so many are left out, and the ray is not ``complete``.

    Raises:
        TypeError: If the rays are neither float32 nor float64.
        ValueError: As for :func:`traverse_voxels`, or if ``step`` is no length, or not a billionth
            of the grid's diagonal.
    """
    finest = _FINEST * math.dist(grid.lower, grid.upper)
    if not finest <= step < math.inf:
        raise ValueError(f"step must be at least {finest:g} and finite, got {step}")
    found = _traverse(rays, grid, occupied, (near, far), step=step, most=most)
    complete = found.complete.reshape(rays.shape)
    return RaySamples(found.offsets, found.ray, found.starts, found.ends, complete)


@torch.no_grad()
def _traverse(
    rays: Rays,
    grid: VoxelGrid,
    occupied: Tensor | None,
    limits: tuple[float | Tensor, float | Tensor],
    *,
    step: float,
    most: int | None,
) -> Traversed:
    """Flatten the batch, and put the start of rays that are not valid where they never get."""
    if occupied is not None:
        batch, cells = occupied.shape[:-3], tuple(occupied.shape[-3:])
        if cells != grid.shape[::-1]:
            raise ValueError(
                f"occupied must be {grid.shape[::-1]} cells over the grid, got {cells}"
            )
        if batch != rays.shape[: len(batch)]:
            raise ValueError(
                f"occupied must have the leading batch of the rays {tuple(rays.shape)}, "
                f"got {tuple(batch)}"
            )
        occupied = occupied.reshape(-1, *cells)
    near, far = (
        _limit(limit, rays, name) for limit, name in zip(limits, ("near", "far"), strict=True)
    )
    return traverse(
        rays.origins.reshape(-1, 3),
        rays.directions.reshape(-1, 3),
        torch.where(rays.valid, near, torch.inf).reshape(-1),
        far.reshape(-1),
        occupied,
        (grid.lower, grid.cell, grid.shape),
        step=step,
        most=most,
    )


def _limit(limit: float | Tensor, rays: Rays, name: str) -> Tensor:
    """Return a limit for each ray in double precision."""
    each = torch.as_tensor(limit, dtype=torch.float64, device=rays.device)
    if each.shape not in (rays.shape, torch.Size()):
        raise ValueError(
            f"{name} must be one for all or for each ray {tuple(rays.shape)}, "
            f"got {tuple(each.shape)}"
        )
    return each.expand(rays.shape)
