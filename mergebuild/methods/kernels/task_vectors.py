"""Merges of task vectors: what fine-tunes learned since their base, thinned out, put to a vote and added up.

A task vector is delta_i = model_i - base. Most of it can go: the smallest magnitudes (TIES), the largest as well
(breadcrumbs), or any at random, the rest scaled up (DARE), small ones more likely than large ones (DELLA). Where the
deltas that are left disagree in sign, the sign of their weighted sum wins and the others abstain (`ties`, in the names
that have it); else they are simply added.

    e_i = weight_i * rescale_i * (delta_i where it is kept, else 0)
    with a vote: m = sign of sum(e_i), 0 as +; num = sum(e_i where its sign is m); den = sum(weight_i there)
    without:     num = sum(e_i); den = sum(weight_i)
    base + lambda * num (divided by den with `normalize`; a den of 0 counts as 1)

What is kept by magnitude is decided exactly, equal ones in the order of their indices (`selection.py`); what is kept
at random follows from the seed, the tensor's name, the model's place and the element's index alone (`randomness.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import prod

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State, Statistic
from mergebuild.methods.kernels.randomness import bernoulli, bits
from mergebuild.methods.kernels.reduction import BLOCK, RunningSum
from mergebuild.methods.kernels.selection import LargestCut, Selection, magnitude_keys
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import float32_of

__all__ = ["KERNELS"]

_LEAST_L1 = 1e-7
"""Sums of magnitudes below it say nothing about a scale."""
_LEAST_TOTAL = Fraction(1, 10**8)
"""Without a vote, weights whose sum is nearer to 0 are not divided by it."""
_KEY_BITS = 31
"""Those of a magnitude's key."""

Sparsity = tuple[tuple[float | int, ...], ...]
"""For each model: the sum of magnitudes before and after, then the key and the index of each cut."""


@dataclass(frozen=True, slots=True)
class _Election:
    """What distinguishes the methods."""

    keeps: str
    """`largest`, `middle`, `random`, `ranked`."""
    votes: bool


@dataclass(slots=True)
class _Account:
    """Looks for the cuts of each model first, then, where the scale depends on them, at the sums of magnitudes."""

    selections: list[Selection | None]
    sums: list[tuple[RunningSum, RunningSum]] | None
    selecting: bool


# ---- what is kept ----


def _thinned(call: Call, position: int) -> bool:
    """Return whether some but not all of a model's delta is kept. `position`: the model's, from 0."""
    return 0 < call.numbers("density")[position] < 1


def _takes(rule: _Election, call: Call, position: int) -> tuple[int, ...]:
    """Return how many of the largest magnitudes end what is kept, and how many of them are dropped again."""
    count, density = call.count, call.numbers("density")[position]
    kept = int(density * count)
    if rule.keeps == "largest":
        return (max(1, kept),)
    dropped = min(int(call.numbers("gamma")[position] * count), count - kept)
    return (dropped + kept, dropped)


def _kept(rule: _Election, call: Call, position: int, delta: Tensor, start: int, cuts: Sequence[LargestCut]) -> Tensor:
    """Return 1 where a part of a delta (float32 [n], from the index `start` on) is kept, else 0 (float32 [n])."""
    if rule.keeps == "random":
        seed, density = int(call.number("seed")), call.numbers("density")[position]
        return bernoulli(density, seed, call.tensor, position + 1, start, len(delta), delta.device).to(torch.float32)
    if rule.keeps == "ranked":
        drawn = bits(int(call.number("seed")), call.tensor, position + 1, start, len(delta), delta.device)
        chances = _chances(call, position, delta.device).mul_(2.0**32).floor_().to(torch.int64)
        return (drawn < _by_rank(call, magnitude_keys(delta), chances)).to(torch.float32)
    magnitudes = delta.abs()
    kept = cuts[0].kept(magnitudes, start)
    for cut in cuts[1:]:
        kept.sub_(cut.kept(magnitudes, start))  # the outliers, all of them among the first
    return kept


def _chances(call: Call, position: int, device: torch.device) -> Tensor:
    """Return the probability to be kept by rank, from the smallest magnitude up (float64 [length of a row])."""
    density, epsilon = call.numbers("density")[position], call.numbers("epsilon")[position]
    if density <= epsilon or density + epsilon >= 1:
        message = f"`density` {density} with `epsilon` {epsilon}: their difference and sum must lie between 0 and 1"
        raise UndefinedError(message)
    length = _row_of(call)[1]
    if length == 1:
        return torch.full((1,), float(density), dtype=torch.float64, device=device)
    ranks = torch.arange(length, dtype=torch.float64, device=device)
    return ranks.mul_(float(2 * epsilon / (length - 1))).add_(float(density - epsilon))


def _row_of(call: Call) -> tuple[int, int, int]:
    """Return the shape as (rows, magnitudes ranked among themselves, values behind each)."""
    if len(call.shape) < 2:
        return 1, call.count, 1
    if call.word("compat") == "mergekit":
        return call.shape[0], call.shape[1], prod(call.shape[2:])
    return call.shape[0], prod(call.shape[1:]), 1


def _by_rank(call: Call, keys: Tensor, table: Tensor) -> Tensor:
    """Return the entry of `table` at each key's rank in its row, equal keys in the order of their indices.

    All rows are sorted as one run of integers, the row in front of the key: torch sorts such a run by its digits, and
    rows of their own, or floats, by comparing, which takes three times as long.
    """
    _, length, behind = _row_of(call)
    rows = keys.view(-1, length, behind)
    row = torch.arange(len(rows) * behind, device=keys.device).bitwise_left_shift_(_KEY_BITS).view(-1, 1, behind)
    order = torch.argsort(row.bitwise_or(rows).view(-1), stable=True)
    entries = table.repeat(len(rows) * behind)
    return torch.empty_like(entries).scatter_(0, order, entries)


# ---- the statistic ----


def _begin(rule: _Election, call: Call, inputs: int) -> _Account | None:
    models = range(inputs - 1)
    thinned = [_thinned(call, i) for i in models]
    sums = [(RunningSum(), RunningSum()) for _ in models] if _scale_of(rule, call) == "l1" else None
    by_magnitude = rule.keeps in ("largest", "middle")
    if not any(thinned) or (sums is None and not by_magnitude):
        return None
    selections = [Selection(_takes(rule, call, i)) if by_magnitude and thinned[i] else None for i in models]
    return _Account(selections, sums, selecting=by_magnitude)


def _look(rule: _Election, call: Call, account: _Account | None, chunks: Sequence[Tensor], start: int) -> None:
    if account is None:
        return
    for position, model in enumerate(chunks[1:]):
        if not _thinned(call, position):
            continue
        selection = account.selections[position]
        for begin, end in _pieces(call, rule, len(model), 4):
            delta = model[begin:end] - chunks[0][begin:end]
            if account.selecting:
                assert selection is not None
                selection.look(magnitude_keys(delta, out=delta), start + begin)
            else:
                assert account.sums is not None
                cuts = () if selection is None else selection.cuts
                kept = _kept(rule, call, position, delta, start + begin, cuts)
                before, after = account.sums[position]
                before.add(delta.abs_())
                after.add(delta.mul_(kept))


def _turn(_call: Call, account: _Account | None) -> bool:
    if account is None or not account.selecting:
        return False
    open_still = [selection.turn() for selection in account.selections if selection is not None]
    account.selecting = any(open_still)
    return account.selecting or account.sums is not None


def _end(_call: Call, account: _Account | None) -> Sparsity | None:
    if account is None:
        return None
    found = []
    for position, selection in enumerate(account.selections):
        before, after = (0.0, 0.0)
        if account.sums is not None:
            before, after = (each.value() for each in account.sums[position])
        cuts = () if selection is None else selection.cuts
        found.append((before, after, *(number for cut in cuts for number in cut)))
    return tuple(found)


def _pieces(call: Call, rule: _Election, count: int, blocks: int) -> Iterator[tuple[int, int]]:
    """Yield parts of a chunk that stay in the processor's cache, whole rows where those are ranked."""
    unit = call.count // _row_of(call)[0] if rule.keeps == "ranked" else 1
    step = max(1, (1 if rule.keeps == "ranked" else blocks) * BLOCK // unit) * unit  # ranks take several integers each
    for begin in range(0, count, step):
        yield begin, min(count, begin + step)


# ---- the merge ----


def _scale_of(rule: _Election, call: Call) -> str:
    """Return how what is kept is scaled: `none`, `l1`, `1/p`."""
    if rule.keeps == "random" and call.word("compat") == "mergekit":
        return "l1"
    return call.word("rescale")


def _factor(rule: _Election, call: Call, position: int, state: Sparsity | None) -> Fraction:
    """Return by what all that is kept of a delta is multiplied, its weight aside."""
    scale = _scale_of(rule, call)
    if not _thinned(call, position) or scale == "none":
        return Fraction(1)
    if scale == "1/p":
        return Fraction(1) if rule.keeps == "ranked" else 1 / call.numbers("density")[position]
    assert state is not None
    before, after = state[position][:2]
    return Fraction(before) / Fraction(after) if min(before, after) >= _LEAST_L1 else Fraction(1)


def _apply(rule: _Election, call: Call, chunks: Sequence[Tensor], start: int, state: State) -> Tensor:
    weights, scale = call.numbers("weight"), call.number("lambda")
    voters = [i for i, weight in enumerate(weights) if weight and call.numbers("density")[i] > 0]
    if not voters or not scale:
        return chunks[0]
    sole = _sole(rule, call, voters)
    if sole is not None:
        return chunks[1 + sole]
    if rule.votes:
        factors = {i: weights[i] * _factor(rule, call, i, state) for i in voters}
    else:
        total = sum(weights, Fraction(0)) if call.flag("normalize") else Fraction(1)
        total = total if abs(total) >= _LEAST_TOTAL else Fraction(1)
        factors = {i: scale / total * weights[i] * _factor(rule, call, i, state) for i in voters}
    shares = {i: float32_of(factor) for i, factor in factors.items()}
    result = torch.empty_like(chunks[0])
    for begin, end in _pieces(call, rule, len(result), 1):
        base = chunks[0][begin:end]
        edits = [
            _edit(rule, call, i, chunks[1 + i][begin:end] - base, start + begin, state).mul_(share)
            for i, share in shares.items()
        ]
        merged = _elected(call, edits, [weights[i] for i in voters]) if rule.votes else _added(edits)
        torch.add(merged, base, out=result[begin:end])
    return result


def _sole(rule: _Election, call: Call, voters: Sequence[int]) -> int | None:
    """Return the model that is the result: the only one, whole, with the weight 1 in the end."""
    if len(voters) != 1 or call.numbers("density")[voters[0]] < 1:
        return None
    weights = call.numbers("weight")
    weight, total = weights[voters[0]], sum(weights, Fraction(0))
    if call.flag("normalize"):
        counted = rule.votes and call.word("average") == "count"
        weight /= 1 if counted else weight if rule.votes else total if abs(total) >= _LEAST_TOTAL else 1
    return voters[0] if weight * call.number("lambda") == 1 else None


def _edit(rule: _Election, call: Call, position: int, delta: Tensor, start: int, state: Sparsity | None) -> Tensor:
    """Return what is kept of a delta, which is used up."""
    if not _thinned(call, position):
        return delta
    numbers = () if state is None else state[position][2:]
    cuts = [LargestCut(int(key), int(last)) for key, last in zip(numbers[::2], numbers[1::2], strict=True)]
    kept = _kept(rule, call, position, delta, start, cuts)
    if rule.keeps == "ranked" and _scale_of(rule, call) == "1/p":
        keys = magnitude_keys(delta)
        delta.div_(_by_rank(call, keys, _chances(call, position, keys.device).to(torch.float32)))
    return delta.mul_(kept)


def _added(edits: Sequence[Tensor]) -> Tensor:
    """Return the sum, in the first."""
    for edit in edits[1:]:
        edits[0].add_(edit)
    return edits[0]


def _elected(call: Call, edits: Sequence[Tensor], weights: Sequence[Fraction]) -> Tensor:
    """Return the sum of the edits whose sign is the elected one, divided by their weights or number if so asked."""
    side = _side(call, edits)
    merged, one = torch.zeros_like(side), torch.empty_like(side)
    below = torch.zeros_like(side) if call.flag("normalize") else None
    counted = call.word("average") == "count"
    for edit, weight in zip(edits, weights, strict=True):
        edit.mul_(side)  # those on the elected side are now above 0
        if below is not None:
            torch.gt(edit, 0, out=one)
            below.add_(one if counted else one.mul_(float32_of(weight)))
        merged.add_(edit.clamp_(min=0))
    merged.mul_(side)
    if below is not None:
        merged.div_(below.add_(torch.eq(below, 0, out=one)))
    scale = call.number("lambda")
    return merged if scale == 1 else merged.mul_(float32_of(scale))


def _side(call: Call, edits: Sequence[Tensor]) -> Tensor:
    """Return the elected sign of each element: 1, -1, or 0 where nobody is elected."""
    by_count = call.word("vote") == "count"
    total = edits[0].sign() if by_count else edits[0].clone()
    for edit in edits[1:]:
        total.add_(edit.sign() if by_count else edit)
    if call.word("zero_vote") == "none":
        return total.sign_()
    return total.ge_(0).mul_(2).sub_(1)


_BY_MAGNITUDE = ("density", "rescale")
_AT_RANDOM = ("density", "rescale", "compat", "seed")


def _statistic(keeps: str, arguments: tuple[str, ...]) -> Statistic:
    """Return the statistic of a way to keep: the same for methods that vote and for those that do not."""
    rule = _Election(keeps, votes=False)
    return Statistic(
        f"sparsity, {keeps}", partial(_begin, rule), partial(_look, rule), _end, _turn, arguments=arguments
    )


_LARGEST = _statistic("largest", _BY_MAGNITUDE)
_MIDDLE = _statistic("middle", (*_BY_MAGNITUDE, "gamma"))
_RANDOM = _statistic("random", _AT_RANDOM)
_RANKED = _statistic("ranked", (*_AT_RANDOM, "epsilon"))


def _kernel(statistic: Statistic, keeps: str, *, votes: bool) -> Kernel:
    """Return the kernel of a method."""
    grain = Grain.ROW if keeps == "ranked" else Grain.ELEMENT
    return Kernel(partial(_apply, _Election(keeps, votes)), statistic, grain)


KERNELS: Mapping[str, Kernel] = {
    "ties": _kernel(_LARGEST, "largest", votes=True),
    "breadcrumbs": _kernel(_MIDDLE, "middle", votes=False),
    "breadcrumbs_ties": _kernel(_MIDDLE, "middle", votes=True),
    "dare_linear": _kernel(_RANDOM, "random", votes=False),
    "dare_ties": _kernel(_RANDOM, "random", votes=True),
    "della": _kernel(_RANKED, "ranked", votes=True),
    "della_linear": _kernel(_RANKED, "ranked", votes=False),
}
