"""The numbers of a linear combination: exact coefficients, as the float32 values that kernels compute with. No torch.

Coefficients that add up to 1 take the pivot form `p + sum(c_i * (x_i - p))`, which costs the same, gives equal inputs
back exactly and is closer to the true value.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache, lru_cache
from typing import NamedTuple

__all__ = ["Shares", "float32_of", "is_order_free", "pivot_of", "shares_of"]


@lru_cache(maxsize=1 << 14)
def float32_of(number: Fraction) -> float:
    """Return the float32 nearest to `number`, ties to even; an infinity beyond the largest.

    By way of float64 it would be rounded twice, which goes wrong near the middle between two float32.
    """
    if not number:
        return 0.0
    magnitude = abs(number)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    rounded = round(magnitude / unit) * unit  # Fraction rounds half to even
    value = float(rounded) if rounded < Fraction(2) ** 128 else float("inf")
    return value if number > 0 else -value


def pivot_of(coefficients: Sequence[Fraction]) -> int | None:
    """Return the index of the pivot, the first of the largest magnitude; None when the sum is not exactly 1."""
    if sum(coefficients, Fraction(0)) != 1:
        return None
    return max(range(len(coefficients)), key=lambda index: abs(coefficients[index]))


class Shares(NamedTuple):
    """The numbers of a linear form: the pivot's index, the others as float32, and whether all of it is a mean."""

    pivot: int | None
    others: Sequence[float]
    is_mean: bool


@cache
def shares_of(coefficients: tuple[Fraction, ...]) -> Shares:
    """Return what a form's exact coefficients come to; most tensors of a model have the same."""
    pivot = pivot_of(coefficients)
    others = [float32_of(each) for index, each in enumerate(coefficients) if index != pivot]
    return Shares(pivot, others, pivot is not None and min(coefficients) >= 0)


@cache
def is_order_free(coefficients: tuple[Fraction, ...]) -> bool:
    """Whether a combination has the same bits in whichever order its terms stand: sums of two terms do not tell."""
    pivot = pivot_of(coefficients)
    magnitudes = [abs(each) for each in coefficients]
    is_sure = pivot is None or magnitudes.count(magnitudes[pivot]) == 1
    return is_sure and len(coefficients) - (pivot is not None) <= 2
