"""The elemental grammar: rules `blocks:elements:number`, separated by commas or line breaks; later ones win.

Blocks are names and ranges separated by spaces, elements are parts of tensor names. `NOT` before a list inverts it; an
empty list means all. Mistakes that other tools silently ignore, such as a rule with one colon, are errors here.
"""

from __future__ import annotations

import re
from fractions import Fraction

from mergebuild.recipe.model import Elemental
from mergebuild.recipe.numbers import exact_decimal

__all__ = ["ElementalError", "parse_elemental"]

_EXAMPLE = "such as `OUT03:attn2:0.5`: blocks, parts of tensor names, a number"
_BLOCK = re.compile(r"[A-Za-z]+[0-9]*(?:-[A-Za-z]+[0-9]*)?")


class ElementalError(ValueError):
    """An invalid rule. `start` and `end` are offsets in the text."""

    def __init__(self, code: str, message: str, start: int, end: int, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.start = start
        self.end = end
        self.hint = hint


def parse_elemental(text: str) -> tuple[Elemental, ...]:
    """Return the rules in order, at least one.

    Raises:
        ElementalError: there is no rule, or one doesn't follow the grammar.
    """
    found = [_rule(match[0], match.start()) for match in re.finditer(r"[^,\n]+", text) if match[0].strip()]
    if not found:
        message = "no elemental rule"
        raise ElementalError("bad-elemental", message, 0, len(text), _EXAMPLE)
    return tuple(found)


def _rule(text: str, offset: int) -> Elemental:
    start = offset + len(text) - len(text.lstrip())
    end = offset + len(text.rstrip())
    parts = text.strip().split(":")
    if len(parts) != 3:
        message = f"elemental rule `{text.strip()}` is not of the form `blocks:elements:number`"
        raise ElementalError("bad-elemental", message, start, end, _EXAMPLE)
    blocks, not_blocks = _words(parts[0], start, end)
    elements, not_elements = _words(parts[1], start, end)
    for block in blocks:
        if not _BLOCK.fullmatch(block):
            message = f"`{block}` in an elemental rule is no block such as `OUT03` and no range such as `OUT03-OUT06`"
            hint = "blocks stand with blanks between them: `IN04 OUT03-OUT06:attn2:0.5`"
            raise ElementalError("bad-elemental", message, start, end, hint)
    return Elemental(blocks, not_blocks, elements, not_elements, _number(parts[2].strip(), text.strip(), start, end))


def _number(written: str, rule: str, start: int, end: int) -> Fraction:
    if written in ("R", "U", "X"):
        message = f"a random number (`{written}`) in an elemental rule is not in this version"
        raise ElementalError("not-in-this-version", message, start, end, "write the number itself")
    try:
        return exact_decimal(written)
    except ValueError:
        message = f"elemental rule `{rule}` ends in `{written}`, expected a number"
        raise ElementalError("bad-elemental", message, start, end, _EXAMPLE) from None


def _words(text: str, start: int, end: int) -> tuple[tuple[str, ...], bool]:
    words = tuple(text.split())
    inverted = words[:1] == ("NOT",)
    words = words[1:] if inverted else words
    if "NOT" in words or (inverted and not words):
        message = "`NOT` in an elemental rule stands once, in front of the names that it inverts"
        raise ElementalError("bad-elemental", message, start, end, "such as `NOT OUT03 OUT04:attn2:0.5`")
    return words, inverted
