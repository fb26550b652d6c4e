"""Pool weighted features into cells, as numba loops; ``reference.py`` says what is computed.

Offsets are unsigned, since numba would otherwise test each for Python's negative indices, which
keeps a loop from becoming SIMD.
"""

import inspect

import numba
import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

_BLOCK = 32  # pixels whose gradients stay in the cache while their bins are visited
_U = np.uint64


@kernel
def pool(features, weights, cell, bounds, out):
    """Add to ``out``, which starts at 0, the weighted features of each cell.

    A job owns the cells between two bounds and looks at everything in order: no two write to one
    place, and every sum has one order, whatever the number of jobs.
    """
    views, bins, pixels = weights.shape
    channels = _U(features.shape[2])
    rows, sources = out.reshape(-1), features.reshape(-1)
    for job in prange(len(bounds) - 1):
        lowest, beyond = bounds[job], bounds[job + 1]
        for v in range(views):
            for d in range(bins):
                for p in range(pixels):
                    c = cell[v, d, p]
                    if lowest <= c < beyond:
                        source = _U(v * pixels + p) * channels
                        _add(rows, _U(c) * channels, weights[v, d, p], sources, source, channels)


@kernel_inline
def _add(rows, row, weight, sources, source, channels):
    for i in range(channels):
        rows[row + i] += weight * sources[source + i]


def _dot(one, first, other, second, channels, zero):
    total = zero
    for i in range(channels):
        total += one[first + i] * other[second + i]
    return total


# Sums over channels may be taken in any order, which SIMD needs; NaN and infinity still count.
_dot = numba.njit(
    forceinline=True,
    nogil=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz"},
)(inspect.unwrap(_dot))


@kernel
def pool_backward(grad, features, weights, cell, for_features, for_weights):
    """Add to ``for_features``, which starts at 0, and fill ``for_weights``."""
    views, bins, pixels = weights.shape
    cells, channels = grad.shape[0], _U(grad.shape[1])
    rows, sources, sums = grad.reshape(-1), features.reshape(-1), for_features.reshape(-1)
    blocks = (pixels + _BLOCK - 1) // _BLOCK
    for job in prange(views * blocks):
        v, first = job // blocks, job % blocks * _BLOCK
        for d in range(bins):
            for p in range(first, min(first + _BLOCK, pixels)):
                c, source = cell[v, d, p], _U(v * pixels + p) * channels
                product = grad.dtype.type(0)
                if 0 <= c < cells:
                    row = _U(c) * channels
                    product = _dot(rows, row, sources, source, channels, product)
                    _add(sums, source, weights[v, d, p], rows, row, channels)
                for_weights[v, d, p] = product


@kernel
def frustum_cells(start, step, depths, frame, views, shape, out):
    """Fill ``out`` with the cell of every point, or -1."""
    x, y, z = shape
    bins, pixels = out.shape[1:]
    for job in prange(out.shape[0] * bins):
        v, d = job // bins, job % bins
        first, depth, row = v // views * x * y * z, depths[d], out[v, d]
        x0, y0, z0 = start[v, 0], start[v, 1], start[v, 2]
        for p in range(pixels):
            i = (x0 + step[v, 0, p] * depth - frame[0, 0]) / frame[1, 0]
            j = (y0 + step[v, 1, p] * depth - frame[0, 1]) / frame[1, 1]
            k = (z0 + step[v, 2, p] * depth - frame[0, 2]) / frame[1, 2]
            # NaN compares false.
            inside = (i >= 0) & (i < x) & (j >= 0) & (j < y) & (k >= 0) & (k < z)
            cell = (np.int32(k if inside else 0) * y + np.int32(j if inside else 0)) * x
            cell += np.int32(i if inside else 0)
            row[p] = first + cell if inside else -1
