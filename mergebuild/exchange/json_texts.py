"""JSON that strangers wrote: bounded in length and depth, its fractions kept as the decimals that they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NoReturn

__all__ = ["json_of", "listed", "table_of", "words_of"]

_MOST_SIGNS: Final = 10_000_000
_DEEPEST: Final = 100


def json_of(text: str) -> object:
    """Return the value of a JSON text, with decimals for fractions.

    Raises:
        ValueError: it is no JSON, too long, or nested too deeply.
    """
    if len(text) > _MOST_SIGNS:
        raise ValueError(f"it has more than {_MOST_SIGNS:,} signs")
    try:
        value = json.loads(text, parse_float=_decimal, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg.lower()} at line {error.lineno}") from None
    _check_depth(value)
    return value


def table_of(value: object) -> Mapping[str, object]:
    """Return a JSON object, also one that is in a text; of anything else an empty one."""
    if isinstance(value, str):
        try:
            value = json_of(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[object]:
    """Return a JSON array; of anything else an empty one."""
    return value if isinstance(value, list) else []


def words_of(value: object) -> str:
    """Return a JSON string without blanks around it; of anything else an empty one."""
    return value.strip() if isinstance(value, str) else ""


def _decimal(text: str) -> Decimal | str:
    """Return a fraction; one that no merge has stays a text, for its reader to refuse."""
    return Decimal(text) if len(text) <= 100 else text


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _check_depth(value: object) -> None:
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        inner: list[object] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        level, depth = inner, depth + 1
