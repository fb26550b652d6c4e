"""Rendering along rays, as numba loops; ``reference.py`` says what is computed.

A ray is worked off in short loops over its samples, which become SIMD; ``scans.py`` has those that
cannot. Offsets are unsigned, since numba would otherwise test each for Python's negative indices.
"""

import inspect
import math

import numba
import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline
from geomim.kernels.rendering.cpu.exponential import exp_and_expm1
from geomim.kernels.rendering.cpu.scans import CHAINS, products_before

JOBS = 256
COLOUR = 3
_U = np.uint64


@kernel_inline
def span(offsets, count, ray):
    """Return where a ray's samples start and how many they are."""
    if offsets.shape[0] == 0:
        return ray * count, count
    return offsets[ray], offsets[ray + 1] - offsets[ray]


@kernel_inline
def scratch_size(offsets, count, rays):
    """Return the scratch space that the longest ray takes."""
    longest = count
    for ray in range(rays if offsets.shape[0] > 0 else 0):
        longest = max(longest, offsets[ray + 1] - offsets[ray])
    return longest + CHAINS


def _absorb(densities, starts, ends, at, n, clear, opaque, middles):
    """Fill in what samples let through, take, and where they are; return the sum of depths."""
    zero, half = clear.dtype.type(0), clear.dtype.type(0.5)
    total = zero
    for i in range(n):
        length = ends[at + i] - starts[at + i]
        product = densities[at + i] * length
        # However dense, nothing is in nothing; however long, where nothing is.
        depth = zero if (densities[at + i] == zero) | (length == zero) else product
        total += depth
        through, less_one = exp_and_expm1(-depth)
        clear[i], opaque[i] = through, -less_one
        middles[i] = half * (starts[at + i] + ends[at + i])
    return total


def _moments(weights, middles, at, n):
    """Return the sum of the weights and of their products with the middles."""
    total = moment = weights.dtype.type(0)
    for i in range(n):
        total += weights[at + i]
        moment += weights[at + i] * middles[i]
    return total, moment


def _mix_colours(weights, values, at, n):
    """Return the weighted sums of three channels."""
    r = g = b = weights.dtype.type(0)
    for i in range(n):
        k = _U(COLOUR) * (at + i)
        r += weights[at + i] * values[k]
        g += weights[at + i] * values[k + _U(1)]
        b += weights[at + i] * values[k + _U(2)]
    return r, g, b


# Sums over samples may be taken in any order, which SIMD needs; NaN and infinity still count.
ANY_ORDER = numba.njit(
    forceinline=True,
    nogil=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz"},
)
_absorb = ANY_ORDER(inspect.unwrap(_absorb))
_moments = ANY_ORDER(inspect.unwrap(_moments))
_mix_colours = ANY_ORDER(inspect.unwrap(_mix_colours))


@kernel_inline
def _mix(weights, values, at, n, out, ray):
    """Fill a row of ``out`` with the weighted sums of all channels."""
    channels = _U(out.shape[1])
    if channels == _U(COLOUR):
        out[ray, 0], out[ray, 1], out[ray, 2] = _mix_colours(weights, values, at, n)
        return
    for c in range(channels):
        out[ray, c] = weights.dtype.type(0)
    for i in range(at, at + n):
        for c in range(channels):
            out[ray, c] += weights[i] * values[i * channels + c]


@kernel_inline
def _all_finite(values, ray):
    for c in range(values.shape[1]):  # noqa: SIM110 - numba knows no generators
        if not math.isfinite(values[ray, c]):
            return False
    return True


@kernel_inline
def _finish(
    ray, weights, middles, values, at, n, left, opacity, transmittance, distance, rendered, known
):
    """Fill in all that is known of a ray, or 0 if any of it is not finite."""
    zero = weights.dtype.type(0)
    opacity[ray], distance[ray] = _moments(weights, middles, at, n)
    transmittance[ray] = left
    _mix(weights, values, at, n, rendered, ray)
    known[ray] = (
        math.isfinite(left)
        and math.isfinite(opacity[ray])
        and math.isfinite(distance[ray])
        and _all_finite(rendered, ray)
    )
    if not known[ray]:
        opacity[ray] = transmittance[ray] = distance[ray] = zero
        for c in range(rendered.shape[1]):
            rendered[ray, c] = zero
        for i in range(at, at + n):
            weights[i] = zero


@kernel
def render_density(densities, starts, ends, values, offsets, count, weights, results):
    """Fill ``weights`` and ``results``: opacity, transmittance, distance, rendered, known."""
    # Unpacked here, and never sliced: each array taken in the loop would count its references.
    opacity, transmittance, distance, rendered, known = results
    rays = rendered.shape[0]
    room, flat = scratch_size(offsets, count, rays), values.reshape(-1)
    jobs = min(JOBS, rays)
    for job in prange(jobs):
        opaque, clear = np.empty(room, weights.dtype), np.empty(room, weights.dtype)
        before, middles = np.empty(room, weights.dtype), np.empty(room, weights.dtype)
        for ray in range(job * rays // jobs, (job + 1) * rays // jobs):
            first, size = span(offsets, count, ray)
            at, n = _U(first), _U(size)
            depth = _absorb(densities, starts, ends, at, n, clear, opaque, middles)
            left = products_before(clear, n, before)
            for i in range(n):
                weights[at + i] = before[i] * opaque[i]
            # The polynomial knows no NaN.
            left = left if depth == depth else depth
            _finish(
                ray, weights, middles, flat, at, n, left,
                opacity, transmittance, distance, rendered, known,
            )  # fmt: skip


@kernel
def render_alpha(alphas, distances, values, offsets, count, weights, results):
    """Fill ``weights`` and ``results``: opacity, transmittance, distance, rendered, known."""
    opacity, transmittance, distance, rendered, known = results
    rays = rendered.shape[0]
    one, room, flat = weights.dtype.type(1), scratch_size(offsets, count, rays), values.reshape(-1)
    jobs = min(JOBS, rays)
    for job in prange(jobs):
        opaque, clear = np.empty(room, weights.dtype), np.empty(room, weights.dtype)
        before, middles = np.empty(room, weights.dtype), np.empty(room, weights.dtype)
        for ray in range(job * rays // jobs, (job + 1) * rays // jobs):
            first, size = span(offsets, count, ray)
            at, n = _U(first), _U(size)
            for i in range(n):
                opaque[i], middles[i] = alphas[at + i], distances[at + i]
                clear[i] = one - opaque[i]
            left = products_before(clear, n, before)
            for i in range(n):
                weights[at + i] = before[i] * opaque[i]
            _finish(
                ray, weights, middles, flat, at, n, left,
                opacity, transmittance, distance, rendered, known,
            )  # fmt: skip
