"""Define a network whose layers are each given its inputs anew, and its slopes, in plain torch.

With ``p`` the position and ``x`` the inputs of a point, ``h[0] = P p + c``, and for every layer::

    u[l] = h[l] + I[l] x + b[l]
    v[l] = W[l] u[l] + d[l]
    h[l + 1] = s(v[l])

The outputs are the last ``v``. ``s`` is ``softplus`` of a sharpness, or ``relu`` where that is 0.
Flat, weights are ``P, c``, then for every layer ``I, b, W, d``; a matrix is ``out by in``.
"""

import torch
from torch import Tensor

AXES = 3


def sizes(channels: int, width: int, layers: int, outs: int) -> list[tuple[int, int]]:
    """Return the shapes of all matrices; each has a bias of its first side behind it."""
    ends = [width] * (layers - 1) + [outs]
    return [(width, AXES)] + [shape for end in ends for shape in ((width, channels), (end, width))]


def evaluate(
    position: Tensor,
    inputs: Tensor,
    weights: Tensor,
    width: int,
    layers: int,
    outs: int,
    sharpness: float,
) -> Tensor:
    """Return the outputs, point by ``outs``."""
    matrices = _matrices(weights, inputs.shape[1], width, layers, outs)
    return _run(position, inputs, matrices, sharpness)[0]


def evaluate_with_slopes(
    position: Tensor,
    inputs: Tensor,
    weights: Tensor,
    width: int,
    layers: int,
    outs: int,
    sharpness: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs, and the derivatives of the first by position and by inputs.

    By the chain rule in plain operators, so that a loss on derivatives needs no graph of a graph.
    """
    matrices = _matrices(weights, inputs.shape[1], width, layers, outs)
    outputs, before = _run(position, inputs, matrices, sharpness)
    inject, layer = matrices[-2][0], matrices[-1][0]
    along = layer[0]
    by_inputs = along @ inject
    for number in range(layers - 2, -1, -1):
        inject, layer = matrices[2 * number + 1][0], matrices[2 * number + 2][0]
        along = (along * _derivative(before[number], sharpness)) @ layer
        by_inputs = by_inputs + along @ inject
    by_position = along @ matrices[0][0]
    return outputs, by_position.expand(len(position), -1), by_inputs.expand(len(inputs), -1)


def _matrices(
    weights: Tensor, channels: int, width: int, layers: int, outs: int
) -> list[tuple[Tensor, Tensor]]:
    """Return each matrix with its bias."""
    shapes = sizes(channels, width, layers, outs)
    parts = weights.split([size for out, ins in shapes for size in (out * ins, out)])
    return [
        (matrix.view(shape), bias)
        for shape, matrix, bias in zip(shapes, parts[::2], parts[1::2], strict=True)
    ]


def _run(
    position: Tensor, inputs: Tensor, matrices: list[tuple[Tensor, Tensor]], sharpness: float
) -> tuple[Tensor, list[Tensor]]:
    """Return the outputs and what each activation was given."""
    linear = torch.nn.functional.linear
    before: list[Tensor] = []
    hidden = linear(position, *matrices[0])
    for inject, layer in zip(matrices[1:-2:2], matrices[2:-1:2], strict=True):
        values = linear(hidden + linear(inputs, *inject), *layer)
        before.append(values)
        hidden = _activate(values, sharpness)
    return linear(hidden + linear(inputs, *matrices[-2]), *matrices[-1]), before


def _activate(values: Tensor, sharpness: float) -> Tensor:
    if sharpness > 0:
        return torch.nn.functional.softplus(values, beta=sharpness)
    return values.relu()


def _derivative(values: Tensor, sharpness: float) -> Tensor:
    if sharpness > 0:
        return torch.sigmoid(sharpness * values)
    return (values > 0).to(values.dtype)
