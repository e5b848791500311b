"""Merges that keep only the most important elements, each by a rule of its own.

- sce: where the models differ most from each other; each model's weight is its share of the squares of the kept deltas
- arcee_fusion: where a change is large and in a row whose softmax changes much, compared with the quartiles of the
  product of both
- topk_mask: where the two models differ most

Exponentials and logarithms are those of `elementary.py`, sums those of `reduction.py`, and ranks those of
`selection.py`, so the bits are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf

import torch
from torch import Tensor

from mergebuild.methods.energies import weights_of
from mergebuild.methods.fences import quartiles_of, threshold_of, width_of
from mergebuild.methods.kernels.blend import lerp
from mergebuild.methods.kernels.elementary import exp2, log2
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State, Statistic
from mergebuild.methods.kernels.reduction import BLOCK, RunningSum, vector_sums
from mergebuild.methods.kernels.selection import LargestCut, Selection, magnitude_keys, ordered_keys
from mergebuild.methods.shares import float32_of

__all__ = ["KERNELS"]

_LEAST_SHARE = 1e-6
"""sce: sums of weights smaller than this count as this when they divide."""
_LN2 = 0.6931471805599453
_PER_LN2 = 1.4426950408889634
_SMOOTHING = 1e-8
"""arcee_fusion: added to probabilities."""


# ---- sce ----


@dataclass(slots=True)
class _Energies:
    """First the search for the cut of the variances, if there is one; then the sums of squares of the kept deltas."""

    selection: Selection | None
    sums: list[RunningSum]
    selecting: bool


def _begin_sce(call: Call, inputs: int) -> _Energies:
    share = call.number("select_topk")
    selection = Selection(lambda nonzero: (int(share * nonzero),)) if 0 < share < 1 else None
    return _Energies(selection, [RunningSum() for _ in range(inputs - 1)], selecting=selection is not None)


def _look_sce(call: Call, account: _Energies, chunks: Sequence[Tensor], start: int) -> None:
    if call.number("select_topk") <= 0:
        return
    for at in range(0, len(chunks[0]), 4 * BLOCK):
        base, *models = (chunk[at : at + 4 * BLOCK] for chunk in chunks)
        if account.selecting:
            assert account.selection is not None
            account.selection.look(magnitude_keys(_spread(models)), start + at)
            continue
        kept = None if account.selection is None else account.selection.cuts[0].kept(_spread(models), start + at)
        for total, model in zip(account.sums, models, strict=True):
            delta = model.to(torch.float64).sub_(base)
            if kept is not None:
                delta.mul_(kept)
            total.add(delta.mul_(delta))


def _turn_sce(_call: Call, account: _Energies) -> bool:
    if not account.selecting:
        return False
    assert account.selection is not None
    account.selecting = account.selection.turn()
    return True


def _end_sce(_call: Call, account: _Energies) -> tuple[float | int, ...]:
    """Return the key and the index of the cut, then the sum of squares of each model."""
    cut = LargestCut(0, -1) if account.selection is None else account.selection.cuts[0]
    return (*cut, *(total.value() for total in account.sums))


def _spread(models: Sequence[Tensor]) -> Tensor:
    """Return the variance over the models, times their number; exactly 0 where all are equal."""
    away = [model - models[0] for model in models]
    mean = torch.zeros_like(models[0])
    for each in away:
        mean.add_(each)
    mean.mul_(float32_of(Fraction(1, len(models))))
    spread = torch.zeros_like(mean)
    for each in away:
        each.sub_(mean)
        spread.add_(each.mul_(each))
    return spread


def _apply_sce(call: Call, chunks: Sequence[Tensor], start: int, state: State) -> Tensor:
    share = call.number("select_topk")
    if share <= 0:
        return chunks[0]
    cut = LargestCut(int(state[0]), int(state[1]))
    weights = weights_of(call, state[2:])
    result = torch.empty_like(chunks[0])
    for at in range(0, len(result), BLOCK):
        base, *models = (chunk[at : at + BLOCK] for chunk in chunks)
        deltas = [model - base for model in models]
        if share < 1:
            kept = cut.kept(_spread(models), start + at)
            for delta in deltas:
                delta.mul_(kept)
        torch.add(_sce_elected(deltas, weights), base, out=result[at : at + BLOCK])
    return result


def _sce_elected(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of the deltas whose sign is that of their sum. The deltas are overwritten."""
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total.add_(delta)
    side = total.ge_(0).mul_(2).sub_(1)
    merged, below, one = torch.zeros_like(side), torch.zeros_like(side), torch.empty_like(side)
    for delta, weight in zip(deltas, weights, strict=True):
        delta.mul_(side)  # now those with the elected sign are above 0
        below.add_(torch.gt(delta, 0, out=one).mul_(weight))
        merged.add_(delta.clamp_(min=0).mul_(weight))
    return merged.mul_(side).div_(below.clamp_(min=_LEAST_SHARE))


# ---- arcee_fusion ----


@dataclass(slots=True)
class _Quartiles:
    """The divergences of the rows, from the first look, and the search for the quartiles of importance.

    All divergences are in one tensor: keeping a small tensor per block would keep the blocks' freed memory from being
    reused.
    """

    selection: Selection
    divergences: Tensor | None = None
    found: bool = False


def _begin_arcee(call: Call, _inputs: int) -> _Quartiles:
    return _Quartiles(Selection(quartiles_of(call)))


def _look_arcee(call: Call, account: _Quartiles, chunks: Sequence[Tensor], start: int) -> None:
    width = width_of(call)
    step = max(1, BLOCK // width) * width
    if account.divergences is None:
        account.divergences = torch.empty(call.count // width, device=chunks[0].device)
    for at in range(0, len(chunks[0]), step):
        base, model = (chunk[at : at + step] for chunk in chunks)
        first = (start + at) // width
        divergences = account.divergences[first : first + len(base) // width]
        if not account.found:
            divergences.copy_(_divergences(model.view(-1, width), base.view(-1, width)))
        account.selection.look(ordered_keys(_importance(model, base, divergences)), start + at)


def _turn_arcee(_call: Call, account: _Quartiles) -> bool:
    account.found = True
    return account.selection.turn()


def _end_arcee(call: Call, account: _Quartiles) -> tuple[float, Tensor]:
    """Return the threshold (float32) and the rows' divergences (float32 [rows])."""
    if not call.count:
        return 0.0, torch.empty(0)
    assert account.divergences is not None
    return threshold_of(account.selection.cuts), account.divergences


def _divergences(model: Tensor, base: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of each row's softmax from the base's (float32 [r] of float32 [r, d])."""
    p, q = _softmax(model), _softmax(base)
    ratio = log2(p / q).mul_(_LN2)
    return vector_sums(ratio.mul_(p)).to(torch.float32)


def _softmax(rows: Tensor) -> Tensor:
    """Return the smoothed softmax of each row (float64)."""
    wide = rows.to(torch.float64)
    wide.sub_(wide.amax(dim=1, keepdim=True)).mul_(_PER_LN2)
    powers = exp2(wide)
    return powers.div_(vector_sums(powers)[:, None]).add_(_SMOOTHING)


def _importance(model: Tensor, base: Tensor, divergences: Tensor) -> Tensor:
    """Return the magnitude of each change times its row's divergence (float32 [n]); 0 where that is 0."""
    change = (model - base).abs_()
    change.view(len(divergences), -1).mul_(divergences[:, None])
    return change.nan_to_num_(nan=0.0, posinf=inf, neginf=-inf)  # an infinity, of a change that overflows, times 0


def _apply_arcee(call: Call, chunks: Sequence[Tensor], start: int, state: State) -> Tensor:
    base, model = chunks
    threshold, divergences = state
    first, width = start // width_of(call), width_of(call)
    importance = _importance(model, base, divergences[first : first + len(base) // width])
    return torch.where(importance >= threshold, model, base)


# ---- topk_mask ----


def _begin_topk(call: Call, _inputs: int) -> Selection | None:
    density = call.number("density")
    return Selection([max(1, int(density * call.count))]) if 0 < density < 1 else None


def _look_topk(_call: Call, account: Selection | None, chunks: Sequence[Tensor], start: int) -> None:
    if account is None:
        return
    for at in range(0, len(chunks[0]), 4 * BLOCK):
        change = chunks[1][at : at + 4 * BLOCK] - chunks[0][at : at + 4 * BLOCK]
        account.look(magnitude_keys(change, out=change), start + at)


def _turn_topk(_call: Call, account: Selection | None) -> bool:
    return account is not None and account.turn()


def _end_topk(_call: Call, account: Selection | None) -> tuple[int, ...] | None:
    return None if account is None else tuple(account.cuts[0])


def _apply_topk(call: Call, chunks: Sequence[Tensor], start: int, state: State) -> Tensor:
    a, b = chunks
    if call.number("density") <= 0:
        return a
    result = torch.empty_like(a)
    for at in range(0, len(a), BLOCK):
        low, high, out = (each[at : at + BLOCK] for each in (a, b, result))
        blended = lerp(low, high, call.number("alpha"))
        if state is not None:
            kept = LargestCut(int(state[0]), int(state[1])).kept((high - low).abs_(), start + at)
            torch.where(kept > 0, blended, low, out=out)
        else:
            out.copy_(blended)
    return result


KERNELS: Mapping[str, Kernel] = {
    "sce": Kernel(
        _apply_sce, Statistic("energies", _begin_sce, _look_sce, _end_sce, _turn_sce, arguments=("select_topk",))
    ),
    "arcee_fusion": Kernel(
        _apply_arcee,
        Statistic("importance quartiles", _begin_arcee, _look_arcee, _end_arcee, _turn_arcee),
        Grain.VECTOR,
    ),
    "topk_mask": Kernel(
        _apply_topk, Statistic("largest change", _begin_topk, _look_topk, _end_topk, _turn_topk, arguments=("density",))
    ),
}
