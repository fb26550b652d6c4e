"""Launch ``cuda.cu``. Nothing here waits for the device."""

import torch
from torch import Tensor

from geomim.kernels.nvrtc import Argument, cuda_function, launch

_THREADS = 256
_TYPES = {torch.float32: "float", torch.float64: "double"}


def clip_rays(inputs: tuple[Tensor, ...], near: float, far: float, out: tuple[Tensor, ...]) -> None:
    """Fill ``out``; all tensors are contiguous."""
    origins, lower = inputs[0], inputs[2]
    tiny = torch.finfo(origins.dtype).tiny
    sizes = (near, far, tiny, int(len(lower) > 1), len(origins))
    _launch("clip_rays", origins, (*inputs, *out, *sizes))


def clip_rays_backward(inputs: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """Add to ``out``, which holds a row for each ray; all tensors are contiguous."""
    origins, lower = inputs[2], inputs[4]
    sizes = (int(len(lower) > 1), len(origins))
    _launch("clip_rays_backward", origins, (*inputs, *out, *sizes))


def instance(kernel: str, dtype: torch.dtype) -> str:
    """Return the entry point for rays of a dtype."""
    return f"{kernel}<{_TYPES[dtype]}>"


def _launch(kernel: str, origins: Tensor, arguments: tuple[Argument, ...]) -> None:
    if len(origins) == 0:
        return
    function = cuda_function("clipping", instance(kernel, origins.dtype), origins.device)
    launch(function, (-(-len(origins) // _THREADS), 1, 1), (_THREADS, 1, 1), arguments)
