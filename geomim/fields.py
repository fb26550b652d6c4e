"""Small networks that say what is at a place, from its position and features found there."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.kernels.injected_mlp import op

Activation = Literal["softplus", "relu"]
# Of a softplus: it is a rectifier rounded at its bend (UniPAD's, after SDFStudio).
_SHARPNESS = 100.0


class Affine(NamedTuple):
    """A layer: ``weight @ x + bias``, as of ``torch.nn.Linear``."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"]


class InjectedLayers(NamedTuple):
    """Weights of a network each of whose layers sees its inputs anew.

    Of the position; then, as many as there are layers, of what is added to each's argument, and of
    the layers. All but the last are as wide as the position's.
    """

    position: Affine
    inject: Sequence[Affine]
    layers: Sequence[Affine]


class FieldSlopes(NamedTuple):
    """Outputs of a network, and the derivatives of the first by all that it was given."""

    outputs: Float[Tensor, "*point out"]
    by_position: Float[Tensor, "*point 3"]
    by_inputs: Float[Tensor, "*point c"]


def injected_mlp(
    position: Float[Tensor, "*point 3"],
    inputs: Float[Tensor, "*point c"],
    weights: InjectedLayers,
    *,
    activation: Activation,
) -> Float[Tensor, "*point out"]:
    """Run the position through layers that each see ``inputs`` anew.

    In front of each layer its injection of the inputs is added, between any two is an activation:
    ``relu``, or a ``softplus`` of sharpness 100. On the CPU one pass, that keeps nothing for the
    gradient but what it was given; elsewhere plain torch. All dtypes must be one of float32 and
    float64. A point that is not finite spoils no other.

    Raises:
        ValueError: If the weights do not fit each other or the inputs.
        TypeError: If the tensors differ in dtype, or it is another.
    """
    points, sizes = _by_point(position, inputs), _sizes(weights, activation)
    outputs = op.evaluate(*points, _flat(*points, weights), **sizes)
    return outputs.reshape(*position.shape[:-1], sizes["outs"])


def injected_mlp_with_slopes(
    position: Float[Tensor, "*point 3"],
    inputs: Float[Tensor, "*point c"],
    weights: InjectedLayers,
    *,
    activation: Activation,
) -> FieldSlopes:
    """Run :func:`injected_mlp`, and go back down for the first output's derivatives.

    A loss on these may be differentiated without ``create_graph``.

    Raises:
        ValueError: If the weights do not fit each other or the inputs.
        TypeError: If the tensors differ in dtype, or it is another.
    """
    points, sizes = _by_point(position, inputs), _sizes(weights, activation)
    outputs, by_position, by_inputs = op.evaluate_with_slopes(
        *points, _flat(*points, weights), **sizes
    )
    return FieldSlopes(
        outputs.reshape(*position.shape[:-1], sizes["outs"]),
        by_position.reshape(position.shape),
        by_inputs.reshape(inputs.shape),
    )


def _by_point(position: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    count = math.prod(position.shape[:-1])
    return position.reshape(count, 3), inputs.reshape(count, inputs.shape[-1])


class _Sizes(TypedDict):
    width: int
    layers: int
    outs: int
    sharpness: float


def _sizes(weights: InjectedLayers, activation: Activation) -> _Sizes:
    match activation:
        case "softplus":
            sharpness = _SHARPNESS
        case "relu":
            sharpness = 0.0
    return {
        "width": weights.position.weight.shape[0],
        "layers": len(weights.layers),
        "outs": weights.layers[-1].weight.shape[0],
        "sharpness": sharpness,
    }


def _flat(position: Tensor, inputs: Tensor, weights: InjectedLayers) -> Tensor:
    """Return all weights in a row, as the operators take them."""
    pairs = zip(weights.inject, weights.layers, strict=True)
    parts = [weights.position, *(part for pair in pairs for part in pair)]
    width = weights.position.weight.shape[0]
    ins = [3, *([inputs.shape[-1], width] * len(weights.layers))]
    outs = [width] * (len(parts) - 1) + [weights.layers[-1].weight.shape[0]]
    for part, shape in zip(parts, zip(outs, ins, strict=True), strict=True):
        if part.weight.shape != shape or part.bias.shape != shape[:1]:
            raise ValueError(
                f"weights must be {shape} with a bias, got {tuple(part.weight.shape)} "
                f"with {tuple(part.bias.shape)}"
            )
    tensors = [tensor for part in parts for tensor in part]
    dtypes = {tensor.dtype for tensor in (position, inputs, *tensors)}
    if dtypes not in ({torch.float32}, {torch.float64}):
        raise TypeError(
            "position, inputs and weights must be all float32 or all float64, "
            f"got {', '.join(sorted(str(dtype) for dtype in dtypes))}"
        )
    return torch.cat([tensor.flatten() for tensor in tensors])
