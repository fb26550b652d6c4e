"""Points on screws, as numba loops; ``reference.py`` says what is computed.

With ``w`` the rotation vector, ``x`` its squared length and ``u`` the translation part of a twist,
``exp(u, w) p = p + u + a w×p + b w×(w×p + u) + c w×(w×u)`` where ``a = sin√x / √x``,
``b = (1 - cos√x) / x`` and ``c = (1 - a) / x``; Sola et al. 2018, equation 172. The derivatives by
x are ``a' = (c - b) / 2``, ``b' = (a / 2 - b) / x`` and ``c' = -(a' + c) / x``.
"""

import math

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

_RUN = 256
_JOBS = 64


@kernel_inline
def _coefficients(x):
    """Return a, b and c."""
    if x < 0.25:
        # Eight terms are exact to double precision here.
        b = c = 0.0
        for n in range(7, -1, -1):
            b = (1.0 - x * b) / ((2 * n + 1) * (2 * n + 2))
            c = (1.0 - x * c) / ((2 * n + 2) * (2 * n + 3))
        return 1.0 - x * c, b, c
    angle = math.sqrt(x)
    half = math.sin(0.5 * angle)
    a = math.sin(angle) / angle
    return a, 2.0 * half * half / x, (1.0 - a) / x


@kernel_inline
def _slopes(x, a, b, c):
    """Return the derivatives of a, b and c by x."""
    by_a = 0.5 * (c - b)
    if x >= 0.25:
        return by_a, (0.5 * a - b) / x, -(by_a + c) / x
    by_b = by_c = 0.0
    for n in range(7, -1, -1):
        # Terms -(n + 1) (-x)^n / (2n + 4)! and -(n + 1) (-x)^n / (2n + 5)!, from the last on.
        by_b = (n + 1.0 - x * by_b) / ((2 * n + 3) * (2 * n + 4))
        by_c = (n + 1.0 - x * by_c) / ((2 * n + 4) * (2 * n + 5))
    return by_a, -0.5 * by_b, -by_c / 6.0


@kernel_inline
def _cross(a, b):
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


@kernel_inline
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel_inline
def _scaled(twist, seconds):
    """Return the translation and the rotation part of a twist times seconds."""
    return (
        (twist[0] * seconds, twist[1] * seconds, twist[2] * seconds),
        (twist[3] * seconds, twist[4] * seconds, twist[5] * seconds),
    )


@kernel_inline
def _follow(u, w, p):
    """Return ``exp(u, w) p``."""
    a, b, c = _coefficients(_dot(w, w))
    wp, wu = _cross(w, p), _cross(w, u)
    wwp, wwu = _cross(w, wp), _cross(w, wu)
    return (
        p[0] + u[0] + a * wp[0] + b * (wwp[0] + wu[0]) + c * wwu[0],
        p[1] + u[1] + a * wp[1] + b * (wwp[1] + wu[1]) + c * wwu[1],
        p[2] + u[2] + a * wp[2] + b * (wwp[2] + wu[2]) + c * wwu[2],
    )


@kernel_inline
def _follow_backward(u, w, p, h):
    """Return the gradients of ``h · exp(u, w) p`` by u, w and p."""
    x = _dot(w, w)
    a, b, c = _coefficients(x)
    by_a, by_b, by_c = _slopes(x, a, b, c)
    wp, wu, wh = _cross(w, p), _cross(w, u), _cross(w, h)
    wwp, wwu, wwh = _cross(w, wp), _cross(w, wu), _cross(w, wh)
    ph, uh = _cross(p, h), _cross(u, h)
    # h · w×(w×y) by w is (w×y)×h + y×(h×w).
    wp_h, p_wh = _cross(wp, h), _cross(p, wh)
    wu_h, u_wh = _cross(wu, h), _cross(u, wh)
    along = 2.0 * (by_a * _dot(h, wp) + by_b * (_dot(h, wwp) + _dot(h, wu)) + by_c * _dot(h, wwu))
    by_u = (
        h[0] - b * wh[0] + c * wwh[0],
        h[1] - b * wh[1] + c * wwh[1],
        h[2] - b * wh[2] + c * wwh[2],
    )
    by_p = (
        h[0] - a * wh[0] + b * wwh[0],
        h[1] - a * wh[1] + b * wwh[1],
        h[2] - a * wh[2] + b * wwh[2],
    )
    by_w = (
        a * ph[0] + b * (wp_h[0] - p_wh[0] + uh[0]) + c * (wu_h[0] - u_wh[0]) + along * w[0],
        a * ph[1] + b * (wp_h[1] - p_wh[1] + uh[1]) + c * (wu_h[1] - u_wh[1]) + along * w[1],
        a * ph[2] + b * (wp_h[2] - p_wh[2] + uh[2]) + c * (wu_h[2] - u_wh[2]) + along * w[2],
    )
    return by_u, by_w, by_p


@kernel_inline
def _transform(m, p):
    return (
        m[0, 0] * p[0] + m[0, 1] * p[1] + m[0, 2] * p[2] + m[0, 3],
        m[1, 0] * p[0] + m[1, 1] * p[1] + m[1, 2] * p[2] + m[1, 3],
        m[2, 0] * p[0] + m[2, 1] * p[1] + m[2, 2] * p[2] + m[2, 3],
    )


@kernel_inline
def _turn_back(m, g):
    """Multiply by the transposed rotation."""
    return (
        m[0, 0] * g[0] + m[1, 0] * g[1] + m[2, 0] * g[2],
        m[0, 1] * g[0] + m[1, 1] * g[1] + m[2, 1] * g[2],
        m[0, 2] * g[0] + m[1, 2] * g[1] + m[2, 2] * g[2],
    )


@kernel_inline
def _knot_at(times, time):
    """Return the last knot at or before a time, or the first one, by bisection.

    The padding is later than every time but its own.
    """
    low, high = 1, times.shape[0]
    while low < high:
        middle = (low + high) // 2
        if times[middle] <= time and times[middle] != np.iinfo(np.int64).max:
            low = middle + 1
        else:
            high = middle
    return low - 1


@kernel_inline
def _finite(p):
    return math.isfinite(p[0]) and math.isfinite(p[1]) and math.isfinite(p[2])


@kernel_inline
def _box_holds(p, time, times, matrices, twists, half, radius):
    """Tell whether a box holds a point of the world at a time at which it exists."""
    knot = _knot_at(times, time)
    at = _transform(matrices[knot], p)
    twist = twists[knot]
    seconds = (time - times[knot]) * 1e-6
    # On a screw the centre keeps its speed: it cannot have come nearer than this.
    came = math.sqrt(twist[0] * twist[0] + twist[1] * twist[1] + twist[2] * twist[2])
    reach = 1.0001 * (radius + came * abs(seconds)) + 1e-3
    if _dot(at, at) > reach * reach:
        return False
    if seconds != 0.0:
        u, w = _scaled(twist, -seconds)
        at = _follow(u, w, at)
    return abs(at[0]) <= half[0] and abs(at[1]) <= half[1] and abs(at[2]) <= half[2]


@kernel
def find_boxes(points, times_us, knots_us, begin_us, end_us, matrix, twist, half_size, out):
    """Fill ``out`` with the first box that holds each point."""
    count, boxes = points.shape[0], half_size.shape[0]
    radius = np.empty(boxes)
    for box in range(boxes):
        half = half_size[box]
        radius[box] = math.sqrt(half[0] * half[0] + half[1] * half[1] + half[2] * half[2])
    jobs = min(_JOBS, (count + _RUN - 1) // _RUN)
    for job in prange(jobs):
        for n in range(job * count // jobs, (job + 1) * count // jobs):
            p = (np.float64(points[n, 0]), np.float64(points[n, 1]), np.float64(points[n, 2]))
            time, found = times_us[n], -1
            for box in range(boxes if _finite(p) else 0):
                if begin_us[box] <= time <= end_us[box] and _box_holds(
                    p, time, knots_us[box], matrix[box], twist[box], half_size[box], radius[box]
                ):
                    found = box
                    break
            out[n] = found


@kernel
def move_by_screws(
    points, times_us, body, knots_us, begin_us, end_us, matrix, twist, inverse, out, valid
):
    """Fill ``out`` and ``valid``."""
    count, bodies = points.shape[0], knots_us.shape[0]
    real = out.dtype.type
    for n in prange(count):
        p = (np.float64(points[n, 0]), np.float64(points[n, 1]), np.float64(points[n, 2]))
        row, time = body[n], times_us[n]
        known = row == -1
        if 0 <= row < bodies and begin_us[row] <= time <= end_us[row]:
            known = True
            knot = _knot_at(knots_us[row], time)
            seconds = (time - knots_us[row, knot]) * 1e-6
            if inverse:
                u, w = _scaled(twist[row, knot], -seconds)
                p = _follow(u, w, _transform(matrix[row, knot], p))
            else:
                u, w = _scaled(twist[row, knot], seconds)
                p = _transform(matrix[row, knot], _follow(u, w, p))
        known = known and _finite(p)
        for k in range(3):
            out[n, k] = p[k] if known else real(0)
        valid[n] = known


@kernel
def move_by_screws_backward(
    grad,
    points,
    times_us,
    body,
    valid,
    knots_us,
    matrix,
    twist,
    inverse,
    by_points,
    by_matrix,
    by_twist,
):
    """Fill ``by_points``; add to ``by_matrix`` and ``by_twist``, which lead with an axis of jobs.

    The caller adds up the jobs in order: the sum does not depend on the number of threads.
    """
    count, jobs = points.shape[0], by_matrix.shape[0]
    for job in prange(jobs):
        for n in range(job * count // jobs, (job + 1) * count // jobs):
            row = body[n]
            g = (np.float64(grad[n, 0]), np.float64(grad[n, 1]), np.float64(grad[n, 2]))
            if not valid[n] or row < 0:
                for k in range(3):
                    by_points[n, k] = g[k] if valid[n] else 0.0
                continue
            p = (np.float64(points[n, 0]), np.float64(points[n, 1]), np.float64(points[n, 2]))
            knot = _knot_at(knots_us[row], times_us[n])
            seconds = (times_us[n] - knots_us[row, knot]) * 1e-6
            m = matrix[row, knot]
            if inverse:
                u, w = _scaled(twist[row, knot], -seconds)
                by_u, by_w, outer = _follow_backward(u, w, _transform(m, p), g)
                inner, back, seconds = p, _turn_back(m, outer), -seconds
            else:
                u, w = _scaled(twist[row, knot], seconds)
                outer, inner = g, _follow(u, w, p)
                by_u, by_w, back = _follow_backward(u, w, p, _turn_back(m, g))
            for i in range(3):
                by_points[n, i] = back[i]
                by_twist[job, row, knot, i] += seconds * by_u[i]
                by_twist[job, row, knot, 3 + i] += seconds * by_w[i]
                by_matrix[job, row, knot, i, 3] += outer[i]
                for j in range(3):
                    by_matrix[job, row, knot, i, j] += outer[i] * inner[j]
