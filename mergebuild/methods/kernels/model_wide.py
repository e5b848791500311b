"""`cosine_a` and `cosine_b`: blend two models by how similar they are, relative to the similarity in the whole model.

For each place after the first dimension, the cosine of the two tensors along that dimension is their similarity there.
The survey collects the similarities of all tensors (`similarities`, one tensor at a time), and finds their range
without outliers (`similarity_range`). A tensor's shares are its similarities, scaled to that range. The range depends
only on the models, so a sweep over `alpha` finds it once.

Sums are those of `reduction.py`, the same on every machine. The cosine with a zero vector is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import sqrt

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Argument, Call, Grain, Kernel, State, Survey
from mergebuild.methods.kernels.reduction import ColumnSums, RunningSum
from mergebuild.methods.kernels.roots import square_root
from mergebuild.methods.method import UndefinedError

__all__ = ["KERNELS", "similarities", "similarity_range"]

_AT_ONCE = 1 << 18
"""Elements that are multiplied at a time."""


def similarities(method: str, a: Tensor, b: Tensor) -> Tensor:
    """Return the similarities that one tensor adds to the survey of `method` (`cosine_a`, `cosine_b`): float64 [k].

    `a` and `b` have one shape. k is the number of elements after the first dimension (1 if there is none), or 0.
    """
    if not a.numel():
        return torch.zeros(0, dtype=torch.float64, device=a.device)
    along, whole = _cosines(method, a, b)
    if method == "cosine_a":
        return along
    return along[:0] if whole is None else (along + whole) / 2


def similarity_range(collected: Sequence[Tensor]) -> tuple[float, float]:
    """Return the least and the greatest similarity over all tensors, outliers left out.

    These are values below the 1st percentile, then values above the 99th of the rest. (A percentile between two values
    is their mean.)

    Raises:
        UndefinedError: there are no similarities, or all are the same.
    """
    values = torch.cat([part.reshape(-1) for part in collected]) if collected else torch.zeros(0)
    if not values.numel():
        message = "the models have no common tensors to compare"
        raise UndefinedError(message)
    values = values.to(torch.float64).sort().values
    values = values[values >= _percentile(values, 1)]
    values = values[values <= _percentile(values, 99)]
    low, high = float(values[0]), float(values[-1])
    if low == high:
        message = "the models are equally alike everywhere, which leaves no range of likeness to blend by"
        raise UndefinedError(message)
    return low, high


def _percentile(values: Tensor, percent: int) -> float:
    """Return the percentile of sorted values; between two values it is their mean."""
    place = Fraction(percent * (len(values) - 1), 100)
    below = place.numerator // place.denominator
    above = min(below + 1, len(values) - 1) if place.denominator != 1 else below
    return (float(values[below]) + float(values[above])) / 2


def _cosines(method: str, a: Tensor, b: Tensor) -> tuple[Tensor, float | None]:
    """Return the cosines along the first dimension, and the cosine of the whole tensors (None if one of them is 0).

    For `cosine_a`, vectors along the first dimension are scaled to length 1 before the whole tensors are compared.
    """
    along, first, second = _column_sums(a, b)
    lengths = square_root(first * second)
    cosines = torch.where(lengths > 0, along / lengths, 0.0).clamp_(-1, 1)
    if method == "cosine_a":
        along, first, second = cosines, (first > 0).to(torch.float64), (second > 0).to(torch.float64)
    product, left, right = (_total(each) for each in (along, first, second))
    length = sqrt(left) * sqrt(right)
    return cosines, min(max(product / length, -1.0), 1.0) if length > 0 else None


def _column_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums over the first dimension of a * b, a * a and b * b (float64 [elements after it])."""
    columns = a.numel() // a.shape[0] if a.dim() else 1
    sums = [ColumnSums(columns) for _ in range(3)]
    left, right = a.reshape(-1), b.reshape(-1)
    for start in range(0, a.numel(), _AT_ONCE):
        x, y = (each[start : start + _AT_ONCE].to(torch.float64) for each in (left, right))
        for each, product in zip(sums, (x * y, x * x, y * y), strict=True):
            each.add(product)
    return sums[0].value(), sums[1].value(), sums[2].value()


def _total(values: Tensor) -> float:
    sum_of = RunningSum()
    sum_of.add(values)
    return sum_of.value()


def _apply(method: str, call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
    """Return the blended tensor; `state` is the model's range of similarity."""
    a, b = (chunk.view(call.shape) for chunk in chunks)
    if not call.count:
        return a.clone()
    low, high = state
    alpha = call.number("alpha")
    along, whole = _cosines(method, a, b)
    share = (along + (whole or 0.0)).div_(2).sub_(low).div_(float(Fraction(high) - Fraction(low)))
    share = share.sub_(float(abs(alpha) if method == "cosine_a" else alpha)).clamp_(0, 1).to(torch.float32)
    share = share.view(call.shape[1:] if call.shape else ())
    return torch.where(share == 1, a, torch.sub(a, b).mul_(share).add_(b))


def _look(method: str, _arguments: Mapping[str, Argument], tensors: Mapping[str, Sequence[Tensor]]) -> Tensor:
    ((a, b),) = tensors.values()
    return similarities(method, a, b)


def _memory(call: Call, inputs: int) -> int:
    return 4 * (inputs + 3) * call.count + 64 * (_AT_ONCE + call.count // max((1, *call.shape[:1])))


KERNELS: Mapping[str, Kernel] = {
    name: Kernel(
        partial(_apply, name),
        grain=Grain.TENSOR,
        working_set=_memory,
        survey=Survey(partial(_look, name), similarity_range),
    )
    for name in ("cosine_a", "cosine_b")
}
