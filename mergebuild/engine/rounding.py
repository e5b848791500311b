"""Round float64 once, though what computes and what rounds to the dtypes of models works on float32.

A float64 value that is first rounded to the nearest float32 and then to a narrower dtype may end beside the nearest
value of that dtype: the first rounding can put it on a tie that it was not on. *Rounded to odd* it can't: of the two
float32 values around one that is none, the one whose last bit is 1 is taken. It lies on the same side of every value
and every tie of a narrower dtype as the float64 value does, for these all end in a 0 there, and so it rounds to the
same. Beyond float32's largest value it is that value, which is odd, and too large for all narrower dtypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_odd"]

_PART = 1 << 15
"""Elements rounded at a time, so that what is needed meanwhile stays in the processor's cache."""


def to_odd(values: Tensor, out: Tensor) -> Tensor:
    """Write values (float64 [n]) rounded to odd into `out` (float32 [n]), and return it; NaN and Inf stay.

    Elementwise operations alone that are exact or rounded in one way, so that every device gives the same.
    """
    for start in range(0, len(values), _PART):
        _part_to_odd(values[start : start + _PART], out[start : start + _PART])
    return out


def _part_to_odd(values: Tensor, out: Tensor) -> None:
    out.copy_(values)
    bits = out.view(torch.int32)  # sign and magnitude: one more is one further from zero
    is_even = torch.remainder(bits, 2) == 0
    exact, nearest = values.abs(), out.double().abs()
    below, above = (nearest < exact) & is_even, (nearest > exact) & is_even
    bits.add_(below.to(torch.int32)).sub_(above.to(torch.int32))
