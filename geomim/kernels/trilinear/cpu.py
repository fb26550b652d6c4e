"""Trilinear gather, scatter and dots over channels-last volumes, as numba loops.

Points are taken in runs: first the eight cells and weights of every point of a run, a loop over
points, then their rows, loops over channels, which fetch the rows of a later point meanwhile.
Offsets are unsigned, since numba would otherwise test each for Python's negative indices, which
keeps a loop from becoming SIMD. ``reference.py`` says what is computed.
"""

import inspect

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from geomim.kernels.compile import kernel, kernel_inline

_RUN = 128
_JOBS = 256
_AHEAD = 8  # points between fetching a row and using it
_LINE = 64  # bytes of a cache line
_U = np.uint64


def _prefetch(_typing_context, array, offset):
    """Start loading an element into the cache; the hardware cannot guess where points lie."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        hint = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, word, word, word]),
            "llvm.prefetch.p0i8",
        )
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        # For reading, to be kept in every cache, data rather than instructions.
        builder.call(hint, [place, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, offset), generate


_prefetch = intrinsic(inspect.unwrap(_prefetch))


@kernel_inline
def _supported(p, size, border):
    """Tell whether any cell has a say at an index coordinate; NaN compares false."""
    if border:
        return (p > -np.inf) & (p < np.inf)
    return (p > -0.5) & (p < size + 0.5)


@kernel_inline
def _axis(p, known, size, border, real):
    """Return the two cells along an axis, their weights and the slopes of these."""
    q = p - real(0.5) if known else real(0)
    q = min(max(q, real(-1)), real(size))
    # Truncation rounds down from -1 on, and is one instruction.
    low = np.int32(q + real(1)) - np.int32(1)
    t = q - real(low)
    low_counts = real(1) if (border or low >= 0) else real(0)
    high_counts = real(1) if (border or low + 1 < size) else real(0)
    return (
        min(max(low, 0), size - 1),
        min(low + 1, size - 1),
        low_counts * (real(1) - t),
        high_counts * t,
        -low_counts,
        high_counts,
    )


@kernel_inline
def _locate(points, first, count, sizes, border, real, known, cells, axes):
    """Fill the corner cells of a run, x fastest, and weight and slope of every axis."""
    size_z, size_y, size_x = sizes
    for n in range(count):
        p = _U(3 * (first + n))
        x, y, z = points[p], points[p + _U(1)], points[p + _U(2)]
        inside = (
            _supported(x, size_x, border)
            & _supported(y, size_y, border)
            & _supported(z, size_z, border)
        )
        known[n] = inside
        x0, x1, axes[0, n], axes[1, n], axes[2, n], axes[3, n] = _axis(
            x, inside, size_x, border, real
        )
        y0, y1, axes[4, n], axes[5, n], axes[6, n], axes[7, n] = _axis(
            y, inside, size_y, border, real
        )
        z0, z1, axes[8, n], axes[9, n], axes[10, n], axes[11, n] = _axis(
            z, inside, size_z, border, real
        )
        a, b = (z0 * size_y + y0) * size_x, (z0 * size_y + y1) * size_x
        c, d = (z1 * size_y + y0) * size_x, (z1 * size_y + y1) * size_x
        cells[0, n], cells[1, n], cells[2, n], cells[3, n] = a + x0, a + x1, b + x0, b + x1
        cells[4, n], cells[5, n], cells[6, n], cells[7, n] = c + x0, c + x1, d + x0, d + x1


@kernel_inline
def _coefficients(mix, m):
    return (
        mix[m], mix[m + _U(1)], mix[m + _U(2)], mix[m + _U(3)],
        mix[m + _U(4)], mix[m + _U(5)], mix[m + _U(6)], mix[m + _U(7)],
    )  # fmt: skip


@kernel_inline
def _along_xy(mix, wx, dx, wy, dy):
    """Expand eight coefficients along x and y; what remains is the part without z and with it."""
    plain, with_y = mix[0] * wx + mix[1] * dx, mix[2] * wx + mix[6] * dx
    with_z, with_yz = mix[3] * wx + mix[5] * dx, mix[4] * wx + mix[7] * dx
    return plain * wy + with_y * dy, with_z * wy + with_yz * dy


@kernel_inline
def _weigh_point(mix, n, axes, weights):
    """Fill the weights of the corners of a point for one combination of derivatives."""
    x0, x1, dx0, dx1 = axes[0, n], axes[1, n], axes[2, n], axes[3, n]
    y0, y1, dy0, dy1 = axes[4, n], axes[5, n], axes[6, n], axes[7, n]
    z0, z1, dz0, dz1 = axes[8, n], axes[9, n], axes[10, n], axes[11, n]
    a, a_z = _along_xy(mix, x0, dx0, y0, dy0)
    b, b_z = _along_xy(mix, x1, dx1, y0, dy0)
    c, c_z = _along_xy(mix, x0, dx0, y1, dy1)
    d, d_z = _along_xy(mix, x1, dx1, y1, dy1)
    weights[0, n], weights[1, n] = a * z0 + a_z * dz0, b * z0 + b_z * dz0
    weights[2, n], weights[3, n] = c * z0 + c_z * dz0, d * z0 + d_z * dz0
    weights[4, n], weights[5, n] = a * z1 + a_z * dz1, b * z1 + b_z * dz1
    weights[6, n], weights[7, n] = c * z1 + c_z * dz1, d * z1 + d_z * dz1


@kernel_inline
def _weigh(mix, m, step, count, axes, weights):
    """Fill the weights of a run; where one combination serves all points, the loop is SIMD."""
    if step == 0:
        row = _coefficients(mix, m)
        for n in range(count):
            _weigh_point(row, n, axes, weights)
    else:
        for n in range(count):
            _weigh_point(_coefficients(mix, m + _U(n) * step), n, axes, weights)


@kernel_inline
def _rows(cells, n, base, channels):
    """Return where the rows of the eight corners start."""
    return (
        _U((base + cells[0, n]) * channels),
        _U((base + cells[1, n]) * channels),
        _U((base + cells[2, n]) * channels),
        _U((base + cells[3, n]) * channels),
        _U((base + cells[4, n]) * channels),
        _U((base + cells[5, n]) * channels),
        _U((base + cells[6, n]) * channels),
        _U((base + cells[7, n]) * channels),
    )


@kernel_inline
def _lines(channels, volume):
    """Count the cache lines of a row."""
    return (channels * volume.itemsize + _LINE - 1) // _LINE


@kernel_inline
def _fetch(volume, cells, n, base, channels, lines):
    """Fetch the rows of a point."""
    step = _U(_LINE // volume.itemsize)
    for corner in range(8):
        row = _U((base + cells[corner, n]) * channels)
        for line in range(_U(lines)):
            _prefetch(volume, row + line * step)


@kernel_inline
def _scratch(real):
    """Return room for a run: known, cells, axes, weights."""
    known, cells = np.empty(_RUN, np.bool_), np.empty((8, _RUN), np.int64)
    return known, cells, np.empty((12, _RUN), real), np.empty((8, _RUN), real)


@kernel_inline
def _blend(rows, at, weights, n, values, o, last):
    """Write the weighted sum of eight rows."""
    a, b, c, d, e, f, g, h = at
    w0, w1, w2, w3 = weights[0, n], weights[1, n], weights[2, n], weights[3, n]
    w4, w5, w6, w7 = weights[4, n], weights[5, n], weights[6, n], weights[7, n]
    for i in range(last):
        low = w0 * rows[a + i] + w1 * rows[b + i] + w2 * rows[c + i] + w3 * rows[d + i]
        high = w4 * rows[e + i] + w5 * rows[f + i] + w6 * rows[g + i] + w7 * rows[h + i]
        values[o + i] = low + high


@kernel
def gather(volume, points, mix, border, out, known_out):
    """Fill ``out`` with combinations of the volume's derivatives, 0 where a point is unknown."""
    batch, size_z, size_y, size_x, channels = volume.shape
    voxels, last = size_z * size_y * size_x, _U(channels)
    count, kinds = points.shape[1], mix.shape[2]
    rows, places = volume.reshape(-1), points.reshape(-1)
    coefficients, values = mix.reshape(-1), out.reshape(-1)
    per_point = 8 * kinds if mix.shape[1] > 1 else 0
    per_item = 8 * kinds * mix.shape[1] if mix.shape[0] > 1 else 0
    real, lines = points.dtype.type, _lines(channels, volume)
    runs = (count + _RUN - 1) // _RUN
    jobs = min(_JOBS, batch * runs)
    for job in prange(jobs):
        known, cells, axes, weights = _scratch(points.dtype)
        for run in range(job * batch * runs // jobs, (job + 1) * batch * runs // jobs):
            b, first = run // runs, run % runs * _RUN
            length, base = min(_RUN, count - first), b * voxels
            start = b * count + first
            _locate(
                places, start, length, (size_z, size_y, size_x), border, real, known, cells, axes
            )
            for n in range(length):
                known_out[b, first + n] = known[n]
            for k in range(kinds):
                m = _U(b * per_item + first * per_point + 8 * k)
                _weigh(coefficients, m, _U(per_point), length, axes, weights)
                for n in range(length):
                    if k == 0 and n + _AHEAD < length:
                        _fetch(rows, cells, n + _AHEAD, base, channels, lines)
                    o = _U(((start + n) * kinds + k) * channels)
                    if known[n]:
                        _blend(rows, _rows(cells, n, base, channels), weights, n, values, o, last)
                    else:
                        for c in range(last):
                            values[o + c] = 0


@kernel
def scatter(grad, points, mix, border, bounds, out):
    """Add to ``out``, which starts at 0, the gradient of ``gather`` with respect to the volume.

    A job owns the cells between two ``bounds`` of one item and takes the points in order: no two
    write to one place, and every sum has one order, whatever the number of jobs.
    """
    batch, size_z, size_y, size_x, channels = out.shape
    voxels, slabs = size_z * size_y * size_x, len(bounds) - 1
    count, kinds = points.shape[1], mix.shape[2]
    rows, places = out.reshape(-1), points.reshape(-1)
    coefficients, grads = mix.reshape(-1), grad.reshape(-1)
    per_point = 8 * kinds if mix.shape[1] > 1 else 0
    per_item = 8 * kinds * mix.shape[1] if mix.shape[0] > 1 else 0
    real, lines = points.dtype.type, _lines(channels, out)
    for job in prange(batch * slabs):
        b, base = job // slabs, job // slabs * voxels
        owned = (bounds[job % slabs], bounds[job % slabs + 1])
        known, cells, axes, weights = _scratch(points.dtype)
        for first in range(0, count, _RUN):
            length, start = min(_RUN, count - first), b * count + first
            _locate(
                places, start, length, (size_z, size_y, size_x), border, real, known, cells, axes
            )
            _keep_touching(known, cells, length, owned)
            for k in range(kinds):
                m = _U(b * per_item + first * per_point + 8 * k)
                _weigh(coefficients, m, _U(per_point), length, axes, weights)
                for n in range(length):
                    later = n + _AHEAD
                    if k == 0 and later < length and known[later]:
                        _fetch(rows, cells, later, base, channels, lines)
                    if known[n]:
                        g = _U(((start + n) * kinds + k) * channels)
                        _spread(rows, base, channels, weights, cells, n, owned, grads, g)


@kernel_inline
def _keep_touching(known, cells, count, owned):
    """Forget points without a corner among the owned cells; the first is the lowest."""
    for n in range(count):
        known[n] = known[n] & (cells[0, n] < owned[1]) & (cells[7, n] >= owned[0])


@kernel_inline
def _spread(rows, base, channels, weights, cells, n, owned, grads, g):
    """Add a gradient to the owned rows of a point."""
    inside = owned[0] <= cells[0, n] and cells[7, n] < owned[1]
    for i in range(8):
        if inside or owned[0] <= cells[i, n] < owned[1]:
            row = _U((base + cells[i, n]) * channels)
            _add(rows, row, weights[i, n], grads, g, _U(channels))


@kernel_inline
def _add(rows, row, weight, grads, g, last):
    for c in range(last):
        rows[row + c] += weight * grads[g + c]


def _products(rows, at, grads, g, last, zero):
    """Return the inner products of eight rows with a gradient."""
    a, b, c0, d, e, f, h, i = at
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
    for c in range(last):
        factor = grads[g + c]
        s0 += factor * rows[a + c]
        s1 += factor * rows[b + c]
        s2 += factor * rows[c0 + c]
        s3 += factor * rows[d + c]
        s4 += factor * rows[e + c]
        s5 += factor * rows[f + c]
        s6 += factor * rows[h + c]
        s7 += factor * rows[i + c]
    return s0, s1, s2, s3, s4, s5, s6, s7


# Sums over channels may be taken in any order, which SIMD needs (4x); NaN and infinity still count.
_products = numba.njit(
    forceinline=True,
    nogil=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz"},
)(inspect.unwrap(_products))


@kernel
def dots(volume, points, grad, border, out):
    """Fill ``out`` with the inner products of a gradient with all eight derivatives."""
    batch, size_z, size_y, size_x, channels = volume.shape
    voxels, last = size_z * size_y * size_x, _U(channels)
    count, kinds = points.shape[1], out.shape[2]
    rows, places, grads = volume.reshape(-1), points.reshape(-1), grad.reshape(-1)
    real, lines = points.dtype.type, _lines(channels, volume)
    runs = (count + _RUN - 1) // _RUN
    jobs = min(_JOBS, batch * runs)
    for job in prange(jobs):
        known, cells, axes, sums = _scratch(points.dtype)
        for run in range(job * batch * runs // jobs, (job + 1) * batch * runs // jobs):
            b, first = run // runs, run % runs * _RUN
            length, base = min(_RUN, count - first), b * voxels
            start = b * count + first
            _locate(
                places, start, length, (size_z, size_y, size_x), border, real, known, cells, axes
            )
            for k in range(kinds):
                for n in range(length):
                    if k == 0 and n + _AHEAD < length:
                        _fetch(rows, cells, n + _AHEAD, base, channels, lines)
                    at = _rows(cells, n, base, channels)
                    g = _U(((start + n) * kinds + k) * channels)
                    width = last if known[n] else _U(0)
                    (
                        sums[0, n], sums[1, n], sums[2, n], sums[3, n],
                        sums[4, n], sums[5, n], sums[6, n], sums[7, n],
                    ) = _products(rows, at, grads, g, width, real(0))  # fmt: skip
                _differentiate(sums, axes, length, out[b, first : first + length, k])


@kernel_inline
def _along_x(sums, i, n, x0, x1):
    return x0 * sums[i, n] + x1 * sums[i + 1, n]


@kernel_inline
def _differentiate(sums, axes, count, out):
    """Turn sums at the corners into value and mixed derivatives 1, x, y, z, yz, xz, xy, xyz."""
    for n in range(count):
        x0, x1, dx0, dx1 = axes[0, n], axes[1, n], axes[2, n], axes[3, n]
        y0, y1, dy0, dy1 = axes[4, n], axes[5, n], axes[6, n], axes[7, n]
        z0, z1, dz0, dz1 = axes[8, n], axes[9, n], axes[10, n], axes[11, n]
        a, b = _along_x(sums, 0, n, x0, x1), _along_x(sums, 2, n, x0, x1)
        c, d = _along_x(sums, 4, n, x0, x1), _along_x(sums, 6, n, x0, x1)
        a_x, b_x = _along_x(sums, 0, n, dx0, dx1), _along_x(sums, 2, n, dx0, dx1)
        c_x, d_x = _along_x(sums, 4, n, dx0, dx1), _along_x(sums, 6, n, dx0, dx1)
        low, high = y0 * a + y1 * b, y0 * c + y1 * d
        low_x, high_x = y0 * a_x + y1 * b_x, y0 * c_x + y1 * d_x
        low_y, high_y = dy0 * a + dy1 * b, dy0 * c + dy1 * d
        low_xy, high_xy = dy0 * a_x + dy1 * b_x, dy0 * c_x + dy1 * d_x
        out[n, 0] = z0 * low + z1 * high
        out[n, 1] = z0 * low_x + z1 * high_x
        out[n, 2] = z0 * low_y + z1 * high_y
        out[n, 3] = dz0 * low + dz1 * high
        out[n, 4] = dz0 * low_y + dz1 * high_y
        out[n, 5] = dz0 * low_x + dz1 * high_x
        out[n, 6] = z0 * low_xy + z1 * high_xy
        out[n, 7] = dz0 * low_xy + dz1 * high_xy
