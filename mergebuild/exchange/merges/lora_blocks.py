"""Block weights of LoRAs, lists of 17, 26, 12 or 20 numbers, as numbers by the names of blocks.

17 are the blocks of SD1 with attention, 26 all of them; 12 and 20 are those of SDXL. BASE is the text encoder. A block
that a list does not name has no part in the merge. Of LoRAs that are merged with each other a number reaches modules:
there a block is the beginnings of the modules' names, which are kohya's: those of diffusers for SD1, the authors' for
SDXL.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from mergebuild.exchange.draft import Value
from mergebuild.exchange.merges.blocks import LONG, SHORT

__all__ = ["BLOCKS_OF_LORA", "lora_table", "module_table"]

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
    table: dict[str, Value] = {"default": Decimal(0)}
    return table | {block: ratio * weight for block, weight in zip(_blocks(weights), weights, strict=True)}


def module_table(ratio: Decimal, weights: Sequence[Decimal]) -> dict[str, Value]:
    """Return the strength of a LoRA by the names of its modules.

    Raises:
        ValueError: no list has as many numbers.
    """
    table: dict[str, Value] = {"default": Decimal(0)}
    begins = _of_sdxl if len(weights) in (12, 20) else _of_sd1
    for block, weight in zip(_blocks(weights), weights, strict=True):
        table |= {f"{begin}*": ratio * weight for begin in begins(block)}
    return table


def _blocks(weights: Sequence[Decimal]) -> Sequence[str]:
    blocks = BLOCKS_OF_LORA.get(len(weights))
    if blocks is None:
        raise ValueError(f"{len(weights)} block weights of a LoRA, where 12, 17, 20 or 26 are expected")
    return blocks


def _of_sdxl(block: str) -> Sequence[str]:
    if block in ("BASE", "M00"):
        return ["lora_te" if block == "BASE" else "lora_unet_middle_block_"]
    side, number = ("input", block[2:]) if block.startswith("IN") else ("output", block[3:])
    return [f"lora_unet_{side}_blocks_{int(number)}_"]


def _of_sd1(block: str) -> Sequence[str]:
    if block in ("BASE", "M00", "IN00"):
        return [{"BASE": "lora_te", "M00": "lora_unet_mid_block_", "IN00": "lora_unet_conv_in"}[block]]
    is_down = block.startswith("IN")
    level, place = divmod(int(block[2:]) - 1 if is_down else int(block[3:]), 3)
    side, moves = ("down", "downsamplers") if is_down else ("up", "upsamplers")
    inner = [] if is_down and place == 2 else [f"attentions_{place}_", f"resnets_{place}_"]
    return [f"lora_unet_{side}_blocks_{level}_{name}" for name in (*inner, *([f"{moves}_"] if place == 2 else []))]
