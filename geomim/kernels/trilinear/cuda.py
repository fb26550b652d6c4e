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


def gather(
    volume: Tensor, points: Tensor, mix: Tensor | None, border: bool, out: Tensor, known: Tensor
) -> None:
    """Fill ``out`` and ``known``; all tensors are contiguous."""
    batch, count, kinds, channels = out.shape
    sizes = (batch, count, kinds, channels, *volume.shape[1:4])
    arguments = (volume, points, mix, out, known, *sizes, *_strides(mix), int(border))
    _launch("gather", arguments, rows=(volume, out), points=batch * count)


def scatter(grad: Tensor, points: Tensor, mix: Tensor | None, border: bool, out: Tensor) -> None:
    """Add to ``out``, atomically; all tensors are contiguous, ``out`` in the points' dtype."""
    batch, count, kinds, channels = grad.shape
    sizes = (batch, count, kinds, channels, *out.shape[1:4])
    arguments = (grad, points, mix, out, *sizes, *_strides(mix), int(border))
    _launch("scatter", arguments, rows=(grad, out), points=batch * count)


def dots(volume: Tensor, points: Tensor, grad: Tensor, border: bool, out: Tensor) -> None:
    """Fill ``out``; all tensors are contiguous."""
    batch, count, kinds, channels = grad.shape
    sizes = (batch, count, kinds, channels, *volume.shape[1:4])
    arguments = (volume, points, grad, out, *sizes, int(border))
    _launch("dots", arguments, rows=(volume, grad), points=batch * count)


def instance(kernel: str, dtype: torch.dtype, width: int) -> str:
    """Return the entry point for values of a dtype, loaded ``width`` at a time."""
    return f"{kernel}<{_TYPES[dtype]}, {width}>"


def vector_width(rows: tuple[Tensor, ...]) -> int:
    """Return how many channels of all tensors can be loaded at once: 16 bytes' worth, or one."""
    width = 2 if rows[0].dtype == torch.float64 else 4
    whole = rows[0].shape[-1] % width == 0
    aligned = all(row.data_ptr() % (width * row.element_size()) == 0 for row in rows)
    return width if whole and aligned else 1


def lanes(channels: int, width: int) -> int:
    """Return how many threads share a point: a power of two within a warp."""
    packs = max(1, channels // width)
    return min(32, 1 << (packs - 1).bit_length())


def _strides(mix: Tensor | None) -> tuple[int, int]:
    """Return the distance between items and between points, 0 where one serves all."""
    if mix is None:
        return 0, 0
    items, points, kinds, _ = mix.shape
    return (8 * kinds * points if items > 1 else 0), (8 * kinds if points > 1 else 0)


def _launch(
    kernel: str, arguments: tuple[Argument, ...], *, rows: tuple[Tensor, ...], points: int
) -> None:
    if points == 0:
        return
    width = vector_width(rows)
    across = lanes(rows[0].shape[-1], width)
    down = _THREADS // across
    function = cuda_function("trilinear", instance(kernel, rows[0].dtype, width), rows[0].device)
    launch(function, (-(-points // down), 1, 1), (across, down, 1), arguments)
