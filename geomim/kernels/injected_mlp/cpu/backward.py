"""The gradients of ``forward.py``, as numba loops that go up once more, and down.

A gradient by slopes is a direction along which inputs and positions move: their dot product is the
derivative of the first output along it, whose gradients come from going up and down with both.
"""

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_call, kernel_inline
from geomim.kernels.injected_mlp.cpu.forward import JOBS, POINTS, ascend, keep, load
from geomim.kernels.injected_mlp.cpu.tiles import (
    ROWS,
    add_product,
    add_sum,
    add_transposed_product,
    add_transposed_products,
    padded,
    set_product,
)
from geomim.kernels.injected_mlp.cpu.weights import AXES, add_flat, lay_out, room_down, room_up

_U = np.uint64


@kernel
def differentiate(
    position, inputs, weights, width, layers, sharpness, by_outputs, along_position, along_inputs,
    by_position, by_inputs, by_weights,
):  # fmt: skip
    """Fill the gradients by position and by inputs, where they have rows, and by weights.

    ``along_position`` and ``along_inputs`` are the gradients by slopes, without rows if none is.
    """
    (count, channels), outs, real = inputs.shape, by_outputs.shape[1], inputs.dtype
    up = room_up(real, channels, width, layers, outs)
    down = room_down(real, channels, width, layers, outs)
    lay_out(weights, channels, width, layers, outs, up, down)
    wide, beta = padded(width), real.type(sharpness)
    blocks = (count + POINTS - 1) // POINTS
    jobs = min(JOBS, blocks)
    rows = 2 * POINTS if along_inputs.shape[0] > 0 else POINTS
    nothing = np.zeros((1, max(wide, padded(channels))), real)
    parts = np.zeros((jobs, weights.shape[0]), real)
    for job in prange(jobs):
        sums = room_up(real, channels, width, layers, outs)
        x = np.zeros((rows, padded(channels)), real)
        place = np.zeros((rows, padded(AXES)), real)
        u = np.empty((layers * rows, wide), real)
        v, a = np.empty((rows, wide), real), np.empty((layers * rows, wide), real)
        slopes = np.empty((layers - 1) * POINTS * wide, real)
        bends = np.empty((layers - 1) * POINTS * wide, real)
        ends = np.zeros((rows, padded(outs)), real)
        ends[POINTS:, 0] = 1
        by_x = np.empty((POINTS, padded(channels)), real)
        by_place = np.empty((POINTS, padded(AXES)), real)
        for block in range(job * blocks // jobs, (job + 1) * blocks // jobs):
            first = block * POINTS
            size = min(POINTS, count - first)
            load(inputs, first, size, x, 0)
            load(position, first, size, place, 0)
            load(by_outputs, first, size, ends, 0)
            if rows > POINTS:
                load(along_inputs, first, size, x, POINTS)
                load(along_position, first, size, place, POINTS)
            ascend(x, place, up, layers, channels, width, beta, u, v, slopes, bends)
            _descend(
                x, place, down, nothing, layers, channels, width, outs, u, slopes, bends,
                ends, v, a, sums, by_x, by_inputs.shape[0] > 0,
            )  # fmt: skip
            if by_inputs.shape[0] > 0:
                keep(by_x, by_inputs, first, size)
            if by_position.shape[0] > 0:
                set_product(a, 0, down[0], 0, nothing, 0, by_place, 0, POINTS, width)
                keep(by_place, by_position, first, size)
        add_flat(channels, width, layers, outs, sums, parts[job])
    for job in range(jobs):
        for i in range(by_weights.shape[0]):
            by_weights[i] += parts[job, i]


@kernel_inline
def _up_to_rows(size):
    return (size + ROWS - 1) // ROWS * ROWS


@kernel_call
def _descend(
    x, place, down, nothing, layers, channels, width, outs, u, slopes, bends,
    ends, v, a, sums, by_x, for_inputs,
):  # fmt: skip
    """Add to the gradients of weights and of inputs; leave those of what the position gave."""
    rows, wide = v.shape
    flat_v, flat_a = v.reshape(-1), a.reshape(-1)
    one = np.ones(1, x.dtype)
    last = layers - 1
    add_transposed_product(u, last * rows, ends, 0, sums[3], 0, _up_to_rows(width), rows)
    add_sum(one, ends, 0, sums[6], 0, POINTS)
    set_product(ends, 0, down[3], 0, nothing, 0, a, last * rows, rows, outs)
    for layer in range(last - 1, -1, -1):
        block = _U(POINTS * wide)
        at = _U((layer + 1) * rows * wide)
        _carry(flat_a, at, slopes, bends, _U(layer) * block, block, flat_v)
        add_transposed_product(
            u, layer * rows, v, 0, sums[2], layer * wide, _up_to_rows(width), rows
        )
        add_sum(one, v, 0, sums[5], layer * ROWS, POINTS)
        set_product(v, 0, down[2], layer * width, nothing, 0, a, layer * rows, rows, width)
    for layer in range(layers):
        add_sum(one, a, layer * rows, sums[4], layer * ROWS, POINTS)
    if for_inputs:
        set_product(a, 0, down[1], 0, nothing, 0, by_x, 0, POINTS, width)
        for layer in range(1, layers):
            add_product(a, layer * rows, down[1], layer * width, by_x, 0, POINTS, width)
    add_transposed_products(x, a, sums[1], _up_to_rows(channels), rows, layers)
    add_transposed_product(place, 0, a, 0, sums[0], 0, ROWS, rows)


@kernel_inline
def _carry(a, at, slopes, bends, first, block, v):
    """Take gradients back through an activation, and those along the direction beside them."""
    for i in range(block):
        v[i] = a[at + i] * slopes[first + i]
    if _U(v.shape[0]) > block:
        for i in range(block):
            along = a[at + block + i]
            v[i] += along * bends[first + i]
            v[block + i] = along * slopes[first + i]
