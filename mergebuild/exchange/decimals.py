"""Numbers of recipes as the decimals that people meant.

Sliders and scripts compute in binary, and JSON keeps what came of it: `0.30000000000000004`, `0.7000000000000001`.
Such a number stands for the shortest decimal that it can't be told from; one with few digits is what it says.
"""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from typing import Final

__all__ = ["complement", "meant", "number_of"]

_NEAR: Final = Decimal("1e-15")
"""The relative distance of a binary fraction from the decimal that it stands for."""
_PRINTED: Final = 17
"""Digits that tell all binary numbers of 64 bits apart."""
_EXACT: Final = Context(prec=120)
_BOUND: Final = 40
"""Powers of ten beyond which no number of a recipe is."""


def meant(number: Decimal) -> Decimal:
    """Return the shortest decimal within 1e-15 of a number, relatively; the number itself if there is none shorter.

    One of more digits than binary numbers are printed with was written by hand, and stays as it is.
    """
    if not number:
        return Decimal(0)
    if len(number.as_tuple().digits) > _PRINTED:
        return number
    for digits in range(1, 18):
        short = Context(prec=digits).plus(number)
        if abs(_EXACT.subtract(short, number)) <= _EXACT.multiply(_NEAR, abs(number)):
            return short
    return number


def number_of(value: object) -> Decimal | None:
    """Return a value of JSON as the number that it is meant to be; None: it is no number that a recipe can have."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or (number and abs(number.adjusted()) > _BOUND):
        return None
    return meant(number)


def complement(number: Decimal) -> Decimal:
    """Return 1 - number, exactly."""
    with localcontext(_EXACT):
        return 1 - number
