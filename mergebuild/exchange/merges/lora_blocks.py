"""Block weights of LoRAs, lists of 17, 26, 12 or 20 numbers, as numbers by the names of blocks.

17 are the blocks of SD1 with attention, 26 all of them; 12 and 20 are those of SDXL. BASE is the text encoder. A block
that a list does not name has no part in the merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from mergebuild.exchange.draft import Value
from mergebuild.exchange.merges.blocks import LONG, SHORT

__all__ = ["BLOCKS_OF_LORA", "lora_table"]

BLOCKS_OF_LORA: Final = {
    17: ("BASE", *(f"IN{n:02}" for n in (1, 2, 4, 5, 7, 8)), "M00", *(f"OUT{n:02}" for n in range(3, 12))),
    26: LONG,
    12: ("BASE", *(f"IN{n:02}" for n in (4, 5, 7, 8)), "M00", *(f"OUT{n:02}" for n in range(6))),
    20: SHORT,
}
"""By the length of a list, the blocks of its numbers."""


def lora_table(ratio: Decimal, weights: Sequence[Decimal]) -> dict[str, Value]:
    """Return the strength of a LoRA by block.

    Raises:
        ValueError: no list has as many numbers.
    """
    blocks = BLOCKS_OF_LORA.get(len(weights))
    if blocks is None:
        raise ValueError(f"{len(weights)} block weights of a LoRA, where 12, 17, 20 or 26 are expected")
    table: dict[str, Value] = {"default": Decimal(0)}
    return table | {block: ratio * weight for block, weight in zip(blocks, weights, strict=True)}
