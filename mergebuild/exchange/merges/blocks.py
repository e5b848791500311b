"""Lists of block weights of other tools as numbers per tensor of a mergefile.

Other tools count the VAE to BASE; here it is a block of its own, which a list of 26 or 20 numbers does not reach. So a
list has `VAE = BASE` behind it where its tool merges the VAE with BASE.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from mergebuild.exchange.draft import Value
from mergebuild.exchange.figures import figure
from mergebuild.recipe.preset_names import PRESET_NAMES

__all__ = ["LONG", "SHORT", "list_of_text", "long_to_short", "number_table", "preset_table"]

LONG: Final = ("BASE", *(f"IN{n:02}" for n in range(12)), "M00", *(f"OUT{n:02}" for n in range(12)))
"""The blocks of 26 numbers."""
SHORT: Final = ("BASE", *(f"IN{n:02}" for n in range(9)), "M00", *(f"OUT{n:02}" for n in range(9)))
"""The blocks of 20 numbers, of SDXL."""


def number_table(numbers: Sequence[Decimal], *, vae: Decimal | None) -> dict[str, Value]:
    """Return block weights as a number per tensor: BASE first, and the number of the VAE; None: it is not merged."""
    table: dict[str, Value] = {"mbw": list(numbers)}
    return table if vae is None else table | {"VAE": vae}


def preset_table(name: str) -> dict[str, Value] | None:
    """Return a preset by its name as a number per tensor; None: there is none of that name.

    BASE of a preset is 0, but for ALL_B, so the VAE follows.
    """
    if name not in PRESET_NAMES:
        return None
    table: dict[str, Value] = {"preset": name}
    return table | {"VAE": 1} if name == "ALL_B" else table


def long_to_short(numbers: Sequence[Decimal]) -> list[Decimal]:
    """Return 26 block weights as the 20 that supermerger makes of them for SDXL, with M00 and OUT00-OUT08 by place."""
    rest = numbers[1:]
    return [numbers[0], *rest[:9], *rest[12:22]]


def list_of_text(text: str) -> list[Decimal]:
    """Return the numbers of a text, which commas or line breaks separate.

    Raises:
        ValueError: one is none.
    """
    return [figure(each) for each in re.split(r"[,\n]", text) if each.strip()]
