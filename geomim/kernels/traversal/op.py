"""Walk rays through the cells of a grid as torch operators; ``reference.py`` defines them.

Two passes: the first counts what each ray yields, the second fills. Between them the total is read,
for which CUDA is waited for: it is the size of the result.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geomim.kernels.selection import selected_kernels
from geomim.kernels.traversal import cuda, reference

_OPERATORS = torch.ops.geomim


class Traversed(NamedTuple):
    """Segments or samples of rays, ray after ray in order of distance."""

    offsets: Tensor
    ray: Tensor
    voxel: Tensor
    """Empty for samples."""
    starts: Tensor
    ends: Tensor
    complete: Tensor
    """False for rays that were cut."""


def traverse(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupied: Tensor | None,
    grid: reference.Grid,
    *,
    step: float = 0.0,
    most: int | None = None,
) -> Traversed:
    """Return the occupied cells that rays pass through, or samples in them; no gradient.

    Shapes and meaning are those of :func:`geomim.kernels.traversal.reference.traverse`. A ray is
    cut after its first ``most``.

    Raises:
        TypeError: If the rays are neither float32 nor float64, or ``occupied`` is not bool.
        ValueError: If the rays cannot be shared out among the items, or ``most`` is negative.
    """
    if origins.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"rays must be float32 or float64, got {origins.dtype}")
    if occupied is not None and occupied.dtype != torch.bool:
        raise TypeError(f"occupied must be bool, got {occupied.dtype}")
    rays, items = len(origins), 1 if occupied is None else len(occupied)
    if rays % max(1, items) or (rays and not items):
        raise ValueError(f"rays must be as many for each of {items} items, got {rays}")
    if most is not None and most < 0:
        raise ValueError(f"most must not be negative, got {most}")
    inputs = (origins, directions, near.double(), far.double(), occupied)
    if selected_kernels() == "reference":
        return _cut(reference.traverse(*inputs, grid, step), rays, most)
    numbers = [float(number) for part in grid for number in part]
    counts = _OPERATORS.count_traversal(*inputs, numbers, step)
    offsets = _offsets(counts if most is None else counts.clamp(max=most))
    total = int(offsets[-1])
    ray, voxel, starts, ends = _OPERATORS.fill_traversal(*inputs, numbers, step, offsets, total)
    return Traversed(offsets, ray, voxel, starts, ends, counts == offsets.diff())


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(dim=0), (1, 0))


def _cut(results: tuple[Tensor, Tensor, Tensor, Tensor], rays: int, most: int | None) -> Traversed:
    """Keep the first results of every ray."""
    ray, voxel, starts, ends = results
    counts = torch.bincount(ray, minlength=rays)
    kept = counts if most is None else counts.clamp(max=most)
    rank = torch.arange(len(ray), device=ray.device) - _offsets(counts)[ray]
    keep = rank < kept[ray]
    voxel = voxel[keep] if len(voxel) else voxel
    parts = (ray[keep], voxel, starts[keep], ends[keep])
    return Traversed(_offsets(kept), *parts, counts == kept)


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::count_traversal",
    "(Tensor origins, Tensor directions, Tensor near, Tensor far, Tensor? occupied, float[] grid,"
    " float step) -> Tensor",
)
torch.library.define(
    "geomim::fill_traversal",
    "(Tensor origins, Tensor directions, Tensor near, Tensor far, Tensor? occupied, float[] grid,"
    " float step, Tensor offsets, SymInt total)"
    " -> (Tensor ray, Tensor voxel, Tensor starts, Tensor ends)",
)


@torch.library.register_fake("geomim::count_traversal")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _count_fake(origins: Tensor, *_others: object) -> Tensor:
    return _room_to_count(origins)


@torch.library.register_fake("geomim::fill_traversal")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _fill_fake(origins: Tensor, *others: Any) -> tuple[Tensor, ...]:
    *_, step, _, total = others
    return _room_to_fill(origins, step, total)


def _room_to_count(origins: Tensor) -> Tensor:
    return origins.new_empty(origins.shape[:1], dtype=torch.int64)


def _room_to_fill(origins: Tensor, step: float, total: int) -> tuple[Tensor, ...]:
    ray = origins.new_empty((total,), dtype=torch.int64)
    voxel = ray.new_empty((0 if step > 0 else total,))
    return ray, voxel, origins.new_empty((total,)), origins.new_empty((total,))


@torch.library.impl("geomim::count_traversal", "cpu")
def _count_cpu(*inputs: Any) -> Tensor:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.traversal import cpu

    counts = _room_to_count(inputs[0])
    cpu.count_traversal(*_arguments(*inputs), counts.numpy(), threads=torch.get_num_threads())
    return counts


@torch.library.impl("geomim::fill_traversal", "cpu")
def _fill_cpu(*inputs: Any) -> tuple[Tensor, ...]:
    from geomim.kernels.traversal import cpu

    *walks, offsets, total = inputs
    out = _room_to_fill(walks[0], walks[-1], total)
    arrays = [part.numpy() for part in (offsets.contiguous(), *out)]
    cpu.fill_traversal(*_arguments(*walks), *arrays, threads=torch.get_num_threads())
    return out


@torch.library.impl("geomim::count_traversal", "cuda")
def _count_cuda(*inputs: Any) -> Tensor:
    *tensors, occupied, grid, step = inputs
    counts = _room_to_count(tensors[0])
    cuda.count_traversal(_contiguous(*tensors, occupied), grid, step, counts)
    return counts


@torch.library.impl("geomim::fill_traversal", "cuda")
def _fill_cuda(*inputs: Any) -> tuple[Tensor, ...]:
    *tensors, occupied, grid, step, offsets, total = inputs
    out = _room_to_fill(tensors[0], step, total)
    cuda.fill_traversal(_contiguous(*tensors, occupied), grid, step, offsets.contiguous(), out)
    return out


def _contiguous(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)


def _arguments(*inputs: Any) -> list[Any]:
    """Hand inputs to numba, which knows a grid all of whose cells are occupied by its emptiness."""
    *tensors, occupied, grid, step = inputs
    everywhere = torch.empty(0, dtype=torch.bool)
    items = 1 if occupied is None else max(1, len(occupied))
    flat = everywhere if occupied is None else occupied.flatten()
    arrays = [tensor.contiguous().numpy() for tensor in (*tensors, flat)]
    return [*arrays, np.array(grid).reshape(3, 3), step, items]
