"""Merges that take only the most important elements; see `methods/kernels/importance.py`."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from mergebuild.methods.call import Call, Grain, State
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.compiled.selection import MOST_KEYS, CountedSelection
from mergebuild.methods.cuts import Cut, value_of
from mergebuild.methods.energies import weights_of
from mergebuild.methods.fences import quartiles_of, threshold_of, width_of
from mergebuild.methods.shares import float32_of
from mergebuild.native import MagnitudeSum, Prepared, apply, find, packed

__all__ = ["COMPILED"]

_DIFFERENCE = Prepared("difference")
_EVERYWHERE = Prepared("constant", 0, packed([1.0]))


def _largest(cut: Cut | None) -> bytes:
    """Return `struct largest` of `native/importance.inc`, which says which elements are taken. No cut: all of them."""
    key, last = cut or (0, -1)
    return struct.pack("=qfI", last, value_of(key), cut is not None)


def _takes(call: Call, _inputs: int) -> bool:
    return call.count <= MOST_KEYS


# ---- sce ----


@dataclass(slots=True)
class _CountedEnergies:
    """The account of sce's statistic.

    First it finds the cut of the variances, if only some elements are taken. Then it adds up, for each model, the
    squares of the deltas of these elements.
    """

    selection: CountedSelection | None
    sums: list[MagnitudeSum]
    selecting: bool
    not_zero: int = 0
    """How many variances are above 0."""
    is_first: bool = True


def _begin_sce(call: Call, inputs: int) -> _CountedEnergies:
    share = call.number("select_topk")
    account = _CountedEnergies(None, [MagnitudeSum() for _ in range(inputs - 1)], selecting=0 < share < 1)
    if account.selecting:
        account.selection = CountedSelection(lambda _: (int(share * account.not_zero),))
    return account


def _look_sce(call: Call, account: _CountedEnergies, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
    if call.number("select_topk") <= 0:
        return
    base, *models = chunks
    if account.selecting:
        _look_at_spread(account, models, span)
        return
    kept, given = _EVERYWHERE, models[:0]
    if account.selection is not None:
        share = packed([_per_model(models)])
        kept, given = Prepared("widely_spread", 0, _largest(account.selection.found()[0]) + share), models
    for total, model in zip(account.sums, models, strict=True):
        total.add_squares((base, model), kept, given, span)


def _look_at_spread(account: _CountedEnergies, models: Sequence[Chunk], span: tuple[int, int]) -> None:
    """Look at the variances over the models, of which the largest are kept."""
    assert account.selection is not None
    spread = Prepared("spread", 0, packed([_per_model(models)]))
    account.selection.look(spread, models, span)
    if account.is_first:
        account.not_zero += span[1] - find(spread, models, span, 0, 1)[0]


def _per_model(models: Sequence[object]) -> float:
    return float32_of(Fraction(1, len(models)))


def _turn_sce(_call: Call, account: _CountedEnergies) -> bool:
    account.is_first = False
    if not account.selecting:
        return False
    assert account.selection is not None
    account.selecting = account.selection.turn()
    return True


def _end_sce(_call: Call, account: _CountedEnergies) -> State:
    cut = (0, -1) if account.selection is None else account.selection.found()[0]
    return (*cut, *(total.value() for total in account.sums))


def _apply_sce(call: Call, inputs: int, state: State) -> Applied:
    share = call.number("select_topk")
    if share <= 0:
        return Applied.copy_of(0)
    key, last, *energies = state
    numbers = packed([_per_model(energies), *weights_of(call, energies)])
    return Applied(Prepared("sce", 0, _largest((key, last) if share < 1 else None) + numbers), range(inputs))


# ---- topk_mask ----


def _begin_topk(call: Call, _inputs: int) -> CountedSelection | None:
    density = call.number("density")
    return CountedSelection([max(1, int(density * call.count))]) if 0 < density < 1 else None


def _look_topk(_call: Call, account: CountedSelection, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
    account.look(_DIFFERENCE, chunks, span)


def _turn_topk(_call: Call, account: CountedSelection) -> bool:
    return account.turn()


def _end_topk(_call: Call, account: CountedSelection) -> State:
    return account.found()[0]


def _apply_topk(call: Call, _inputs: int, state: State) -> Applied:
    share = call.number("alpha")
    if call.number("density") <= 0 or not share:
        return Applied.copy_of(0)
    return Applied(Prepared("topk_mask", share == 1, _largest(state) + packed([float32_of(share)])), (0, 1))


# ---- arcee_fusion ----


@dataclass(slots=True)
class _CountedQuartiles:
    """The divergences of the rows, found in the first look, and the selection of the quartiles of importance."""

    selection: CountedSelection
    divergences: array[float]
    found: bool = False


def _begin_arcee(call: Call, _inputs: int) -> _CountedQuartiles:
    return _CountedQuartiles(CountedSelection(quartiles_of(call), signed=True), array("f"))


def _look_arcee(call: Call, account: _CountedQuartiles, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
    width, (start, count) = width_of(call), span
    first, past = start // width, (start + count) // width
    if not account.found:
        each = bytearray(4 * count)
        apply(Prepared("divergence", row=width), chunks, each, "float32", span)
        account.divergences.frombytes(memoryview(each).cast("f")[::width].tobytes())
    numbers = _divergences(width, first, account.divergences[first:past])
    account.selection.look(Prepared("importance", 0, numbers), chunks, span)


def _divergences(width: int, first: int, divergences: array[float], threshold: float = 0.0) -> bytes:
    """Return the divergences of rows from `first` on, as `struct divergences` followed by the values."""
    return struct.pack("=qqf", width, first, threshold) + divergences.tobytes()


def _turn_arcee(_call: Call, account: _CountedQuartiles) -> bool:
    account.found = True
    return account.selection.turn()


def _end_arcee(call: Call, account: _CountedQuartiles) -> tuple[float, array[float]]:
    return (threshold_of(account.selection.found()) if call.count else 0.0), account.divergences


def _apply_arcee(call: Call, _inputs: int, state: tuple[float, array[float]]) -> Applied:
    if not call.count:
        return Applied.copy_of(0)
    threshold, divergences = state
    return Applied(Prepared("arcee_fusion", 0, _divergences(width_of(call), 0, divergences, threshold)), (0, 1))


COMPILED: Mapping[str, CompiledMethod] = {
    "sce": CompiledMethod(
        _apply_sce,
        CompiledStatistic("energies", _begin_sce, _look_sce, _end_sce, _turn_sce, arguments=("select_topk",)),
        takes=_takes,
    ),
    "arcee_fusion": CompiledMethod(
        _apply_arcee,
        CompiledStatistic("importance quartiles", _begin_arcee, _look_arcee, _end_arcee, _turn_arcee),
        Grain.VECTOR,
        takes=_takes,
    ),
    "topk_mask": CompiledMethod(
        _apply_topk,
        CompiledStatistic("largest change", _begin_topk, _look_topk, _end_topk, _turn_topk, arguments=("density",)),
        takes=_takes,
    ),
}
