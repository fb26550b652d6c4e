"""Launch ``cuda.cu``. Nothing here waits for the device."""

import torch
from torch import Tensor

from geomim.kernels.nvrtc import Argument, cuda_function, launch

_THREADS = 256
_TYPES = {torch.float32: "float", torch.float64: "double"}


def find_boxes(inputs: tuple[Tensor, ...], out: Tensor) -> None:
    """Fill ``out``; all tensors are contiguous."""
    _launch("find_boxes", (*inputs, out, len(out), *inputs[2].shape), out)


def move_by_screws(inputs: tuple[Tensor, ...], inverse: bool, out: tuple[Tensor, Tensor]) -> None:
    """Fill ``out``; all tensors are contiguous."""
    sizes = (len(out[0]), *inputs[3].shape, int(inverse))
    _launch("move_by_screws", (*inputs, *out, *sizes), out[0])


def move_by_screws_backward(
    inputs: tuple[Tensor, ...], inverse: bool, out: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Fill ``out[0]``, add to the others atomically; all tensors are contiguous."""
    sizes = (len(out[0]), *inputs[5].shape, int(inverse))
    _launch("move_by_screws_backward", (*inputs, *out, *sizes), out[0])


def instance(kernel: str, dtype: torch.dtype) -> str:
    """Return the entry point for points of a dtype."""
    return f"{kernel}<{_TYPES[dtype]}>"


def _launch(kernel: str, arguments: tuple[Argument, ...], out: Tensor) -> None:
    first = arguments[0]
    if len(out) == 0 or not isinstance(first, Tensor):
        return
    function = cuda_function("screws", instance(kernel, first.dtype), first.device)
    launch(function, (-(-len(out) // _THREADS), 1, 1), (_THREADS, 1, 1), arguments)
