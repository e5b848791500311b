"""Exact decimals: which numbers a mergefile may have, and how they are written as text again.

A decimal is a fraction whose denominator has no prime factors but 2 and 5, so its shortest plain form is unique:
`0.30`, `0.3` and `3e-1` are one number, and `1.0` is `1`. Irrational numbers are computed with at least 50 digits and
rounded to 30, so that they are the same on every machine.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache

__all__ = ["exact_decimal", "inverse_sigmoid", "is_unwieldy", "rounded", "shortest_text", "sigmoid"]

_MOST_DIGITS = 1000
"""Numbers from 1e-1000 to 1e1000 are allowed: far beyond any float, and small enough for memory."""

_MOST_BITS = 3400
"""The most bits of a numerator or denominator: 1000 digits and a few more."""

_WORK = Context(prec=60, rounding=ROUND_HALF_EVEN)
_ROUND = Context(prec=30, rounding=ROUND_HALF_EVEN)


def exact_decimal(text: str) -> Fraction:
    """Return the number that a decimal text means, exactly.

    Raises:
        ValueError: it is no decimal number; NaN or infinite; has more than 1000 digits or an exponent beyond 1000. The
            message says which.
    """
    beyond = "beyond 1e-1000 to 1e1000"
    if len(text) > _MOST_DIGITS:
        raise ValueError(beyond)
    number = _finite_decimal(text)
    if number and abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError(beyond)
    return Fraction(number) if number else Fraction(0)


def _finite_decimal(text: str) -> Decimal:
    """Return the number that a text means; raise `ValueError` if it means none, or one that is not finite."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        message = "not a decimal number"
        raise ValueError(message) from None
    if not number.is_finite():
        message = "not a finite number"
        raise ValueError(message)
    return number


def is_unwieldy(number: Fraction) -> bool:
    """Return whether a number has more than about 1000 digits, with which computing would take too long.

    A product of products doubles its digits with each step, and a sum of fractions multiplies their denominators.
    """
    return max(number.numerator.bit_length(), number.denominator.bit_length()) > _MOST_BITS


@lru_cache(maxsize=65536)
def shortest_text(number: Fraction) -> str:
    """Return the shortest plain decimal form: `0.3`, `1`, `-12.5`.

    Raises:
        ValueError: the number has no finite decimal form, such as 1/3.
    """
    places = _places(number)
    if places == 0:
        return str(number.numerator)
    digits = str(abs(number.numerator) * 10**places // number.denominator).rjust(places + 1, "0")
    return f"{'-' if number < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _places(number: Fraction) -> int:
    """Return how many digits a number has after the point; raise `ValueError` if it has no finite decimal form."""
    rest = number.denominator
    twos = (rest & -rest).bit_length() - 1
    rest >>= twos
    fives = 0
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    if rest != 1:
        message = f"{number} has no finite decimal form"
        raise ValueError(message)
    return max(twos, fives)


def rounded(number: Decimal) -> Fraction:
    """Return a number computed to at least 50 digits, rounded to 30 significant ones (half to even)."""
    return Fraction(_ROUND.plus(number))


def sigmoid(amount: Fraction) -> Fraction:
    """Return a^2 * (3 - 2a), the smoothstep function; exact."""
    return amount * amount * (3 - 2 * amount)


def inverse_sigmoid(amount: Fraction) -> Fraction:
    """Return 1/2 - sin(asin(1 - 2a) / 3), the inverse of `sigmoid` on 0..1, to 30 significant digits.

    It is the root of 3t^2 - 2t^3 = a, found by Newton's iteration, which needs no trigonometry; the upper half by
    symmetry.

    Raises:
        ValueError: an amount outside 0..1.
    """
    if not 0 <= amount <= 1:
        message = f"{amount} is outside 0..1"
        raise ValueError(message)
    if amount in (0, 1):
        return amount
    lower = _lower_root(min(amount, 1 - amount))
    return rounded(lower if 2 * amount <= 1 else _WORK.subtract(Decimal(1), lower))


def _lower_root(amount: Fraction) -> Decimal:
    """Return the root in 0..1/2 for an amount in 0..1/2, accurate to nearly all digits of the working precision."""
    work = _WORK
    value = work.divide(Decimal(amount.numerator), Decimal(amount.denominator))
    root = work.sqrt(work.divide(value, Decimal(3)))
    for _ in range(12):  # each step doubles the correct digits: 7 are enough for 60 digits
        square = work.multiply(root, root)
        excess = work.subtract(work.multiply(square, work.subtract(Decimal(3), work.add(root, root))), value)
        slope = work.multiply(work.multiply(Decimal(6), root), work.subtract(Decimal(1), root))
        root = work.subtract(root, work.divide(excess, slope))
    return root
