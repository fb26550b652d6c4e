"""Depth maps to points in one pass as torch operators; ``reference.py`` has the definition.

The operators' gradients are those of the depth. Where intrinsics or pose need theirs, the reference
runs instead: a few sums over the whole image are then worth nothing next to everything around them.
Results do not depend on the number of threads.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.selection import selected_kernels
from geomim.kernels.unproject import cuda, reference

_OPERATORS = torch.ops.geomim


def unproject(
    depth: Tensor,
    focal: Tensor,
    centre: Tensor,
    rotation: Tensor,
    translation: Tensor,
    *,
    along_ray: bool,
    nearest: float,
) -> tuple[Tensor, Tensor]:
    """Return the points that pixels see, in the intrinsics' dtype, and where there is one.

    Shapes and meaning are those of :func:`geomim.kernels.unproject.reference.unproject`.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If intrinsics and pose are not all float32, or all float64.
    """
    parameters = (focal, centre, rotation, translation)
    _check(depth, parameters)
    felt = torch.is_grad_enabled() and any(each.requires_grad for each in parameters)
    if felt or selected_kernels() == "reference":
        return reference.unproject(depth, *parameters, along_ray=along_ray, nearest=nearest)
    return _OPERATORS.unproject(depth, *parameters, along_ray, nearest)


def _check(depth: Tensor, parameters: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    if depth.ndim != 3 or not depth.is_floating_point():
        raise ValueError(
            "depth must be floating, image by row by column, "
            f"got {depth.dtype} {tuple(depth.shape)}"
        )
    image = depth.shape[0]
    shapes = [tuple(each.shape) for each in parameters]
    if shapes != [(image, 2), (image, 2), (image, 3, 3), (image, 3)]:
        raise ValueError(
            f"focal, centre, rotation and translation must be {image} by 2, 2, 3 by 3 and 3, "
            f"got {shapes}"
        )
    kinds = {each.dtype for each in parameters}
    if kinds not in ({torch.float32}, {torch.float64}):
        raise TypeError(
            "focal, centre, rotation and translation must all be float32 or all float64, "
            f"got {[each.dtype for each in parameters]}"
        )


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::unproject",
    "(Tensor depth, Tensor focal, Tensor centre, Tensor rotation, Tensor translation,"
    " bool along_ray, float nearest) -> (Tensor points, Tensor valid)",
)
torch.library.define(
    "geomim::unproject_backward",
    "(Tensor grad, Tensor valid, Tensor focal, Tensor centre, Tensor rotation, bool along_ray)"
    " -> Tensor",
)


@torch.library.register_fake("geomim::unproject")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _unproject_fake(depth: Tensor, focal: Tensor, *_others: object) -> tuple[Tensor, Tensor]:
    return _empty_points(depth, focal)


@torch.library.register_fake("geomim::unproject_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _backward_fake(_grad: Tensor, valid: Tensor, focal: Tensor, *_others: object) -> Tensor:
    return focal.new_empty(valid.shape)


def _empty_points(depth: Tensor, focal: Tensor) -> tuple[Tensor, Tensor]:
    """Return room for what ``unproject`` returns."""
    return focal.new_empty((*depth.shape, 3)), depth.new_empty(depth.shape, dtype=torch.bool)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    depth, focal, centre, rotation, _, ctx.along_ray, _ = inputs
    ctx.dtype = depth.dtype
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], focal, centre, rotation)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    for_depth = _OPERATORS.unproject_backward(grad, *ctx.saved_tensors, ctx.along_ray)
    return for_depth.to(ctx.dtype), *[None] * 6


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    *tensors, ctx.along_ray = inputs
    ctx.save_for_backward(*tensors[1:])


def _differentiate_backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
    rays = reference.directions(*ctx.saved_tensors, along_ray=ctx.along_ray)
    return along[..., None] * rays, *[None] * 5


register_autograd("geomim::unproject", _differentiate, setup_context=_keep)
register_autograd(
    "geomim::unproject_backward", _differentiate_backward, setup_context=_keep_for_backward
)


@torch.library.impl("geomim::unproject", "cpu")
def _unproject_cpu(
    depth: Tensor,
    focal: Tensor,
    centre: Tensor,
    rotation: Tensor,
    translation: Tensor,
    along_ray: bool,
    nearest: float,
) -> tuple[Tensor, Tensor]:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.unproject import cpu

    points, valid = _empty_points(depth, focal)
    inputs = (depth.to(focal.dtype), focal, centre, rotation, translation)
    cpu.unproject(
        *map(_array, inputs),
        along_ray,
        points.numpy().dtype.type(nearest),
        points.numpy(),
        valid.numpy(),
        threads=torch.get_num_threads(),
    )
    return points, valid


@torch.library.impl("geomim::unproject_backward", "cpu")
def _backward_cpu(
    grad: Tensor, valid: Tensor, focal: Tensor, centre: Tensor, rotation: Tensor, along_ray: bool
) -> Tensor:
    from geomim.kernels.unproject import cpu

    out = focal.new_empty(valid.shape)
    cpu.unproject_backward(
        *map(_array, (grad, valid, focal, centre, rotation)),
        along_ray,
        out.numpy(),
        threads=torch.get_num_threads(),
    )
    return out


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


@torch.library.impl("geomim::unproject", "cuda")
def _unproject_cuda(
    depth: Tensor,
    focal: Tensor,
    centre: Tensor,
    rotation: Tensor,
    translation: Tensor,
    along_ray: bool,
    nearest: float,
) -> tuple[Tensor, Tensor]:
    if focal.dtype == torch.float64 or depth.dtype == torch.float64:
        depth = depth.to(focal.dtype)
    points, valid = _empty_points(depth, focal)
    parameters = [each.contiguous() for each in (focal, centre, rotation, translation)]
    cuda.unproject(depth.contiguous(), tuple(parameters), along_ray, nearest, points, valid)
    return points, valid


@torch.library.impl("geomim::unproject_backward", "cuda")
def _backward_cuda(
    grad: Tensor, valid: Tensor, focal: Tensor, centre: Tensor, rotation: Tensor, along_ray: bool
) -> Tensor:
    out = focal.new_empty(valid.shape)
    parameters = [each.contiguous() for each in (focal, centre, rotation)]
    cuda.unproject_backward(
        grad.contiguous(), valid.contiguous(), tuple(parameters), along_ray, out
    )
    return out
