"""Take lens distortion out of points, as numba loops; ``reference.py`` has the formulas.

Newton's method runs over a block of points at once, in lockstep and without branches, so that it
is done with vector instructions. Points that it leaves without a regular solution, few unless the
image shows more than the lens model can, are looked at again one by one, from the solution of the
radial distortion alone, which is found in a shrinking interval. Blocks do not depend on threads, so
neither do results. All arithmetic is double precision.
"""

import math

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

BLOCK = 128
_NEWTON_STEPS = 10
_RADIAL_STEPS = 100
_ROOT_STEPS = 200
_TOLERANCE = 1e-11
# Of a step from a residual this small, what is left is rounding; the check afterwards is strict.
_LAST_STEP = 1e-8


@kernel_inline
def _row(c):
    """Load coefficients once, where no store can touch them."""
    return (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12])


@kernel_inline
def _radial(s, k):
    """Return the radial factor and its derivative with respect to the squared radius."""
    inverse = 1.0 / (1.0 + s * (k[5] + s * (k[6] + s * k[7])))
    factor = (1.0 + s * (k[0] + s * (k[1] + s * (k[4] + s * k[12])))) * inverse
    slope = k[0] + s * (2.0 * k[1] + s * (3.0 * k[4] + s * 4.0 * k[12]))
    below = k[5] + s * (2.0 * k[6] + s * 3.0 * k[7])
    return factor, (slope - factor * below) * inverse


@kernel_inline
def _distort(x, y, k):
    """Return the distorted point and the Jacobian, row by row."""
    s = x * x + y * y
    factor, slope = _radial(s, k)
    slope *= 2.0
    xy, xx, yy = x * y, x * x, y * y
    u = x * factor + 2.0 * k[2] * xy + k[3] * (s + 2.0 * xx) + s * (k[8] + k[9] * s)
    v = y * factor + k[2] * (s + 2.0 * yy) + 2.0 * k[3] * xy + s * (k[10] + k[11] * s)
    mixed = slope * xy + 2.0 * (k[2] * x + k[3] * y)
    prism_u, prism_v = 2.0 * (k[8] + 2.0 * k[9] * s), 2.0 * (k[10] + 2.0 * k[11] * s)
    a = factor + slope * xx + 2.0 * k[2] * y + 6.0 * k[3] * x + prism_u * x
    d = factor + slope * yy + 6.0 * k[2] * y + 2.0 * k[3] * x + prism_v * y
    return u, v, a, mixed + prism_u * y, mixed + prism_v * x, d


@kernel_inline
def _newton_step(x, y, u0, v0, k):
    """Return the next point and the squared residual of this one."""
    u, v, a, b, c, d = _distort(x, y, k)
    ru, rv = u - u0, v - v0
    inverse = 1.0 / (a * d - b * c)
    return x - (d * ru - b * rv) * inverse, y - (a * rv - c * ru) * inverse, ru * ru + rv * rv


@kernel_inline
def _solves(x, y, u0, v0, k, reach):
    u, v, a, b, c, d = _distort(x, y, k)
    missed = (u - u0) * (u - u0) + (v - v0) * (v - v0)
    close = missed <= _TOLERANCE * _TOLERANCE * (1.0 + u0 * u0 + v0 * v0)
    return close & (x * x + y * y < reach * reach) & (a * d - b * c > 0.0)


@kernel_inline
def _radius(target, k, reach):
    """Solve ``r radial = target`` within reach, where its left side rises."""
    low, high = 0.0, reach
    if math.isinf(high):
        high = target
        for _ in range(64):
            if high * _radial(high * high, k)[0] >= target:
                break
            high *= 2.0
        while high > 0.0 and 0.5 * high * _radial(0.25 * high * high, k)[0] >= target:
            high *= 0.5
    r = min(target, 0.5 * high)
    for _ in range(_RADIAL_STEPS):
        factor, slope = _radial(r * r, k)
        over = r * factor - target
        if over < 0.0:
            low = r
        else:
            high = r
        step = r - over / (factor + 2.0 * slope * r * r)
        if not low <= step <= high:
            step = 0.5 * (low + high)
        if abs(step - r) <= 1e-15 * high:
            return step
        r = step
    return r


@kernel_inline
def _solve_again(u0, v0, k, reach):
    """Start from the radial solution; return the point and whether it is one."""
    target = math.sqrt(u0 * u0 + v0 * v0)
    if not math.isfinite(target):
        return 0.0, 0.0, False
    scale = _radius(target, k, reach) / target if target > 0.0 else 1.0
    x, y = u0 * scale, v0 * scale
    for _ in range(_NEWTON_STEPS):
        if _solves(x, y, u0, v0, k, reach):
            return x, y, True
        x, y, _ = _newton_step(x, y, u0, v0, k)
    return x, y, _solves(x, y, u0, v0, k, reach)


@kernel_inline
def _solve_block(u, v, x, y, k):
    """Step all points of a block until none has far to go; what diverges is found out later."""
    for _ in range(_NEWTON_STEPS):
        unfinished = 0
        for i in range(u.shape[0]):
            x[i], y[i], missed = _newton_step(x[i], y[i], u[i], v[i], k)
            unfinished += missed > _LAST_STEP * _LAST_STEP
        if unfinished == 0:
            break


@kernel
def undistort(distorted, coefficients, reach, out, known):
    """Fill ``out`` with regular points, 0 where none is known, and ``known`` with where."""
    points = distorted.shape[1]
    blocks = (points + BLOCK - 1) // BLOCK
    for job in prange(distorted.shape[0] * blocks):
        camera, first = job // blocks, (job % blocks) * BLOCK
        size = min(BLOCK, points - first)
        k = _row(coefficients[camera])
        work = np.empty((4, size))
        u, v, x, y = work[0], work[1], work[2], work[3]
        for i in range(size):
            u[i] = x[i] = distorted[camera, first + i, 0]
            v[i] = y[i] = distorted[camera, first + i, 1]
        _solve_block(u, v, x, y, k)
        for i in range(size):
            px, py = x[i], y[i]
            found = _solves(px, py, u[i], v[i], k, reach[camera])
            if not found:
                px, py, found = _solve_again(u[i], v[i], k, reach[camera])
            known[camera, first + i] = found
            out[camera, first + i, 0] = px if found else 0.0
            out[camera, first + i, 1] = py if found else 0.0


@kernel_inline
def _add_derivatives(x, y, wx, wy, k, total):
    """Add the derivatives of ``wx u + wy v`` with respect to the coefficients."""
    s = x * x + y * y
    inverse = 1.0 / (1.0 + s * (k[5] + s * (k[6] + s * k[7])))
    factor, _ = _radial(s, k)
    above = (wx * x + wy * y) * inverse * s
    below = -factor * above
    total[0] += above
    total[1] += above * s
    total[2] += wx * 2.0 * x * y + wy * (s + 2.0 * y * y)
    total[3] += wx * (s + 2.0 * x * x) + wy * 2.0 * x * y
    total[4] += above * s * s
    total[5] += below
    total[6] += below * s
    total[7] += below * s * s
    total[8] += wx * s
    total[9] += wx * s * s
    total[10] += wy * s
    total[11] += wy * s * s
    total[12] += above * s * s * s


@kernel
def undistort_backward(grad, undistorted, known, coefficients, for_distorted, for_coefficients):
    """Fill the gradients of points, and those of coefficients as one partial sum a block."""
    points = grad.shape[1]
    blocks = for_coefficients.shape[1]
    for job in prange(grad.shape[0] * blocks):
        camera, first = job // blocks, (job % blocks) * BLOCK
        k = _row(coefficients[camera])
        total = for_coefficients[camera, job % blocks]
        total[:] = 0.0
        for i in range(first, min(first + BLOCK, points)):
            for_distorted[camera, i, 0] = for_distorted[camera, i, 1] = 0.0
            if known[camera, i]:
                x, y = undistorted[camera, i, 0], undistorted[camera, i, 1]
                gx, gy = grad[camera, i, 0], grad[camera, i, 1]
                _, _, a, b, c, d = _distort(x, y, k)
                inverse = 1.0 / (a * d - b * c)
                wx, wy = (d * gx - c * gy) * inverse, (a * gy - b * gx) * inverse
                for_distorted[camera, i, 0], for_distorted[camera, i, 1] = wx, wy
                _add_derivatives(x, y, -wx, -wy, k, total)


@kernel_inline
def _value(polynomial, degree, order, t):
    """Evaluate the ``order``-th derivative of a monic polynomial, and that one's derivative."""
    value, slope = 0.0, 0.0
    for i in range(degree - order + 1):
        factor = 1.0
        for j in range(order):
            factor *= degree - i - j
        slope = slope * t + value
        value = value * t + factor * polynomial[i]
    return value, slope


@kernel_inline
def _root_between(polynomial, degree, order, low, high, falling):
    """Step by Newton's rule, or halve the interval where that would leave it."""
    t = 0.5 * (low + high)
    for _ in range(_ROOT_STEPS):
        value, slope = _value(polynomial, degree, order, t)
        if (value > 0.0) == falling:
            low = t
        else:
            high = t
        step = t - value / slope
        if not low < step < high:
            step = 0.5 * (low + high)
        if abs(step - t) <= 4e-16 * high:
            return step
        t = step
    return t


@kernel_inline
def _largest_root(polynomial, degree):
    """Return the largest positive root of a monic polynomial, or 0.

    Between two neighbouring roots of its derivative a polynomial has at most one root, so the roots
    of all derivatives are found in turn, each between two of the last. None lies beyond the bound
    of Fujiwara (1916).
    """
    while degree > 0 and polynomial[degree] == 0.0:
        degree -= 1  # a root at 0, which is not positive
    bound = 0.0
    for i in range(1, degree + 1):
        if not math.isfinite(polynomial[i]):
            return 0.0
        bound = max(bound, 2.0 * abs(polynomial[i]) ** (1.0 / i))
    edges = np.zeros(degree + 2)
    edges[1] = bound
    inner = 0
    for order in range(degree - 1, -1, -1):
        found = np.zeros(degree + 2)
        count = 0
        before, _ = _value(polynomial, degree, order, edges[0])
        for i in range(inner + 1):
            after, _ = _value(polynomial, degree, order, edges[i + 1])
            if (before > 0.0) != (after > 0.0):
                count += 1
                found[count] = _root_between(
                    polynomial, degree, order, edges[i], edges[i + 1], before > 0.0
                )
            before = after
        inner = count
        found[count + 1] = bound
        edges = found
    return edges[inner]


@kernel
def distortion_reach(coefficients, out):
    """Fill ``out`` with the radius at which ``r radial`` stops rising, infinity if it never does.

    Its derivative is a polynomial in the squared radius that is 1 at 0. Turned back to front, it is
    monic, its roots are one over those, and the largest positive one decides.
    """
    for camera in prange(coefficients.shape[0]):
        k = coefficients[camera]
        numerator = np.array([1.0, k[0], k[1], k[4], k[12]])
        denominator = np.array([1.0, k[5], k[6], k[7]])
        rising = np.zeros(8)
        for i in range(5):
            for j in range(4):
                rising[i + j] += (1.0 + 2.0 * i - 2.0 * j) * numerator[i] * denominator[j]
        inverse = max(_largest_root(rising, 7), _largest_root(denominator, 3))
        out[camera] = 1.0 / math.sqrt(inverse)
