"""Move ragged sweeps of points, as numba loops; ``reference.py`` says what is computed.

Points are taken in runs that lie in one sweep. Neighbours in a sweep are neighbours in space, so a
ball around a run rules out most boxes at once.
"""

import math

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

_RUN = 256
_JOBS = 64
_U = np.uint64


@kernel_inline
def _sweep_at(offsets, point):
    """Return the last sweep that begins at or before a point, -1 for none."""
    low, high = 0, offsets.shape[0]
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] <= point:
            low = middle + 1
        else:
            high = middle
    return low - 1


@kernel_inline
def _entries(m):
    """Return a 3x4 matrix as scalars, which stay in registers."""
    return (
        (m[0, 0], m[0, 1], m[0, 2], m[0, 3]),
        (m[1, 0], m[1, 1], m[1, 2], m[1, 3]),
        (m[2, 0], m[2, 1], m[2, 2], m[2, 3]),
    )


@kernel_inline
def _move_run(run, matrix, sweep, late, room, columns):
    """Move a run by one matrix, as if it held for all of its points.

    In columns the arithmetic is vectorised; on points as they lie it would gather and scatter.
    """
    points, stride, first, last = run
    out, seconds, sweeps, boxes = room
    xs, ys, zs, us, vs, ws = columns
    a, b, c = _entries(matrix)
    start, count, zero = _U(first), _U(last - first), out.dtype.type(0)
    for i in range(count):
        p = (start + i) * _U(stride)
        xs[i], ys[i], zs[i] = points[p], points[p + _U(1)], points[p + _U(2)]
    for i in range(count):
        x, y, z = xs[i], ys[i], zs[i]
        tx = a[0] * x + a[1] * y + a[2] * z + a[3]
        ty = b[0] * x + b[1] * y + b[2] * z + b[3]
        tz = c[0] * x + c[1] * y + c[2] * z + c[3]
        # NaN and infinity less themselves are NaN; a sum of what is finite may overflow.
        finite = (tx - tx) + (ty - ty) + (tz - tz) == zero
        us[i] = tx if finite else zero
        vs[i] = ty if finite else zero
        ws[i] = tz if finite else zero
        boxes[start + i] = np.int32(-1) if finite else np.int32(-2)
    for i in range(count):
        o = _U(3) * (start + i)
        out[o], out[o + _U(1)], out[o + _U(2)] = us[i], vs[i], ws[i]
    seconds[first:last] = late
    sweeps[first:last] = sweep


@kernel_inline
def _move_point(points, stride, n, matrix, box, room):
    """Move one point by its box."""
    out, _, _, boxes = room
    a, b, c = _entries(matrix)
    zero = out.dtype.type(0)
    p, o = n * _U(stride), _U(3) * n
    x, y, z = points[p], points[p + _U(1)], points[p + _U(2)]
    tx = a[0] * x + a[1] * y + a[2] * z + a[3]
    ty = b[0] * x + b[1] * y + b[2] * z + b[3]
    tz = c[0] * x + c[1] * y + c[2] * z + c[3]
    finite = math.isfinite(tx) and math.isfinite(ty) and math.isfinite(tz)
    out[o] = tx if finite else zero
    out[o + _U(1)] = ty if finite else zero
    out[o + _U(2)] = tz if finite else zero
    boxes[n] = np.int32(box) if finite else np.int32(-2)


@kernel_inline
def _move_told(run, asked, matrices, nowhere, room):
    """Move those points of a run that are told to belong to a box."""
    points, stride, first, last = run
    for n in range(_U(first), _U(last)):
        box = asked[n]
        if 0 <= box < matrices.shape[0]:
            _move_point(points, stride, n, matrices[box], box, room)
        elif box != -1:
            _move_point(points, stride, n, nowhere, box, room)


@kernel_inline
def _ball_of(run):
    """Return centre and radius of a ball around the finite points of a run."""
    points, stride, first, last = run
    low_x = low_y = low_z = np.inf
    high_x = high_y = high_z = -np.inf
    for n in range(_U(first), _U(last)):
        p = n * _U(stride)
        x, y, z = points[p], points[p + _U(1)], points[p + _U(2)]
        # NaN loses every comparison; infinity makes a ball that rules nothing out.
        low_x, high_x = (x if x < low_x else low_x), (x if x > high_x else high_x)
        low_y, high_y = (y if y < low_y else low_y), (y if y > high_y else high_y)
        low_z, high_z = (z if z < low_z else low_z), (z if z > high_z else high_z)
    dx, dy, dz = high_x - low_x, high_y - low_y, high_z - low_z
    radius = 0.5 * math.sqrt(dx * dx + dy * dy + dz * dz)
    return 0.5 * (low_x + high_x), 0.5 * (low_y + high_y), 0.5 * (low_z + high_z), radius


@kernel_inline
def _passes_by(ball, matrix, half):
    """Tell, for certain only if True, that a box and a ball do not meet."""
    a, b, c = _entries(matrix)
    cx, cy, cz, radius = ball
    x = abs(a[0] * cx + a[1] * cy + a[2] * cz + a[3]) - half[0]
    y = abs(b[0] * cx + b[1] * cy + b[2] * cz + b[3]) - half[1]
    z = abs(c[0] * cx + c[1] * cy + c[2] * cz + c[3]) - half[2]
    # The margin covers rounding of both the ball and the box's frame.
    reach = radius + 1e-4 * (1.0 + radius + abs(cx) + abs(cy) + abs(cz))
    return max(x, max(y, z)) > reach


@kernel_inline
def _move_held(run, columns, into, half, matrix, box, room, held):
    """Move those points of a run, whose columns are still there, that a box holds."""
    points, stride, first, last = run
    xs, ys, zs, _, _, _ = columns
    a, b, c = _entries(into)
    length, width, height = half[0], half[1], half[2]
    some = 0
    for i in range(_U(last - first)):
        x, y, z = xs[i], ys[i], zs[i]
        inside = (
            (abs(a[0] * x + a[1] * y + a[2] * z + a[3]) <= length)
            & (abs(b[0] * x + b[1] * y + b[2] * z + b[3]) <= width)
            & (abs(c[0] * x + c[1] * y + c[2] * z + c[3]) <= height)
        )
        held[i] = inside
        some += inside
    if some > 0:
        for i in range(_U(last - first)):
            if held[i]:
                _move_point(points, stride, _U(first) + i, matrix, box, room)


@kernel
def accumulate(
    points, stride, offsets, asked, sensor, into_boxes, half_size, by_box, late, out, seconds,
    sweeps, boxes,
):  # fmt: skip
    """Fill ``out``, ``seconds``, ``sweeps`` and ``boxes``.

    ``points`` is flat, a point every ``stride`` entries; ``asked`` holds the box of every point,
    or nothing; the matrices of ``sensor`` and ``by_box`` lead into the target frame.
    """
    count, sweep_count = boxes.shape[0], offsets.shape[0] - 1
    room = (out.reshape(-1), seconds, sweeps, boxes)
    nowhere = np.full((3, 4), np.nan, out.dtype)
    jobs = min(_JOBS, (count + _RUN - 1) // _RUN)
    for job in prange(jobs):
        buffer, held = np.empty((6, _RUN), out.dtype), np.empty(_RUN, np.int32)
        columns = (buffer[0], buffer[1], buffer[2], buffer[3], buffer[4], buffer[5])
        first, end = job * count // jobs, (job + 1) * count // jobs
        while first < end:
            sweep, last = _sweep_at(offsets, first), min(first + _RUN, end)
            if sweep < sweep_count:
                last = min(last, offsets[sweep + 1])
            run = (points, stride, first, last)
            first = last
            if not 0 <= sweep < sweep_count:
                _move_run(run, nowhere, -1, out.dtype.type(0), room, columns)
                continue
            _move_run(run, sensor[sweep], sweep, late[sweep], room, columns)
            if asked.shape[0] > 0:
                _move_told(run, asked, by_box[sweep], nowhere, room)
            elif half_size.shape[0] > 0:
                ball = _ball_of(run)
                # From the last one to the first, so that the first one wins.
                for box in range(half_size.shape[0] - 1, -1, -1):
                    into, half = into_boxes[sweep, box], half_size[box]
                    # NaN, where the box is not there, neither passes by nor holds a point.
                    if not _passes_by(ball, into, half):
                        matrix = by_box[sweep, box]
                        _move_held(run, columns, into, half, matrix, box, room, held)


@kernel
def accumulate_backward(
    grad, points, sweeps, boxes, target_from_sensor, target_by_box, by_points, by_sweep, by_box
):
    """Fill ``by_points``; fill ``by_sweep`` and ``by_box``, parts of a sum with a job an item.

    The tables of matrices have a leading axis of jobs, which the caller adds up in order: the sum
    does not depend on the number of threads.
    """
    count, jobs = boxes.shape[0], by_sweep.shape[0]
    real = grad.dtype.type
    for job in prange(jobs):
        for n in range(job * count // jobs, (job + 1) * count // jobs):
            box, sweep = boxes[n], sweeps[n]
            by_points[n, 0] = by_points[n, 1] = by_points[n, 2] = real(0)
            if box == -2:
                continue
            matrix = target_from_sensor[sweep] if box < 0 else target_by_box[sweep, box]
            into = by_sweep[job, sweep] if box < 0 else by_box[job, sweep, box]
            g0, g1, g2 = grad[n, 0], grad[n, 1], grad[n, 2]
            for k in range(3):
                by_points[n, k] = matrix[0, k] * g0 + matrix[1, k] * g1 + matrix[2, k] * g2
                into[0, k] += g0 * points[n, k]
                into[1, k] += g1 * points[n, k]
                into[2, k] += g2 * points[n, k]
            into[0, 3] += g0
            into[1, 3] += g1
            into[2, 3] += g2
