"""Depth maps to points and back-propagation, as numba loops over rows; see ``reference.py``.

A row is one loop without branches, once for each kind of length: only then is it SIMD. Offsets are
unsigned, since numba would otherwise test each for Python's negative indices.
"""

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

_JOBS = 64
_U = np.uint64


@kernel_inline
def _row(focal, centre, rotation, image, y, real):
    """Return a row's rays ``(a x + b, slope)`` with ``x = (u - cx) / fx``, turned by the pose."""
    slope = (real(y) + real(0.5) - centre[image, 1]) / focal[image, 1]
    turn = rotation[image]
    a = (turn[0, 0], turn[1, 0], turn[2, 0])
    b = (
        turn[0, 1] * slope + turn[0, 2],
        turn[1, 1] * slope + turn[1, 2],
        turn[2, 1] * slope + turn[2, 2],
    )
    return focal[image, 0], centre[image, 0], slope, a, b


@kernel_inline
def _fill(lengths, first, width, row, shift, nearest, along_ray, real, points, known):
    """Fill the points of a row."""
    fx, cx, slope, (ax, ay, az), (bx, by, bz) = row
    tx, ty, tz = shift
    infinite, rest = real(np.inf), slope * slope + real(1)
    for i in range(_U(width)):
        x = (real(np.int32(i)) + real(0.5) - cx) / fx
        d = lengths[first + i]
        z = d / np.sqrt(x * x + rest) if along_ray else d
        # NaN compares false.
        ok = (
            (d > nearest)
            & (d < infinite)
            & (abs(x * z) < infinite)
            & (abs(slope * z) < infinite)
            & (z < infinite)
        )
        at = _U(3) * (first + i)
        points[at] = (ax * x + bx) * z + tx if ok else real(0)
        points[at + _U(1)] = (ay * x + by) * z + ty if ok else real(0)
        points[at + _U(2)] = (az * x + bz) * z + tz if ok else real(0)
        known[first + i] = ok


@kernel
def unproject(depth, focal, centre, rotation, translation, along_ray, nearest, out, valid):
    """Fill ``out`` with points, 0 where there is none, and ``valid`` with where there is one."""
    images, height, width = depth.shape
    lengths, points, known = depth.reshape(-1), out.reshape(-1), valid.reshape(-1)
    real, rows = depth.dtype.type, images * height
    jobs = min(_JOBS, rows)
    for job in prange(jobs):
        for n in range(job * rows // jobs, (job + 1) * rows // jobs):
            image, first = n // height, _U(n * width)
            row = _row(focal, centre, rotation, image, n % height, real)
            shift = (translation[image, 0], translation[image, 1], translation[image, 2])
            if along_ray:
                _fill(lengths, first, width, row, shift, nearest, True, real, points, known)
            else:
                _fill(lengths, first, width, row, shift, nearest, False, real, points, known)


@kernel_inline
def _fill_backward(grads, known, first, width, row, along_ray, real, lengths):
    """Fill the gradients of the lengths of a row: what each point moves by, times its gradient."""
    fx, cx, slope, (ax, ay, az), (bx, by, bz) = row
    rest = slope * slope + real(1)
    for i in range(_U(width)):
        x = (real(np.int32(i)) + real(0.5) - cx) / fx
        at = _U(3) * (first + i)
        along = grads[at] * (ax * x + bx)
        along += grads[at + _U(1)] * (ay * x + by)
        along += grads[at + _U(2)] * (az * x + bz)
        along = along / np.sqrt(x * x + rest) if along_ray else along
        lengths[first + i] = along if known[first + i] else real(0)


@kernel
def unproject_backward(grad, valid, focal, centre, rotation, along_ray, out):
    """Fill ``out`` with the gradient of the depth."""
    images, height, width = valid.shape
    grads, known, lengths = grad.reshape(-1), valid.reshape(-1), out.reshape(-1)
    real, rows = grad.dtype.type, images * height
    jobs = min(_JOBS, rows)
    for job in prange(jobs):
        for n in range(job * rows // jobs, (job + 1) * rows // jobs):
            image, first = n // height, _U(n * width)
            row = _row(focal, centre, rotation, image, n % height, real)
            if along_ray:
                _fill_backward(grads, known, first, width, row, True, real, lengths)
            else:
                _fill_backward(grads, known, first, width, row, False, real, lengths)
