"""Linear combinations rounded once to float16, to compare the program's values with.

The reference is the exact value in float64. Float16 inputs are whole multiples of 2^-24 and coefficients are rational,
so it is a quotient of two whole numbers, which Python rounds correctly. A plain float64 sum would not do: with
coefficients such as 0.3 one value in 200 is halfway between two float16 numbers, and the sum's own error would then
decide which one counts as right.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["Closeness", "closeness", "combination"]


def combination(terms: Sequence[tuple[Fraction, Tensor]]) -> list[float]:
    """Return the sum of coefficient times float16 tensor, as the float64 nearest to the exact value."""
    denominator = math.lcm(*(coefficient.denominator for coefficient, _ in terms))
    total = [0] * terms[0][1].numel()
    for coefficient, tensor in terms:
        factor = coefficient.numerator * (denominator // coefficient.denominator)
        units = (tensor.reshape(-1).to(torch.float64) * 2**24).to(torch.int64).tolist()
        total = [so_far + factor * each for so_far, each in zip(total, units, strict=True)]
    return [each / (denominator << 24) for each in total]


def _steps(raw: bytes) -> list[int]:
    """Return float16 values as integers whose difference is the number of units in the last place between them."""
    words = struct.unpack(f"<{len(raw) // 2}H", raw)
    return [-(word & 0x7FFF) if word & 0x8000 else word for word in words]


@dataclass
class Closeness:
    """How near values are to the reference: the number of elements, of equal ones, and the largest distance in ulps."""

    elements: int = 0
    exact: int = 0
    worst: int = 0

    def add(self, found: bytes, wanted: Sequence[float]) -> None:
        """Compare the bytes of a float16 tensor with float64 values; `struct` rounds them once, ties to even."""
        reference = _steps(struct.pack(f"<{len(wanted)}e", *wanted))
        distances = [abs(one - other) for one, other in zip(_steps(found), reference, strict=True)]
        self.elements += len(distances)
        self.exact += distances.count(0)
        self.worst = max(self.worst, *distances)


def closeness(pairs: Sequence[tuple[bytes, Sequence[float]]]) -> Closeness:
    """Compare several tensors, each as float16 bytes and float64 values."""
    found = Closeness()
    for raw, wanted in pairs:
        found.add(raw, wanted)
    return found
