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


def unproject(
    depth: Tensor,
    intrinsics_and_pose: tuple[Tensor, ...],
    along_ray: bool,
    nearest: float,
    out: Tensor,
    valid: Tensor,
) -> None:
    """Fill ``out`` and ``valid``; all tensors are contiguous."""
    arguments = (*intrinsics_and_pose, out, valid, *depth.shape, int(along_ray), nearest)
    _launch("unproject", (depth, *arguments), maps=(depth, out, valid))


def unproject_backward(
    grad: Tensor,
    valid: Tensor,
    intrinsics_and_rotation: tuple[Tensor, ...],
    along_ray: bool,
    out: Tensor,
) -> None:
    """Fill ``out``; all tensors are contiguous."""
    arguments = (grad, valid, *intrinsics_and_rotation, out, *out.shape, int(along_ray))
    _launch("unproject_backward", arguments, maps=(out, grad, valid))


def instance(kernel: str, dtype: torch.dtype, width: int) -> str:
    """Return the entry point for lengths of a dtype, taken ``width`` at a time."""
    return f"{kernel}<{_TYPES[dtype]}, {width}>"


def pack_width(maps: tuple[Tensor, ...]) -> int:
    """Return how many pixels of a row all maps let a thread take: 16 bytes' worth, or one.

    The first map is that of the lengths.
    """
    pack = 2 if maps[0].dtype == torch.float64 else 4
    aligned = all(each.data_ptr() % min(16, pack * each.element_size()) == 0 for each in maps)
    return pack if maps[0].shape[-1] % pack == 0 and aligned else 1


def _launch(kernel: str, arguments: tuple[Argument, ...], *, maps: tuple[Tensor, ...]) -> None:
    lengths = maps[0]
    if lengths.numel() == 0:
        return
    width = pack_width(maps)
    function = cuda_function("unproject", instance(kernel, lengths.dtype, width), lengths.device)
    blocks = -(-lengths.numel() // (width * _THREADS))
    launch(function, (blocks, 1, 1), (_THREADS, 1, 1), arguments)
