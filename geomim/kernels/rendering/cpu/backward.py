"""Gradients of rendering along rays, as numba loops; ``reference.py`` says what is differentiated.

Behind a sample, what is left of the light is the sum of the weights to come and of what leaves the
ray. None of these is negative, so the sum has all its digits, and no gradient needs a division.

``state`` is transmittance and known, ``grads`` are by opacity, transmittance, distance and rendered
values. Outputs, and ``by_weights``, are empty where they are not wanted.
"""

import inspect
import math

import numpy as np
from numba import prange

from geomim.kernels.compile import kernel, kernel_inline
from geomim.kernels.rendering.cpu.forward import ANY_ORDER, COLOUR, JOBS, scratch_size, span
from geomim.kernels.rendering.cpu.scans import mixtures_behind, sums_behind

_U = np.uint64


@kernel_inline
def _gains(ray, by_opacity, by_distance, by_rendered, by_weights, middles, values, at, n, gains):
    """Fill ``gains`` with what a unit of weight would add to the loss at each sample."""
    channels, slope, offset = _U(by_rendered.shape[1]), by_distance[ray], by_opacity[ray]
    for i in range(n):
        gains[i] = offset + slope * middles[i]
    if by_weights.shape[0] > 0:
        for i in range(n):
            gains[i] += by_weights[at + i]
    if channels == _U(COLOUR):
        r, g, b = by_rendered[ray, 0], by_rendered[ray, 1], by_rendered[ray, 2]
        for i in range(n):
            k = _U(COLOUR) * (at + i)
            gains[i] += r * values[k] + g * values[k + _U(1)] + b * values[k + _U(2)]
    else:
        for i in range(n):
            gains[i] += _dot(by_rendered, ray, values, (at + i) * channels, channels)


def _dot(x, ray, values, first, channels):
    total = x.dtype.type(0)
    for c in range(channels):
        total += x[ray, c] * values[first + c]
    return total


_dot = ANY_ORDER(inspect.unwrap(_dot))


@kernel_inline
def _spread(weights, by_rendered, ray, at, n, by_value):
    """Fill in the gradient of the values: the outer product of weights and gradient."""
    channels = _U(by_rendered.shape[1])
    if channels == _U(COLOUR):
        r, g, b = by_rendered[ray, 0], by_rendered[ray, 1], by_rendered[ray, 2]
        for i in range(n):
            k = _U(COLOUR) * (at + i)
            by_value[k], by_value[k + _U(1)] = weights[i] * r, weights[i] * g
            by_value[k + _U(2)] = weights[i] * b
    else:
        for i in range(n):
            for c in range(channels):
                by_value[(at + i) * channels + c] = weights[i] * by_rendered[ray, c]


@kernel_inline
def _by_interval(slopes, densities, shares, by_middle, at, n, by_start, by_end):
    """Fill in what lengthening and moving the samples by their ends does."""
    zero = slopes.dtype.type(0)
    for i in range(n):
        density = densities[at + i]
        stretch = slopes[i] * density if math.isfinite(density) else zero
        move = shares[i] * by_middle
        by_start[at + i], by_end[at + i] = move - stretch, move + stretch


@kernel_inline
def _clear(array, first, last):
    for i in range(first, last if array.shape[0] > 0 else first):
        array[i] = array.dtype.type(0)


@kernel
def render_density_backward(
    densities, starts, ends, values, offsets, count, weights, state, by_weights, grads, outs
):
    """Fill the gradients of densities, starts, ends and values."""
    # Unpacked here, and never sliced: each array taken in the loop would count its references.
    transmittance, known = state
    d_densities, d_starts, d_ends, d_values = outs
    by_opacity, by_left, by_distance, by_rendered = grads
    rays, channels = by_rendered.shape
    size, flat, half = (
        scratch_size(offsets, count, rays),
        values.reshape(-1),
        weights.dtype.type(0.5),
    )
    jobs = min(JOBS, rays)
    for job in prange(jobs):
        scratch = np.empty((6, size), weights.dtype)
        gains, middles, shares = scratch[0], scratch[1], scratch[2]
        light, products, later = scratch[3], scratch[4], scratch[5]
        for ray in range(job * rays // jobs, (job + 1) * rays // jobs):
            first, length = span(offsets, count, ray)
            last, at, n = first + length, _U(first), _U(length)
            if not known[ray]:
                _clear(d_densities, first, last)
                _clear(d_starts, first, last)
                _clear(d_ends, first, last)
                _clear(d_values, first * channels, last * channels)
                continue
            for i in range(n):
                shares[i], middles[i] = weights[at + i], half * (starts[at + i] + ends[at + i])
            _gains(
                ray, by_opacity, by_distance, by_rendered, by_weights, middles, flat, at, n, gains
            )
            for i in range(n):
                products[i] = gains[i] * shares[i]
            sums_behind(products, n, later, by_left[ray] * transmittance[ray])
            sums_behind(shares, n, light, transmittance[ray])
            for i in range(n):
                gains[i] = gains[i] * light[i] - later[i]
            for i in range(n):
                d_densities[at + i] = gains[i] * (ends[at + i] - starts[at + i])
            if d_values.shape[0] > 0:
                _spread(shares, by_rendered, ray, at, n, d_values)
            if d_starts.shape[0] > 0:
                by_middle = half * by_distance[ray]
                _by_interval(gains, densities, shares, by_middle, at, n, d_starts, d_ends)


@kernel
def render_alpha_backward(
    alphas, distances, values, offsets, count, weights, state, by_weights, grads, outs
):
    """Fill the gradients of alphas, distances and values."""
    transmittance, known = state
    d_alphas, d_distances, d_values = outs
    by_opacity, by_left, by_distance, by_rendered = grads
    rays, channels = by_rendered.shape
    size, flat, one = scratch_size(offsets, count, rays), values.reshape(-1), weights.dtype.type(1)
    jobs = min(JOBS, rays)
    for job in prange(jobs):
        scratch = np.empty((9, size), weights.dtype)
        gains, middles, shares = scratch[0], scratch[1], scratch[2]
        light, products, later = scratch[3], scratch[4], scratch[5]
        opaque, clear, factors = scratch[6], scratch[7], scratch[8]
        for ray in range(job * rays // jobs, (job + 1) * rays // jobs):
            first, length = span(offsets, count, ray)
            last, at, n = first + length, _U(first), _U(length)
            if not known[ray]:
                _clear(d_alphas, first, last)
                _clear(d_distances, first, last)
                _clear(d_values, first * channels, last * channels)
                continue
            for i in range(n):
                shares[i], opaque[i], middles[i] = (
                    weights[at + i],
                    alphas[at + i],
                    distances[at + i],
                )
            _gains(
                ray, by_opacity, by_distance, by_rendered, by_weights, middles, flat, at, n, gains
            )
            for i in range(n):
                products[i], clear[i] = gains[i] * opaque[i], one - opaque[i]
            mixtures_behind(products, clear, n, by_left[ray], later, factors)
            sums_behind(shares, n, light, transmittance[ray])
            for i in range(n):
                d_alphas[at + i] = (shares[i] + light[i]) * (gains[i] - later[i])
            if d_distances.shape[0] > 0:
                slope = by_distance[ray]
                for i in range(n):
                    d_distances[at + i] = shares[i] * slope
            if d_values.shape[0] > 0:
                _spread(shares, by_rendered, ray, at, n, d_values)
