"""Move points with bodies on screws as torch operators; ``reference.py`` defines them.

Sums of the backward pass have a fixed order on the CPU, whatever the number of threads; on CUDA
they are atomic.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.screws import cuda, reference
from geomim.kernels.screws.reference import Screws as Screws
from geomim.kernels.selection import selected_kernels

_OPERATORS = torch.ops.geomim
# Parts of the sum over points: enough for the threads of a socket.
_PARTS = 16


def find_boxes(points: Tensor, times_us: Tensor, screws: Screws, half_size: Tensor) -> Tensor:
    """Return the first body that holds each point at its time, -1 for none; not differentiable.

    Shapes and meaning are those of :func:`geomim.kernels.screws.reference.find_boxes`.

    Raises:
        TypeError: If the points are neither float32 nor float64, or a table is of another dtype.
        ValueError: If a shape does not fit.
    """
    _check(points, times_us, screws)
    if half_size.shape != (len(screws.times_us), 3) or half_size.dtype != points.dtype:
        raise ValueError(
            f"half_size must be ({len(screws.times_us)}, 3) in {points.dtype}, got "
            f"{tuple(half_size.shape)} in {half_size.dtype}"
        )
    if selected_kernels() == "reference":
        with torch.no_grad():
            return reference.find_boxes(points, times_us, screws, half_size)
    return _OPERATORS.find_boxes(points, times_us, *screws, half_size)


def move_by_screws(
    points: Tensor, times_us: Tensor, body: Tensor, screws: Screws, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Carry points from their bodies' frames to the world, each at its time, or back.

    Shapes and meaning are those of :func:`geomim.kernels.screws.reference.move_by_screws`.

    Raises:
        TypeError: As :func:`find_boxes` does.
        ValueError: As :func:`find_boxes` does.
    """
    _check(points, times_us, screws)
    if body.shape != points.shape[:1]:
        raise ValueError(f"body must hold {len(points)} numbers, got {tuple(body.shape)}")
    if selected_kernels() == "reference":
        return reference.move_by_screws(points, times_us, body, screws, inverse=inverse)
    return _OPERATORS.move_by_screws(points, times_us, body, *screws, inverse)


def _check(points: Tensor, times_us: Tensor, screws: Screws) -> None:
    if points.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"points must be float32 or float64, got {points.dtype}")
    kinds = {(table.dtype, table.device) for table in (screws.matrix, screws.twist)}
    if kinds != {(points.dtype, points.device)}:
        raise TypeError(
            f"matrix and twist must be {points.dtype} on {points.device} like the points, got "
            f"{sorted(map(str, kinds))}"
        )
    clocks = {(times.dtype, times.device) for times in (times_us, *screws[:3])}
    if clocks != {(torch.int64, points.device)}:
        raise TypeError(
            f"times must be torch.int64 on {points.device} like the points, got "
            f"{sorted(map(str, clocks))}"
        )
    if points.ndim != 2 or points.shape[1] != 3 or times_us.shape != points.shape[:1]:
        raise ValueError(
            "points and times_us must be (point, 3) and (point,), got "
            f"{tuple(points.shape)} and {tuple(times_us.shape)}"
        )
    knots = tuple(screws.times_us.shape)
    expected = (knots, knots[:1], knots[:1], (*knots, 3, 4), (*knots, 6))
    shapes = tuple(tuple(table.shape) for table in screws)
    if len(knots) != 2 or knots[1] == 0 or shapes != expected:
        raise ValueError(f"screws must be tables of body by at least one knot, got {shapes}")


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
_SCREWS = "Tensor knots_us, Tensor begin_us, Tensor end_us, Tensor matrix, Tensor twist"
torch.library.define(
    "geomim::find_boxes", f"(Tensor points, Tensor times_us, {_SCREWS}, Tensor half_size) -> Tensor"
)
torch.library.define(
    "geomim::move_by_screws",
    f"(Tensor points, Tensor times_us, Tensor body, {_SCREWS}, bool inverse)"
    " -> (Tensor moved, Tensor valid)",
)
torch.library.define(
    "geomim::move_by_screws_backward",
    "(Tensor grad, Tensor points, Tensor times_us, Tensor body, Tensor valid, Tensor knots_us,"
    " Tensor matrix, Tensor twist, bool inverse) -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("geomim::find_boxes")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _find_fake(points: Tensor, *_others: Tensor) -> Tensor:
    return points.new_empty(points.shape[:1], dtype=torch.int32)


@torch.library.register_fake("geomim::move_by_screws")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _move_fake(points: Tensor, *_others: Tensor | bool) -> tuple[Tensor, Tensor]:
    return _room(points)


@torch.library.register_fake("geomim::move_by_screws_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _backward_fake(grad: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, matrix, twist, _inverse = others
    return grad.new_empty(grad.shape), matrix.new_empty(matrix.shape), twist.new_empty(twist.shape)


def _room(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return room for what ``move_by_screws`` returns."""
    return points.new_empty(points.shape), points.new_empty(points.shape[:1], dtype=torch.bool)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    points, times_us, body, knots_us, _, _, matrix, twist, ctx.inverse = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(points, times_us, body, output[1], knots_us, matrix, twist)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    by_points, by_matrix, by_twist = _OPERATORS.move_by_screws_backward(
        grad, *ctx.saved_tensors, ctx.inverse
    )
    return by_points, None, None, None, None, None, by_matrix, by_twist, None


register_autograd("geomim::move_by_screws", _differentiate, setup_context=_keep)


@torch.library.impl("geomim::find_boxes", "cpu")
def _find_cpu(points: Tensor, times_us: Tensor, *tables: Tensor) -> Tensor:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.screws import cpu

    out = points.new_empty(points.shape[:1], dtype=torch.int32)
    cpu.find_boxes(*_arrays(points, times_us, *tables, out), threads=torch.get_num_threads())
    return out


@torch.library.impl("geomim::move_by_screws", "cpu")
def _move_cpu(
    points: Tensor, times_us: Tensor, body: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    from geomim.kernels.screws import cpu

    *tables, inverse = others
    out = _room(points)
    cpu.move_by_screws(
        *_arrays(points, times_us, body.to(torch.int32), *tables),
        inverse,
        *_arrays(*out),
        threads=torch.get_num_threads(),
    )
    return out


@torch.library.impl("geomim::move_by_screws_backward", "cpu")
def _backward_cpu(grad: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    from geomim.kernels.screws import cpu

    *given, matrix, twist, inverse = others
    by_points = grad.new_empty(grad.shape)
    by_matrix, by_twist = (
        grad.new_zeros((_PARTS, *table.shape), dtype=torch.float64) for table in (matrix, twist)
    )
    cpu.move_by_screws_backward(
        *_arrays(grad, *given, matrix, twist),
        inverse,
        *_arrays(by_points, by_matrix, by_twist),
        threads=torch.get_num_threads(),
    )
    return by_points, by_matrix.sum(dim=0).to(grad.dtype), by_twist.sum(dim=0).to(grad.dtype)


@torch.library.impl("geomim::find_boxes", "cuda")
def _find_cuda(points: Tensor, times_us: Tensor, *tables: Tensor) -> Tensor:
    out = points.new_empty(points.shape[:1], dtype=torch.int32)
    cuda.find_boxes(tuple(t.contiguous() for t in (points, times_us, *tables)), out)
    return out


@torch.library.impl("geomim::move_by_screws", "cuda")
def _move_cuda(
    points: Tensor, times_us: Tensor, body: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    *tables, inverse = others
    out = _room(points)
    given = (points, times_us, body.to(torch.int32), *tables)
    cuda.move_by_screws(tuple(t.contiguous() for t in given), inverse, out)
    return out


@torch.library.impl("geomim::move_by_screws_backward", "cuda")
def _backward_cuda(grad: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *given, matrix, twist, inverse = others
    out = (grad.new_empty(grad.shape), matrix.new_zeros(matrix.shape), twist.new_zeros(twist.shape))
    inputs = tuple(t.contiguous() for t in (grad, *given, matrix, twist))
    cuda.move_by_screws_backward(inputs, inverse, out)
    return out


def _arrays(*tensors: Tensor) -> list[Any]:
    """Hand tensors to numba."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]
