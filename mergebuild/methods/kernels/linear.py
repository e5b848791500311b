"""Linear combinations in float32, every product, difference and sum rounded on its own.

Fused operations (`torch.lerp`, `add` with `alpha`) give other bits where the processor has no fused multiply-add;
separate ones agree everywhere, on CPU and GPU, for any chunk. Coefficients that add up to 1 take the pivot form
`p + sum(c_i * (x_i - p))`, which costs the same, gives equal inputs back exactly and is closer to the true value.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["combine", "pivot_of"]


def pivot_of(coefficients: Sequence[Fraction]) -> int | None:
    """Return the index of the pivot, the first of the largest magnitude; None when the sum is not exactly 1."""
    if sum(coefficients, Fraction(0)) != 1:
        return None
    return max(range(len(coefficients)), key=lambda index: abs(coefficients[index]))


def combine(
    inputs: Sequence[Tensor], coefficients: Sequence[float], pivot: int | None, out: Tensor, spare: Tensor
) -> Tensor:
    """Write a combination of chunks into `out` and return the tensor that holds it, perhaps an input itself.

    Shapes: all [n]. Dtypes: all float32; `coefficients` are float32 values. `out` and `spare` are buffers that no
    input overlaps. The terms are taken in the order given: it is part of the result.
    """
    if not inputs:
        return out.zero_()
    if pivot is None:
        return _sum(inputs, coefficients, out, spare)
    centre = inputs[pivot]
    others = [index for index in range(len(inputs)) if index != pivot]
    if not others:
        return centre
    for index in others:
        part = out if index == others[0] else spare
        torch.sub(inputs[index], centre, out=part)
        part.mul_(coefficients[index])
        if part is spare:
            out.add_(part)
    return out.add_(centre)


def _sum(inputs: Sequence[Tensor], coefficients: Sequence[float], out: Tensor, spare: Tensor) -> Tensor:
    torch.mul(inputs[0], coefficients[0], out=out)
    for each, coefficient in zip(inputs[1:], coefficients[1:], strict=True):
        torch.mul(each, coefficient, out=spare)
        out.add_(spare)
    return out
