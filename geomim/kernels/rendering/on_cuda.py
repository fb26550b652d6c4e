"""Run the rendering operators on CUDA, one launch each; nothing here waits for the device."""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.nvrtc import Argument, cuda_function, launch
from geomim.kernels.rendering.schema import (
    Rendered,
    compute_dtype,
    empty_gradients,
    empty_results,
)

_THREADS = 256
_WARP = 32
_TYPES = {
    torch.float32: "float, float",
    torch.float64: "double, double",
    torch.float16: "__half, float",
    torch.bfloat16: "__nv_bfloat16, float",
}


def instance(kernel: str, dtype: torch.dtype, *, density: bool) -> str:
    """Return the entry point for values of a dtype."""
    return f"{kernel}<{_TYPES[dtype]}, {str(density).lower()}>"


def lanes(count: int, *, packed: bool) -> int:
    """Return how many threads share a ray: a power of two within a warp.

    How long packed rays are only the device knows.
    """
    return _WARP if packed else min(_WARP, 1 << max(count - 1, 0).bit_length())


@torch.library.impl("geomim::render_density", "cuda")
def _render_density(
    densities: Tensor,
    starts: Tensor,
    ends: Tensor,
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    return _render((densities, starts, ends), values, valid, offsets, rays)


@torch.library.impl("geomim::render_alpha", "cuda")
def _render_alpha(
    alphas: Tensor,
    distances: Tensor,
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    return _render((alphas, distances), values, valid, offsets, rays)


@torch.library.impl("geomim::render_density_backward", "cuda")
def _render_density_backward(
    densities: Tensor, starts: Tensor, ends: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    wanted = (True, rest[-2], rest[-2], rest[-1])
    return _differentiate((densities, starts, ends), values, rest[:-2], wanted)


@torch.library.impl("geomim::render_alpha_backward", "cuda")
def _render_alpha_backward(
    alphas: Tensor, distances: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return _differentiate((alphas, distances), values, rest[:-2], (True, *rest[-2:]))


@torch.library.impl("geomim::render_alpha_double_backward", "cuda")
def _render_alpha_double_backward(
    alphas: Tensor, distances: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    valid, offsets, weights, left, known, by_weights, *others = rest
    real, inputs = weights.dtype, (alphas, distances, values)
    grads, along = others[:4], others[4:]
    outs = [torch.zeros_like(x, dtype=real, memory_format=torch.contiguous_format)
            for x in (*inputs, weights, *grads)]  # fmt: skip
    arguments = [
        *(_ready(x, real) for x in inputs),
        *(_contiguous(x) for x in (valid, offsets, weights, left, known, by_weights)),
        *(_ready(x, real) for x in (*grads, *along)),
        *outs,
    ]
    rays, samples = known.shape[0], alphas.shape[0]
    if rays:
        name = f"render_alpha_double_backward<{_TYPES[real].split(', ')[1]}>"
        function = cuda_function("rendering", name, alphas.device)
        sizes = (rays, samples, samples // rays, values.shape[1])
        launch(function, (-(-rays // _THREADS), 1, 1), (_THREADS, 1, 1), (*arguments, *sizes))
    return tuple(x.to(y.dtype) for x, y in zip(outs, (*inputs, weights, *grads), strict=True))


def _render(
    samples: tuple[Tensor, ...],
    values: Tensor,
    valid: Tensor | None,
    offsets: Tensor | None,
    rays: int,
) -> Rendered:
    real = compute_dtype(*samples, values)
    values = _narrow(values, real)
    results = empty_results(samples[0], values, rays, real)
    inputs = (*_three(samples, real), values, _contiguous(valid), _contiguous(offsets))
    _launch("render", (*inputs, *results), samples, values, rays=rays, packed=offsets is not None)
    return results


def _differentiate(
    samples: tuple[Tensor, ...], values: Tensor, rest: tuple[Any, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    valid, offsets, weights, left, known, by_weights, *grads = rest
    real, narrow = weights.dtype, _narrow(values, weights.dtype)
    like = (*(x.to(real) for x in samples), narrow)
    outs = empty_gradients(like, wanted)
    rooms = [out if want else None for out, want in zip(outs, wanted, strict=True)]
    arguments = [
        *_three(samples, real),
        narrow,
        *(_contiguous(x) for x in (valid, offsets, weights, left, known, by_weights)),
        *(_ready(x, real) for x in grads),
        *(rooms if len(samples) == 3 else (*rooms[:2], None, rooms[2])),
    ]
    _launch(
        "render_backward",
        tuple(arguments),
        samples,
        narrow,
        rays=known.shape[0],
        packed=offsets is not None,
    )
    return tuple(out.to(x.dtype) for out, x in zip(outs, (*samples, values), strict=True))


def _launch(
    kernel: str,
    arguments: tuple[Argument, ...],
    samples: tuple[Tensor, ...],
    values: Tensor,
    *,
    rays: int,
    packed: bool,
) -> None:
    if rays == 0:
        return
    total = samples[0].shape[0]
    count = total // rays
    across = lanes(count, packed=packed)
    down = _THREADS // across
    name = instance(kernel, values.dtype, density=len(samples) == 3)
    function = cuda_function("rendering", name, values.device)
    sizes = (rays, total, count, values.shape[1])
    launch(function, (-(-rays // down), 1, 1), (across, down, 1), (*arguments, *sizes))


def _three(samples: tuple[Tensor, ...], real: torch.dtype) -> list[Tensor | None]:
    """Return samples in the precision of sums, and nothing for the ends that alphas lack."""
    ready: list[Tensor | None] = [_ready(x, real) for x in samples]
    return ready if len(ready) == 3 else [*ready, None]


def _narrow(values: Tensor, real: torch.dtype) -> Tensor:
    """Return values as they are stored if the kernels can read them so."""
    half = values.dtype in (torch.float16, torch.bfloat16) and real == torch.float32
    return values.contiguous() if half else _ready(values, real)


def _ready(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).contiguous()


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
