"""The method `top_k_tensor_sum`; see `methods/kernels/spectra.py`. Of that family, only it has a compiled form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergebuild.methods.call import Call, Grain
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.compiled.selection import MOST_KEYS
from mergebuild.methods.regions import region
from mergebuild.native import Prepared, Region, arranged

__all__ = ["COMPILED"]

_SORTING = 24
"""Bytes of memory that sorting takes per element."""


def _top_k_tensor_sum(call: Call, _count: int, _state: object) -> Applied:
    if not call.count:
        return Applied.copy_of(0)
    begin, end, is_outside = region(call.number("width"), call.number("offset"), call.count)
    chosen = Region(begin, end, is_outside, is_strict=call.word("lower") == "strict")

    def made(chunks: Sequence[Chunk], span: tuple[int, int]) -> Sequence[Chunk]:
        return [arranged(chunks, span[1], chosen)]

    return Applied(Prepared("last"), (0, 1), made)


def _begin(_call: Call, _inputs: int) -> tuple[()]:
    """Return an empty account: the statistic only makes the engine check that all values are finite."""
    return ()


def _look(_call: Call, _account: tuple[()], _chunks: Sequence[Chunk], _span: tuple[int, int]) -> None:
    return None


def _end(_call: Call, _account: tuple[()]) -> tuple[()]:
    return ()


COMPILED: Mapping[str, CompiledMethod] = {
    "top_k_tensor_sum": CompiledMethod(
        _top_k_tensor_sum,
        CompiledStatistic("finite values", _begin, _look, _end),
        Grain.TENSOR,
        takes=lambda call, _count: call.count <= MOST_KEYS,
        working_set=lambda call: _SORTING * call.count,
    ),
}
