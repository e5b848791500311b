"""Methods that see a tensor as rows, or as columns; see `methods/kernels/rows.py`."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import prod

from mergebuild.methods.bands import band_along, longer_dimension
from mergebuild.methods.call import Call, Grain
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.shares import float32_of
from mergebuild.native import ColumnProducts, Prepared, cosines_of_columns, packed_doubles

__all__ = ["COMPILED"]


def _with_band(dimension: Callable[[Call], int]) -> CompiledMethod:
    """Return the form of a method that replaces a band of a, along a dimension, by that of b."""

    def apply(call: Call, _count: int, _state: object) -> Applied:
        band = band_along(call, dimension(call))
        if band.only is not None:
            return Applied.copy_of(band.only)
        bounds = struct.pack("=3q", band.width, band.begin, band.end)
        return Applied(Prepared("band", 0, bounds), (band.outside, band.inside))

    return CompiledMethod(apply)


def _extract(call: Call, count: int, _state: object) -> Applied:
    if not call.count:
        return Applied.copy_of(count - 2)
    alpha, beta, gamma = (call.number(name) for name in ("alpha", "beta", "gamma"))
    simpler = [number == bound for number in (alpha, beta, gamma) for bound in (Fraction(0), Fraction(1))]
    option = sum(1 << bit for bit, is_so in enumerate(simpler) if is_so)
    numbers = packed_doubles([float32_of(alpha), float(beta), float(gamma)])
    return Applied(Prepared("extract", option, numbers, call.shape[-1] if call.shape else 1), range(count))


def _begin_columns(call: Call, _inputs: int) -> ColumnProducts:
    return ColumnProducts(max(1, prod(call.shape[1:])))


def _look_at_columns(_call: Call, account: ColumnProducts, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
    account.add(chunks, span[1])


def _end_columns(_call: Call, account: ColumnProducts) -> tuple[array[float], float]:
    cosines, whole = cosines_of_columns(account)
    return array("d", cosines), whole


def _cosine_gate(call: Call, _count: int, state: tuple[array[float], float]) -> Applied:
    alpha = call.number("alpha")
    if alpha >= 1 or alpha <= -2 or not call.count:
        return Applied.copy_of(int(alpha >= 1))
    cosines, whole = state
    numbers = packed_doubles([float(alpha), whole]) + cosines.tobytes()
    return Applied(Prepared("cosine_gate", call.word("form") == "b", numbers), (0, 1))


COMPILED: Mapping[str, CompiledMethod] = {
    "tensor_sum": _with_band(lambda _call: 0),
    "tensor_sum2": _with_band(longer_dimension),
    "extract": CompiledMethod(_extract, grain=Grain.VECTOR),
    "cosine_gate": CompiledMethod(
        _cosine_gate,
        CompiledStatistic("cosines of columns", _begin_columns, _look_at_columns, _end_columns, version=2),
    ),
}
