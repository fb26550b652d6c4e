"""What comes between two layers, for numba loops that become SIMD.

``sharpness`` is beta of a softplus, ``log(1 + exp(beta x)) / beta``, or 0 for ``max(x, 0)``. A call
to libm keeps a loop from becoming SIMD; in single precision polynomials take its place.
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

from geomim.kernels.compile import kernel_inline

_LOG2_E, _LN_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
# Added to a small number it leaves that number's nearest integer in the lowest bits.
_ROUND = np.float32(1.5 * 2**23)
# exp(r) for |r| <= ln(2) / 2 and atanh(y) / y by y * y <= 1 / 9, interpolated by Chebyshev,
# off by at most 1.1e-7 and 4.3e-9.
_E0, _E1, _E2, _E3, _E4, _E5 = (
    np.float32(c)
    for c in (1.000000075, 1.000000011, 0.4999886938, 0.1666650526, 0.04191750725, 0.00836914849)
)
_A0, _A1, _A2, _A3, _A4 = (
    np.float32(c) for c in (1.000000004, 0.3333316082, 0.2001229761, 0.1398257888, 0.1407888916)
)
# Below, an exponential is taken for 0: it vanishes beside 1, and products with it are subnormal.
_LOWEST = np.float32(-40)
_ZERO, _ONE, _TWO = (np.float32(x) for x in (0, 1, 2))


def soften(x: float) -> tuple[float, float, float]:
    """Return log(1 + e), 1 / (1 + e) and e / (1 + e) for e the exponential of ``x``, up to 0."""
    power = math.exp(x)
    return math.log1p(power), 1 / (1 + power), power / (1 + power)


def _times_power_of_two(_typing_context, value, rounded):
    """Multiply by 2 to the power of the integer in the lowest bits of ``rounded``."""

    def generate(_context, builder, _signature, arguments):
        word = ir.IntType(32)
        bits, power = (builder.bitcast(x, word) for x in arguments)
        return builder.bitcast(builder.add(bits, builder.shl(power, word(23))), ir.FloatType())

    return types.float32(value, rounded), generate


_times_power_of_two = intrinsic(inspect.unwrap(_times_power_of_two))


def _soften_single(x):
    inside = _LOWEST if x < _LOWEST else x
    rounded = inside * _LOG2_E + _ROUND
    r = inside - (rounded - _ROUND) * _LN_2
    power = _E0 + r * (_E1 + r * (_E2 + r * (_E3 + r * (_E4 + r * _E5))))
    power = _ZERO if x < _LOWEST else _times_power_of_two(power, rounded)
    # log1p(e) = 2 atanh(e / (2 + e)); one division serves both.
    more, most = _ONE + power, _TWO + power
    both = _ONE / (more * most)
    y = power * more * both
    z = y * y
    log = (y + y) * (_A0 + z * (_A1 + z * (_A2 + z * (_A3 + z * _A4))))
    above = most * both
    return log, above, power * above


def _soften_double(x):
    power = math.exp(x)
    return math.log1p(power), 1 / (1 + power), power / (1 + power)


_OPTIONS: dict[str, Any] = {
    "forceinline": True,
    "nogil": True,
    "error_model": "numpy",
    # A product may go into a sum unrounded: that only saves an error.
    "fastmath": {"contract"},
}


def _choose(single: Callable[..., Any], double: Callable[..., Any]) -> Callable[..., Any]:
    """Return what numba asks for the implementation that fits a type."""
    chosen = {types.float32: inspect.unwrap(single), types.float64: inspect.unwrap(double)}
    return inspect.unwrap(lambda x: chosen[x])


overload(soften, jit_options=_OPTIONS)(_choose(_soften_single, _soften_double))


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
        sums[sums_first + i] += zero if x < zero else x
        slopes[slopes_first + i] = one if x > zero else zero


def _softplus(values, first, count, sharpness, sums, sums_first, slopes, slopes_first):
    zero, one = values.dtype.type(0), values.dtype.type(1)
    per = one / sharpness
    for i in range(count):
        x = values[first + i]
        log, above, below = soften(-sharpness * abs(x))
        slope = above if x > zero else below
        sums[sums_first + i] += (zero if x < zero else x) + per * log
        # The polynomials know no NaN.
        slopes[slopes_first + i] = slope if x == x else x


_softplus = numba.njit(**_OPTIONS)(inspect.unwrap(_softplus))
