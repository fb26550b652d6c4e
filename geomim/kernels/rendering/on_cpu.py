"""Run the rendering operators on the CPU, through numba."""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.rendering.packing import Packing, pack, unpack
from geomim.kernels.rendering.schema import (
    Rendered,
    compute_dtype,
    empty_gradients,
    empty_results,
)


@torch.library.impl("geomim::render_density", "cpu")
def _render_density(
    densities: Tensor,
    starts: Tensor,
    ends: Tensor,
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.rendering.cpu import forward

    return _render(forward.render_density, (densities, starts, ends, values), valid, offsets, rays)


@torch.library.impl("geomim::render_alpha", "cpu")
def _render_alpha(
    alphas: Tensor,
    distances: Tensor,
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    from geomim.kernels.rendering.cpu import forward

    return _render(forward.render_alpha, (alphas, distances, values), valid, offsets, rays)


@torch.library.impl("geomim::render_density_backward", "cpu")
def _render_density_backward(
    densities: Tensor, starts: Tensor, ends: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    from geomim.kernels.rendering.cpu import backward

    for_intervals, for_values = rest[-2:]
    wanted = (True, for_intervals, for_intervals, for_values)
    inputs = (densities, starts, ends, values)
    return _differentiate(backward.render_density_backward, inputs, rest[:-2], wanted)


@torch.library.impl("geomim::render_alpha_backward", "cpu")
def _render_alpha_backward(
    alphas: Tensor, distances: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    from geomim.kernels.rendering.cpu import backward

    wanted = (True, *rest[-2:])
    inputs = (alphas, distances, values)
    return _differentiate(backward.render_alpha_backward, inputs, rest[:-2], wanted)


@torch.library.impl("geomim::render_alpha_double_backward", "cpu")
def _render_alpha_double_backward(
    alphas: Tensor,
    distances: Tensor,
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    weights: Tensor,
    transmittance: Tensor,
    known: Tensor,
    by_weights: Tensor | None,
    *rest: Tensor,
) -> tuple[Tensor, ...]:
    from geomim.kernels.rendering.cpu import double_backward

    real, count = weights.dtype, alphas.shape[0]
    by_results, along = rest[:4], rest[4:]
    _check(offsets, count)
    packing = _packing(valid, offsets, known.shape[0])
    samples = _picked(packing, real, alphas, distances, values, weights, by_weights, *along)
    outs = [torch.zeros(x.shape, dtype=real) for x in samples[:4]]
    sums = [torch.zeros(x.shape, dtype=real) for x in by_results]
    double_backward.render_alpha_double_backward(
        *_arrays(*samples[:3]),
        *_layout(packing, offsets, count, known.shape[0]),
        *_arrays(samples[3]),
        _arrays(transmittance, known),
        *_arrays(samples[4]),
        _arrays(*(_cast(grad, real) for grad in by_results)),
        _arrays(*samples[5:]),
        _arrays(*outs),
        _arrays(*sums),
        threads=torch.get_num_threads(),
    )
    dtypes = (alphas.dtype, distances.dtype, values.dtype, real)
    placed = (_placed(packing, count, x, dtype) for x, dtype in zip(outs, dtypes, strict=True))
    return *placed, *sums


def _render(
    kernel: Any,
    inputs: tuple[Tensor, ...],
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    """Run a kernel forward on the samples that are there."""
    real, count = compute_dtype(*inputs), inputs[0].shape[0]
    _check(offsets, count)
    packing = _packing(valid, offsets, rays)
    samples = _picked(packing, real, *inputs)
    weights, *results = empty_results(samples[0], samples[-1], rays, real)
    kernel(
        *_arrays(*samples),
        *_layout(packing, offsets, count, rays),
        *_arrays(weights),
        _arrays(*results),
        threads=torch.get_num_threads(),
    )
    opacity, transmittance, distance, rendered, known = results
    placed = _placed(packing, count, weights, real)
    return placed, opacity, transmittance, distance, rendered, known


def _differentiate(
    kernel: Any, inputs: tuple[Tensor, ...], rest: tuple[Any, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    """Run a kernel backward on the samples that are there."""
    valid, offsets, weights, transmittance, known, by_weights, *by_results = rest
    real, count, rays = weights.dtype, inputs[0].shape[0], known.shape[0]
    packing = _packing(valid, offsets, rays)
    *samples, shares, by_shares = _picked(packing, real, *inputs, weights, by_weights)
    outs = empty_gradients(samples, wanted)
    kernel(
        *_arrays(*samples),
        *_layout(packing, offsets, count, rays),
        *_arrays(shares),
        _arrays(transmittance, known),
        *_arrays(by_shares),
        _arrays(*(_cast(grad, real) for grad in by_results)),
        tuple(out.reshape(-1) for out in _arrays(*outs)),
        threads=torch.get_num_threads(),
    )
    return tuple(
        _placed(packing, count, out, x.dtype) if want else _cast(out, x.dtype)
        for out, want, x in zip(outs, wanted, inputs, strict=True)
    )


def _check(offsets: Tensor | None, count: int) -> None:
    """Refuse offsets that would lead out of the samples."""
    if offsets is None:
        return
    steps = offsets.diff()
    if offsets[0] != 0 or offsets[-1] != count or (steps.numel() and steps.min() < 0):
        raise ValueError(
            f"offsets must rise from 0 to the number of samples {count}, got "
            f"{offsets[0].item()} to {offsets[-1].item()}"
        )


def _packing(valid: Tensor | None, offsets: Tensor | None, rays: int) -> Packing | None:
    """Return which samples are there, or None if all are."""
    return None if valid is None or bool(valid.all()) else pack(valid, offsets, rays)


def _picked(packing: Packing | None, dtype: torch.dtype, *samples: Tensor | None) -> list[Tensor]:
    """Return the samples that are there, in the dtype of all arithmetic; nothing for None."""
    return [
        torch.empty(0, dtype=dtype)
        if x is None
        else _cast(x if packing is None else x[packing.places], dtype)
        for x in samples
    ]


def _placed(packing: Packing | None, count: int, out: Tensor, dtype: torch.dtype) -> Tensor:
    """Return results of samples where these belong, in the dtype of an input."""
    return _cast(out if packing is None else unpack(out, packing, count), dtype)


def _layout(packing: Packing | None, offsets: Tensor | None, count: int, rays: int) -> Any:
    """Return offsets (empty if there are none) and the number of samples of every ray."""
    if packing is not None:
        offsets = packing.offsets
    if offsets is None:
        return torch.empty(0, dtype=torch.int64).numpy(), count // max(rays, 1)
    return offsets.contiguous().numpy(), 0


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # ``to`` takes microseconds to see that nothing is to be done.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    """Hand tensors to numba, without their gradients; they share the memory."""
    return tuple(tensor.contiguous().numpy(force=True) for tensor in tensors)
