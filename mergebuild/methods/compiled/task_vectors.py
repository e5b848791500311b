"""Merges of task vectors; see `methods/kernels/task_vectors.py`. Their numbers come from `methods/thinning.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

from mergebuild.methods.call import Call, Grain, State
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.compiled.selection import MOST_KEYS, CountedSelection
from mergebuild.methods.cuts import Cut, value_of
from mergebuild.methods.shares import float32_of
from mergebuild.methods.streams import key_of, threshold_of
from mergebuild.methods.thinning import (
    METHODS,
    STATISTICS,
    Account,
    Election,
    begin,
    chances_of,
    input_alone,
    is_thinned,
    row_of,
    scale_of,
    shares_of,
)
from mergebuild.native import MOST_INPUTS, MagnitudeSum, Prepared, Ranking, keep_by_rank, packed

__all__ = ["COMPILED"]

_Account = Account[CountedSelection, MagnitudeSum]

MOST_RANKED = 1 << 31
"""Tensors whose elements are ranked must have fewer elements than this."""
_DIFFERENCE = Prepared("difference")

_ALL, _LARGEST, _MIDDLE, _RANDOM, _GIVEN = range(5)
"""`enum keeps` of `native/task_vectors.inc`."""
_VOTER = struct.Struct("=QQqqffIffI")
"""`struct voter` of the same file."""
_VOTES, _VOTE_BY_COUNT, _NONE_WINS_ZERO, _DIVIDED, _COUNTED, _SCALED = (1 << bit for bit in range(6))
"""The bits of the kernel's option, as in the same file."""


def _voter(
    rule: Election, call: Call, position: int, cuts: Sequence[Cut], *, share: float = 1.0, weight: float = 1.0
) -> bytes:
    """Return a model's `struct voter`: which elements of its delta are kept, and what they are multiplied by."""
    keeps, stream, threshold, divides = _ALL, 0, 0, False
    if is_thinned(call, position):
        match rule.keeps:
            case "largest":
                keeps = _LARGEST
            case "middle":
                keeps = _MIDDLE
            case "ranked":
                keeps, divides = _GIVEN, scale_of(rule, call) == "1/p"
            case _:
                keeps, stream = _RANDOM, _stream(call, position)
                threshold = threshold_of(call.numbers("density")[position])
    (first, first_last), (second, second_last) = (*cuts, (0, 0), (0, 0))[:2]
    return _VOTER.pack(
        stream, threshold, first_last, second_last, value_of(first), value_of(second), keeps, share, weight, divides
    )


def _stream(call: Call, position: int) -> int:
    """Return the key of the random numbers of a model."""
    return key_of(int(call.number("seed")), call.tensor, position + 1)


def _ranking(call: Call, position: int) -> Ranking:
    """Return the probabilities with which a model's elements are kept, by the rank of their magnitude in their row."""
    chances = chances_of(call, position)
    return Ranking(chances.length, row_of(call)[2], _stream(call, position), chances.least, chances.step)


# ---- the statistic ----


def _begin(rule: Election, call: Call, inputs: int) -> _Account | None:
    return begin(rule, call, inputs, CountedSelection, MagnitudeSum)


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
            given = keep_by_rank(_DIFFERENCE, pair, span, _ranking(call, position)) if rule.keeps == "ranked" else ()
            before, after = account.sums[position]
            before.add(_DIFFERENCE, pair, span)
            after.add(kept, (*pair, *given), span)


def _turn(_call: Call, account: _Account) -> bool:
    return account.turn()


def _end(_call: Call, account: _Account) -> State:
    return account.end()


# ---- the merge ----


def _apply(rule: Election, call: Call, _inputs: int, state: State) -> Applied:
    alone = input_alone(rule, call)
    if alone is not None or not call.count:
        return Applied.copy_of(alone or 0)
    weights, scale = call.numbers("weight"), call.number("lambda")
    voters = b""
    shares = shares_of(rule, call, state)
    for i, share in shares.items():
        numbers = () if state is None else state[i][2:]
        cuts = list(pairwise(numbers))[::2]
        voters += _voter(rule, call, i, cuts, share=share, weight=float32_of(weights[i]))
    kernel = Prepared("task_vectors", _option(rule, call), packed([float32_of(scale)]) + voters)
    ranked = rule.keeps == "ranked" and any(is_thinned(call, i) for i in shares)
    return Applied(kernel, (0, *(1 + i for i in shares)), _kept_by_rank(rule, call, tuple(shares)) if ranked else None)


def _kept_by_rank(
    rule: Election, call: Call, voters: Sequence[int]
) -> Callable[[Sequence[Chunk], tuple[int, int]], Sequence[Chunk]]:
    """Return the function `more` of `Applied`: for each thinned voter, which elements are kept (1 or 0).

    If kept elements are divided by their probabilities, these follow as a second chunk of that voter.
    """
    rankings = {1 + at: _ranking(call, i) for at, i in enumerate(voters) if is_thinned(call, i)}
    divides = scale_of(rule, call) == "1/p"

    def kept(chunks: Sequence[Chunk], span: tuple[int, int]) -> Sequence[Chunk]:
        found: list[Chunk] = []
        for at, ranking in rankings.items():
            found += keep_by_rank(_DIFFERENCE, (chunks[0], chunks[at]), span, ranking, with_chances=divides)
        return found

    return kept


def _option(rule: Election, call: Call) -> int:
    """Return the kernel's option: how the deltas that are kept are combined."""
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


def _takes(rule: Election, call: Call, inputs: int) -> bool:
    if rule.keeps == "ranked":  # each model has up to two further inputs: kept elements and probabilities
        return call.count < MOST_RANKED and 3 * inputs <= MOST_INPUTS
    return call.count <= MOST_KEYS


def _form(rule: Election) -> CompiledMethod:
    """Return the compiled form of a method."""
    name, arguments = STATISTICS[rule.keeps]
    statistic = CompiledStatistic(name, partial(_begin, rule), partial(_look, rule), _end, _turn, arguments=arguments)
    grain = Grain.ROW if rule.keeps == "ranked" else Grain.ELEMENT
    return CompiledMethod(partial(_apply, rule), statistic, grain, takes=partial(_takes, rule))


COMPILED: Mapping[str, CompiledMethod] = {name: _form(rule) for name, rule in METHODS.items()}
