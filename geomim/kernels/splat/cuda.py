"""Launch ``cuda.cu``. Nothing here waits for the device."""

import torch
from torch import Tensor

from geomim.kernels.nvrtc import Argument, cuda_function, launch

_THREADS = 256
_TYPES = {torch.float32: "float", torch.float64: "double"}


def project_pinhole(
    inputs: tuple[Tensor, ...],
    size: tuple[int, int],
    limits: tuple[float, float],
    out: tuple[Tensor, ...],
) -> None:
    """Fill ``out``; all tensors are contiguous."""
    points, depth = inputs[0], out[1]
    sizes = (*depth.shape, int(len(points) == 1), *size)
    name = instance("project_pinhole", points.dtype)
    _launch(name, (*inputs, *out, *sizes, *limits), depth.numel())


def project_pinhole_backward(inputs: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """Add to ``out``; all tensors are contiguous."""
    valid, points = inputs[2:4]
    cameras, count = valid.shape
    sizes = (cameras, count, int(len(points) == 1))
    name = instance("project_pinhole_backward", points.dtype)
    # Whole blocks a camera.
    threads = cameras * (-(-count // _THREADS) * _THREADS)
    _launch(name, (*inputs, *out, *sizes), threads)


def splat(inputs: tuple[Tensor, Tensor, Tensor], radius: float, out: tuple[Tensor, Tensor]) -> None:
    """Fill ``out``, whose index is -1 everywhere; all tensors are contiguous."""
    depth, index = out
    images, height, width = depth.shape
    count = inputs[1].shape[1]
    sizes = (images, count, height, width, radius)
    nearest = torch.full_like(index, -1, dtype=torch.int64)
    if depth.dtype == torch.float32:
        _launch("splat_keys", (*inputs, nearest, *sizes), images * count)
        _launch("read_keys", (nearest, depth, index, depth.numel()), depth.numel())
        return
    _launch("splat_depths", (*inputs, nearest, *sizes), images * count)
    _launch("splat_indices", (*inputs, nearest, index, *sizes), images * count)
    _launch("read_depths", (nearest, depth, depth.numel()), depth.numel())


def instance(kernel: str, dtype: torch.dtype) -> str:
    """Return the entry point for points of a dtype."""
    return f"{kernel}<{_TYPES[dtype]}>"


def _launch(expression: str, arguments: tuple[Argument, ...], threads: int) -> None:
    first = arguments[0]
    if threads == 0 or not isinstance(first, Tensor):
        return
    function = cuda_function("splat", expression, first.device)
    launch(function, (-(-threads // _THREADS), 1, 1), (_THREADS, 1, 1), arguments)
