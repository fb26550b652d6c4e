"""Interpolate channels-last volumes as torch operators, differentiable any number of times.

Three operators, ``trilinear``, ``trilinear_scatter`` and ``trilinear_dots``, are each other's
derivatives; ``reference.py`` defines them. On the CPU every sum has a fixed order, whatever the
number of threads; on CUDA ``trilinear_scatter`` adds atomically, unless torch is told to use
deterministic algorithms.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.selection import selected_kernels
from geomim.kernels.trilinear import cuda, reference

_OPERATORS = torch.ops.geomim


def trilinear(
    volume: Tensor, points: Tensor, mix: Tensor | None = None, *, border: bool = False
) -> tuple[Tensor, Tensor]:
    """Return combinations of a volume's derivatives at points, and which points are known.

    Shapes and meaning are those of :func:`geomim.kernels.trilinear.reference.gather`.

    Raises:
        ValueError: If a shape does not fit, or the volume has no cells.
        TypeError: If points are not float64 for a float64 volume, or else float32.
    """
    _check(volume, points, mix)
    if selected_kernels() == "reference":
        return reference.gather(volume, points, mix, border=border)
    return _OPERATORS.trilinear(volume, points, mix, border)


def trilinear_dots(volume: Tensor, points: Tensor, grad: Tensor, *, border: bool) -> Tensor:
    """Return sums over channels of ``grad`` times each of the volume's eight derivatives.

    Shapes and meaning are those of :func:`geomim.kernels.trilinear.reference.dots`.

    Raises:
        ValueError: If a shape of the volume or the points does not fit, or the volume has no cells.
        TypeError: If points are not float64 for a float64 volume, or else float32.
    """
    _check(volume, points, None)
    if selected_kernels() == "reference":
        return reference.dots(volume, points, grad, border=border)
    return _OPERATORS.trilinear_dots(volume, points, grad, border)


def compute_dtype(volume: Tensor) -> torch.dtype:
    """Return the dtype of points and of all arithmetic for a volume."""
    return torch.float64 if volume.dtype == torch.float64 else torch.float32


def gradient_mix(points: Tensor) -> Tensor:
    """Return the coefficients of the value and of its derivatives along x, y and z."""
    return torch.eye(4, 8, dtype=points.dtype, device=points.device)[None, None]


def _check(volume: Tensor, points: Tensor, mix: Tensor | None) -> None:
    if volume.ndim != 5 or not volume.is_floating_point() or 0 in volume.shape[1:4]:
        raise ValueError(
            "volume must be floating, batch by z by y by x by channel, with at least one cell, "
            f"got {volume.dtype} {tuple(volume.shape)}"
        )
    if points.ndim != 3 or points.shape[::2] != (volume.shape[0], 3):
        raise ValueError(
            f"points must be {volume.shape[0]} by point by 3, got {tuple(points.shape)}"
        )
    if points.dtype != compute_dtype(volume) or points.device != volume.device:
        raise TypeError(
            f"points must be {compute_dtype(volume)} on {volume.device} for a {volume.dtype} "
            f"volume, got {points.dtype} on {points.device}"
        )
    if mix is not None and not _is_mix(mix, points):
        raise ValueError(
            f"mix must be {points.shape[0]} or 1 by {points.shape[1]} or 1 by combination by 8, "
            f"like points, got {mix.dtype} {tuple(mix.shape)}"
        )


def _is_mix(mix: Tensor, points: Tensor) -> bool:
    alike = (mix.dtype, mix.device) == (points.dtype, points.device)
    fits = mix.ndim == 4 and all(
        size in (1, whole) for size, whole in zip(mix.shape, points.shape[:2], strict=False)
    )
    return alike and fits and mix.shape[3] == 8


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::trilinear",
    "(Tensor volume, Tensor points, Tensor? mix, bool border) -> (Tensor values, Tensor known)",
)
torch.library.define(
    "geomim::trilinear_scatter",
    "(Tensor grad, Tensor points, Tensor? mix, SymInt z, SymInt y, SymInt x, bool border)"
    " -> Tensor",
)
torch.library.define(
    "geomim::trilinear_dots", "(Tensor volume, Tensor points, Tensor grad, bool border) -> Tensor"
)


@torch.library.register_fake("geomim::trilinear")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _gather_fake(
    volume: Tensor, points: Tensor, mix: Tensor | None, *_border: bool
) -> tuple[Tensor, Tensor]:
    return _empty_values(volume, points, mix)


@torch.library.register_fake("geomim::trilinear_scatter")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _scatter_fake(
    grad: Tensor, _points: Tensor, _mix: Tensor | None, *rest: int | bool | torch.SymInt
) -> Tensor:
    return grad.new_empty((grad.shape[0], *rest[:3], grad.shape[3]))


@torch.library.register_fake("geomim::trilinear_dots")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _dots_fake(_volume: Tensor, points: Tensor, grad: Tensor, *_border: bool) -> Tensor:
    return points.new_empty((*grad.shape[:3], 8))


def _empty_values(volume: Tensor, points: Tensor, mix: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return room for what ``trilinear`` returns."""
    batch, count = points.shape[:2]
    kinds = 1 if mix is None else mix.shape[2]
    values = volume.new_empty((batch, count, kinds, volume.shape[4]))
    return values, points.new_empty((batch, count), dtype=torch.bool)


def _over_points(mix: Tensor | None, products: Tensor) -> Tensor:
    """Contract ``mix`` with the products of one derivative more."""
    if mix is None:
        return products[:, :, 0, 1:4]
    factors, derived = mix.unbind(dim=-1), products.unbind(dim=-1)
    along = [
        torch.stack([factors[s] * derived[t] for s, t in zip(source, target, strict=True)]).sum(0)
        for source, target in zip(reference.FROM, reference.TO, strict=True)
    ]
    return torch.stack(along, dim=-1).sum(dim=2)


def _keep_for_gather(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    volume, points, mix, ctx.border = inputs
    ctx.save_for_backward(volume, points, mix)


def _differentiate_gather(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    volume, points, mix = ctx.saved_tensors
    for_volume, for_points, for_mix, _ = ctx.needs_input_grad
    products = (
        _OPERATORS.trilinear_dots(volume, points, grad, ctx.border)
        if for_points or for_mix
        else None
    )
    return (
        _OPERATORS.trilinear_scatter(grad, points, mix, *volume.shape[1:4], ctx.border)
        if for_volume
        else None,
        _over_points(mix, products) if for_points and products is not None else None,
        products.sum_to_size(mix.shape) if for_mix and products is not None else None,
        None,
    )


def _keep_for_scatter(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    grad, points, mix, _, _, _, ctx.border = inputs
    ctx.save_for_backward(grad, points, mix)


def _differentiate_scatter(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
    grad, points, mix = ctx.saved_tensors
    for_grad, for_points, for_mix = ctx.needs_input_grad[:3]
    products = (
        _OPERATORS.trilinear_dots(along, points, grad, ctx.border)
        if for_points or for_mix
        else None
    )
    return (
        _OPERATORS.trilinear(along, points, mix, ctx.border)[0] if for_grad else None,
        _over_points(mix, products) if for_points and products is not None else None,
        products.sum_to_size(mix.shape) if for_mix and products is not None else None,
        *[None] * 4,
    )


def _keep_for_dots(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    volume, points, grad, ctx.border = inputs
    ctx.save_for_backward(volume, points, grad)


def _differentiate_dots(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
    volume, points, grad = ctx.saved_tensors
    for_volume, for_points, for_grad, _ = ctx.needs_input_grad
    return (
        _OPERATORS.trilinear_scatter(grad, points, along, *volume.shape[1:4], ctx.border)
        if for_volume
        else None,
        _over_points(along, _OPERATORS.trilinear_dots(volume, points, grad, ctx.border))
        if for_points
        else None,
        _OPERATORS.trilinear(volume, points, along, ctx.border)[0] if for_grad else None,
        None,
    )


register_autograd("geomim::trilinear", _differentiate_gather, setup_context=_keep_for_gather)
register_autograd(
    "geomim::trilinear_scatter", _differentiate_scatter, setup_context=_keep_for_scatter
)
register_autograd("geomim::trilinear_dots", _differentiate_dots, setup_context=_keep_for_dots)


@torch.library.impl("geomim::trilinear", "cpu")
def _gather_cpu(
    volume: Tensor, points: Tensor, mix: Tensor | None, border: bool
) -> tuple[Tensor, Tensor]:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.trilinear import cpu

    values, known = _empty_values(volume, points, mix)
    out = values.to(points.dtype)
    cpu.gather(
        _array(volume, points),
        _array(points, points),
        _array(_or_value(mix, points), points),
        border,
        out.numpy(),
        known.numpy(),
        threads=torch.get_num_threads(),
    )
    return out.to(values.dtype), known


@torch.library.impl("geomim::trilinear_scatter", "cpu")
def _scatter_cpu(
    grad: Tensor, points: Tensor, mix: Tensor | None, z: int, y: int, x: int, border: bool
) -> Tensor:
    from geomim.kernels.trilinear import cpu

    out = points.new_zeros((grad.shape[0], z, y, x, grad.shape[3]))
    threads = torch.get_num_threads()
    slabs = -(-threads // max(grad.shape[0], 1))
    cpu.scatter(
        _array(grad, points),
        _array(points, points),
        _array(_or_value(mix, points), points),
        border,
        _even_bounds(points, (z, y, x), slabs).numpy(),
        out.numpy(),
        threads=threads,
    )
    return out.to(grad.dtype)


def _even_bounds(points: Tensor, shape: tuple[int, int, int], slabs: int) -> Tensor:
    """Cut the cells, in their order in memory, into slabs that hold about as many points each."""
    z, y, x = shape
    ends = torch.tensor([0, z * y * x])
    if slabs == 1 or points.numel() == 0:
        return ends
    sample = points.flatten(0, 1)[:: max(1, points.shape[0] * points.shape[1] // 4096)]
    place = (
        sample.nan_to_num().clamp(points.new_zeros(3), points.new_tensor([x, y, z]) - 0.5).long()
    )
    cells = ((place[:, 2] * y + place[:, 1]) * x + place[:, 0]).sort().values
    cuts = cells[torch.arange(1, slabs) * len(cells) // slabs]
    return torch.cat([ends[:1], cuts, ends[1:]])


@torch.library.impl("geomim::trilinear_dots", "cpu")
def _dots_cpu(volume: Tensor, points: Tensor, grad: Tensor, border: bool) -> Tensor:
    from geomim.kernels.trilinear import cpu

    out = points.new_empty((*grad.shape[:3], 8))
    cpu.dots(
        _array(volume, points),
        _array(points, points),
        _array(grad, points),
        border,
        out.numpy(),
        threads=torch.get_num_threads(),
    )
    return out


@torch.library.impl("geomim::trilinear", "cuda")
def _gather_cuda(
    volume: Tensor, points: Tensor, mix: Tensor | None, border: bool
) -> tuple[Tensor, Tensor]:
    values, known = _empty_values(volume, points, mix)
    cuda.gather(*_contiguous(volume, points, mix), border, values, known)
    return values, known


@torch.library.impl("geomim::trilinear_scatter", "cuda")
def _scatter_cuda(
    grad: Tensor, points: Tensor, mix: Tensor | None, z: int, y: int, x: int, border: bool
) -> Tensor:
    if torch.are_deterministic_algorithms_enabled():
        return reference.scatter(grad, points, mix, (z, y, x), border=border)
    out = points.new_zeros((grad.shape[0], z, y, x, grad.shape[3]))
    cuda.scatter(*_contiguous(grad, points, mix), border, out)
    return out.to(grad.dtype)


@torch.library.impl("geomim::trilinear_dots", "cuda")
def _dots_cuda(volume: Tensor, points: Tensor, grad: Tensor, border: bool) -> Tensor:
    out = points.new_empty((*grad.shape[:3], 8))
    cuda.dots(volume.contiguous(), points.contiguous(), grad.contiguous(), border, out)
    return out


def _contiguous(
    rows: Tensor, points: Tensor, mix: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return rows.contiguous(), points.contiguous(), None if mix is None else mix.contiguous()


def _array(tensor: Tensor, points: Tensor) -> Any:
    """Hand a tensor to numba, in the dtype of all arithmetic."""
    return tensor.to(points.dtype).contiguous().numpy()


def _or_value(mix: Tensor | None, points: Tensor) -> Tensor:
    return torch.eye(1, 8, dtype=points.dtype)[None, None] if mix is None else mix
