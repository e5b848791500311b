"""Sums in C, in the order of those of the torch kernels: dot products, products of matrices, and magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergebuild.native import calls
from mergebuild.native.calls import Chunk, Plain, Prepared, input_of, work_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "ROWS_TOGETHER", "ColumnProducts", "GramMatrix", "MagnitudeSum", "MatrixProduct", "arcs_of_columns",
    "cosines_of_columns", "make_rows",
]  # fmt: skip

_COLUMN_BLOCK = 65_536
"""The size of a block of sums of columns is about this many values."""


ROWS_TOGETHER = 8
"""The most rows of a product that are made at once (`STRIP` in `products.h`)."""


class GramMatrix:
    """The dot products of all pairs of some vectors, float64, in the order of sums of `methods/kernels/reduction.py`.

    Without an origin the vectors are the inputs; with one, they are the differences of the other inputs from that one.
    """

    __slots__ = ("_vectors", "state")

    def __init__(self, inputs: int, origin: int | None = None) -> None:
        """Begin with no elements.

        Args:
            inputs: The number of inputs, at most `MOST_INPUTS`.
            origin: The index of the origin among them, if there is one.
        """
        self.state = calls.compiled.gram_begin(inputs, -1 if origin is None else origin)
        self._vectors = inputs - (origin is not None)

    def add(self, chunks: Sequence[Chunk], count: int) -> None:
        """Add the next `count` elements of each input. The bytes may change afterwards.

        Raises:
            ValueError: The number of inputs is another one, or an input is too small.
        """
        calls.compiled.gram_add(self.state, tuple(map(input_of, chunks)), count)

    def value(self) -> tuple[tuple[float, ...], ...]:
        """Return the symmetric matrix over the elements so far, as rows."""
        found, places = iter(calls.compiled.gram_value(self.state)), range(self._vectors)
        entries = {(i, j): next(found) for i in places for j in places[i:]}
        return tuple(tuple(entries[min(i, j), max(i, j)] for j in places) for i in places)


class MatrixProduct:
    """The matrix product `left @ right` with a small inner size, the rank. Float64 terms, added up in their order.

    One thread at a time may make its rows.
    """

    __slots__ = ("columns", "rows", "state")

    def __init__(
        self,
        left: Plain,
        right: Plain,
        sizes: tuple[int, int, int],
        *,
        turned: bool = False,
    ) -> None:
        """Copy both sides; their bytes may change afterwards. The product is not computed before `make_rows`.

        Args:
            left: The bytes of `[rows, rank]`, and their dtype: any but float64.
            right: The bytes of `[rank, columns]`, and their dtype: any but float64.
            sizes: Rows, rank and columns.
            turned: The bytes of both sides are of their transposes, `[rank, rows]` and `[columns, rank]`.

        Raises:
            ValueError: A side is too small, or float64.
        """
        self.rows, _, self.columns = sizes
        self.state = calls.compiled.product_begin((input_of(left),), (input_of(right),), *sizes, turned)


def make_rows(
    products: Sequence[MatrixProduct], scale: float, span: tuple[int, int], out: Buffer, *, add: bool = False
) -> None:
    """Make rows of a product, or of two products multiplied element by element, times a scale; round them to float32.

    Args:
        products: One, or two with the same number of columns.
        scale: The factor, multiplied in float64 before rounding.
        span: The first row, and the number of rows.
        out: The float32 buffer that the rows are written to.
        add: Add the rows, in float32, to the values in `out` instead of replacing them.

    Raises:
        ValueError: A product has no such rows, or `out` is too small.
    """
    calls.compiled.product_rows(tuple(each.state for each in products), scale, *span, out, add)


class ColumnProducts:
    """The dot products <x, x>, <x, y> and <y, y> of the columns x and y of two matrices, for each column.

    In float64, in the order of `ColumnSums` of `methods/kernels/reduction.py`.
    """

    __slots__ = ("_sums",)

    def __init__(self, columns: int) -> None:
        """Begin with no rows. `columns`: the number of columns, at least 1."""
        rows = 1 << max(0, (_COLUMN_BLOCK // columns).bit_length() - 1)
        self._sums = calls.compiled.columns_begin(columns, rows * columns)

    def add(self, chunks: Sequence[Chunk], count: int) -> None:
        """Add the next `count` elements of two inputs. If there are three, the first is subtracted, in float32."""
        calls.compiled.columns_add(self._sums, tuple(map(input_of, chunks)), count)

    def totals(self) -> bytearray:
        """Return the sums, float64: <x, x> of each column, then <x, y>, then <y, y>. Nothing can be added then."""
        return calls.compiled.columns_end(self._sums)


def cosines_of_columns(products: ColumnProducts) -> tuple[bytearray, float]:
    """Return the cosine of each column (float64), and that of all columns together. Nothing can be added afterwards."""
    return calls.compiled.columns_cosines(products.totals())


def arcs_of_columns(totals: bytearray, rest_of_t: float, t: float) -> bytearray:
    """Return the factors of nuslerp for each column (`struct arc` of `rows.inc`), float32: all rests, then all shares.

    Args:
        totals: The totals of `ColumnProducts`.
        rest_of_t: 1 - t.
        t: The share of the angle.
    """
    return calls.compiled.columns_arcs(totals, rest_of_t, t)


class MagnitudeSum:
    """The sum of a stream of magnitudes or squares, added up in the same order as by the torch kernels."""

    __slots__ = ("_room",)

    def __init__(self) -> None:
        """Begin at 0."""
        self._room: bytearray | None = None

    def add(self, kernel: Prepared, inputs: Sequence[Chunk], span: tuple[int, int]) -> None:
        """Add the magnitudes of the values that a kernel makes; see `apply` for the arguments."""
        if self._room is None:
            self._room = calls.compiled.sum_begin()
        calls.compiled.sum_magnitudes(work_of(kernel, inputs, span), self._room)

    def add_squares(
        self,
        pair: Sequence[Chunk],
        kernel: Prepared,
        inputs: Sequence[Chunk],
        span: tuple[int, int],
    ) -> None:
        """Add the squares of `(second - first) * value`, for the two inputs of `pair` and the values of a kernel."""
        if self._room is None:
            self._room = calls.compiled.sum_begin()
        calls.compiled.sum_squares(work_of(kernel, inputs, span), tuple(map(input_of, pair)), self._room)

    def value(self) -> float:
        """Return the sum. Nothing can be added afterwards."""
        return 0.0 if self._room is None else calls.compiled.sum_end(self._room)
