"""Names of blocks: `IN04` and `IN4` are number 4 of the family `IN`; `BASE` has no number.

Lists of blocks may have ranges (`IN00-IN11`), and open families (`L*`) if the model decides how many blocks there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["BlockId", "block_id", "drawn_together", "expand", "in_order", "layer_number", "natural"]

BlockId = tuple[str, int]
"""Family and number; the number is -1 for a block without one."""

_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)
_RANGE = re.compile(r"(.*?)(\d+)-(.*?)(\d+)", re.DOTALL)
_DIGITS = re.compile(r"([0-9]+)")
_LONGEST = 200
"""The longest text that is tried as the name of a block, in characters; real ones have five."""
_MOST = 10_000
"""The most blocks of a list; real ones have a hundred."""
_MOST_DIGITS = 18
"""The most digits of a layer's number. Names in untrusted files may have thousands."""


def block_id(name: str) -> BlockId:
    """Return the family and the number of a block: `("IN", 4)` for `IN04` and `IN4`, `("BASE", -1)` for `BASE`."""
    found = _NUMBERED.fullmatch(name) if len(name) <= _LONGEST else None
    return (found[1], int(found[2])) if found else (name, -1)


def layer_number(digits: str) -> int | None:
    """Return the number of a layer; None if the text is no whole number, or has too many digits."""
    return int(digits) if digits.isdecimal() and len(digits) <= _MOST_DIGITS else None


def natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers in a text by value: `layers.2` comes before `layers.10`."""
    parts = _DIGITS.split(text)
    parts[1::2] = [digits.lstrip("0") for digits in parts[1::2]]
    return [(len(part) if index % 2 else 0, part) for index, part in enumerate(parts)]


def expand(spec: Iterable[str]) -> tuple[str, ...]:
    """Return a list of blocks with its ranges expanded; open families (`L*`) stay as they are.

    Raises:
        ValueError: a range spans two families or runs downwards, or there are more than 10,000 blocks.
    """
    blocks: list[str] = []
    for entry in spec:
        found = _RANGE.fullmatch(entry) if len(entry) <= _LONGEST else None
        if found is None:
            blocks.append(entry)
        else:
            blocks += _in_range(found, len(blocks))
    return tuple(blocks)


def _in_range(found: re.Match[str], before: int) -> Iterable[str]:
    """Return the blocks of a range; `before`: how many blocks come before it.

    Raises:
        ValueError: as `expand`.
    """
    family, low, other, high = found.groups()
    if family != other or int(low) > int(high):
        message = f"`{found[0]}` is not a range of blocks such as `IN00-IN05`"
        raise ValueError(message)
    if before + int(high) - int(low) >= _MOST:
        message = f"with `{found[0]}` there are more than {_MOST} blocks"
        raise ValueError(message)
    return (f"{family}{number:0{len(low)}}" for number in range(int(low), int(high) + 1))


def in_order(blocks: Iterable[str], order: Sequence[str]) -> tuple[str, ...]:
    """Return `blocks` in the order of `order`.

    Blocks of an open family are at its `FAMILY*`, blocks that are not in `order` at the end.
    """
    places = {entry: place for place, entry in enumerate(order)}

    def key(block: str) -> tuple[int, str, int]:
        family, number = block_id(block)
        place = places.get(block, places.get(f"{family}*", len(order)) if number >= 0 else len(order))
        return (place, family, number)

    return tuple(sorted(blocks, key=key))


def drawn_together(blocks: Sequence[str]) -> tuple[str, ...]:
    """Return a list of blocks for people, with consecutive ones as ranges: `("BASE", "IN00-IN11", "M00")`."""
    runs: list[list[str]] = []
    for block in blocks:
        family, number = block_id(block)
        if runs and number > 0 and block_id(runs[-1][-1]) == (family, number - 1):
            runs[-1].append(block)
        else:
            runs.append([block])
    return tuple(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
