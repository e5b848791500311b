"""sd-mecha's longer forms of TIES; see `methods/kernels/ties_sums.py`, whose kernels get whole tensors.

The compiled forms get chunks, so they have a statistic: it finds the cut of each delta, then, for a median, the dot
products of the elements that agree with the elected signs.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergebuild.methods.agreement import median_shares, scale_of, takes
from mergebuild.methods.call import Call, Grain
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.compiled.selection import MOST_KEYS, CountedSelection
from mergebuild.methods.cuts import Cut, value_of
from mergebuild.methods.shares import float32_of
from mergebuild.methods.spheres import Matrix
from mergebuild.methods.streams import key_of
from mergebuild.native import GramMatrix, Prepared, apply, packed

__all__ = ["COMPILED"]

_THINNING = struct.Struct("=QQqfI")
"""`struct thinning` of `native/ties_sums.inc`."""
_LARGEST, _ALL, _NONE = range(3)
"""Which elements of a delta are kept, as in the same file."""
_BY_COUNT, _CLAMPED = 1, 2
"""Bits of the kernels' options."""

_State = tuple[tuple[Cut, ...], Matrix | None]
"""The cut of each delta, if it has one; and for a median the Gram matrix of the agreeing deltas minus the first."""


@dataclass(slots=True)
class _CountedAgreement:
    """The account of the statistic: finds the cut of each delta first, then adds up the deltas that agree."""

    selections: Sequence[CountedSelection]
    gram: GramMatrix | None
    selecting: bool

    def cuts(self) -> tuple[Cut, ...]:
        """Return the cut of each delta."""
        return tuple(each.found()[0] for each in self.selections)


def _begin(call: Call, inputs: int) -> _CountedAgreement:
    taken, models = takes(call), inputs - 1
    selections = [] if taken is None else [CountedSelection([taken]) for _ in range(models)]
    gram = GramMatrix(models, 0) if call.word("end") == "median" and models > 1 else None
    return _CountedAgreement(selections, gram, selecting=bool(selections))


def _look(call: Call, account: _CountedAgreement, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
    base, *models = chunks
    if account.selecting:
        for position, (model, selection) in enumerate(zip(models, account.selections, strict=True)):
            numbers = packed([1.0]) + _thinning(call, position, None)
            selection.look(Prepared("dropped", 0, numbers), (base, model), span)
    elif account.gram is not None:
        cuts = account.cuts()
        account.gram.add([_agreed(call, cuts, chunks, span, position) for position in range(len(models))], span[1])


def _agreed(call: Call, cuts: Sequence[Cut], chunks: Sequence[Chunk], span: tuple[int, int], position: int) -> Chunk:
    """Return the elements of a model's delta that agree with the elected signs; the others are 0."""
    room = bytearray(4 * span[1])
    numbers = packed([1.0]) + _thinnings(call, cuts, len(chunks) - 1)
    apply(Prepared("agreed", _vote(call) | position << 1, numbers), chunks, room, "float32", span)
    return room, "float32"


def _turn(_call: Call, account: _CountedAgreement) -> bool:
    if not account.selecting:
        return False
    open_still = [each.turn() for each in account.selections]
    account.selecting = any(open_still)
    return account.selecting or account.gram is not None


def _end(_call: Call, account: _CountedAgreement) -> _State:
    return account.cuts(), None if account.gram is None else account.gram.value()


def _thinnings(call: Call, cuts: Sequence[Cut], models: int) -> bytes:
    """Return the `struct thinning` of each delta."""
    return b"".join(_thinning(call, each, cuts[each] if cuts else None) for each in range(models))


def _thinning(call: Call, position: int, cut: Cut | None) -> bytes:
    """Return the `struct thinning` of a model's delta; without a cut, it keeps all or nothing."""
    stream, threshold = 0, 1 << 32
    if "keep" in call.arguments:
        stream = key_of(int(call.number("seed")), call.tensor, position + 1)
        threshold = math.floor(min(max(float(call.number("keep")), 0.0), 1.0) * 2.0**32)
    key, last = cut or (0, -1)
    keeps = _LARGEST if cut is not None else _ALL if call.number("density") > 0 else _NONE
    return _THINNING.pack(stream, threshold, last, value_of(key), keeps)


def _vote(call: Call) -> int:
    return _BY_COUNT if call.word("vote") == "count" else 0


def _apply(call: Call, count: int, state: _State) -> Applied:
    if not call.count or ("keep" in call.arguments and call.number("keep") <= 0):
        return Applied.copy_of(0)
    cuts, gram = state
    numbers = packed([float32_of(scale_of(call))]) + _thinnings(call, cuts, count - 1)
    if gram is not None:
        pivot, shares = median_shares(call, gram)
        factors = packed([float32_of(each) for each in shares])
        return Applied(Prepared("ties_sum", _vote(call) | pivot << 1, numbers + factors), range(count))
    if call.word("end") == "stock" and count > 2:
        option = _vote(call) | (_CLAMPED if call.flag("clamp") else 0)
        return Applied(Prepared("ties_sum_stock", option, numbers, call.shape[-1] if call.shape else 1), range(count))
    return Applied(Prepared("ties_sum", _vote(call), numbers), range(count))


def _takes(call: Call, _count: int) -> bool:
    """Return whether the method can be made without ranks over the whole tensor."""
    return call.count <= MOST_KEYS and not ("epsilon" in call.arguments and call.number("epsilon"))


def _form(*arguments: str) -> CompiledMethod:
    """Return the form of a method. `arguments`: further parameters that its statistic depends on."""
    statistic = CompiledStatistic(
        "cuts and what agrees", _begin, _look, _end, _turn, arguments=("density", "vote", "end", *arguments)
    )
    return CompiledMethod(_apply, statistic, Grain.VECTOR, takes=_takes)


COMPILED: Mapping[str, CompiledMethod] = {
    "ties_sum_extended": _form(),
    "ties_sum_with_dropout": _form("keep", "seed"),
}
