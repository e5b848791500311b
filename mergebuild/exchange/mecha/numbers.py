"""The numbers of a merge: one value for all tensors, or one for each block.

In the form with a version a number is three instructions, a `dict`, a `literal` of it and its conversion to the tensors
of a model; before, it is a `dict` or stands beside the merge. The blocks are supermerger's, but for time and label
embeddings, which are in BASE there, and for the VAE of SD 1, which is too.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from mergebuild.exchange.draft import Value
from mergebuild.exchange.mecha.instructions import Argument, Instruction

__all__ = ["Scalar", "UnwordedError", "converted", "number_in"]

Scalar = bool | Decimal | str | None

_INPUTS: Final = {"sd1": 12, "sdxl": 9}
_OLD_BLOCK: Final = re.compile(
    r"(?P<arch>sd1|sdxl)_(?P<part>unet|txt2?)_(?:block_(?P<side>in|mid|out|down|up)(?P<n>\d*)|(?P<all>default))"
)


class UnwordedError(Exception):
    """A mergefile has no word for it; the message is a sentence that says for what."""


def converted(value: Argument) -> Argument:
    """Return what a value was before conversions, which only rename."""
    while isinstance(value, Instruction) and value.method.startswith("convert_") and len(value.args) == 2:
        value = value.args[1]
    return value


def number_in(value: Argument, lost: list[str]) -> Scalar | dict[str, Value]:
    """Return a number: one value, or a number per tensor.

    Args:
        value: An argument of a merge.
        lost: Gets what of it can't be said.

    Raises:
        UnwordedError: it is a result of merging, or of no known blocks.
    """
    found = converted(value)
    if not isinstance(found, Instruction):
        return found
    if found.command == "dict":
        return _old_table(found, lost)
    if found.command != "literal" or len(found.args) != 1:
        raise UnwordedError(f"a number is the result of line {found.line}, a tensor")
    inner = found.args[0]
    if not isinstance(inner, Instruction):
        return inner
    config = str(found.named.get("model_config"))
    if set(inner.named) == {"key"} and (config == "singleton-mecha" or "blocks" not in config):
        alone = inner.named["key"]
        if isinstance(alone, Instruction):
            raise UnwordedError(f"a number is the result of line {alone.line}")
        return alone
    arch = config.removesuffix("-supermerger_blocks")
    if arch not in _INPUTS or not config.endswith("-supermerger_blocks"):
        raise UnwordedError(f"numbers are given by the names of `{config[:60]}`")
    return _table(arch, inner, lost)


def _table(arch: str, given: Instruction, lost: list[str]) -> dict[str, Value]:
    """Return the numbers of blocks as a list of block weights, and what is in other blocks here behind it."""
    sides = [f"{side}{n:02}" for side in ("IN", "OUT") for n in range(_INPUTS[arch])]
    half = len(sides) // 2
    names = ["BASE", *sides[:half], "M00", *sides[half:], *(["VAE"] if arch == "sdxl" else [])]
    numbers = {name: _decimal(given.named[name], given) for name in names if name in given.named}
    missing = [name for name in names if name not in numbers]
    if missing:
        lost.append(
            f"the blocks {', '.join(missing)} have no number there, and are missing from the result; here it is 0"
        )
    every = {name: numbers.get(name, Decimal(0)) for name in names}
    table: dict[str, Value] = {"mbw": list(every.values())}
    if every["BASE"] != every["IN00"]:
        table |= {f"*{name}*": every["BASE"] for name in ("time_embed", *(["label_emb"] if arch == "sdxl" else []))}
    return table | ({"VAE": every["BASE"]} if arch == "sd1" else {})


def _old_table(given: Instruction, lost: list[str]) -> dict[str, Value]:
    """Return a table of the form without a version: numbers of blocks, and a default of each component, else 0."""
    table: dict[str, Value] = {"unet": Decimal(0), "text_encoder": Decimal(0)}
    blocks: dict[str, Value] = {}
    for key, value in given.named.items():
        found = _OLD_BLOCK.fullmatch(key)
        if found is None:
            lost.append(f"the block {key[:60]} is not known")
        elif found["all"]:
            table |= {_old_component(found["arch"], found["part"]): _decimal(value, given)}
        else:
            blocks[_old_block(found["arch"], found["part"], found["side"], int(found["n"] or 0))] = _decimal(
                value, given
            )
    if {"IN00", "OUT08", "OUT11"} & set(blocks) and any(blocks.get(name) != table["unet"] for name in ("IN00",)):
        lost.append("time embeddings and the last layers have the numbers of the first and the last block here")
    return table | blocks


def _old_component(arch: str, part: str) -> str:
    return {"unet": "unet", "txt2": "clip_g", "txt": "clip_l" if arch == "sdxl" else "text_encoder"}[part]


def _old_block(arch: str, part: str, side: str, number: int) -> str:
    if part == "unet":
        return {"in": f"IN{number:02}", "mid": "M00"}.get(side, f"OUT{number:02}")
    if part == "txt2":
        return f"*conditioner.embedders.1.*resblocks.{number}.*"
    prefix = "conditioner.embedders.0" if arch == "sdxl" else "cond_stage_model"
    return f"*{prefix}.*encoder.layers.{number}.*"


def _decimal(value: Argument, given: Instruction) -> Decimal:
    if not isinstance(value, Decimal):
        raise UnwordedError(f"a block has no number in line {given.line}")
    return value
