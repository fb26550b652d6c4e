"""Clip rays to boxes, as numba loops; ``reference.py`` says what is computed."""

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline


@kernel_inline
def _axis(o, d, low, high, tiny):
    """Return where a ray enters and leaves a slab; NaN where something is not a number.

    All choices are without a branch: which way a ray goes, the processor cannot guess.
    """
    real = type(o)
    front, back = low if d > real(0) else high, high if d > real(0) else low
    within = (low <= o) & (o <= high)
    moving = abs(d) >= tiny
    known = (abs(o) < real(np.inf)) & (abs(d) < real(np.inf))
    entry = (front - o) / d if moving else (real(-np.inf) if within else real(np.inf))
    leave = (back - o) / d if moving else real(np.inf)
    return entry if known else real(np.nan), leave


@kernel
def clip_rays(
    origins, directions, lower, upper, valid, near, far, tiny,
    first_out, last_out, valid_out, entry_axis_out, leave_axis_out,
):  # fmt: skip
    """Fill everything named ``…_out``; ``lower`` and ``upper`` hold one box, or one for each."""
    real = origins.dtype.type
    near, far, tiny = real(near), real(far), real(tiny)
    step = 0 if lower.shape[0] == 1 else 1
    for n in prange(origins.shape[0]):
        b = n * step
        x, u = _axis(origins[n, 0], directions[n, 0], lower[b, 0], upper[b, 0], tiny)
        y, v = _axis(origins[n, 1], directions[n, 1], lower[b, 1], upper[b, 1], tiny)
        z, w = _axis(origins[n, 2], directions[n, 2], lower[b, 2], upper[b, 2], tiny)
        # Of axes crossed at one distance the first counts.
        entry_axis = 2 if z > max(x, y) else (1 if y > x else 0)
        leave_axis = 2 if w < min(u, v) else (1 if v < u else 0)
        entry, leave = max(max(x, y), z), min(min(u, v), w)
        first, last = max(entry, near), min(leave, far)
        numbers = (x == x) & (y == y) & (z == z) & (u == u) & (v == v) & (w == w)
        known = numbers & valid[n] & (first <= last)
        known &= (abs(first) < real(np.inf)) & (abs(last) < real(np.inf))
        first_out[n] = first if known else real(0)
        last_out[n] = last if known else real(0)
        valid_out[n] = known
        entry_axis_out[n] = entry_axis if known & (entry >= near) else -1
        leave_axis_out[n] = leave_axis if known & (leave <= far) else -1


@kernel
def clip_rays_backward(
    grad_first, grad_last, origins, directions, lower, upper, entry_axis, leave_axis,
    by_origin, by_direction, by_lower, by_upper,
):  # fmt: skip
    """Add to everything named ``by_…``, which holds one row for each ray."""
    real = origins.dtype.type
    step = 0 if lower.shape[0] == 1 else 1
    for n in prange(origins.shape[0]):
        for leaving in range(2):
            k = leave_axis[n] if leaving else entry_axis[n]
            if k < 0:
                continue
            o, d, grad = origins[n, k], directions[n, k], grad_last[n] if leaving else grad_first[n]
            at_low = (d > real(0)) != (leaving > 0)
            face = lower[n * step, k] if at_low else upper[n * step, k]
            share = grad / d
            by_origin[n, k] -= share
            by_direction[n, k] -= share * ((face - o) / d)
            if at_low:
                by_lower[n, k] += share
            else:
                by_upper[n, k] += share
