"""Merges of task vectors; see `methods/kernels/task_vectors.py`. Their numbers come from `methods/thinning.py`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

from mergebuild.methods.call import Call, State
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.compiled.selection import MOST_KEYS, Selection
from mergebuild.methods.cuts import Cut, value_of
from mergebuild.methods.shares import float32_of
from mergebuild.methods.streams import key_of, threshold_of
from mergebuild.methods.thinning import (
    METHODS,
    STATISTICS,
    Account,
    Election,
    begin,
    input_alone,
    is_thinned,
    shares_of,
)
from mergebuild.native import MagnitudeSum, Prepared, packed

__all__ = ["COMPILED"]

_Account = Account[Selection, MagnitudeSum]

_DIFFERENCE = Prepared("difference")

_ALL, _LARGEST, _MIDDLE, _RANDOM = range(4)
"""`enum keeps` of `native/task_vectors.inc`."""
_VOTER = struct.Struct("=QQqqffIffI")
"""`struct voter` there."""
_VOTES, _VOTE_BY_COUNT, _NONE_WINS_ZERO, _DIVIDED, _COUNTED, _SCALED = (1 << bit for bit in range(6))
"""The bits of the kernel's option."""


def _voter(
    rule: Election, call: Call, position: int, cuts: Sequence[Cut], *, share: float = 1.0, weight: float = 1.0
) -> bytes:
    """Return what decides about a model's delta, as the kernel has it."""
    keeps, stream, threshold = _ALL, 0, 0
    if is_thinned(call, position):
        match rule.keeps:
            case "largest":
                keeps = _LARGEST
            case "middle":
                keeps = _MIDDLE
            case _:
                keeps = _RANDOM
                stream = key_of(int(call.number("seed")), call.tensor, position + 1)
                threshold = threshold_of(call.numbers("density")[position])
    (first, first_last), (second, second_last) = (*cuts, (0, 0), (0, 0))[:2]
    return _VOTER.pack(
        stream, threshold, first_last, second_last, value_of(first), value_of(second), keeps, share, weight, 0
    )


# ---- the statistic ----


def _begin(rule: Election, call: Call, inputs: int) -> _Account | None:
    return begin(rule, call, inputs, Selection, MagnitudeSum)


def _look(rule: Election, call: Call, account: _Account, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
    for position, model in enumerate(chunks[1:]):
        if not is_thinned(call, position):
            continue
        pair, selection = (chunks[0], model), account.selections[position]
        if account.selecting:
            assert selection is not None
            selection.look(_DIFFERENCE, pair, span)
        else:
            assert account.sums is not None
            kept = Prepared("thinned", 0, packed([1.0]) + _voter(rule, call, position, account.cuts(position)))
            before, after = account.sums[position]
            before.add(_DIFFERENCE, pair, span)
            after.add(kept, pair, span)


def _turn(_call: Call, account: _Account) -> bool:
    return account.turn()


def _end(_call: Call, account: _Account) -> State:
    return account.end()


# ---- the merge ----


def _apply(rule: Election, call: Call, _inputs: int, state: State) -> Applied:
    alone = input_alone(rule, call)
    if alone is not None:
        return Applied.copy_of(alone)
    weights, scale = call.numbers("weight"), call.number("lambda")
    voters = b""
    shares = shares_of(rule, call, state)
    for i, share in shares.items():
        numbers = () if state is None else state[i][2:]
        cuts = list(pairwise(numbers))[::2]
        voters += _voter(rule, call, i, cuts, share=share, weight=float32_of(weights[i]))
    kernel = Prepared("task_vectors", _option(rule, call), packed([float32_of(scale)]) + voters)
    return Applied(kernel, (0, *(1 + i for i in shares)))


def _option(rule: Election, call: Call) -> int:
    """Return how what is kept is brought together."""
    if not rule.votes:
        return 0
    return (
        _VOTES
        | (_VOTE_BY_COUNT if call.word("vote") == "count" else 0)
        | (_NONE_WINS_ZERO if call.word("zero_vote") == "none" else 0)
        | (_DIVIDED if call.flag("normalize") else 0)
        | (_COUNTED if call.word("average") == "count" else 0)
        | (_SCALED if call.number("lambda") != 1 else 0)
    )


def _takes(call: Call, _inputs: int) -> bool:
    return call.count <= MOST_KEYS


def _form(rule: Election) -> CompiledMethod:
    """Return the compiled form of a method."""
    name, arguments = STATISTICS[rule.keeps]
    statistic = CompiledStatistic(name, partial(_begin, rule), partial(_look, rule), _end, _turn, arguments=arguments)
    return CompiledMethod(partial(_apply, rule), statistic, takes=_takes)


COMPILED: Mapping[str, CompiledMethod] = {name: _form(rule) for name, rule in METHODS.items() if rule.keeps != "ranked"}
