"""Numbers of recipes, as decimals of a mergefile.

A recipe that people write has decimals, and these stay as they are written. A recipe that a program wrote has what its
sliders held, binary fractions such as 0.30000000000000004: of these the shortest decimal within 1e-15 of them is meant.
"""

from __future__ import annotations

import math
import re
from decimal import Context, Decimal, InvalidOperation
from typing import Final

__all__ = ["figure", "of_slider", "sigmoid_of"]

_LARGEST_EXPONENT: Final = 300
_MOST_DIGITS: Final = 100
_NEAR: Final = Decimal("1e-15")
_PLAIN: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_SIGMOID_NEAR: Final = 1e-9
_SHORT: Final = Decimal("0.001")


def figure(said: object) -> Decimal:
    """Return a number that a recipe has as a text or a value.

    Raises:
        ValueError: it is none, or none that a mergefile may have.
    """
    if isinstance(said, bool) or not isinstance(said, (int, float, str, Decimal)):
        raise ValueError("it is no number")  # noqa: TRY004 -- of whatever type it is, the recipe is what is wrong
    text = said.strip() if isinstance(said, str) else str(said)
    if len(text) > _MOST_DIGITS or not _PLAIN.fullmatch(text):
        raise ValueError("it is no number")
    try:
        number = Decimal(text)
    except InvalidOperation as error:  # pragma: no cover
        raise ValueError("it is no number") from error
    if number and abs(number.adjusted()) > _LARGEST_EXPONENT:
        raise ValueError("it is beyond all numbers of a merge")
    return number if number else Decimal(0)


def of_slider(said: object) -> Decimal:
    """Return the shortest decimal within 1e-15 of a number that a program wrote.

    Raises:
        ValueError: as `figure`.
    """
    number = figure(said)
    for digits in range(1, 18):
        short = Context(prec=digits).plus(number)
        if abs(short - number) <= _NEAR * abs(number):
            return _plain(short)
    return number


def sigmoid_of(number: Decimal) -> Decimal | None:
    """Return the decimal of at most 3 digits whose inverse sigmoid a number seems to be; None: there is none.

    Merge Board and old mergers turn a `Sigmoid` merge into a weighted sum by 1/2 - sin(asin(1 - 2M) / 3).
    """
    if not 0 < number < 1 or number == number.quantize(_SHORT):
        return None
    value = float(number)
    short = Decimal(repr(round(value * value * (3 - 2 * value), 3)))
    back = 0.5 - math.sin(math.asin(1 - 2 * float(short)) / 3)
    return _plain(short) if abs(back - value) <= _SIGMOID_NEAR else None


def _plain(number: Decimal) -> Decimal:
    """Return a number without zeros at the end of its fraction, and without an exponent where it is a whole one."""
    short = number.normalize()
    exponent = short.as_tuple().exponent
    return short.quantize(Decimal(1)) if isinstance(exponent, int) and 0 < exponent <= 15 else short
