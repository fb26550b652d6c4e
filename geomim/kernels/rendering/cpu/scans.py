"""Running sums and products along one ray, for the loops of this package.

Each step of a running sum waits for the one before, and SIMD does not help; so four parts of the
ray advance side by side and are joined afterwards. The scratch arrays have room for what makes the
parts equally long: what is there is overwritten by the neutral element.
"""

import numpy as np

from geomim.kernels.compile import kernel_inline

CHAINS = 4
_U = np.uint64


@kernel_inline
def _fill_up(first, second, n, for_first, for_second):
    """Return the length of a part, having filled up both arrays to four of them."""
    part = (n + _U(CHAINS - 1)) // _U(CHAINS)
    for i in range(n, _U(CHAINS) * part):
        first[i], second[i] = for_first, for_second
    return part


@kernel_inline
def sums_before(x, n, sums):
    """Fill ``sums`` with the sum of all ``x`` before each place and return that of all."""
    part = _fill_up(x, x, n, x.dtype.type(0), x.dtype.type(0))
    a = b = c = d = x.dtype.type(0)
    j, k, m = part, _U(2) * part, _U(3) * part
    for i in range(part):
        sums[i], sums[i + j], sums[i + k], sums[i + m] = a, b, c, d
        a += x[i]
        b += x[i + j]
        c += x[i + k]
        d += x[i + m]
    b += a
    c += b
    _shift(sums, j, part, a)
    _shift(sums, k, part, b)
    _shift(sums, m, part, c)
    return c + d


@kernel_inline
def _shift(sums, first, count, by):
    for i in range(first, first + count):
        sums[i] += by


@kernel_inline
def sums_behind(x, n, sums, start):
    """Fill ``sums`` with ``start`` and the sum of all ``x`` behind each place."""
    part = _fill_up(x, x, n, x.dtype.type(0), x.dtype.type(0))
    a = b = c = x.dtype.type(0)
    d = start
    j, k, m = part, _U(2) * part, _U(3) * part
    for back in range(part):
        i = part - _U(1) - back
        sums[i], sums[i + j], sums[i + k], sums[i + m] = a, b, c, d
        a += x[i]
        b += x[i + j]
        c += x[i + k]
        d += x[i + m]
    c += d
    b += c
    _shift(sums, k, part, d)
    _shift(sums, j, part, c)
    _shift(sums, _U(0), part, b)


@kernel_inline
def products_before(x, n, products):
    """Fill ``products`` with the product of all ``x`` before each place; return that of all."""
    part = _fill_up(x, x, n, x.dtype.type(1), x.dtype.type(1))
    a = b = c = d = x.dtype.type(1)
    j, k, m = part, _U(2) * part, _U(3) * part
    for i in range(part):
        products[i], products[i + j], products[i + k], products[i + m] = a, b, c, d
        a *= x[i]
        b *= x[i + j]
        c *= x[i + k]
        d *= x[i + m]
    b *= a
    c *= b
    _scale(products, j, part, a)
    _scale(products, k, part, b)
    _scale(products, m, part, c)
    return c * d


@kernel_inline
def _scale(products, first, count, by):
    for i in range(first, first + count):
        products[i] *= by


@kernel_inline
def mixtures_behind(x, y, n, start, mixtures, factors):
    """Fill ``mixtures`` from behind, starting with ``start``: ``next = x + y * this``."""
    part = _fill_up(x, y, n, x.dtype.type(0), x.dtype.type(1))
    a = b = c = x.dtype.type(0)
    p = q = r = x.dtype.type(1)
    d = start
    j, k, m = part, _U(2) * part, _U(3) * part
    for back in range(part):
        i = part - _U(1) - back
        mixtures[i], mixtures[i + j], mixtures[i + k], mixtures[i + m] = a, b, c, d
        factors[i], factors[i + j], factors[i + k] = p, q, r
        a = x[i] + y[i] * a
        b = x[i + j] + y[i + j] * b
        c = x[i + k] + y[i + k] * c
        d = x[i + m] + y[i + m] * d
        p *= y[i]
        q *= y[i + j]
        r *= y[i + k]
    c += r * d
    b += q * c
    _join(mixtures, factors, k, part, d)
    _join(mixtures, factors, j, part, c)
    _join(mixtures, factors, _U(0), part, b)


@kernel_inline
def _join(mixtures, factors, first, count, end):
    for i in range(first, first + count):
        mixtures[i] += factors[i] * end
