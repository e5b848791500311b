"""Linear combinations as kernels compute them: from exact coefficients to float32 values. No torch.

If the coefficients add up to 1, the combination is computed as `p + sum(c_i * (x_i - p))` with one input p as the
*pivot*. That costs the same, returns equal inputs exactly, and is closer to the true value.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache, lru_cache
from typing import NamedTuple

__all__ = ["Shares", "float32_of", "is_order_free", "pivot_of", "shares_of"]


@lru_cache(maxsize=1 << 14)
def float32_of(number: Fraction) -> float:
    """Return the float32 nearest to `number`, ties to even; an infinity if it is beyond the largest float32.

    Converting by way of float64 would round twice, which can give the wrong neighbour.
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
    """Return the index of the pivot: the first coefficient of the largest magnitude.

    None if their sum is not exactly 1.
    """
    if sum(coefficients, Fraction(0)) != 1:
        return None
    return max(range(len(coefficients)), key=lambda index: abs(coefficients[index]))


class Shares(NamedTuple):
    """A linear combination in float32.

    Attributes:
        pivot: The pivot's index; None if there is none.
        others: The coefficients of the other inputs, as float32 values.
        is_mean: Whether the coefficients add up to 1 and none is negative.
    """

    pivot: int | None
    others: Sequence[float]
    is_mean: bool


@cache
def shares_of(coefficients: tuple[Fraction, ...]) -> Shares:
    """Return the combination with these exact coefficients, in float32.

    Cached, as most tensors of a model have the same.
    """
    pivot = pivot_of(coefficients)
    others = [float32_of(each) for index, each in enumerate(coefficients) if index != pivot]
    return Shares(pivot, others, pivot is not None and min(coefficients) >= 0)


@cache
def is_order_free(coefficients: tuple[Fraction, ...]) -> bool:
    """Whether a combination has the same bits for any order of its terms.

    It has if at most two numbers are added up, and if the pivot, if any, is the only coefficient of its magnitude.
    """
    pivot = pivot_of(coefficients)
    magnitudes = [abs(each) for each in coefficients]
    is_sure = pivot is None or magnitudes.count(magnitudes[pivot]) == 1
    return is_sure and len(coefficients) - (pivot is not None) <= 2
