"""Multiply 8-bit floats by scales that lie beside them, one for each block: what they stand for as weights.

The product is rounded to float32 once: to the nearest, or to odd (`rounding`), for whoever rounds it further. An 8-bit
float has four bits at most. So its product with a scale of 16 bits is exact in float32, and that with one of 32 bits is
the sum of two that are: with the scale's first 20 bits, and with the rest. How much the nearest float32 value lacks of
that sum is exact as well, and says which of its neighbours the product lies between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mergebuild.engine.rounding import to_odd
from mergebuild.formats.header import Scaling

__all__ = ["Factors", "factors_of", "multiply"]

_PART = 1 << 15
"""Elements taken at a time, so that what is needed meanwhile stays in the processor's cache."""

_SPLIT = -16
"""In 32-bit integers: all bits but the last four."""

_ORDINARY = (2.0**-60, 2.0**60)
"""Scales between which no product leaves the normal numbers of float32, nor does what it lacks."""


class Factors(NamedTuple):
    """Scales, [rows of blocks, blocks in a row], where they are computed with."""

    whole: Tensor
    """float32; float64 where they are that in the file."""
    head: Tensor | None
    """Their first 20 bits (float32), and in `rest` what that lacks; None: products are exact in float32, or not even
    these are."""
    rest: Tensor | None


def factors_of(scales: Tensor, bring: Callable[[Tensor], Tensor]) -> Factors:
    """Return scales ready to be multiplied by. `bring`: takes a tensor of the host's to where it is computed with."""
    if scales.dtype is not torch.float32:
        is_short = scales.dtype is not torch.float64
        return Factors(bring(scales.float() if is_short else scales.clone()), None, None)
    whole = scales.clone()
    sizes = whole.abs()
    if not bool(((sizes == 0) | ((sizes > _ORDINARY[0]) & (sizes < _ORDINARY[1]))).all()):
        return Factors(bring(whole.double()), None, None)
    head = (whole.view(torch.int32) & _SPLIT).view(torch.float32)
    return Factors(*map(bring, (whole, head, whole - head)))


def multiply(values: Tensor, start: int, factors: Factors, scaling: Scaling, *, odd: bool = False) -> Tensor:
    """Multiply values, in place, by their scales; return them.

    Args:
        values: float32 [n], the elements from `start` on of a tensor of 8-bit floats.
        start: which element the first is.
        factors: the scales of the whole tensor.
        scaling: how they lie.
        odd: round to odd.
    """
    if factors.whole.numel() == 1:
        factors = Factors(*(each if each is None else each.reshape(()) for each in factors))  # type: ignore[arg-type]
        for begin in range(0, len(values), _PART):
            _product(values[begin : begin + _PART], factors, odd=odd)
        return values
    columns, done = scaling.columns, 0
    most = max(1, _PART // columns) * columns
    while done < len(values):  # what is left of a row, whole rows, what is begun of one
        row, column = divmod(start + done, columns)
        left = len(values) - done
        size = min(columns - column, left) if column or left < columns else min(left // columns * columns, most)
        tall, wide = max(1, size // columns), min(size, columns)
        spread = [each if each is None else _spread(each, (row, tall), (column, wide), scaling) for each in factors]
        _product(values[done : done + size].view(tall, wide), Factors(*spread), odd=odd)  # type: ignore[arg-type]
        done += size
    return values


def _spread(factors: Tensor, rows: tuple[int, int], columns: tuple[int, int], scaling: Scaling) -> Tensor:
    """Return the scale of each element of some rows and columns, both given as the first and how many."""
    first, tall = rows
    found = factors[torch.arange(first, first + tall, device=factors.device) // scaling.block_rows]
    if found.shape[1] == 1:
        return found
    begin, wide = columns
    return found.repeat_interleave(scaling.block_columns, 1)[:, begin : begin + wide]


def _product(values: Tensor, factors: Factors, *, odd: bool) -> None:
    if factors.whole.dtype is torch.float64:
        exact = values.double().mul_(factors.whole)
        if odd:
            to_odd(exact.view(-1), values.view(-1))
        else:
            values.copy_(exact)
        return
    if not odd or factors.head is None or factors.rest is None:
        values.mul_(factors.whole)
        return
    head, rest = values * factors.head, values * factors.rest
    values.mul_(factors.whole)  # the nearest to their sum; an infinity stays one
    lacks = rest.sub_(torch.sub(values, head, out=head))
    away = lacks.sign_().mul_(torch.sign(values)).nan_to_num_()  # 1: of a larger magnitude
    bits = values.view(torch.int32)  # one more is one further from zero
    is_even = (bits & 1).neg_().add_(1)
    bits.add_(is_even.mul_(away.to(torch.int32)))
