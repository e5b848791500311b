"""Rounds float64 values as if once, although computing and rounding to the dtypes of models use float32.

A float64 value that is first rounded to the nearest float32 and then to a narrower dtype may not become the nearest
value of that dtype: the first rounding can put it on a tie where it was not. *Rounding to odd* avoids this: if a value
lies between two float32 values, the one whose last bit is 1 is taken. It is on the same side of every value and every
tie of a narrower dtype as the float64 value, since all of these end in 0 there, and so it is rounded to the same.
Beyond float32's largest value it is that value, which is odd, and too large for all narrower dtypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_odd"]

_PART = 1 << 15
"""Elements rounded at a time, so that intermediate results stay in the processor's cache."""


def to_odd(values: Tensor, out: Tensor) -> Tensor:
    """Write values (float64 [n]) rounded to odd into `out` (float32 [n]), and return it; NaN and Inf stay.

    Uses only elementwise operations that are exact or always rounded alike, so that every device gives the same.
    """
    for start in range(0, len(values), _PART):
        _part_to_odd(values[start : start + _PART], out[start : start + _PART])
    return out


def _part_to_odd(values: Tensor, out: Tensor) -> None:
    out.copy_(values)
    bits = out.view(torch.int32)  # sign and magnitude: adding 1 gives the next value away from zero
    is_even = torch.remainder(bits, 2) == 0
    exact, nearest = values.abs(), out.double().abs()
    below, above = (nearest < exact) & is_even, (nearest > exact) & is_even
    bits.add_(below.to(torch.int32)).sub_(above.to(torch.int32))
