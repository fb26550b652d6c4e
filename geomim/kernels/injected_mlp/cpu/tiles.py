"""Products of small matrices, for numba loops: rows of points times weights, and their gradients.

Of plain loops LLVM keeps the sums in memory, and vectors half as long as the processor has them.
Here the sums of eight rows stay in registers, eight or sixteen of them. Columns are padded to a
multiple of ``PADDING`` and rows to one of ``ROWS``, so that nothing is left over. Sums run in
order, whatever the registers' length. Matrices are named by an array and their first row in it.
"""

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from geomim.kernels.compile import kernel_call, kernel_inline

ROWS = 8
PADDING = 16
_REGISTER_BYTES = 64 if binding.get_host_cpu_features().get("avx512f") else 32
# A product may go into a sum unrounded: that only saves an error.
_FLAGS = ("contract",)


@kernel_inline
def padded(size):
    """Return the number of columns that holds ``size`` of them."""
    return (size + PADDING - 1) // PADDING * PADDING


@kernel_inline
def set_product(a, a_first, b, b_first, start, start_first, out, out_first, rows, depth):
    """Set rows of ``out`` to one row of ``start`` and ``a @ b``."""
    lanes = _REGISTER_BYTES // out.itemsize
    wide, columns = a.shape[1], out.shape[1]
    _multiply(
        _address(a, a_first * wide), wide, 1,
        _address(b, b_first * columns), columns, lanes,
        _address(start, start_first * columns), 0, lanes,
        _address(out, out_first * columns), columns, lanes,
        rows, columns // lanes, depth,
    )  # fmt: skip


@kernel_inline
def add_product(a, a_first, b, b_first, out, out_first, rows, depth):
    """Add ``a @ b`` to rows of ``out``."""
    lanes = _REGISTER_BYTES // out.itemsize
    wide, columns = a.shape[1], out.shape[1]
    target = _address(out, out_first * columns)
    _multiply(
        _address(a, a_first * wide), wide, 1,
        _address(b, b_first * columns), columns, lanes,
        target, columns, lanes, target, columns, lanes,
        rows, columns // lanes, depth,
    )  # fmt: skip


@kernel_inline
def add_transposed_product(a, a_first, b, b_first, out, out_first, rows, depth):
    """Add ``a.T @ b`` to rows of ``out``."""
    lanes = _REGISTER_BYTES // out.itemsize
    wide, columns = a.shape[1], out.shape[1]
    target = _address(out, out_first * columns)
    _multiply(
        _address(a, a_first * wide), 1, wide,
        _address(b, b_first * columns), columns, lanes,
        target, columns, lanes, target, columns, lanes,
        rows, columns // lanes, depth,
    )  # fmt: skip


@kernel_inline
def add_sum(one, b, b_first, out, out_first, depth):
    """Add the sum of rows of ``b`` to ``ROWS`` rows of ``out``, each; ``one`` holds a 1."""
    lanes = _REGISTER_BYTES // out.itemsize
    columns = out.shape[1]
    target = _address(out, out_first * columns)
    _multiply(
        _address(one, 0), 0, 0,
        _address(b, b_first * columns), columns, lanes,
        target, columns, lanes, target, columns, lanes,
        ROWS, columns // lanes, depth,
    )  # fmt: skip


@kernel_inline
def set_products(a, a_first, b, start, start_first, out, out_first, rows, depth, layers):
    """Do as :func:`set_product` with one ``a`` and matrices of as many layers."""
    lanes = _REGISTER_BYTES // out.itemsize
    wide, columns = a.shape[1], out.shape[1]
    for n in range(0, columns, lanes):
        _multiply(
            _address(a, a_first * wide), wide, 1,
            _address(b, n), columns, b.shape[0] // layers * columns,
            _address(start, start_first * columns + n), 0, start.shape[0] // layers * columns,
            _address(out, out_first * columns + n), columns, out.shape[0] // layers * columns,
            rows, layers, depth,
        )  # fmt: skip


@kernel_inline
def add_transposed_products(a, b, out, rows, depth, layers):
    """Do as :func:`add_transposed_product` with one ``a`` and matrices of as many layers."""
    lanes = _REGISTER_BYTES // out.itemsize
    wide, columns = a.shape[1], out.shape[1]
    apart = out.shape[0] // layers * columns
    for n in range(0, columns, lanes):
        target = _address(out, n)
        _multiply(
            _address(a, 0), 1, wide,
            _address(b, n), columns, b.shape[0] // layers * columns,
            target, columns, apart, target, columns, apart,
            rows, layers, depth,
        )  # fmt: skip


def _address(_typing, array, at):
    """Return the address of the element of an array in memory."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return types.CPointer(array.dtype)(array, at), generate


_address = intrinsic(inspect.unwrap(_address))


def _tile(vectors: int) -> Callable[..., Any]:
    """Return what computes ``ROWS`` rows of ``vectors`` registers each."""

    def tile(
        _typing, a, a_at, a_row, a_step, b, b_at, b_row, b_next,
        start, start_at, start_row, start_next, out, out_at, out_row, out_next, depth,
    ):  # fmt: skip
        size = out.dtype.bitwidth // 8
        real = ir.FloatType() if size == 4 else ir.DoubleType()
        wide = ir.VectorType(real, _REGISTER_BYTES // size)
        places = [(r, v) for r in range(ROWS) for v in range(vectors)]

        def generate(_context, builder, _signature, arguments):
            (
                a, a_at, a_row, a_step, b, b_at, b_row, b_next,
                start, start_at, start_row, start_next, out, out_at, out_row, out_next, depth,
            ) = arguments  # fmt: skip
            word = depth.type

            def along(first, *steps):
                for count, step in steps:
                    first = builder.add(first, builder.mul(word(count), step))
                return first

            def register(array, at):
                return builder.bitcast(builder.gep(array, [at]), wide.as_pointer())

            starts = [
                register(start, along(start_at, (r, start_row), (v, start_next))) for r, v in places
            ]
            starts = [builder.load(place, align=size) for place in starts]
            before = builder.basic_block
            inside, after = (builder.append_basic_block(name) for name in ("inside", "after"))
            builder.cbranch(builder.icmp_signed(">", depth, word(0)), inside, after)

            builder.position_at_end(inside)
            k = builder.phi(word)
            sums = [builder.phi(wide) for _ in places]
            row = builder.add(b_at, builder.mul(k, b_row))
            rows = [register(b, along(row, (v, b_next))) for v in range(vectors)]
            rows = [builder.load(place, align=size) for place in rows]
            column = builder.add(a_at, builder.mul(k, a_step))
            factors = [builder.gep(a, [along(column, (r, a_row))]) for r in range(ROWS)]
            factors = [_everywhere(builder, builder.load(place), wide) for place in factors]
            added = [
                builder.fadd(total, builder.fmul(factors[r], rows[v], flags=_FLAGS), flags=_FLAGS)
                for total, (r, v) in zip(sums, places, strict=True)
            ]
            following = builder.add(k, word(1))
            builder.cbranch(builder.icmp_signed("<", following, depth), inside, after)

            builder.position_at_end(after)
            totals = [builder.phi(wide) for _ in places]
            for phis, first, then in (
                ([k, *sums], [word(0), *starts], [following, *added]),
                (totals, starts, added),
            ):
                for phi, value, next_value in zip(phis, first, then, strict=True):
                    phi.add_incoming(value, before)
                    phi.add_incoming(next_value, inside)
            for total, (r, v) in zip(totals, places, strict=True):
                place = register(out, along(out_at, (r, out_row), (v, out_next)))
                builder.store(total, place, align=size)

        arguments = (
            a, a_at, a_row, a_step, b, b_at, b_row, b_next,
            start, start_at, start_row, start_next, out, out_at, out_row, out_next, depth,
        )  # fmt: skip
        return types.void(*arguments), generate

    return intrinsic(inspect.unwrap(tile))


def _everywhere(builder, number, wide):
    """Return a register that holds one number in all its places."""
    nothing, index = ir.Constant(wide, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(nothing, number, index(0))
    zeros = ir.Constant(ir.VectorType(index, wide.count), [0] * wide.count)
    return builder.shuffle_vector(first, nothing, zeros)


_one_register, _two_registers = _tile(1), _tile(2)


@kernel_call
def _multiply(
    a, a_row, a_step, b, b_row, b_next,
    start, start_row, start_next, out, out_row, out_next, rows, registers, depth,
):  # fmt: skip
    """Set rows of as many registers to those of ``start`` and the products, over ``depth``."""
    for r in range(0, rows, ROWS):
        n = 0
        while n + 2 <= registers:
            _two_registers(
                a, r * a_row, a_row, a_step, b, n * b_next, b_row, b_next,
                start, r * start_row + n * start_next, start_row, start_next,
                out, r * out_row + n * out_next, out_row, out_next, depth,
            )  # fmt: skip
            n += 2
        if n < registers:
            _one_register(
                a, r * a_row, a_row, a_step, b, n * b_next, b_row, b_next,
                start, r * start_row + n * start_next, start_row, start_next,
                out, r * out_row + n * out_next, out_row, out_next, depth,
            )  # fmt: skip
