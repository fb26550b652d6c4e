"""Normals from pinhole depth and back-propagation, as numba loops over rows; see ``reference.py``.

A row is one loop without branches, which makes it SIMD; hence the unsigned offsets, since numba
would test others for Python's negative indices. Nothing is stored but the result: the points of a
pixel's neighbours are made again where they are used. What a loop writes lies in few places, at
constant distances, since the compiler checks that none of them overlaps what is read, and gives up
where there are many.
"""

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

_JOBS = 64
_TILE = 256
_U = np.uint64


@kernel_inline
def _slope(place, focal, centre, real):
    """Return ``(u - cx) / fx`` of a column, or ``(v - cy) / fy`` of a row."""
    return (real(np.int32(place)) + real(0.5) - centre) * focal


@kernel_inline
def _lens(focal, centre, image, y, real):
    """Return one over the focal length and the centre along x, and three rows' slopes."""
    fx, fy = real(1) / focal[image, 0], real(1) / focal[image, 1]
    cx, cy = centre[image, 0], centre[image, 1]
    above, below = _slope(y - 1, fy, cy, real), _slope(y + 1, fy, cy, real)
    return fx, cx, (above, _slope(y, fy, cy, real), below)


@kernel_inline
def _larger(a, b):
    return a if a > b else b


@kernel_inline
def _largest(x, y, d, real):
    """Return the largest coordinate of a pixel's point."""
    return _larger(_larger(abs(x), abs(y)), real(1)) * d


@kernel_inline
def _differences(lens, lengths, n, width, column, nearest, real):
    """Return the differences down and across over the pixel's depth, and if all five are known."""
    fx, cx, (above, y, below) = lens
    d, left, right = lengths[n], lengths[n - _U(1)], lengths[n + _U(1)]
    up, down = lengths[n - width], lengths[n + width]
    x = _slope(column, fx, cx, real)
    x_left, x_right = _slope(column - 1, fx, cx, real), _slope(column + 1, fx, cx, real)
    largest = _larger(
        _larger(_largest(x, above, up, real), _largest(x, below, down, real)),
        _larger(_largest(x_left, y, left, real), _largest(x_right, y, right, real)),
    )
    largest = _larger(largest, _largest(x, y, d, real))
    known = (d > nearest) & (left > nearest) & (right > nearest) & (up > nearest) & (down > nearest)
    known &= largest < real(np.inf)
    # A surface patch keeps its shape at any scale; at unit depth nothing over- or underflows.
    scale = real(1) / d
    left, right, up, down = left * scale, right * scale, up * scale, down * scale
    fall = (x * (down - up), below * down - above * up, down - up)
    across = (x_right * right - x_left * left, y * (right - left), right - left)
    return fall, across, known, scale


@kernel_inline
def _product(a, b):
    """Return the cross product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


@kernel_inline
def _unit(cross, x, y, known, real):
    """Return what makes the cross product a unit vector that faces the camera, if anything does."""
    squared = cross[0] * cross[0] + cross[1] * cross[1] + cross[2] * cross[2]
    ok = known & (squared > real(0)) & (squared < real(np.inf))
    scale = real(1) / np.sqrt(squared)
    away = cross[0] * x + cross[1] * y + cross[2] > real(0)
    return (-scale if away else scale), ok


@kernel_inline
def _fill_normals(lens, lengths, first, width, left, count, nearest, real, units):
    """Fill the normals of a part of a row, and then whether they are known, as 1 or 0."""
    fx, cx, slopes = lens
    for i in range(_U(count)):
        column = np.int32(i) + np.int32(left)
        fall, across, known, _ = _differences(
            lens, lengths, first + i, width, column, nearest, real
        )
        cross = _product(fall, across)
        scale, ok = _unit(cross, _slope(column, fx, cx, real), slopes[1], known, real)
        units[_U(0), i] = cross[0] * scale if ok else real(0)
        units[_U(1), i] = cross[1] * scale if ok else real(0)
        units[_U(2), i] = cross[2] * scale if ok else real(0)
        units[_U(3), i] = real(1) if ok else real(0)


@kernel_inline
def _store(units, first, count, real, normals, valid):
    """Copy a part of a row to where it belongs."""
    for i in range(_U(count)):
        at = _U(3) * (first + i)
        normals[at] = units[_U(0), i]
        normals[at + _U(1)] = units[_U(1), i]
        normals[at + _U(2)] = units[_U(2), i]
        valid[first + i] = units[_U(3), i] > real(0)


@kernel
def normals(depth, focal, centre, nearest, out, valid):
    """Fill ``out`` with normals, 0 where there is none, and ``valid`` with where there is one."""
    images, height, width = depth.shape
    lengths, flat, known = depth.reshape(-1), out.reshape(-1), valid.reshape(-1)
    real, rows = depth.dtype.type, images * height
    tiles = (width + _TILE - 1) // _TILE
    jobs = min(_JOBS, rows)
    for job in prange(jobs):
        units = np.zeros((4, _TILE), depth.dtype)
        for n in range(job * rows // jobs, (job + 1) * rows // jobs):
            image, y = n // height, n % height
            for tile in range(tiles):
                left = tile * _TILE
                count = min(_TILE, width - left)
                # The columns that may have normals.
                start, stop = max(left, 1), min(left + count, width - 1)
                units[:] = 0
                if 0 < y < height - 1 and start < stop:
                    _fill_normals(
                        _lens(focal, centre, image, y, real), lengths, _U(n * width + start),
                        _U(width), start, stop - start, nearest, real, units[:, start - left :],
                    )  # fmt: skip
                _store(units, _U(n * width + left), count, real, flat, known)


@kernel_inline
def _fill_pulls(lens, lengths, grads, first, width, left, count, nearest, real, pulls):
    """Fill what the normals of a part of a row pull at: points right of them, then below."""
    fx, cx, slopes = lens
    for i in range(_U(count)):
        n, column = first + i, np.int32(i) + np.int32(left)
        fall, across, known, over_depth = _differences(
            lens, lengths, n, width, column, nearest, real
        )
        cross = _product(fall, across)
        scale, ok = _unit(cross, _slope(column, fx, cx, real), slopes[1], known, real)
        g0, g1, g2 = grads[_U(3) * n], grads[_U(3) * n + _U(1)], grads[_U(3) * n + _U(2)]
        n0, n1, n2 = cross[0] * scale, cross[1] * scale, cross[2] * scale
        along = n0 * g0 + n1 * g1 + n2 * g2
        # The derivative of c / |c|, over the depth by which both differences were divided.
        scale *= over_depth
        turning = ((g0 - n0 * along) * scale, (g1 - n1 * along) * scale, (g2 - n2 * along) * scale)
        right, below = _product(turning, fall), _product(across, turning)
        pulls[_U(0), i] = right[0] if ok else real(0)
        pulls[_U(1), i] = right[1] if ok else real(0)
        pulls[_U(2), i] = right[2] if ok else real(0)
        pulls[_U(3), i] = below[0] if ok else real(0)
        pulls[_U(4), i] = below[1] if ok else real(0)
        pulls[_U(5), i] = below[2] if ok else real(0)


@kernel_inline
def _gather_pulls(lens, lengths, first, left, count, nearest, real, three, out):
    """Fill gradients of depths from the pulls of the rows above, here and below."""
    fx, cx, slopes = lens
    above, here, below = three
    for i in range(_U(count)):
        # Pulls begin a column further left.
        at, after = i + _U(1), i + _U(2)
        px = here[_U(0), i] - here[_U(0), after] + above[_U(3), at] - below[_U(3), at]
        py = here[_U(1), i] - here[_U(1), after] + above[_U(4), at] - below[_U(4), at]
        pz = here[_U(2), i] - here[_U(2), after] + above[_U(5), at] - below[_U(5), at]
        x = _slope(np.int32(i) + np.int32(left), fx, cx, real)
        d = lengths[first + i]
        along = x * px + slopes[1] * py + pz
        known = (d > nearest) & (abs(x * d) < real(np.inf)) & (abs(slopes[1] * d) < real(np.inf))
        out[first + i] = along if known else real(0)


@kernel
def normals_backward(grad, depth, focal, centre, nearest, out):
    """Fill ``out`` with the gradient of the depth.

    A job takes a band of rows, tile by tile, and makes the pulls of a tile's rim once more.
    """
    images, height, width = depth.shape
    lengths, grads, flat = depth.reshape(-1), grad.reshape(-1), out.reshape(-1)
    real, rows = depth.dtype.type, images * height
    tiles = (width + _TILE - 1) // _TILE
    jobs = min(_JOBS, rows)
    for job in prange(jobs):
        pulls = np.zeros((3, 6, _TILE + 2), depth.dtype)
        for tile in range(tiles):
            left = tile * _TILE
            count = min(_TILE, width - left)
            # Of the tile and its rim, the columns that may have normals.
            start, stop = max(left - 1, 1), min(left + count + 1, width - 1)
            held, made = -1, 0
            for n in range(job * rows // jobs, (job + 1) * rows // jobs):
                image, y = n // height, n % height
                if image != held:
                    held, made = image, y - 1
                while made <= y + 1:
                    into = pulls[(made + 3) % 3]
                    into[:] = 0
                    if 0 < made < height - 1 and start < stop:
                        _fill_pulls(
                            _lens(focal, centre, image, made, real), lengths, grads,
                            _U((image * height + made) * width + start), _U(width), start,
                            stop - start, nearest, real, into[:, start - left + 1 :],
                        )  # fmt: skip
                    made += 1
                _gather_pulls(
                    _lens(focal, centre, image, y, real), lengths, _U(n * width + left), left,
                    count, nearest, real,
                    (pulls[(y + 2) % 3], pulls[y % 3], pulls[(y + 1) % 3]), flat,
                )  # fmt: skip
