"""Launch ``cuda.cu``. Nothing here waits for the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from geomim.kernels.nvrtc import Argument, cuda_function, launch

_THREADS = 128
_TYPES = {torch.float32: "float", torch.float64: "double"}


def count_traversal(
    inputs: tuple[Tensor | None, ...], grid: Sequence[float], step: float, counts: Tensor
) -> None:
    """Fill ``counts``; all tensors are contiguous."""
    _launch("count_traversal", (*_arguments(inputs, grid, step), counts), len(counts))


def fill_traversal(
    inputs: tuple[Tensor | None, ...],
    grid: Sequence[float],
    step: float,
    offsets: Tensor,
    out: tuple[Tensor, ...],
) -> None:
    """Fill ``out``; all tensors are contiguous."""
    # Where nothing was found there is nothing to fill, and no storage to point to.
    rays = len(offsets) - 1 if len(out[0]) else 0
    _launch("fill_traversal", (*_arguments(inputs, grid, step), offsets, *out), rays)


def instance(kernel: str, dtype: torch.dtype) -> str:
    """Return the entry point for rays of a dtype."""
    return f"{kernel}<{_TYPES[dtype]}>"


def _arguments(
    inputs: tuple[Tensor | None, ...], grid: Sequence[float], step: float
) -> tuple[Argument, ...]:
    origins, occupied = inputs[0], inputs[-1]
    rays = 0 if origins is None else len(origins)
    items = 1 if occupied is None else max(1, len(occupied))
    bounds, cells = grid[:6], (int(number) for number in grid[6:])
    return (*inputs, *bounds, *cells, step, items, rays)


def _launch(kernel: str, arguments: tuple[Argument, ...], count: int) -> None:
    first = arguments[0]
    if count == 0 or not isinstance(first, Tensor):
        return
    function = cuda_function("traversal", instance(kernel, first.dtype), first.device)
    launch(function, (-(-count // _THREADS), 1, 1), (_THREADS, 1, 1), arguments)
