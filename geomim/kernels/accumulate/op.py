"""Move ragged sweeps of points as torch operators; ``reference.py`` defines them.

On the CPU every sum of the backward pass has a fixed order, whatever the number of threads; on CUDA
it adds atomically, unless torch is told to use deterministic algorithms.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.accumulate import cuda, reference
from geomim.kernels.accumulate.reference import UNKNOWN as UNKNOWN
from geomim.kernels.autograd import register_autograd
from geomim.kernels.selection import selected_kernels

_OPERATORS = torch.ops.geomim
# Parts of the sum over points: enough for the threads of a socket.
_PARTS = 16


def accumulate(
    points: Tensor,
    offsets: Tensor,
    box: Tensor | None,
    target_from_sensor: Tensor,
    box_from_sensor: Tensor,
    half_size: Tensor,
    target_by_box: Tensor,
    seconds: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move ragged sweeps of points into one frame, those in a box by the box.

    Shapes and meaning are those of :func:`geomim.kernels.accumulate.reference.accumulate`.

    Raises:
        TypeError: If the points are neither float32 nor float64, or a table is of another dtype.
        ValueError: If a shape does not fit.
    """
    tables = (target_from_sensor, box_from_sensor, half_size, target_by_box, seconds)
    _check(points, offsets, box, tables)
    if selected_kernels() == "reference":
        return reference.accumulate(points, offsets, box, *tables)
    return _OPERATORS.accumulate(points, offsets, box, *tables)


def _check(points: Tensor, offsets: Tensor, box: Tensor | None, tables: tuple[Tensor, ...]) -> None:
    if points.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"points must be float32 or float64, got {points.dtype}")
    kinds = {(table.dtype, table.device) for table in tables}
    if kinds != {(points.dtype, points.device)}:
        raise TypeError(
            f"matrices must be {points.dtype} on {points.device} like the points, got "
            f"{sorted(map(str, kinds))}"
        )
    integers = {offsets.device, *([] if box is None else [box.device])}
    if integers != {points.device}:
        raise TypeError(
            f"offsets and box must be on {points.device} like the points, got "
            f"{sorted(map(str, integers))}"
        )
    sweeps, boxes = len(offsets) - 1, len(tables[2])
    expected = ((sweeps, 3, 4), (sweeps, boxes, 3, 4), (boxes, 3), (sweeps, boxes, 3, 4), (sweeps,))
    shapes = tuple(tuple(table.shape) for table in tables)
    if sweeps < 0 or shapes != expected or points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(
            f"matrices must be of {max(sweeps, 0)} sweeps and {boxes} boxes, got {shapes} for "
            f"points {tuple(points.shape)}"
        )
    if box is not None and box.shape != points.shape[:1]:
        raise ValueError(f"box must hold {len(points)} numbers, got {tuple(box.shape)}")


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::accumulate",
    "(Tensor points, Tensor offsets, Tensor? box, Tensor target_from_sensor,"
    " Tensor box_from_sensor, Tensor half_size, Tensor target_by_box, Tensor seconds)"
    " -> (Tensor moved, Tensor seconds, Tensor sweep, Tensor box)",
)
torch.library.define(
    "geomim::accumulate_backward",
    "(Tensor grad, Tensor points, Tensor sweep, Tensor box, Tensor target_from_sensor,"
    " Tensor target_by_box) -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("geomim::accumulate")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _fake(points: Tensor, *_others: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _room(points)


@torch.library.register_fake("geomim::accumulate_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _backward_fake(
    grad: Tensor, _points: Tensor, _sweep: Tensor, _box: Tensor, *tables: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    by_sweep, by_box = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in tables)
    return grad.new_empty(grad.shape), by_sweep, by_box


def _room(points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return room for what ``accumulate`` returns."""
    count = points.shape[:1]
    sweep, box = (points.new_empty(count, dtype=torch.int32) for _ in range(2))
    return points.new_empty((*count, 3)), points.new_empty(count), sweep, box


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    points, _, _, target_from_sensor, _, _, target_by_box, _ = inputs
    _, seconds, sweep, box = output
    ctx.mark_non_differentiable(seconds, sweep, box)
    ctx.save_for_backward(points, sweep, box, target_from_sensor, target_by_box)


def _differentiate(ctx: Any, grad: Tensor, *_others: Tensor) -> tuple[Tensor | None, ...]:
    by_points, by_sweep, by_box = _OPERATORS.accumulate_backward(grad, *ctx.saved_tensors)
    return by_points, None, None, by_sweep, None, None, by_box, None


register_autograd("geomim::accumulate", _differentiate, setup_context=_keep)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    ctx.save_for_backward(*inputs)


def _differentiate_backward(
    ctx: Any, along_points: Tensor, along_sweep: Tensor, along_box: Tensor
) -> tuple[Tensor | None, ...]:
    """Differentiate a second time, in plain torch: nothing on a training step's path needs it."""
    grad, points, sweep, box, *tables = (t.detach() for t in ctx.saved_tensors)
    leaves = [t.requires_grad_() for t in (grad, points, *tables)]
    with torch.enable_grad():
        outputs = reference.accumulate_backward(grad, points, sweep, box, *tables)
        along = (along_points, along_sweep, along_box)
        product = torch.stack([(o * a).sum() for o, a in zip(outputs, along, strict=True)]).sum()
    by_grad, by_points, *by_tables = torch.autograd.grad(product, leaves, allow_unused=True)
    return by_grad, by_points, None, None, *by_tables


register_autograd(
    "geomim::accumulate_backward", _differentiate_backward, setup_context=_keep_for_backward
)


@torch.library.impl("geomim::accumulate", "cpu")
def _cpu(
    points: Tensor, offsets: Tensor, box: Tensor | None, *tables: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.accumulate import cpu

    out = _room(points)
    flat, stride = _rows(points)
    cpu.accumulate(
        flat.numpy(),
        stride,
        offsets.to(torch.int64).contiguous().numpy(),
        _asked(box, points).numpy(),
        *[table.contiguous().numpy() for table in tables],
        *[part.numpy() for part in out],
        threads=torch.get_num_threads(),
    )
    return out


@torch.library.impl("geomim::accumulate_backward", "cpu")
def _backward_cpu(
    grad: Tensor, points: Tensor, sweep: Tensor, box: Tensor, *tables: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from geomim.kernels.accumulate import cpu

    by_points = grad.new_empty(grad.shape)
    by_sweep, by_box = (grad.new_zeros((_PARTS, *t.shape), dtype=torch.float64) for t in tables)
    cpu.accumulate_backward(
        *[t.contiguous().numpy() for t in (grad, points, sweep, box, *tables)],
        *[t.numpy() for t in (by_points, by_sweep, by_box)],
        threads=torch.get_num_threads(),
    )
    return by_points, by_sweep.sum(dim=0).to(grad.dtype), by_box.sum(dim=0).to(grad.dtype)


@torch.library.impl("geomim::accumulate", "cuda")
def _cuda(
    points: Tensor, offsets: Tensor, box: Tensor | None, *tables: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out = _room(points)
    flat, stride = _rows(points)
    asked = None if box is None else _asked(box, points)
    given = (offsets.to(torch.int64).contiguous(), asked, *[t.contiguous() for t in tables])
    cuda.accumulate(flat, stride, given, out)
    return out


@torch.library.impl("geomim::accumulate_backward", "cuda")
def _backward_cuda(
    grad: Tensor, points: Tensor, sweep: Tensor, box: Tensor, *tables: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if torch.are_deterministic_algorithms_enabled():
        return reference.accumulate_backward(grad, points, sweep, box, *tables)
    inputs = tuple(t.contiguous() for t in (grad, points, sweep, box, *tables))
    by_sweep, by_box = (torch.zeros_like(table) for table in inputs[4:])
    out = (torch.empty_like(inputs[0]), by_sweep, by_box)
    cuda.accumulate_backward(inputs, out)
    return out


def _rows(points: Tensor) -> tuple[Tensor, int]:
    """Return the memory of points, and how far apart they lie in it.

    The first three of five columns are read where they are.
    """
    if len(points) == 0 or points.stride(1) != 1 or points.stride(0) < 3:
        points = points.contiguous()
    if len(points) == 0:
        return points.reshape(-1), 3
    stride = points.stride(0)
    return points.as_strided(((len(points) - 1) * stride + 3,), (1,)), stride


def _asked(box: Tensor | None, points: Tensor) -> Tensor:
    """Return the box of every point, or nothing."""
    if box is None:
        return points.new_empty(0, dtype=torch.int32)
    return box.to(torch.int32).contiguous()
