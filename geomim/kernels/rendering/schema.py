"""What the rendering operators take and return, for torch: schemas and room for results."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Rendered = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Weights, opacity, transmittance, distance, rendered values, known."""

_LAYOUT = "Tensor values, Tensor? valid, Tensor? offsets"
_STATE = "Tensor weights, Tensor transmittance, Tensor known"
_GRADS = (
    "Tensor? by_weights, Tensor by_opacity, Tensor by_transmittance, Tensor by_distance, "
    "Tensor by_rendered"
)
_RENDERED = (
    "(Tensor weights, Tensor opacity, Tensor transmittance, Tensor distance, Tensor rendered, "
    "Tensor known)"
)
# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::render_density",
    f"(Tensor densities, Tensor starts, Tensor ends, {_LAYOUT}, SymInt rays) -> {_RENDERED}",
)
torch.library.define(
    "geomim::render_density_backward",
    f"(Tensor densities, Tensor starts, Tensor ends, {_LAYOUT}, {_STATE}, {_GRADS}, "
    "bool for_intervals, bool for_values) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "geomim::render_alpha",
    f"(Tensor alphas, Tensor distances, {_LAYOUT}, SymInt rays) -> {_RENDERED}",
)
torch.library.define(
    "geomim::render_alpha_backward",
    f"(Tensor alphas, Tensor distances, {_LAYOUT}, {_STATE}, {_GRADS}, "
    "bool for_distances, bool for_values) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "geomim::render_alpha_double_backward",
    f"(Tensor alphas, Tensor distances, {_LAYOUT}, {_STATE}, {_GRADS}, "
    "Tensor alphas_along, Tensor distances_along, Tensor values_along) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype of sums and results."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32


def empty_results(
    samples: Tensor, values: Tensor, rays: int | torch.SymInt, dtype: torch.dtype
) -> Rendered:
    """Return room for what is rendered."""
    shapes = ((samples.shape[0],), (rays,), (rays,), (rays,), (rays, values.shape[1]))
    weights, opacity, transmittance, distance, rendered = (
        samples.new_empty(shape, dtype=dtype) for shape in shapes
    )
    known = samples.new_empty((rays,), dtype=torch.bool)
    return weights, opacity, transmittance, distance, rendered, known


def empty_gradients(inputs: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, ...]:
    """Return room for the gradients that are wanted, and empty tensors for the others."""
    return tuple(
        x.new_empty(x.shape if want else (0,)) for x, want in zip(inputs, wanted, strict=True)
    )


@torch.library.register_fake("geomim::render_density")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _density_fake(
    densities: Tensor, starts: Tensor, ends: Tensor, values: Tensor, _v: Any, _o: Any, rays: Any
) -> Rendered:
    dtype = compute_dtype(densities, starts, ends, values)
    return empty_results(densities, values, rays, dtype)


@torch.library.register_fake("geomim::render_density_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _density_backward_fake(
    densities: Tensor, starts: Tensor, ends: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    for_intervals, for_values = rest[-2:]
    inputs = (densities, starts, ends, values)
    return empty_gradients(inputs, (True, for_intervals, for_intervals, for_values))


@torch.library.register_fake("geomim::render_alpha")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _alpha_fake(
    alphas: Tensor, distances: Tensor, values: Tensor, _v: Any, _o: Any, rays: Any
) -> Rendered:
    return empty_results(alphas, values, rays, compute_dtype(alphas, distances, values))


@torch.library.register_fake("geomim::render_alpha_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _alpha_backward_fake(
    alphas: Tensor, distances: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return empty_gradients((alphas, distances, values), (True, *rest[-2:]))


@torch.library.register_fake("geomim::render_alpha_double_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _alpha_double_backward_fake(
    alphas: Tensor, distances: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    weights, grads = rest[2], rest[6:10]
    return tuple(x.new_empty(x.shape) for x in (alphas, distances, values, weights, *grads))
