"""Launch ``cuda.cu``. Nothing here waits for the device."""

import torch
from torch import Tensor

from geomim.kernels.nvrtc import cuda_function, launch

_ROWS = 8
_SHARED_BYTES = 48 * 1024
_TYPES = {torch.float32: "float", torch.float64: "double"}


def invert_cdf(
    edges: Tensor, weights: Tensor, fractions: Tensor, places: Tensor, known: Tensor
) -> None:
    """Fill ``places`` and ``known``; all tensors are contiguous."""
    rows, samples = places.shape
    if rows == 0:
        return
    wanted = shared_bytes(edges)
    scratch = None if wanted else torch.empty_like(edges)
    function = cuda_function("resampling", instance(edges.dtype), edges.device)
    sizes = (rows, weights.shape[1], samples, int(fractions.shape[0] == 1))
    launch(
        function,
        (-(-rows // _ROWS), 1, 1),
        (32, _ROWS, 1),
        (edges, weights, fractions, places, known, scratch, *sizes),
        shared_bytes=wanted,
    )


def instance(dtype: torch.dtype) -> str:
    """Return the entry point for a dtype."""
    return f"invert_cdf<{_TYPES[dtype]}>"


def shared_bytes(edges: Tensor) -> int:
    """Return what the sums of a block take, or 0 if that is more than every device has."""
    wanted = _ROWS * edges.shape[1] * edges.element_size()
    return wanted if wanted <= _SHARED_BYTES else 0
