"""Launch ``cuda.cu``: which instance, which grid, which arguments; never wait for the device."""

import torch
from torch import Tensor

from geomim.kernels.nvrtc import Argument, cuda_function, launch

_THREADS = 256
_TYPES = {torch.float32: "float", torch.float64: "double"}


def pool(inputs: tuple[Tensor, ...], out: Tensor) -> None:
    """Add to ``out``, atomically; all tensors are contiguous."""
    features, weights, _ = inputs
    _launch("pool", features, weights, (*inputs, out), cells=len(out))


def pool_backward(inputs: tuple[Tensor, ...], out: tuple[Tensor, Tensor]) -> None:
    """Fill ``out``; all tensors are contiguous."""
    grad, features, weights, _ = inputs
    _launch("pool_backward", features, weights, (*inputs, *out), cells=len(grad))


def frustum_cells(
    inputs: tuple[Tensor, ...], views: int, shape: tuple[int, int, int], out: Tensor
) -> None:
    """Fill ``out``; all tensors are contiguous."""
    if out.numel() == 0:
        return
    expression = instance("frustum_cells", inputs[0].dtype)
    function = cuda_function("pooling", expression, out.device)
    arguments = (*inputs, out, *out.shape, views, *shape)
    launch(function, (-(-out.numel() // _THREADS), 1, 1), (_THREADS, 1, 1), arguments)


def instance(kernel: str, dtype: torch.dtype) -> str:
    """Return the entry point for a dtype of arithmetic."""
    return f"{kernel}<{_TYPES[dtype]}>"


def lanes(channels: int) -> int:
    """Return how many threads share a pixel: a power of two within a warp."""
    return min(32, 1 << (max(1, channels) - 1).bit_length())


def _launch(
    kernel: str, features: Tensor, weights: Tensor, arguments: tuple[Argument, ...], *, cells: int
) -> None:
    views, bins, pixels = weights.shape
    if weights.numel() == 0 or features.numel() == 0:
        return
    across = lanes(features.shape[2])
    down = _THREADS // across
    function = cuda_function("pooling", instance(kernel, features.dtype), features.device)
    sizes = (views, bins, pixels, features.shape[2], cells)
    grid = (-(-views * pixels // down), 1, 1)
    launch(function, grid, (across, down, 1), (*arguments, *sizes))
