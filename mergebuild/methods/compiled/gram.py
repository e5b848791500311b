"""Merges on spheres and in spans: their numbers follow from a Gram matrix; see `methods/kernels/gram.py`.

Most are linear combinations; nuslerp and model_stock can have numbers of their own for each row or column.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite, prod

from mergebuild.methods.call import Call, Grain, State
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.shares import float32_of, pivot_of
from mergebuild.methods.spheres import (
    COEFFICIENTS,
    REMEMBERED,
    Coefficients,
    Matrix,
    euclidean_factors,
    nuslerp_share,
)
from mergebuild.native import ColumnProducts, GramMatrix, Prepared, arcs_of_columns, packed, packed_doubles

__all__ = ["COMPILED"]


def _begin_gram(_call: Call, inputs: int) -> GramMatrix:
    return GramMatrix(inputs)


def _begin_from_first(_call: Call, inputs: int) -> GramMatrix:
    return GramMatrix(inputs, 0)


def _begin_from_last(_call: Call, inputs: int) -> GramMatrix:
    return GramMatrix(inputs, inputs - 1)


def _begin_from_base(call: Call, inputs: int) -> GramMatrix:
    return GramMatrix(inputs, 0 if call.flag("has_base") else None)


def _look(_call: Call, account: GramMatrix, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
    account.add(chunks, span[1])


def _end(_call: Call, account: GramMatrix) -> Matrix:
    return account.value()


def _is_finite(gram: Matrix) -> bool:
    """Return whether no value was NaN or infinite.

    Such a value makes the square of its vector NaN or infinite; finite float32 values do not, as sums are float64.
    """
    return all(isfinite(row[index]) for index, row in enumerate(gram))


_GRAM = CompiledStatistic("gram", _begin_gram, _look, _end, is_finite=_is_finite)
_FROM_FIRST = CompiledStatistic(
    "gram of differences from the first", _begin_from_first, _look, _end, is_finite=_is_finite
)
_FROM_LAST = CompiledStatistic("gram of differences from the last", _begin_from_last, _look, _end, is_finite=_is_finite)
_FROM_BASE = CompiledStatistic(
    "gram of differences from a base", _begin_from_base, _look, _end, is_finite=_is_finite, arguments=("has_base",)
)


@lru_cache(maxsize=REMEMBERED)
def _combined(coefficients: Coefficients) -> Applied:
    """Return how to make a linear combination, with the pivot and rounding of the linear methods.

    Inputs with the coefficient 0 are left out; a combination that is one input copies it.
    """
    pivot = pivot_of(coefficients)
    shares = [float32_of(each) for each in coefficients]
    inputs = [index for index, share in enumerate(shares) if share or index == pivot]
    centre = -1 if pivot is None else inputs.index(pivot)
    return Applied(Prepared("linear", centre, packed([shares[index] for index in inputs if index != pivot])), inputs)


def _method(name: str, statistic: CompiledStatistic, grain: Grain = Grain.ELEMENT) -> CompiledMethod:
    """Return the form of a method whose coefficients follow from the Gram matrix of whole tensors."""
    coefficients = COEFFICIENTS[name]

    def apply(call: Call, count: int, state: State) -> Applied:
        return _combined(coefficients(call, state, count))

    return CompiledMethod(apply, statistic, grain)


# ---- per row, and per column ----


def _is_of_whole_tensors(call: Call) -> bool:
    """Return whether the statistic is a Gram matrix, which tells of infinite values: sums of columns may overflow."""
    return call.word("per") == "tensor"


def _row_of(call: Call) -> int:
    """Return the length of the vectors along the last dimension."""
    return call.shape[-1] if call.shape else 1


class _ProductsOfColumns:
    """The dot products of the columns of two models; a base, if there is one, is subtracted before, in float32."""

    def __init__(self, columns: int) -> None:
        self._products = ColumnProducts(columns)

    def add(self, chunks: Sequence[Chunk], count: int) -> None:
        """Add the next elements of each input."""
        self._products.add(chunks, count)

    def value(self) -> tuple[array[float], ...]:
        """Return the products, one array per pair of models: a number per column."""
        totals = array("d", self._products.totals())
        columns = len(totals) // 3
        return tuple(totals[at : at + columns] for at in range(0, len(totals), columns))


def _begin_nuslerp(call: Call, inputs: int) -> GramMatrix | _ProductsOfColumns | None:
    if call.word("per") == "tensor":
        return _begin_from_base(call, inputs)
    return _ProductsOfColumns(max(1, prod(call.shape[1:]))) if call.word("per") == "column" else None


def _begin_stock(call: Call, inputs: int) -> GramMatrix | None:
    return _begin_from_first(call, inputs) if call.word("per") == "tensor" else None


def _apply_nuslerp(call: Call, count: int, state: State) -> Applied:
    t, first = nuslerp_share(call), int(call.flag("has_base"))
    if t in (0, 1) or not call.count:
        return Applied.copy_of(first + int(t == 1))
    if call.word("per") == "tensor":
        return _combined(COEFFICIENTS["nuslerp"](call, state, count))
    shares = float(1 - t), float(t)
    if call.word("per") == "row":
        return Applied(Prepared("nuslerp_rows", 0, packed_doubles(shares), _row_of(call)), range(count))
    totals = bytearray(b"".join(each.tobytes() for each in state))
    return Applied(Prepared("nuslerp_columns", 0, bytes(arcs_of_columns(totals, *shares))), range(count))


_ADJACENT, _CLAMPED, _PLAIN = 1, 2, 4
"""The bits of the option of `stock_ratio` in `native/rows.inc`."""


def _apply_stock(call: Call, count: int, state: State) -> Applied:
    if call.word("per") == "tensor":
        return _combined(COEFFICIENTS["model_stock"](call, state, count))
    if not call.count:
        return Applied.copy_of(0)
    plain = call.word("compat") == "mergekit"
    option = (
        (_ADJACENT if call.word("pairs") == "adjacent" else 0)
        | (_CLAMPED if call.flag("clamp") and not plain else 0)
        | (_PLAIN if plain else 0)
    )
    return Applied(Prepared("stock_rows", option, b"", _row_of(call)), range(count))


def _euclidean(call: Call, _count: int, state: State) -> Applied:
    alpha = call.number("alpha")
    if alpha in (0, 1):
        return Applied.copy_of(int(alpha))
    factors = euclidean_factors(state, alpha)
    return Applied(Prepared("euclidean", 0, packed([*factors, float32_of(alpha)])), (0, 1, 2))


COMPILED: Mapping[str, CompiledMethod] = {
    "slerp": _method("slerp", _GRAM),
    "nuslerp": CompiledMethod(
        _apply_nuslerp,
        CompiledStatistic(
            "gram or columns",
            _begin_nuslerp,
            _look,
            _end,
            arguments=("has_base", "per"),
            is_finite=_is_finite,
            tells_of=_is_of_whole_tensors,
        ),
        Grain.VECTOR,
    ),
    "multislerp": _method("multislerp", _FROM_BASE),
    "karcher": _method("karcher", _GRAM),
    "model_stock": CompiledMethod(
        _apply_stock,
        CompiledStatistic("gram of offsets", _begin_stock, _look, _end, arguments=("per",), is_finite=_is_finite),
        Grain.VECTOR,
    ),
    "add_perpendicular": _method("add_perpendicular", _FROM_LAST),
    "norm_direction": _method("norm_direction", _GRAM),
    "geometric_median": _method("geometric_median", _FROM_FIRST),
    "euclidean_add_difference": CompiledMethod(_euclidean, _FROM_LAST),
}
