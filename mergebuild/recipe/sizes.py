"""Amounts of bytes and of time as people write them: `20GB`, `512MiB`, `30d`."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["parse_duration", "parse_size"]

_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: str) -> int:
    """Return a number of bytes: `0`, `1500`, `20GB`, `1.5 G` (powers of 1000), `512MiB` (powers of 1024).

    Raises:
        ValueError: anything else; the message says what is expected.
    """
    found = _AMOUNT.fullmatch(text)
    unit = found[2].lower() if found else "?"
    step = 1024 if unit.endswith(("ib", "i")) else 1000
    power = _POWERS.get(unit.removesuffix("b").removesuffix("i"))
    if found is None or power is None or unit in ("i", "ib"):
        message = f"`{text}` is no size; expected one such as `20GB`, `512MiB` or `0`"
        raise ValueError(message)
    return int(Fraction(found[1]) * step**power)


def parse_duration(text: str) -> float:
    """Return a number of seconds: `45s`, `90m`, `12h`, `30d`, `2w`.

    Raises:
        ValueError: anything else; the message says what is expected.
    """
    found = _AMOUNT.fullmatch(text)
    seconds = _SECONDS.get(found[2].lower()) if found else None
    if found is None or seconds is None:
        message = f"`{text}` is no time; expected one such as `30d`, `12h` or `90m`"
        raise ValueError(message)
    return float(Fraction(found[1]) * seconds)
