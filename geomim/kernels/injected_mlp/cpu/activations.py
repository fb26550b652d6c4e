"""What comes between two layers, for numba loops that become SIMD.

``sharpness`` is beta of a softplus, ``log(1 + exp(beta x)) / beta``, or 0 for ``max(x, 0)``.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

from geomim.kernels.compile import kernel_inline
from geomim.kernels.rendering.cpu.exponential import exp_and_expm1

# log1p(e) / 2 / y = atanh(y) / y at y = e / (2 + e), as a polynomial of y**2 from 0 to 1 / 9,
# interpolated at Chebyshev's nodes; off by at most 4.3e-9.
_A0, _A1, _A2, _A3, _A4 = (
    np.float32(c) for c in (1.000000004, 0.3333316082, 0.2001229761, 0.1398257888, 0.1407888916)
)
# Below, the exponential is taken for 0: it vanishes beside 1, and products with less are subnormal.
_LOWEST = np.float32(-40)
_ZERO, _HALF, _ONE, _TWO = (np.float32(x) for x in (0, 0.5, 1, 2))


def exp_and_log1p(x: float) -> tuple[float, float]:
    """Return e to the power of ``x`` up to 0, and the logarithm of 1 more than that."""
    power = math.exp(x)
    return power, math.log1p(power)


def _both_single(x):
    power, _ = exp_and_expm1(x)
    power = power if x > _LOWEST else _ZERO
    y = power / (_TWO + power)
    z = y * y
    return power, _TWO * y * (_A0 + z * (_A1 + z * (_A2 + z * (_A3 + z * _A4))))


def _both_double(x):
    power = math.exp(x)
    return power, math.log1p(power)


_OPTIONS: dict[str, Any] = {
    "forceinline": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract"},
}


def _choose(single: Callable[..., Any], double: Callable[..., Any]) -> Callable[..., Any]:
    """Return what numba asks for the implementation that fits a type."""
    chosen = {types.float32: inspect.unwrap(single), types.float64: inspect.unwrap(double)}
    return inspect.unwrap(lambda x: chosen[x])


overload(exp_and_log1p, jit_options=_OPTIONS)(_choose(_both_single, _both_double))


@kernel_inline
def activate(values, first, count, sharpness, sums, sums_first, slopes, slopes_first):
    """Add what becomes of ``values`` to ``sums``, and set its derivatives by them."""
    if sharpness > values.dtype.type(0):
        _softplus(values, first, count, sharpness, sums, sums_first, slopes, slopes_first)
    else:
        _rectify(values, first, count, sums, sums_first, slopes, slopes_first)


@kernel_inline
def _rectify(values, first, count, sums, sums_first, slopes, slopes_first):
    zero, one = values.dtype.type(0), values.dtype.type(1)
    for i in range(count):
        x = values[first + i]
        # Not a number stays it.
        sums[sums_first + i] += zero if x <= zero else x
        slopes[slopes_first + i] = one if x > zero else zero


def _softplus(values, first, count, sharpness, sums, sums_first, slopes, slopes_first):
    zero, half, one = values.dtype.type(0), values.dtype.type(0.5), values.dtype.type(1)
    per = one / sharpness
    for i in range(count):
        x = values[first + i]
        size = abs(x)
        power, log = exp_and_log1p(-sharpness * size)
        inverse = one / (one + power)
        slope = inverse if x > zero else power * inverse
        sums[sums_first + i] += half * (x + size) + per * log
        # The polynomials know no NaN.
        slopes[slopes_first + i] = slope if x == x else x


_softplus = numba.njit(**_OPTIONS)(inspect.unwrap(_softplus))
