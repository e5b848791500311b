"""Merges of task vectors: the changes that fine-tunes made to their base, thinned out, voted on and added up.

A task vector is delta_i = model_i - base. Most of its elements can be dropped: the smallest magnitudes (TIES), the
largest too (breadcrumbs), or any at random with the rest scaled up (DARE), small ones more likely than large ones
(DELLA). In the methods with `ties` in their names, and in `della`, the remaining deltas vote on each element's sign:
the sign of their weighted sum wins, and deltas of the other sign are left out. In the other methods they are simply
added.

    e_i = weight_i * rescale_i * (delta_i if it is kept, else 0)
    with a vote: m = sign of sum(e_i), 0 counts as +; num = sum(e_i of sign m); den = sum(their weight_i)
    without:     num = sum(e_i); den = sum(weight_i)
    base + lambda * num (divided by den with `normalize`; a den of 0 counts as 1)

Selection by magnitude is exact; equal magnitudes are taken in the order of their indices (`selection.py`). Random
selection depends only on the seed, the tensor's name, the model's position and the element's index (`randomness.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State, Statistic
from mergebuild.methods.kernels.randomness import bernoulli, bits
from mergebuild.methods.kernels.reduction import BLOCK, RunningSum
from mergebuild.methods.kernels.selection import LargestCut, Selection, magnitude_keys
from mergebuild.methods.shares import float32_of
from mergebuild.methods.thinning import (
    METHODS,
    STATISTICS,
    Account,
    Election,
    Sparsity,
    begin,
    chances_of,
    input_alone,
    is_thinned,
    row_of,
    scale_of,
    shares_of,
)

__all__ = ["KERNELS"]

_KEY_BITS = 31
"""Bits of a magnitude's key."""

_Account = Account[Selection, RunningSum]


# ---- what is kept ----


def _kept(rule: Election, call: Call, position: int, delta: Tensor, start: int, cuts: Sequence[LargestCut]) -> Tensor:
    """Return 1 where an element of a delta is kept, else 0 (float32 [n]).

    `delta`: float32 [n], from the index `start` on.
    """
    if rule.keeps == "random":
        seed, density = int(call.number("seed")), call.numbers("density")[position]
        return bernoulli(density, seed, call.tensor, position + 1, start, len(delta), delta.device).to(torch.float32)
    if rule.keeps == "ranked":
        return _kept_by_rank(call, position, delta, start)
    magnitudes = delta.abs()
    kept = cuts[0].kept(magnitudes, start)
    for cut in cuts[1:]:
        kept.sub_(cut.kept(magnitudes, start))  # the outliers, which the first cut contains
    return kept


def _kept_by_rank(call: Call, position: int, delta: Tensor, start: int) -> Tensor:
    """Return 1 where an element is kept at random, with a probability by the rank of its magnitude, else 0."""
    drawn = bits(int(call.number("seed")), call.tensor, position + 1, start, len(delta), delta.device)
    chances = _chances(call, position, delta.device).mul_(2.0**32).floor_().to(torch.int64)
    return (drawn < _by_rank(call, magnitude_keys(delta), chances)).to(torch.float32)


def _chances(call: Call, position: int, device: torch.device) -> Tensor:
    """Return the probability to be kept by rank, smallest magnitude first (float64 [length of a row])."""
    chances = chances_of(call, position)
    ranks = torch.arange(chances.length, dtype=torch.float64, device=device)
    return ranks.mul_(chances.step).add_(chances.least)


def _by_rank(call: Call, keys: Tensor, table: Tensor) -> Tensor:
    """Return the entry of `table` at each key's rank in its row; equal keys are ranked in the order of their indices.

    All rows are sorted together, as integers with the row's number before the key: torch sorts those by radix, which is
    three times as fast as sorting rows or floats by comparison.
    """
    _, length, behind = row_of(call)
    rows = keys.view(-1, length, behind)
    row = torch.arange(len(rows) * behind, device=keys.device).bitwise_left_shift_(_KEY_BITS).view(-1, 1, behind)
    order = torch.argsort(row.bitwise_or(rows).view(-1), stable=True)
    entries = table.repeat(len(rows) * behind)
    return torch.empty_like(entries).scatter_(0, order, entries)


# ---- the statistic ----


def _begin(rule: Election, call: Call, inputs: int) -> _Account | None:
    return begin(rule, call, inputs, Selection, RunningSum)


def _look(rule: Election, call: Call, account: _Account | None, chunks: Sequence[Tensor], start: int) -> None:
    if account is None:
        return
    for position, model in enumerate(chunks[1:]):
        if not is_thinned(call, position):
            continue
        selection = account.selections[position]
        for at, end in _pieces(call, rule, len(model), 4):
            delta = model[at:end] - chunks[0][at:end]
            if account.selecting:
                assert selection is not None
                selection.look(magnitude_keys(delta, out=delta), start + at)
            else:
                _add_sums(rule, call, account, position, delta, start + at)


def _add_sums(rule: Election, call: Call, account: _Account, position: int, delta: Tensor, start: int) -> None:
    """Add the magnitudes of a delta, which is overwritten, and those of its kept elements to the model's sums."""
    assert account.sums is not None
    selection = account.selections[position]
    cuts = () if selection is None else selection.cuts
    kept = _kept(rule, call, position, delta, start, cuts)
    before, after = account.sums[position]
    before.add(delta.abs_())
    after.add(delta.mul_(kept))


def _turn(_call: Call, account: _Account | None) -> bool:
    return account is not None and account.turn()


def _end(_call: Call, account: _Account | None) -> Sparsity | None:
    return None if account is None else account.end()


def _pieces(call: Call, rule: Election, count: int, blocks: int) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of parts of a chunk that fit the processor's cache; whole rows if elements are ranked."""
    unit = call.count // row_of(call)[0] if rule.keeps == "ranked" else 1
    step = max(1, (1 if rule.keeps == "ranked" else blocks) * BLOCK // unit) * unit  # ranks take several integers each
    for at in range(0, count, step):
        yield at, min(count, at + step)


# ---- the merge ----


def _apply(rule: Election, call: Call, chunks: Sequence[Tensor], start: int, state: State) -> Tensor:
    alone = input_alone(rule, call)
    if alone is not None:
        return chunks[alone]
    shares = shares_of(rule, call, state)
    weights = [call.numbers("weight")[i] for i in shares]
    result = torch.empty_like(chunks[0])
    for at, end in _pieces(call, rule, len(result), 1):
        base = chunks[0][at:end]
        edits = [
            _edit(rule, call, i, chunks[1 + i][at:end] - base, start + at, state).mul_(share)
            for i, share in shares.items()
        ]
        merged = _elected(call, edits, weights) if rule.votes else _added(edits)
        torch.add(merged, base, out=result[at:end])
    return result


def _edit(rule: Election, call: Call, position: int, delta: Tensor, start: int, state: Sparsity | None) -> Tensor:
    """Return the kept elements of a delta, which is overwritten."""
    if not is_thinned(call, position):
        return delta
    numbers = () if state is None else state[position][2:]
    cuts = [LargestCut(int(key), int(last)) for key, last in zip(numbers[::2], numbers[1::2], strict=True)]
    kept = _kept(rule, call, position, delta, start, cuts)
    if rule.keeps == "ranked" and scale_of(rule, call) == "1/p":
        keys = magnitude_keys(delta)
        delta.div_(_by_rank(call, keys, _chances(call, position, keys.device).to(torch.float32)))
    return delta.mul_(kept)


def _added(edits: Sequence[Tensor]) -> Tensor:
    """Add all other tensors to the first one, in place, and return it."""
    for edit in edits[1:]:
        edits[0].add_(edit)
    return edits[0]


def _elected(call: Call, edits: Sequence[Tensor], weights: Sequence[Fraction]) -> Tensor:
    """Return the sum of the edits with the elected sign, divided by their weights or number if so asked."""
    side = _side(call, edits)
    merged, one = torch.zeros_like(side), torch.empty_like(side)
    below = torch.zeros_like(side) if call.flag("normalize") else None
    counted = call.word("average") == "count"
    for edit, weight in zip(edits, weights, strict=True):
        edit.mul_(side)  # now those with the elected sign are above 0
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
    """Return the elected sign of each element: 1, -1, or 0 if neither sign wins."""
    by_count = call.word("vote") == "count"
    total = edits[0].sign() if by_count else edits[0].clone()
    for edit in edits[1:]:
        total.add_(edit.sign() if by_count else edit)
    if call.word("zero_vote") == "none":
        return total.sign_()
    return total.ge_(0).mul_(2).sub_(1)


def _statistic(keeps: str) -> Statistic:
    """Return the statistic of a way to keep elements, the same for methods with and without a vote."""
    rule = Election(keeps, votes=False)
    name, arguments = STATISTICS[keeps]
    return Statistic(name, partial(_begin, rule), partial(_look, rule), _end, _turn, arguments=arguments)


_FOUND = {keeps: _statistic(keeps) for keeps in STATISTICS}


def _kernel(rule: Election) -> Kernel:
    """Return the kernel of a method."""
    grain = Grain.ROW if rule.keeps == "ranked" else Grain.ELEMENT
    return Kernel(partial(_apply, rule), _FOUND[rule.keeps], grain)


KERNELS: Mapping[str, Kernel] = {name: _kernel(rule) for name, rule in METHODS.items()}
