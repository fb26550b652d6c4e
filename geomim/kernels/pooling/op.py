"""Pool weighted features into the cells of frustums, differentiable any number of times.

``reference.py`` defines ``frustum_cells``, which has no gradient, ``pool`` and ``pool_backward``.
None makes the product of pixels, bins and channels. On the CPU every sum has a fixed order,
whatever the number of threads; on CUDA ``pool`` adds atomically, unless torch is told to use
deterministic algorithms.
"""

from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.pooling import cuda, reference
from geomim.kernels.selection import selected_kernels

_OPERATORS = torch.ops.geomim
_SAMPLE = 4096


def pool(features: Tensor, weights: Tensor, cell: Tensor, *, cells: int) -> Tensor:
    """Return the sum of the weighted features that fall into each cell.

    Shapes and meaning are those of :func:`geomim.kernels.pooling.reference.pool`.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If features and weights differ in dtype, or cells are not int64.
    """
    if features.ndim != 3 or not features.is_floating_point():
        raise ValueError(
            "features must be floating, view by pixel by channel, "
            f"got {features.dtype} {tuple(features.shape)}"
        )
    views, pixels = features.shape[:2]
    if weights.ndim != 3 or weights.shape[::2] != (views, pixels) or cell.shape != weights.shape:
        raise ValueError(
            f"weights and cell must be {views} by bin by {pixels}, "
            f"got {tuple(weights.shape)} and {tuple(cell.shape)}"
        )
    if weights.dtype != features.dtype or cell.dtype != torch.int64:
        raise TypeError(
            f"weights must be {features.dtype} and cell torch.int64, "
            f"got {weights.dtype} and {cell.dtype}"
        )
    if selected_kernels() == "reference":
        return reference.pool(features, weights, cell, cells)
    return _OPERATORS.pool(features, weights, cell, cells)


def frustum_cells(
    start: Tensor,
    step: Tensor,
    depths: Tensor,
    frame: Tensor,
    *,
    views: int,
    shape: tuple[int, int, int],
) -> Tensor:
    """Return the cell of each point of a frustum, counted through the items, or -1.

    Shapes and meaning are those of :func:`geomim.kernels.pooling.reference.frustum_cells`.

    Raises:
        ValueError: If a shape does not fit, or the views make no whole number of items.
        TypeError: If not all are float32, or all float64.
    """
    count = start.shape[0]
    if start.shape != (count, 3) or step.ndim != 3 or step.shape[::2] != (count, 3):
        raise ValueError(
            "start and step must be view by 3 and view by pixel by 3, "
            f"got {tuple(start.shape)} and {tuple(step.shape)}"
        )
    if depths.ndim != 1 or frame.shape != (2, 3) or views < 1 or count % views:
        raise ValueError(
            f"depths must be one a bin, frame 2 by 3 and views a divisor of {count}, "
            f"got {tuple(depths.shape)}, {tuple(frame.shape)} and {views}"
        )
    dtypes = {tensor.dtype for tensor in (start, step, depths, frame)}
    if dtypes not in ({torch.float32}, {torch.float64}):
        raise TypeError(
            "start, step, depths and frame must all be float32 or float64, "
            f"got {sorted(map(str, dtypes))}"
        )
    inputs = (start.detach(), step.detach(), depths.detach(), frame.detach())
    if selected_kernels() == "reference":
        return reference.frustum_cells(*inputs, views, shape)
    return _OPERATORS.frustum_cells(*inputs, views, *shape)


# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define(
    "geomim::pool", "(Tensor features, Tensor weights, Tensor cell, SymInt cells) -> Tensor"
)
torch.library.define(
    "geomim::pool_backward",
    "(Tensor grad, Tensor features, Tensor weights, Tensor cell)"
    " -> (Tensor for_features, Tensor for_weights)",
)
torch.library.define(
    "geomim::frustum_cells",
    "(Tensor start, Tensor step, Tensor depths, Tensor frame, int views, int x, int y, int z)"
    " -> Tensor",
)


@torch.library.register_fake("geomim::frustum_cells")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _cells_fake(start: Tensor, step: Tensor, depths: Tensor, *_rest: Tensor | int) -> Tensor:
    shape = (start.shape[0], depths.shape[0], step.shape[1])
    return start.new_empty(shape, dtype=torch.int64)


@torch.library.register_fake("geomim::pool")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _pool_fake(
    features: Tensor, _weights: Tensor, _cell: Tensor, cells: int | torch.SymInt
) -> Tensor:
    return features.new_empty((cells, features.shape[2]))


@torch.library.register_fake("geomim::pool_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _backward_fake(
    _grad: Tensor, features: Tensor, weights: Tensor, _cell: Tensor
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), weights.new_empty(weights.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    ctx.save_for_backward(*inputs[:3])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_OPERATORS.pool_backward(grad, *ctx.saved_tensors), None, None


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    ctx.save_for_backward(*inputs)


def _differentiate_backward(
    ctx: Any, for_features: Tensor, for_weights: Tensor
) -> tuple[Tensor | None, ...]:
    grad, features, weights, cell = ctx.saved_tensors
    cells = grad.shape[0]
    for_grad = None
    if ctx.needs_input_grad[0]:
        for_grad = _OPERATORS.pool(for_features, weights, cell, cells) + _OPERATORS.pool(
            features, for_weights, cell, cells
        )
    return for_grad, *_OPERATORS.pool_backward(grad, for_features, for_weights, cell), None


register_autograd("geomim::pool", _differentiate, setup_context=_keep)
register_autograd(
    "geomim::pool_backward", _differentiate_backward, setup_context=_keep_for_backward
)


@torch.library.impl("geomim::pool", "cpu")
def _pool_cpu(features: Tensor, weights: Tensor, cell: Tensor, cells: int) -> Tensor:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.pooling import cpu

    out, threads = _zeros((cells, features.shape[2]), features), torch.get_num_threads()
    bounds = _even_bounds(cell, cells, threads)
    inputs = (_array(features), _array(weights), cell.contiguous().numpy(), bounds.numpy())
    cpu.pool(*inputs, out.numpy(), threads=threads)
    return out.to(features.dtype)


@torch.library.impl("geomim::pool_backward", "cpu")
def _backward_cpu(
    grad: Tensor, features: Tensor, weights: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    from geomim.kernels.pooling import cpu

    out = _zeros(features.shape, features), _zeros(weights.shape, features)
    inputs = (_array(grad), _array(features), _array(weights), cell.contiguous().numpy())
    cpu.pool_backward(*inputs, out[0].numpy(), out[1].numpy(), threads=torch.get_num_threads())
    return out[0].to(features.dtype), out[1].to(weights.dtype)


@torch.library.impl("geomim::frustum_cells", "cpu")
def _cells_cpu(
    start: Tensor, step: Tensor, depths: Tensor, frame: Tensor, views: int, x: int, y: int, z: int
) -> Tensor:
    from geomim.kernels.pooling import cpu

    out = _cells_fake(start, step, depths)
    inputs = [t.contiguous().numpy() for t in (start, step.mT, depths, frame)]
    cpu.frustum_cells(*inputs, views, (x, y, z), out.numpy(), threads=torch.get_num_threads())
    return out


def _even_bounds(cell: Tensor, cells: int, slabs: int) -> Tensor:
    """Cut the cells into slabs into which about as much falls each."""
    flat = cell.flatten()
    some = flat[:: max(1, len(flat) // _SAMPLE)]
    some = some[(some >= 0) & (some < cells)].sort().values
    cuts = some[torch.arange(1, slabs) * len(some) // slabs] if len(some) else some
    return torch.cat([torch.tensor([0]), cuts, torch.tensor([cells])])


def _array(tensor: Tensor) -> Any:
    """Hand a tensor to numba, in the dtype of all arithmetic."""
    return tensor.to(reference.compute_dtype(tensor)).contiguous().numpy()


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return like.new_zeros(shape, dtype=reference.compute_dtype(like))


@torch.library.impl("geomim::pool", "cuda")
def _pool_cuda(features: Tensor, weights: Tensor, cell: Tensor, cells: int) -> Tensor:
    if torch.are_deterministic_algorithms_enabled():
        return reference.pool(features, weights, cell, cells)
    out = _zeros((cells, features.shape[2]), features)
    cuda.pool((*_exact(features, weights), cell.contiguous()), out)
    return out.to(features.dtype)


@torch.library.impl("geomim::pool_backward", "cuda")
def _backward_cuda(
    grad: Tensor, features: Tensor, weights: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    out = _zeros(features.shape, features), _zeros(weights.shape, features)
    cuda.pool_backward((*_exact(grad, features, weights), cell.contiguous()), out)
    return out[0].to(features.dtype), out[1].to(weights.dtype)


@torch.library.impl("geomim::frustum_cells", "cuda")
def _cells_cuda(
    start: Tensor, step: Tensor, depths: Tensor, frame: Tensor, views: int, x: int, y: int, z: int
) -> Tensor:
    out = _cells_fake(start, step, depths)
    inputs = tuple(t.contiguous() for t in (start, step, depths, frame))
    cuda.frustum_cells(inputs, views, (x, y, z), out)
    return out


def _exact(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.to(reference.compute_dtype(t)).contiguous() for t in tensors)
