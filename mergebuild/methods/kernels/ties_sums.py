"""sd-mecha's longer forms of TIES: `ties_sum_extended` and `ties_sum_with_dropout`.

Each delta is thinned at random (`ties_sum_with_dropout` only), then to its largest magnitudes. The deltas vote on each
element's sign, and those of the other sign are left out there. The result is the mean of the rest; or that mean scaled,
row by row, by how much the deltas' angles agree (model stock); or the geometric median of the rest. These, and ranks,
need the whole tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from mergebuild.methods.agreement import median_shares, scale_of, takes
from mergebuild.methods.kernels.gram import stock_ratio
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State
from mergebuild.methods.kernels.linear import combine
from mergebuild.methods.kernels.randomness import bits
from mergebuild.methods.kernels.reduction import Gram, vector_sums
from mergebuild.methods.kernels.selection import Selection, magnitude_keys
from mergebuild.methods.shares import float32_of

__all__ = ["KERNELS"]


def _extended(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    base, *models = chunks
    deltas = [torch.sub(model, base) for model in models]
    return _ended(call, deltas, scale_of(call)).add_(base)


def _with_dropout(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    base, *models = chunks
    keep = call.number("keep")
    if keep <= 0:
        return base.clone()
    deltas = [torch.sub(model, base) for model in models]
    for position, delta in enumerate(deltas, 1):
        delta.mul_(_drawn(call, delta, position))
    return _ended(call, deltas, scale_of(call)).add_(base)


def _drawn(call: Call, delta: Tensor, position: int) -> Tensor:
    """Return 1 for each element that is kept at random, else 0 (float32 [n])."""
    count, keep, epsilon = len(delta), call.number("keep"), call.number("epsilon")
    chances = torch.full((count,), float(keep), dtype=torch.float64, device=delta.device)
    if epsilon:
        ranks = torch.empty(count, dtype=torch.float64, device=delta.device)
        order = delta.abs().argsort(stable=True)
        ranks[order] = torch.arange(1, count + 1, dtype=torch.float64, device=delta.device)
        # Divided by a tensor: dividing by a Python number, a device would multiply by its inverse.
        chances += ranks.sub_((count + 1) / 2).div_(ranks.new_full((), max(count, 1))).mul_(float(epsilon))
    thresholds = chances.clamp_(0, 1).mul_(2.0**32).floor_().to(torch.int64)
    drawn = bits(int(call.number("seed")), call.tensor, position, 0, count, delta.device)
    return (drawn < thresholds).to(torch.float32)


def _ended(call: Call, deltas: Sequence[Tensor], scale: Fraction) -> Tensor:
    """Return the merged deltas (float32 [n] each, overwritten), times `scale`."""
    for delta in deltas:
        delta.mul_(_largest(call, delta))
    elected = _elected_sign(call, deltas)
    agree = [(delta.sign() == elected).to(torch.float32) for delta in deltas]
    for delta, mask in zip(deltas, agree, strict=True):
        delta.mul_(mask)
    if call.word("end") == "median":
        return _median(call, deltas).mul_(float32_of(scale))
    ratio = _stock(call, deltas) if call.word("end") == "stock" and len(deltas) > 1 else None
    mean = _mean_of_agreeing(deltas, agree)
    if ratio is not None:
        mean = mean.view(len(ratio), -1).mul_(ratio[:, None]).view(-1)
    return mean.mul_(float32_of(scale))


def _elected_sign(call: Call, deltas: Sequence[Tensor]) -> Tensor:
    """Return the sign that wins the vote at each element; 0 if none does."""
    votes = [delta.sign() if call.word("vote") == "count" else delta for delta in deltas]
    elected = votes[0].clone()
    for vote in votes[1:]:
        elected.add_(vote)
    return elected.sign_()


def _mean_of_agreeing(deltas: Sequence[Tensor], agree: Sequence[Tensor]) -> Tensor:
    """Return the mean of the deltas that agree at each element. `agree`: 1 where they do. Both are overwritten."""
    for delta, mask in zip(deltas[1:], agree[1:], strict=True):
        deltas[0].add_(delta)
        agree[0].add_(mask)
    return deltas[0].div_(agree[0].clamp_(min=1))


def _largest(call: Call, delta: Tensor) -> Tensor | float:
    """Return 1 for each of the largest magnitudes, as many as the density says, else 0.

    A number if that is the same for all.
    """
    taken = takes(call)
    if taken is None:
        return 1.0 if call.number("density") > 0 else 0.0
    selection = Selection((taken,))
    keys = magnitude_keys(delta)
    more = bool(len(delta))
    while more:
        selection.look(keys, 0)
        more = selection.turn()
    return selection.cuts[0].kept(delta.abs(), 0) if len(delta) else 1.0


def _median(call: Call, deltas: Sequence[Tensor]) -> Tensor:
    if len(deltas) == 1:
        return deltas[0]
    gram = Gram(len(deltas) - 1)
    gram.add([delta.to(torch.float64).sub_(deltas[0]) for delta in deltas[1:]])
    pivot, shares = median_shares(call, gram.value())
    rest = [index for index in range(len(deltas)) if index != pivot]
    out, spare = torch.empty_like(deltas[0]), torch.empty_like(deltas[0])
    others, factors = [deltas[index] for index in rest], [float32_of(shares[index]) for index in rest]
    return combine(deltas[pivot], others, factors, out, spare)


def _stock(call: Call, deltas: Sequence[Tensor]) -> Tensor:
    """Return the share of the mean that is taken in each row (float32 [rows])."""
    width = call.shape[-1] if call.shape else 1
    rows = [delta.view(-1, max(width, 1)).to(torch.float64) for delta in deltas]
    pairs = [(index, index + 1) for index in range(len(rows) - 1)]
    ratio = stock_ratio(
        lambda i, j: vector_sums(rows[i] * rows[j]), len(rows), pairs, clamp=call.flag("clamp"), plain=False
    )
    return ratio.to(torch.float32)


def _memory(call: Call, inputs: int) -> int:
    """Return the bytes needed: each model's delta, mask, vote and float64 copy, and one delta's ranks."""
    return call.count * (4 * inputs * 4 + 8 * inputs + 8 * 4)


KERNELS: Mapping[str, Kernel] = {
    "ties_sum_extended": Kernel(_extended, grain=Grain.TENSOR, working_set=_memory),
    "ties_sum_with_dropout": Kernel(_with_dropout, grain=Grain.TENSOR, working_set=_memory),
}
