"""A network whose layers are given its inputs anew, as numba loops over blocks of points.

``reference.py`` says what is computed. A block's rows are points; going up, ``u[l]`` is what layer
``l`` is given. Its derivative along a direction may go up beside it, in as many more rows.
"""

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_call, kernel_inline
from geomim.kernels.injected_mlp.cpu.activations import activate
from geomim.kernels.injected_mlp.cpu.tiles import (
    ROWS,
    add_product,
    padded,
    set_product,
    set_products,
)
from geomim.kernels.injected_mlp.cpu.weights import AXES, lay_out, room_down, room_up

JOBS = 64
POINTS = 64
_U = np.uint64


@kernel_inline
def load(values, first, count, rows, rows_first):
    """Fill a block's rows with those of ``values``; rows beyond are 0."""
    _copy(values, first, rows, rows_first, count)
    for p in range(rows_first + count, rows_first + POINTS):
        for c in range(values.shape[1]):
            rows[p, c] = 0


@kernel_inline
def keep(rows, values, first, count):
    """Fill rows of ``values`` with those of a block."""
    _copy(rows, 0, values, first, count)


@kernel_inline
def _copy(source, source_first, target, target_first, count):
    """Fill rows with others, as far as both reach."""
    columns = min(source.shape[1], target.shape[1])
    if source.shape[1] == target.shape[1]:
        flat, out = source.reshape(-1), target.reshape(-1)
        at, to = _U(source_first * columns), _U(target_first * columns)
        for i in range(_U(count * columns)):
            out[to + i] = flat[at + i]
        return
    for p in range(count):
        for c in range(columns):
            target[target_first + p, c] = source[source_first + p, c]


@kernel_call
def ascend(x, place, up, layers, channels, width, sharpness, u, v, slopes, bends):
    """Fill what every layer is given, and the derivatives of the activations by their arguments.

    Args:
        x: Inputs of the points; below them, where a direction goes up too, along that.
        place: As ``x``, positions.
        up: Transposed weights.
        layers: Their number,
        channels: that of inputs
        width: and of hidden values.
        sharpness: Of the activation.
        u: A layer's rows after the other's.
        v: Room for what activations are given.
        slopes: First derivatives, one layer after the other.
        bends: Second derivatives times what goes up along the direction, if it does.
    """
    rows, wide = x.shape[0], v.shape[1]
    flat_u, flat_v = u.reshape(-1), v.reshape(-1)
    block = _U(POINTS * wide)
    for part in range(0, rows, POINTS):
        bias = 1 if part > 0 else 0
        set_products(x, part, up[1], up[4], bias, u, part, POINTS, channels, layers)
    add_product(place, 0, up[0], 0, u, 0, rows, AXES)
    for layer in range(layers):
        first = layer * rows
        if layer > 0:
            at, slope_at = _U(first * wide), _U((layer - 1) * POINTS * wide)
            activate(flat_v, _U(0), block, sharpness, flat_u, at, slopes, slope_at)
            if rows > POINTS:
                _move(flat_v, flat_u, at + block, block, slopes, slope_at, sharpness, bends)
        if layer + 1 < layers:
            for part in range(0, rows, POINTS):
                bias = layer * ROWS + (1 if part > 0 else 0)
                set_product(
                    u, first + part, up[2], layer * wide, up[5], bias, v, part, POINTS, width
                )


@kernel_inline
def _move(v, u, at, block, slopes, slope_at, sharpness, bends):
    one = v.dtype.type(1)
    for i in range(block):
        move, slope = v[block + i], slopes[slope_at + i]
        u[at + i] += move * slope
        bends[slope_at + i] = move * sharpness * slope * (one - slope)


@kernel_inline
def weigh(values, slopes, first, out):
    """Set ``out`` to the product of ``values`` with slopes."""
    for i in range(_U(values.shape[0])):
        out[i] = values[i] * slopes[first + i]


@kernel
def evaluate(position, inputs, weights, width, layers, sharpness, outputs, by_position, by_inputs):
    """Fill ``outputs`` and, where they have rows, the derivatives of the first of them."""
    (count, channels), outs, real = inputs.shape, outputs.shape[1], inputs.dtype
    up = room_up(real, channels, width, layers, outs)
    down = room_down(real, channels, width, layers, outs)
    lay_out(weights, channels, width, layers, outs, up, down)
    wide, beta = padded(width), real.type(sharpness)
    nothing = np.zeros((1, max(wide, padded(channels))), real)
    blocks = (count + POINTS - 1) // POINTS
    jobs = min(JOBS, blocks)
    for job in prange(jobs):
        x = np.zeros((POINTS, padded(channels)), real)
        place = np.zeros((POINTS, padded(AXES)), real)
        u = np.empty((layers * POINTS, wide), real)
        v = np.empty((POINTS, wide), real)
        slopes = np.empty((layers - 1) * POINTS * wide, real)
        out = np.empty((POINTS, padded(outs)), real)
        a = np.empty((POINTS, wide), real)
        for block in range(job * blocks // jobs, (job + 1) * blocks // jobs):
            first = block * POINTS
            size = min(POINTS, count - first)
            load(inputs, first, size, x, 0)
            load(position, first, size, place, 0)
            ascend(x, place, up, layers, channels, width, beta, u, v, slopes, slopes)
            set_product(u, (layers - 1) * POINTS, up[3], 0, up[6], 0, out, 0, POINTS, width)
            keep(out, outputs, first, size)
            if by_inputs.shape[0] > 0:
                _descend(down, nothing, layers, width, slopes, v, a, x, place)
                keep(x, by_inputs, first, size)
                keep(place, by_position, first, size)


@kernel_call
def _descend(down, nothing, layers, width, slopes, v, a, by_inputs, by_position):
    """Fill the derivatives of the first output by inputs and position."""
    flat_v, flat_a = v.reshape(-1), a.reshape(-1)
    # All points begin with the first row of the last layer.
    set_product(v, 0, a, 0, down[3], 0, a, 0, POINTS, 0)
    last = (layers - 1) * width
    set_product(a, 0, down[1], last, nothing, 0, by_inputs, 0, POINTS, width)
    for layer in range(layers - 2, -1, -1):
        weigh(flat_a, slopes, _U(layer * flat_a.shape[0]), flat_v)
        set_product(v, 0, down[2], layer * width, nothing, 0, a, 0, POINTS, width)
        add_product(a, 0, down[1], layer * width, by_inputs, 0, POINTS, width)
    set_product(a, 0, down[0], 0, nothing, 0, by_position, 0, POINTS, width)
