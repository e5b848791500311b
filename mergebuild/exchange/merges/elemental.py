"""Elemental rules of supermerger, `blocks:elements:number`, as those of a mergefile.

supermerger passes over what is no rule; here that is an error, so it is left out and told. Its BASE is the VAE too. In
SDXL it finds a block by its place in the list of 26: `IN09` is the block M00 there, `IN10` is OUT00, `OUT00` is OUT03.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from mergebuild.exchange.draft import Value
from mergebuild.exchange.figures import figure
from mergebuild.exchange.merges.blocks import LONG, SHORT

__all__ = ["CALCMODES", "ElementalRule", "as_values", "by_place", "rules_of"]

CALCMODES: Final = (
    *("normal", "cosineA", "cosineB", "trainDifference", "smoothAdd", "smoothAdd MT"),
    *("extract", "tensor", "tensor2", "self", "plus random"),
)
_MOST_RULES: Final = 2000
_BLOCK: Final = re.compile(r"([A-Z]+)(\d*)(?:-([A-Z]+)(\d*))?")


class ElementalRule(NamedTuple):
    """A rule: its words as they stand, `NOT` first where a list is inverted."""

    blocks: tuple[str, ...]
    elements: tuple[str, ...]
    number: Decimal

    def text(self) -> str:
        """Return the rule as a mergefile has it."""
        return f"{' '.join(self.blocks)}:{' '.join(self.elements)}:{format(self.number, 'f')}"


def rules_of(text: str, passed_over: Callable[[str], None], left_out: Callable[[str], None]) -> list[ElementalRule]:
    """Return the rules of a text.

    Args:
        text: Rules with commas or line breaks between them, perhaps the name of a calcmode in front.
        passed_over: Is told of what supermerger passes over.
        left_out: Is told of rules that no mergefile has: those with random numbers.
    """
    if text.count(",") + text.count("\n") > _MOST_RULES:
        left_out(f"elemental rules, of which there are more than {_MOST_RULES}")
        return []
    found: list[ElementalRule] = []
    for index, each in enumerate(re.split(r"[,\n]", text)):
        rule = each.strip()
        if not rule or (index == 0 and rule in CALCMODES):
            continue
        parts = rule.split(":")
        if len(parts) != 3:
            passed_over(f"elemental rule `{rule}` has not two colons: supermerger passes over it")
            continue
        made = _rule(parts, rule, passed_over, left_out)
        if made is not None:
            found.append(made)
    return found


def _rule(
    parts: Sequence[str], rule: str, passed_over: Callable[[str], None], left_out: Callable[[str], None]
) -> ElementalRule | None:
    blocks, elements = tuple(parts[0].split()), tuple(parts[1].split())
    try:
        number = figure(parts[2])
    except ValueError:
        left_out(f"elemental rule `{rule}` ends in no number: a random one is recorded nowhere")
        return None
    bad = [word for word in blocks if word != "NOT" and not _BLOCK.fullmatch(word)]
    if bad or "NOT" in blocks[1:] or "NOT" in elements[1:] or blocks == ("NOT",) or elements == ("NOT",):
        passed_over(f"elemental rule `{rule}` selects nothing in supermerger")
        return None
    return ElementalRule(_with_vae(blocks), elements, number)


def _with_vae(blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the blocks with the VAE behind them where BASE is among them."""
    return (*blocks, "VAE") if "BASE" in _named(blocks) and "VAE" not in blocks else blocks


def by_place(rules: Iterable[ElementalRule], passed_over: Callable[[str], None]) -> list[ElementalRule]:
    """Return rules with the blocks of SDXL that supermerger finds at the places of their names."""
    found: list[ElementalRule] = []
    for rule in rules:
        blocks = [_at_place(name) for name in _named(rule.blocks)]
        there = tuple(name for name in blocks if name)
        if len(there) < len(blocks):
            passed_over(f"elemental rule `{rule.text()}` has blocks beyond those of SDXL")
        if there or not blocks:
            inverted = ("NOT",) if rule.blocks[:1] == ("NOT",) else ()
            found.append(rule._replace(blocks=(*inverted, *there)))
    return found


def reaches_past(rules: Iterable[ElementalRule]) -> bool:
    """Whether a name means another block in SDXL."""
    return any(_at_place(name) != name for rule in rules for name in _named(rule.blocks))


def as_values(rules: Iterable[ElementalRule]) -> list[Value]:
    """Return rules as the list of a mergefile."""
    return [rule.text() for rule in rules]


def _at_place(name: str) -> str:
    """Return the block of SDXL at the place that a name has among the 26; "" where there is none."""
    if name not in LONG:
        return name
    place = LONG.index(name)
    return SHORT[place] if place < len(SHORT) else ""


def _named(blocks: Iterable[str]) -> list[str]:
    """Return the names of blocks, ranges taken apart, without `NOT`."""
    found: list[str] = []
    for word in blocks:
        match = _BLOCK.fullmatch(word)
        if word == "NOT" or match is None:
            continue
        first, last = _full(match[1], match[2]), _full(match[3] or "", match[4] or "")
        if match[3] and first in LONG and last in LONG:
            low, high = sorted((LONG.index(first), LONG.index(last)))
            found += LONG[low : high + 1]
        else:
            found.append(first)
    return found


def _full(family: str, number: str) -> str:
    return f"{family}{int(number):02}" if number else family
