"""Launch ``cuda.cu``. Nothing here waits for the device."""

import torch
from torch import Tensor

from geomim.kernels.nvrtc import Argument, cuda_function, launch

_THREADS = 256
_TYPES = {torch.float32: "float", torch.float64: "double"}


def accumulate(
    points: Tensor, stride: int, tables: tuple[Tensor | None, ...], out: tuple[Tensor, ...]
) -> None:
    """Fill ``out``; ``tables`` are the arguments behind ``points``, contiguous."""
    count, sweeps = len(out[0]), len(tables[0]) - 1 if tables[0] is not None else 0
    boxes = len(tables[4]) if tables[4] is not None else 0
    _launch("accumulate", (points, stride, *tables, *out, count, sweeps, boxes), count)


def accumulate_backward(inputs: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """Fill ``out[0]``, add to the others atomically; all tensors are contiguous."""
    count, boxes = len(inputs[0]), inputs[-1].shape[1]
    _launch("accumulate_backward", (*inputs, *out, count, boxes), count)


def instance(kernel: str, dtype: torch.dtype) -> str:
    """Return the entry point for points of a dtype."""
    return f"{kernel}<{_TYPES[dtype]}>"


def _launch(kernel: str, arguments: tuple[Argument, ...], count: int) -> None:
    first = arguments[0]
    if count == 0 or not isinstance(first, Tensor):
        return
    function = cuda_function("accumulate", instance(kernel, first.dtype), first.device)
    launch(function, (-(-count // _THREADS), 1, 1), (_THREADS, 1, 1), arguments)
