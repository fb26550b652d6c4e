"""Inverse distribution functions row by row, as a numba loop; ``reference.py`` says what it is."""

import math

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline

_JOBS = 256


@kernel_inline
def _accumulate(edges, weights, sums):
    """Fill ``sums`` with those of all weights, or lengths if there are none, up to each edge."""
    sums[0] = sums.dtype.type(0)
    for k in range(weights.shape[0]):
        sums[k + 1] = sums[k] + weights[k]
    total = sums[weights.shape[0]]
    if total == 0:
        for k in range(weights.shape[0]):
            sums[k + 1] = sums[k] + (edges[k + 1] - edges[k])
    return math.isfinite(total) and math.isfinite(sums[weights.shape[0]])


@kernel_inline
def _last_with_weight(sums):
    k = sums.shape[0] - 2
    while k > 0 and sums[k] == sums[k + 1]:
        k -= 1
    return k


@kernel
def invert_cdf(edges, weights, fractions, out, known):
    """Fill ``out`` with the place of each fraction, and ``known``."""
    rows, count = out.shape
    zero, one = out.dtype.type(0), out.dtype.type(1)
    jobs = min(_JOBS, rows)
    for job in prange(jobs):
        sums = np.empty(edges.shape[1], out.dtype)
        for row in range(job * rows // jobs, (job + 1) * rows // jobs):
            edge, place = edges[row], out[row]
            share = fractions[row if fractions.shape[0] > 1 else 0]
            known[row] = _accumulate(edge, weights[row], sums)
            if not known[row]:
                place[:] = zero
                continue
            k, last = 0, _last_with_weight(sums)
            total = sums[sums.shape[0] - 1]
            for i in range(count):
                target = share[i] * total
                while k < last and sums[k + 1] <= target:
                    k += 1
                while k > 0 and sums[k] > target:
                    k -= 1
                mass = sums[k + 1] - sums[k]
                inside = (target - sums[k]) / mass if mass > 0 else one
                moved = edge[k] + (edge[k + 1] - edge[k]) * inside
                place[i] = min(moved, edge[k + 1]) if inside < 1 else edge[k + 1]
