"""Clip rays to boxes as torch operators; ``reference.py`` defines them."""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.clipping import cuda, reference
from geomim.kernels.selection import selected_kernels

Clipped = tuple[Tensor, Tensor, Tensor]


def clip_rays(
    origins: Tensor,
    directions: Tensor,
    lower: Tensor,
    upper: Tensor,
    valid: Tensor,
    *,
    near: float,
    far: float,
) -> Clipped:
    """Return where each ray enters and leaves its box, and whether it does.

    Shapes and meaning are those of :func:`geomim.kernels.clipping.reference.clip_rays`.

    Raises:
        TypeError: If the rays are neither float32 nor float64, or the boxes are of another dtype.
        ValueError: If a shape does not fit.
    """
    if origins.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"rays must be float32 or float64, got {origins.dtype}")
    tensors = (origins, directions, lower, upper)
    if {tensor.dtype for tensor in tensors} != {origins.dtype}:
        raise TypeError(f"boxes must be {origins.dtype} like the rays, got {lower.dtype}")
    rays = origins.shape[0]
    shapes = [tuple(tensor.shape) for tensor in (*tensors, valid)]
    if shapes[1:2] + shapes[4:] != [(rays, 3), (rays,)] or not (
        shapes[2] == shapes[3] and shapes[2] in ((rays, 3), (1, 3))
    ):
        raise ValueError(f"boxes must be one for all or for each of {rays} rays, got {shapes[2:4]}")
    if selected_kernels() == "reference":
        return reference.clip_rays(*tensors, valid, near, far)
    first, last, hits, _, _ = torch.ops.geomim.clip_rays(*tensors, valid, near, far)
    return first, last, hits


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::clip_rays",
    "(Tensor origins, Tensor directions, Tensor lower, Tensor upper, Tensor valid, float near,"
    " float far) -> (Tensor first, Tensor last, Tensor hits, Tensor entry_axis, Tensor leave_axis)",
)
torch.library.define(
    "geomim::clip_rays_backward",
    "(Tensor grad_first, Tensor grad_last, Tensor origins, Tensor directions, Tensor lower,"
    " Tensor upper, Tensor entry_axis, Tensor leave_axis) -> (Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("geomim::clip_rays")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _clip_fake(origins: Tensor, *_others: Any) -> tuple[Tensor, ...]:
    return _room(origins)


@torch.library.register_fake("geomim::clip_rays_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _clip_backward_fake(*inputs: Tensor) -> tuple[Tensor, ...]:
    return _zeros(inputs[2])


def _zeros(origins: Tensor) -> tuple[Tensor, ...]:
    """Return room for a gradient by origin, direction and both corners for every ray."""
    return tuple(origins.new_zeros(origins.shape) for _ in range(4))


def _room(origins: Tensor) -> tuple[Tensor, ...]:
    """Return room for what the operator returns; the axes are -1 where no face counts."""
    rays = origins.shape[:1]
    kinds = (origins.dtype, origins.dtype, torch.bool, torch.int64, torch.int64)
    return tuple(origins.new_empty(rays, dtype=kind) for kind in kinds)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*inputs[:4], *output[3:])
    ctx.boxes = inputs[2].shape


def _differentiate(
    ctx: Any, grad_first: Tensor, grad_last: Tensor, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    by_origin, by_direction, by_lower, by_upper = torch.ops.geomim.clip_rays_backward(
        grad_first, grad_last, *ctx.saved_tensors
    )
    boxes = (by.sum_to_size(ctx.boxes) for by in (by_lower, by_upper))
    return by_origin, by_direction, *boxes, None, None, None


register_autograd("geomim::clip_rays", _differentiate, setup_context=_keep)


@torch.library.impl("geomim::clip_rays", "cpu")
def _clip_cpu(*inputs: Any) -> tuple[Tensor, ...]:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.clipping import cpu

    *tensors, near, far = inputs
    out = _room(tensors[0])
    arrays = [tensor.contiguous().numpy() for tensor in tensors]
    results = [part.numpy() for part in out]
    tiny = torch.finfo(tensors[0].dtype).tiny
    cpu.clip_rays(*arrays, near, far, tiny, *results, threads=torch.get_num_threads())
    return out


@torch.library.impl("geomim::clip_rays_backward", "cpu")
def _clip_backward_cpu(*inputs: Tensor) -> tuple[Tensor, ...]:
    from geomim.kernels.clipping import cpu

    out = _zeros(inputs[2])
    arrays = [tensor.contiguous().numpy() for tensor in (*inputs, *out)]
    cpu.clip_rays_backward(*arrays, threads=torch.get_num_threads())
    return out


@torch.library.impl("geomim::clip_rays", "cuda")
def _clip_cuda(*inputs: Any) -> tuple[Tensor, ...]:
    *tensors, near, far = inputs
    out = _room(tensors[0])
    cuda.clip_rays(tuple(tensor.contiguous() for tensor in tensors), near, far, out)
    return out


@torch.library.impl("geomim::clip_rays_backward", "cuda")
def _clip_backward_cuda(*inputs: Tensor) -> tuple[Tensor, ...]:
    out = _zeros(inputs[2])
    cuda.clip_rays_backward(tuple(tensor.contiguous() for tensor in inputs), out)
    return out
