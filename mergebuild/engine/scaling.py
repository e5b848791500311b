"""Multiplies 8-bit floats by scales that are stored beside them, one for each block, which gives the weights.

The product is rounded to float32 once: to the nearest, or to odd (`rounding`) if it is rounded further. An 8-bit float
has at most four bits. So its product with a scale of 16 bits is exact in float32, and that with one of 32 bits is the
sum of two exact products: with the scale's first 20 bits, and with the rest. The difference of that sum and the nearest
float32 value is exact as well, and shows between which of its neighbours the product lies.
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
"""Elements computed at a time, so that intermediate results stay in the processor's cache."""

_SPLIT = -16
"""As a 32-bit integer: all bits but the last four."""

_ORDINARY = (2.0**-60, 2.0**60)
"""With scales between these, no product leaves the normal numbers of float32, nor does the difference."""


class Factors(NamedTuple):
    """Scales, [rows of blocks, blocks in a row], on the device that computes."""

    whole: Tensor
    """float32; float64 if they are that in the file."""
    head: Tensor | None
    """Their first 20 bits (float32), with the remainder in `rest`. None: products are exact in float32, or are computed
    in float64."""
    rest: Tensor | None


def factors_of(scales: Tensor, bring: Callable[[Tensor], Tensor]) -> Factors:
    """Return scales ready for multiplying. `bring`: copies a tensor to the device that computes."""
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
        start: The index of the first element.
        factors: The scales of the whole tensor.
        scaling: How they are laid out.
        odd: Round to odd.
    """
    if factors.whole.numel() == 1:
        factors = Factors(*(each if each is None else each.reshape(()) for each in factors))  # type: ignore[arg-type]
        for begin in range(0, len(values), _PART):
            _product(values[begin : begin + _PART], factors, odd=odd)
        return values
    columns, done = scaling.columns, 0
    most = max(1, _PART // columns) * columns
    while done < len(values):  # the rest of a row, then whole rows, then the beginning of one
        row, column = divmod(start + done, columns)
        left = len(values) - done
        size = min(columns - column, left) if column or left < columns else min(left // columns * columns, most)
        tall, wide = max(1, size // columns), min(size, columns)
        spread = [each if each is None else _spread(each, (row, tall), (column, wide), scaling) for each in factors]
        _product(values[done : done + size].view(tall, wide), Factors(*spread), odd=odd)  # type: ignore[arg-type]
        done += size
    return values


def _spread(factors: Tensor, rows: tuple[int, int], columns: tuple[int, int], scaling: Scaling) -> Tensor:
    """Return the scale of each element of some rows and columns, both given as the first and their number."""
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
    values.mul_(factors.whole)  # the nearest to their sum; an infinity stays infinite
    lacks = rest.sub_(torch.sub(values, head, out=head))
    away = lacks.sign_().mul_(torch.sign(values)).nan_to_num_()  # 1: of a larger magnitude
    bits = values.view(torch.int32)  # adding 1 gives the next value away from zero
    is_even = (bits & 1).neg_().add_(1)
    bits.add_(is_even.mul_(away.to(torch.int32)))
