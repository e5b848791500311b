"""`a + t * (b - a)` for an exact share t, each operation rounded on its own."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from mergebuild.methods.shares import float32_of

__all__ = ["lerp"]


def lerp(a: Tensor, b: Tensor, share: Fraction) -> Tensor:
    """Return `a + share * (b - a)` (float32, new). For the shares 0 and 1 it has the bits of a or b."""
    if share in {0, 1}:
        return (b if share else a).clone()
    return torch.sub(b, a).mul_(float32_of(share)).add_(a)
