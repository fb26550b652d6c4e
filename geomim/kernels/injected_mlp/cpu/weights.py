"""Lay out a network's weights for ``tiles.py``, whose columns are padded, and their gradients back.

Flat they are the weight and the bias of the position's layer, then, for every layer, those of its
injection and its own. A weight is ``out by in``, as torch has it; to go up through the layers it is
transposed, to go down it is not. The bias of layer ``l`` is row ``l * ROWS``; those between are 0.
"""

import numpy as np

from geomim.kernels.compile import kernel_call, kernel_inline
from geomim.kernels.injected_mlp.cpu.tiles import ROWS, padded

AXES = 3


@kernel_call
def room_up(real, channels, width, layers, outs):
    """Return zeros for the transposed weights of position, injections, layers and the last.

    And for the biases of injections, layers and the last; the first has the position's in it.
    """
    wide = padded(width)
    return (
        np.zeros((ROWS, wide), real),
        np.zeros((layers * padded(channels), wide), real),
        np.zeros(((layers - 1) * wide, wide), real),
        np.zeros((wide, padded(outs)), real),
        np.zeros((layers * ROWS, wide), real),
        np.zeros((layers * ROWS, wide), real),
        np.zeros((ROWS, padded(outs)), real),
    )


@kernel_call
def room_down(real, channels, width, layers, outs):
    """Return zeros for the weights of position, injections, layers and the last."""
    wide = padded(width)
    return (
        np.zeros((width, padded(AXES)), real),
        np.zeros((layers * width, padded(channels)), real),
        np.zeros(((layers - 1) * width, wide), real),
        np.zeros((outs, wide), real),
    )


@kernel_call
def lay_out(flat, channels, width, layers, outs, up, down):
    """Fill both forms of the weights."""
    at = _lay_weight(flat, 0, width, AXES, up[0], 0, down[0], 0)
    at = _lay_bias(flat, at, width, up[4], 0)
    for layer in range(layers):
        first = layer * up[1].shape[0] // layers
        at = _lay_weight(flat, at, width, channels, up[1], first, down[1], layer * width)
        at = _lay_bias(flat, at, width, up[4], layer * ROWS)
        if layer + 1 < layers:
            first = layer * up[2].shape[1]
            at = _lay_weight(flat, at, width, width, up[2], first, down[2], layer * width)
            at = _lay_bias(flat, at, width, up[5], layer * ROWS)
    at = _lay_weight(flat, at, outs, width, up[3], 0, down[3], 0)
    _lay_bias(flat, at, outs, up[6], 0)


@kernel_inline
def _lay_weight(flat, at, outs, ins, up, up_first, down, down_first):
    for o in range(outs):
        for i in range(ins):
            up[up_first + i, o] = down[down_first + o, i] = flat[at + o * ins + i]
    return at + outs * ins


@kernel_inline
def _lay_bias(flat, at, outs, up, up_first):
    for o in range(outs):
        up[up_first, o] += flat[at + o]
    return at + outs


@kernel_call
def add_flat(channels, width, layers, outs, up, flat):
    """Add gradients of the transposed weights to those of the flat ones."""
    at = _add_weight(flat, 0, width, AXES, up[0], 0)
    at = _add_bias(flat, at, width, up[4], 0)
    for layer in range(layers):
        at = _add_weight(flat, at, width, channels, up[1], layer * up[1].shape[0] // layers)
        at = _add_bias(flat, at, width, up[4], layer * ROWS)
        if layer + 1 < layers:
            at = _add_weight(flat, at, width, width, up[2], layer * up[2].shape[1])
            at = _add_bias(flat, at, width, up[5], layer * ROWS)
    at = _add_weight(flat, at, outs, width, up[3], 0)
    _add_bias(flat, at, outs, up[6], 0)


@kernel_inline
def _add_weight(flat, at, outs, ins, up, up_first):
    for o in range(outs):
        for i in range(ins):
            flat[at + o * ins + i] += up[up_first + i, o]
    return at + outs * ins


@kernel_inline
def _add_bias(flat, at, outs, up, up_first):
    for o in range(outs):
        flat[at + o] += up[up_first, o]
    return at + outs
