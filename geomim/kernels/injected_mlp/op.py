"""Small networks whose layers are given their inputs anew, as torch operators.

``reference.py`` defines them. Going back, activations are computed once more rather than kept, and
sums have a fixed order, whatever the number of threads. What differentiates that once more, and all
that is not on the CPU, runs the reference.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geomim.kernels.autograd import register_autograd
from geomim.kernels.injected_mlp import reference
from geomim.kernels.selection import selected_kernels

_OPERATORS = torch.ops.geomim

Slopes = tuple[Tensor, Tensor, Tensor]
"""Outputs, and the derivatives of the first by position and by inputs."""


def evaluate(
    position: Tensor,
    inputs: Tensor,
    weights: Tensor,
    *,
    width: int,
    layers: int,
    outs: int,
    sharpness: float,
) -> Tensor:
    """Return the outputs at flat points; see ``reference.evaluate``."""
    arguments = (position, inputs, weights, width, layers, outs, sharpness)
    if selected_kernels() == "reference" or position.device.type != "cpu":
        return reference.evaluate(*arguments)
    return _OPERATORS.injected_mlp(*arguments)


def evaluate_with_slopes(
    position: Tensor,
    inputs: Tensor,
    weights: Tensor,
    *,
    width: int,
    layers: int,
    outs: int,
    sharpness: float,
) -> Slopes:
    """Return outputs and slopes at flat points; see ``reference.evaluate_with_slopes``."""
    arguments = (position, inputs, weights, width, layers, outs, sharpness)
    if selected_kernels() == "reference" or position.device.type != "cpu":
        return reference.evaluate_with_slopes(*arguments)
    return _OPERATORS.injected_mlp_slopes(*arguments)


_ARGUMENTS = (
    "Tensor position, Tensor inputs, Tensor weights, int width, int layers, int outs, "
    "float sharpness"
)
# ``torch.library.custom_op`` would load the compiler stack at the first call, for seconds.
torch.library.define("geomim::injected_mlp", f"({_ARGUMENTS}) -> Tensor")
torch.library.define(
    "geomim::injected_mlp_slopes",
    f"({_ARGUMENTS}) -> (Tensor outputs, Tensor by_position, Tensor by_inputs)",
)
torch.library.define(
    "geomim::injected_mlp_backward",
    f"({_ARGUMENTS}, Tensor by_outputs, Tensor? along_position, Tensor? along_inputs, "
    "bool for_position, bool for_inputs) -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("geomim::injected_mlp")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _empty_outputs(position: Tensor, _inputs: Tensor, _weights: Tensor, *sizes: Any) -> Tensor:
    return position.new_empty((position.shape[0], sizes[2]))


@torch.library.register_fake("geomim::injected_mlp_slopes")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _empty_slopes(position: Tensor, inputs: Tensor, weights: Tensor, *sizes: Any) -> Slopes:
    outputs = _empty_outputs(position, inputs, weights, *sizes)
    return outputs, position.new_empty(position.shape), inputs.new_empty(inputs.shape)


@torch.library.register_fake("geomim::injected_mlp_backward")  # pyright: ignore[reportUntypedFunctionDecorator] - torch
def _empty_gradients(position: Tensor, inputs: Tensor, weights: Tensor, *rest: Any) -> Slopes:
    for_position, for_inputs = rest[-2:]
    return (
        position.new_empty(position.shape if for_position else (0, position.shape[1])),
        inputs.new_empty(inputs.shape if for_inputs else (0, inputs.shape[1])),
        weights.new_empty(weights.shape),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3])
    ctx.sizes = inputs[3:]


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    given, needs = ctx.saved_tensors, ctx.needs_input_grad[:3]
    by_outputs, *along = grads
    if by_outputs is None:
        by_outputs = given[0].new_zeros((given[0].shape[0], ctx.sizes[2]))
    if all(x is None for x in along):
        along = [None, None]
    else:
        along = [
            torch.zeros_like(y) if x is None else x for x, y in zip(along, given, strict=False)
        ]
    gradients = _OPERATORS.injected_mlp_backward(*given, *ctx.sizes, by_outputs, *along, *needs[:2])
    chosen = (g if need else None for g, need in zip(gradients, needs, strict=True))
    return *chosen, None, None, None, None


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001 - torch's
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], *inputs[7:10])
    ctx.sizes, ctx.wanted = inputs[3:7], (*inputs[10:], True)


def _differentiate_backward(ctx: Any, *moves: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "compiled networks must be differentiated at most twice; call use_kernels('reference')"
        )
    with torch.enable_grad():
        given: list[Any] = [
            None if x is None else x.detach().requires_grad_() for x in ctx.saved_tensors
        ]
        gradients = _reference_gradients(given[:3], ctx.sizes, given[3:], create_graph=True)
        moved = [
            (gradient, move)
            for gradient, move, want in zip(gradients, moves, ctx.wanted, strict=True)
            if want and gradient is not None and move is not None
        ]
    found = iter(
        torch.autograd.grad(
            [gradient for gradient, _ in moved],
            [x for x in given if x is not None],
            [move for _, move in moved],
            allow_unused=True,
        )
    )
    by_given = [None if x is None else next(found) for x in given]
    return *by_given[:3], None, None, None, None, *by_given[3:], None, None


def _reference_gradients(
    given: Sequence[Tensor],
    sizes: Sequence[Any],
    by_results: Sequence[Tensor | None],
    *,
    create_graph: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients by position, inputs and weights."""
    position, inputs, weights = given
    width, layers, outs, sharpness = sizes
    results = reference.evaluate_with_slopes(
        position, inputs, weights, width, layers, outs, sharpness
    )
    pairs = [
        (result, grad)
        for result, grad in zip(results, by_results, strict=True)
        if grad is not None and result.requires_grad
    ]
    return torch.autograd.grad(
        [result for result, _ in pairs],
        given,
        [grad for _, grad in pairs],
        create_graph=create_graph,
        allow_unused=True,
    )


register_autograd("geomim::injected_mlp", _differentiate, setup_context=_keep)
register_autograd("geomim::injected_mlp_slopes", _differentiate, setup_context=_keep)
register_autograd(
    "geomim::injected_mlp_backward", _differentiate_backward, setup_context=_keep_for_backward
)


@torch.library.impl("geomim::injected_mlp", "cpu")
def _evaluate_on_cpu(position: Tensor, inputs: Tensor, weights: Tensor, *sizes: Any) -> Tensor:
    # Loading numba takes longer than everything else in geomim.
    from geomim.kernels.injected_mlp.cpu import forward

    outputs = _empty_outputs(position, inputs, weights, *sizes)
    width, layers, _, sharpness = sizes
    forward.evaluate(
        *_arrays(position, inputs, weights),
        *(width, layers, sharpness),
        *_arrays(outputs, position[:0], inputs[:0]),
        threads=torch.get_num_threads(),
    )
    return outputs


@torch.library.impl("geomim::injected_mlp_slopes", "cpu")
def _slopes_on_cpu(position: Tensor, inputs: Tensor, weights: Tensor, *sizes: Any) -> Slopes:
    from geomim.kernels.injected_mlp.cpu import forward

    results = _empty_slopes(position, inputs, weights, *sizes)
    width, layers, _, sharpness = sizes
    forward.evaluate(
        *_arrays(position, inputs, weights),
        *(width, layers, sharpness),
        *_arrays(*results),
        threads=torch.get_num_threads(),
    )
    return results


@torch.library.impl("geomim::injected_mlp_backward", "cpu")
def _differentiate_on_cpu(position: Tensor, inputs: Tensor, weights: Tensor, *rest: Any) -> Slopes:
    from geomim.kernels.injected_mlp.cpu import backward

    width, layers, _, sharpness, by_outputs, *along, _, _ = rest
    gradients = _empty_gradients(position, inputs, weights, *rest)
    gradients[2].zero_()
    along = [y[:0] if x is None else x for x, y in zip(along, (position, inputs), strict=True)]
    backward.differentiate(
        *_arrays(position, inputs, weights),
        *(width, layers, sharpness),
        *_arrays(by_outputs, *along, *gradients),
        threads=torch.get_num_threads(),
    )
    return gradients


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.contiguous().numpy() for tensor in tensors)


@torch.library.impl("geomim::injected_mlp", "cuda")
def _evaluate_on_cuda(*arguments: Any) -> Tensor:
    return reference.evaluate(*arguments)


@torch.library.impl("geomim::injected_mlp_slopes", "cuda")
def _slopes_on_cuda(*arguments: Any) -> Slopes:
    return reference.evaluate_with_slopes(*arguments)


def _differentiate_on_cuda(position: Tensor, inputs: Tensor, weights: Tensor, *rest: Any) -> Slopes:
    with torch.enable_grad():
        given = [x.detach().requires_grad_() for x in (position, inputs, weights)]
        found = _reference_gradients(given, rest[:4], rest[4:7], create_graph=False)
    empty = _empty_gradients(position, inputs, weights, *rest)
    by_position, by_inputs, by_weights = (
        x if len(x) == 0 or gradient is None else gradient
        for gradient, x in zip(found, empty, strict=True)
    )
    return by_position, by_inputs, by_weights


torch.library.impl("geomim::injected_mlp_backward", "cuda", _differentiate_on_cuda)
