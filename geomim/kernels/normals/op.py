"""Normals from pinhole depth in one pass as torch operators; ``reference.py`` defines them.

The operators' gradients are those of the depth. Where intrinsics need theirs, the reference runs
instead. Results, gradients included, do not depend on the number of threads.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.normals import cuda, reference
from geomim.kernels.selection import selected_kernels

_OPERATORS = torch.ops.geomim


def normals(
    depth: Tensor, focal: Tensor, centre: Tensor, *, nearest: float
) -> tuple[Tensor, Tensor]:
    """Return the normals of what pinhole cameras see, and where there is one.

    Shapes and meaning are those of :func:`geomim.kernels.normals.reference.normals`.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If the intrinsics are not both float32, or both float64.
    """
    _check(depth, focal, centre)
    felt = torch.is_grad_enabled() and (focal.requires_grad or centre.requires_grad)
    if felt or selected_kernels() == "reference":
        return reference.normals(depth, focal, centre, nearest=nearest)
    return _OPERATORS.normals(depth, focal, centre, nearest)


def _check(depth: Tensor, focal: Tensor, centre: Tensor) -> None:
    if depth.ndim != 3 or not depth.is_floating_point():
        raise ValueError(
            "depth must be floating, image by row by column, "
            f"got {depth.dtype} {tuple(depth.shape)}"
        )
    shapes = [tuple(focal.shape), tuple(centre.shape)]
    if shapes != [(depth.shape[0], 2)] * 2:
        raise ValueError(f"focal and centre must be {depth.shape[0]} by 2, got {shapes}")
    if focal.dtype not in (torch.float32, torch.float64) or centre.dtype != focal.dtype:
        raise TypeError(
            "focal and centre must both be float32 or float64, "
            f"got {focal.dtype} and {centre.dtype}"
        )


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::normals",
    "(Tensor depth, Tensor focal, Tensor centre, float nearest) -> (Tensor normals, Tensor valid)",
)
torch.library.define(
    "geomim::normals_backward",
    "(Tensor grad, Tensor depth, Tensor focal, Tensor centre, float nearest) -> Tensor",
)


@torch.library.register_fake("geomim::normals")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _normals_fake(depth: Tensor, focal: Tensor, *_others: object) -> tuple[Tensor, Tensor]:
    return _empty_normals(depth, focal)


@torch.library.register_fake("geomim::normals_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _backward_fake(_grad: Tensor, depth: Tensor, focal: Tensor, *_others: object) -> Tensor:
    return focal.new_empty(depth.shape)


def _empty_normals(depth: Tensor, focal: Tensor) -> tuple[Tensor, Tensor]:
    """Return room for what ``normals`` returns."""
    return focal.new_empty((*depth.shape, 3)), depth.new_empty(depth.shape, dtype=torch.bool)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.nearest = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    depth, focal, centre = ctx.saved_tensors
    for_depth = _OPERATORS.normals_backward(grad, depth, focal, centre, ctx.nearest)
    return for_depth.to(depth.dtype), None, None, None


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    *tensors, ctx.nearest = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiate the reference's gradient: rare, and not worth a third kernel."""
    grad, depth, focal, centre = ctx.saved_tensors
    with torch.enable_grad():
        grad, depth = (each.detach().requires_grad_() for each in (grad, depth))
        values, _ = reference.normals(depth, focal, centre, nearest=ctx.nearest)
        (slopes,) = torch.autograd.grad(values, depth, grad, create_graph=True)
        by_grad, by_depth = torch.autograd.grad(slopes, (grad, depth), along.to(slopes.dtype))
    return by_grad, by_depth, None, None, None


register_autograd("geomim::normals", _differentiate, setup_context=_keep)
register_autograd(
    "geomim::normals_backward", _differentiate_backward, setup_context=_keep_for_backward
)


@torch.library.impl("geomim::normals", "cpu")
def _normals_cpu(
    depth: Tensor, focal: Tensor, centre: Tensor, nearest: float
) -> tuple[Tensor, Tensor]:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.normals import cpu

    out, valid = _empty_normals(depth, focal)
    cpu.normals(
        *map(_array, (depth.to(focal.dtype), focal, centre)),
        out.numpy().dtype.type(nearest),
        out.numpy(),
        valid.numpy(),
        threads=torch.get_num_threads(),
    )
    return out, valid


@torch.library.impl("geomim::normals_backward", "cpu")
def _backward_cpu(
    grad: Tensor, depth: Tensor, focal: Tensor, centre: Tensor, nearest: float
) -> Tensor:
    from geomim.kernels.normals import cpu

    out = focal.new_empty(depth.shape)
    cpu.normals_backward(
        *map(_array, (grad, depth.to(focal.dtype), focal, centre)),
        out.numpy().dtype.type(nearest),
        out.numpy(),
        threads=torch.get_num_threads(),
    )
    return out


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


@torch.library.impl("geomim::normals", "cuda")
def _normals_cuda(
    depth: Tensor, focal: Tensor, centre: Tensor, nearest: float
) -> tuple[Tensor, Tensor]:
    inputs = _contiguous(depth, focal, centre)
    out, valid = _empty_normals(depth, focal)
    cuda.normals(*inputs, nearest, out, valid)
    return out, valid


@torch.library.impl("geomim::normals_backward", "cuda")
def _backward_cuda(
    grad: Tensor, depth: Tensor, focal: Tensor, centre: Tensor, nearest: float
) -> Tensor:
    out = focal.new_empty(depth.shape)
    cuda.normals_backward(grad.contiguous(), *_contiguous(depth, focal, centre), nearest, out)
    return out


def _contiguous(depth: Tensor, focal: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prepare inputs for CUDA, which widens half precision itself."""
    if torch.float64 in (depth.dtype, focal.dtype):
        depth = depth.to(focal.dtype)
    return depth.contiguous(), focal.contiguous(), centre.contiguous()
