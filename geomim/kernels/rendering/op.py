"""Render along rays as torch operators, from densities or from alphas.

One operator forward and one backward each. The backward of ``render_alpha`` has a derivative of its
own, ``render_alpha_double_backward``; that of ``render_density`` goes through it when asked for.
Everything is summed and returned in single precision, or in double if any input is double.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.rendering import on_cpu, on_cuda, reference
from geomim.kernels.rendering.schema import Rendered
from geomim.kernels.selection import selected_kernels

__all__ = ["on_cpu", "on_cuda", "render_alpha", "render_density"]

_OPERATORS = torch.ops.geomim


def render_density(
    densities: Tensor,
    starts: Tensor,
    ends: Tensor,
    values: Tensor,
    *,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    """Render flat samples of a density; see ``reference.render_density``."""
    arguments = (densities, starts, ends, values, valid, offsets, rays)
    if selected_kernels() == "reference":
        return reference.render_density(*arguments)
    return _OPERATORS.render_density.default(*arguments)


def render_alpha(
    alphas: Tensor,
    distances: Tensor,
    values: Tensor,
    *,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    """Render flat samples of given opacity; see ``reference.render_alpha``."""
    arguments = (alphas, distances, values, valid, offsets, rays)
    if selected_kernels() == "reference":
        return reference.render_alpha(*arguments)
    return _OPERATORS.render_alpha(*arguments)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Rendered) -> None:
    weights, _, transmittance, _, _, known = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:-1], weights, transmittance, known)


def _per_ray(
    state: Sequence[Tensor], values: Tensor, grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Return the gradient of the weights and, 0 where there is none, those of the rays' results."""
    _, left, _ = state
    by_weights, *by_sums, by_rendered = grads
    if any(grad is None for grad in by_sums):
        # One for all, since filling it takes a launch.
        zero = torch.zeros_like(left)
        by_sums = [zero if grad is None else grad for grad in by_sums]
    if by_rendered is None:
        by_rendered = left.new_zeros((left.shape[0], values.shape[1]))
    return by_weights, *by_sums, by_rendered


def _differentiate_density(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    densities, starts, ends, values, valid, offsets, *state = ctx.saved_tensors
    by_results = _per_ray(state, values, grads[:5])
    needs = ctx.needs_input_grad
    if torch.is_grad_enabled():
        samples = (densities, starts, ends, values, valid, offsets)
        gradients = _density_gradients(samples, state, by_results)
    else:
        gradients = _OPERATORS.render_density_backward(
            *(densities, starts, ends, values, valid, offsets),
            *state,
            *by_results,
            needs[1] or needs[2],
            needs[3],
        )
    chosen = (g if need else None for g, need in zip(gradients, needs, strict=False))
    return *chosen, None, None, None


def _density_gradients(
    samples: tuple[Any, ...], state: Sequence[Tensor], by_results: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Return the gradients by way of alpha, so that they can be differentiated."""
    *given, values, valid, offsets = samples
    densities, starts, ends = (tensor.to(state[0].dtype) for tensor in given)
    depths, distances = reference.optical_depths(densities, starts, ends, valid)
    # Rays with such a sample are not known; their gradient is 0, which times NaN would be NaN.
    depths = torch.where(depths > -math.inf, depths, 0.0)
    by_alphas, by_distances, by_values = _OPERATORS.render_alpha_backward(
        *(-torch.expm1(-depths), distances, values, valid, offsets),
        *(tensor.detach() for tensor in state),
        *by_results,
        True,
        True,
    )
    by_depths = by_alphas * torch.exp(-depths)
    finite = (densities * (ends - starts)).isfinite()
    by_lengths = by_depths * torch.where(finite, densities, 0.0)
    by_densities = by_depths * torch.where(finite, ends - starts, 0.0)
    by_intervals = by_distances / 2 - by_lengths, by_distances / 2 + by_lengths
    gradients = zip((by_densities, *by_intervals), given, strict=True)
    return *(gradient.to(tensor.dtype) for gradient, tensor in gradients), by_values


def _differentiate_alpha(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    alphas, distances, values, valid, offsets, *state = ctx.saved_tensors
    by_results = _per_ray(state, values, grads[:5])
    needs = ctx.needs_input_grad
    gradients = _OPERATORS.render_alpha_backward(
        *(alphas, distances, values, valid, offsets),
        *(tensor.detach() for tensor in state),
        *by_results,
        needs[1],
        needs[2],
    )
    chosen = (g if need else None for g, need in zip(gradients, needs, strict=False))
    return *chosen, None, None, None


def _keep_for_alpha_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    ctx.save_for_backward(*inputs[:13])


def _differentiate_alpha_backward(ctx: Any, *along: Tensor | None) -> tuple[Tensor | None, ...]:
    alphas, distances, values, *rest = ctx.saved_tensors
    directions = (
        torch.zeros_like(x) if move is None or move.shape != x.shape else move
        for x, move in zip((alphas, distances, values), along, strict=True)
    )
    gradients = _OPERATORS.render_alpha_double_backward(
        alphas, distances, values, *rest, *directions
    )
    by_alphas, by_distances, by_values, by_weights, *by_results = gradients
    by_weights = None if rest[5] is None else by_weights
    return by_alphas, by_distances, by_values, *[None] * 5, by_weights, *by_results, None, None


register_autograd("geomim::render_density", _differentiate_density, setup_context=_keep)
register_autograd("geomim::render_alpha", _differentiate_alpha, setup_context=_keep)
register_autograd(
    "geomim::render_alpha_backward",
    _differentiate_alpha_backward,
    setup_context=_keep_for_alpha_backward,
)
