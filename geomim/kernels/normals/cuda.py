"""Launch ``cuda.cu``: which instance, which grid, which arguments; never wait for the device."""

import torch
from torch import Tensor

from geomim.kernels.nvrtc import Argument, cuda_function, launch

_THREADS = 256
_TYPES = {
    torch.float32: "float, float",
    torch.float64: "double, double",
    torch.float16: "__half, float",
    torch.bfloat16: "__nv_bfloat16, float",
}


def normals(
    depth: Tensor, focal: Tensor, centre: Tensor, nearest: float, out: Tensor, valid: Tensor
) -> None:
    """Fill ``out`` and ``valid``; all tensors are contiguous."""
    arguments = (depth, focal, centre, out, valid, *depth.shape, nearest)
    _launch("normals", arguments, depth)


def normals_backward(
    grad: Tensor, depth: Tensor, focal: Tensor, centre: Tensor, nearest: float, out: Tensor
) -> None:
    """Fill ``out``; all tensors are contiguous."""
    arguments = (grad, depth, focal, centre, out, *depth.shape, nearest)
    _launch("normals_backward", arguments, depth)


def instance(kernel: str, dtype: torch.dtype) -> str:
    """Return the entry point for depths of a dtype."""
    return f"{kernel}<{_TYPES[dtype]}>"


def _launch(kernel: str, arguments: tuple[Argument, ...], depth: Tensor) -> None:
    if depth.numel() == 0:
        return
    function = cuda_function("normals", instance(kernel, depth.dtype), depth.device)
    launch(function, (-(-depth.numel() // _THREADS), 1, 1), (_THREADS, 1, 1), arguments)
