"""Merges on spheres and in spans: their numbers follow from a Gram matrix; see `methods/kernels/gram.py`.

All but `euclidean_add_difference` are linear combinations. Of nuslerp and model_stock, only the forms for whole tensors
(`per = "tensor"`) are compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite

from mergebuild.methods.call import Call, Grain, State
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.shares import float32_of, pivot_of
from mergebuild.methods.spheres import COEFFICIENTS, REMEMBERED, Coefficients, Matrix, euclidean_factors
from mergebuild.native import GramMatrix, Prepared, packed

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
_GRAM_OR_COLUMNS = CompiledStatistic(
    "gram or columns", _begin_from_base, _look, _end, is_finite=_is_finite, arguments=("has_base", "per")
)
_OF_OFFSETS = CompiledStatistic(
    "gram of offsets", _begin_from_first, _look, _end, is_finite=_is_finite, arguments=("per",)
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

    return CompiledMethod(apply, statistic, grain, takes=_is_of_whole_tensors)


def _is_of_whole_tensors(call: Call, _count: int) -> bool:
    return call.arguments.get("per", "tensor") == "tensor"


def _euclidean(call: Call, _count: int, state: State) -> Applied:
    alpha = call.number("alpha")
    if alpha in (0, 1):
        return Applied.copy_of(int(alpha))
    factors = euclidean_factors(state, alpha)
    return Applied(Prepared("euclidean", 0, packed([*factors, float32_of(alpha)])), (0, 1, 2))


COMPILED: Mapping[str, CompiledMethod] = {
    "slerp": _method("slerp", _GRAM),
    "nuslerp": _method("nuslerp", _GRAM_OR_COLUMNS, Grain.VECTOR),
    "multislerp": _method("multislerp", _FROM_BASE),
    "karcher": _method("karcher", _GRAM),
    "model_stock": _method("model_stock", _OF_OFFSETS, Grain.VECTOR),
    "add_perpendicular": _method("add_perpendicular", _FROM_LAST),
    "norm_direction": _method("norm_direction", _GRAM),
    "geometric_median": _method("geometric_median", _FROM_FIRST),
    "euclidean_add_difference": CompiledMethod(_euclidean, _FROM_LAST),
}
