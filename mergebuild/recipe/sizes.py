"""Sizes and times as people write them: `20GB`, `512MiB`, `30d`.

Both need a unit. A user who writes `20` means gigabytes, or days: a history limited to 20 bytes or seconds would be
emptied.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["AmountError", "parse_duration", "parse_size"]

_AMOUNT = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)\s*")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


_GIGABYTES_BELOW = 10_000
"""For a smaller number without a unit, the help suggests gigabytes; a larger one is more likely meant as bytes."""


class AmountError(ValueError):
    """A text that is no size or time; `hint` says what to write."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def parse_size(text: str) -> int:
    """Return a number of bytes: `0`, `1500B`, `20GB`, `1.5 G` (powers of 1000), `512MiB` (powers of 1024).

    Raises:
        AmountError: it is anything else, such as a number other than 0 without a unit.
    """
    found = _AMOUNT.fullmatch(text)
    unit = found[2].lower() if found else "?"
    step = 1024 if unit.endswith(("ib", "i")) else 1000
    power = _POWERS.get(unit.removesuffix("b").removesuffix("i"))
    if found is None or power is None or unit in ("i", "ib"):
        raise AmountError(f"`{text}` is no size; expected one such as `20GB`, `512MiB` or `0`")
    number = Fraction(found[1])
    if not unit and number:
        meant = f"{found[1]}{'GB' if number < _GIGABYTES_BELOW else 'B'}"
        raise AmountError(f"`{text}` is no size, for it has no unit", f"write `{meant}`")
    return int(number * step**power)


def parse_duration(text: str) -> float:
    """Return a number of seconds: `0`, `45s`, `90m`, `12h`, `30d`, `2w`.

    Raises:
        AmountError: it is anything else, such as a number other than 0 without a unit.
    """
    found = _AMOUNT.fullmatch(text)
    if found and not found[2]:
        if not Fraction(found[1]):
            return 0.0
        raise AmountError(f"`{text}` is no time, for it has no unit", f"write `{found[1]}d` for days")
    seconds = _SECONDS.get(found[2].lower()) if found else None
    if found is None or seconds is None:
        raise AmountError(f"`{text}` is no time; expected one such as `30d`, `12h` or `90m`")
    return float(Fraction(found[1]) * seconds)
