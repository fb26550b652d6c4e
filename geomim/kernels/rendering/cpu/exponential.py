"""``exp`` with ``expm1`` for numba loops: a polynomial in single precision, libm in double.

A call to libm keeps a loop from becoming SIMD; the polynomial has no branches. Its argument is
reduced as by Cody and Waite (1980), chapter 6: ``x = k ln 2 + r`` with ``|r| <= ln 2 / 2``.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

_LOG2_E = np.float32(1.4426950408889634)
# The first part of ln 2 has so few digits that k times it is exact.
_LN_2_HIGH, _LN_2_LOW = np.float32(0.693359375), np.float32(-2.1219444005469058e-4)
# Added to a small number it leaves that number's nearest integer in the lowest bits.
_ROUND = np.float32(1.5 * 2**23)
# Beyond lies what single precision cannot hold as a normal number.
_LOWEST, _HIGHEST = np.float32(-87.33), np.float32(88.37)
# (expm1(r) - r) / r**2, interpolated at Chebyshev's nodes; off by at most 6.7e-8.
_Q0, _Q1, _Q2, _Q3, _Q4 = (
    np.float32(c)
    for c in (0.5, 0.166665752174, 0.0416665524032, 0.00836347272216, 0.00139265504285)
)
_ZERO, _ONE, _INF = np.float32(0), np.float32(1), np.float32(np.inf)


def exp_and_expm1(x: float) -> tuple[float, float]:
    """Return e to the power of ``x``, and that less 1 with all its digits near 0.

    In single precision below -87.33, where it is subnormal, the power is 0.
    """
    return math.exp(x), math.expm1(x)


def _power_of_two(_typing_context, rounded):
    """Turn the integer in the lowest bits of a float32 into 2 to its power."""

    def generate(_context, builder, _signature, arguments):
        word = ir.IntType(32)
        exponent = builder.shl(builder.bitcast(arguments[0], word), word(23))
        return builder.bitcast(builder.add(exponent, word(0x3F800000)), ir.FloatType())

    return types.float32(rounded), generate


_power_of_two = intrinsic(inspect.unwrap(_power_of_two))


def _reduce(x):
    """Return a power of two and the rest of ``x``, as ``expm1`` of it."""
    inside = min(max(x, _LOWEST), _HIGHEST)
    rounded = inside * _LOG2_E + _ROUND
    k = rounded - _ROUND
    r = (inside - k * _LN_2_HIGH) - k * _LN_2_LOW
    q = _Q0 + r * (_Q1 + r * (_Q2 + r * (_Q3 + r * _Q4)))
    return _power_of_two(rounded), r + r * r * q


# A product may go into a sum unrounded: that only saves an error.
_OPTIONS: dict[str, Any] = {
    "forceinline": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract"},
}
_reduce = numba.njit(**_OPTIONS)(inspect.unwrap(_reduce))


def _both_single(x):
    power, rest = _reduce(x)
    scaled = power * rest
    low, high = x >= _LOWEST, x <= _HIGHEST
    value, less_one = scaled + power if low else _ZERO, scaled + (power - _ONE)
    return value if high else _INF, less_one if high else _INF


def _both_double(x):
    return math.exp(x), math.expm1(x)


def _choose(single: Callable[..., Any], double: Callable[..., Any]) -> Callable[..., Any]:
    """Return what numba asks for the implementation that fits a type."""
    chosen = {types.float32: inspect.unwrap(single), types.float64: inspect.unwrap(double)}
    return inspect.unwrap(lambda x: chosen[x])


overload(exp_and_expm1, jit_options=_OPTIONS)(_choose(_both_single, _both_double))
