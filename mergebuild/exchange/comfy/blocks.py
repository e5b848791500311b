"""The numbers of merging nodes that have one for each part of a model, as keys of a number per tensor.

Such a node has a number for each prefix of the names of the model's tensors, relative to `model.diffusion_model.`. The
longest prefix that fits counts; what none fits gets the first number. Where prefixes are the blocks of a layout, blocks
are written; else globs, shorter ones first, as later keys win here too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Final

__all__ = ["BLOCK_NODES", "WHOLE", "keys_of", "prefixes_of", "without_wrapper"]

WHOLE: Final = ""
"""The key of all tensors of the model itself; its name depends on the kind of model."""

_WRAPPER: Final = "*diffusion_model."
_HEADS: Final = ("time_embed.", "label_emb.")
_SD1: Final = (
    *_HEADS,
    *(f"input_blocks.{n}." for n in range(12)),
    *(f"middle_block.{n}." for n in range(3)),
    *(f"output_blocks.{n}." for n in range(12)),
    "out.",
)
_SDXL: Final = (
    *_HEADS,
    *(f"input_blocks.{n}" for n in range(9)),
    *(f"middle_block.{n}" for n in range(3)),
    *(f"output_blocks.{n}" for n in range(9)),
    "out.",
)
_FLUX_INPUTS: Final = ("img_in.", "time_in.", "guidance_in", "vector_in.", "txt_in.")
_FLUX: Final = (
    *_FLUX_INPUTS,
    *(f"double_blocks.{n}." for n in range(19)),
    *(f"single_blocks.{n}." for n in range(38)),
    "final_layer.",
)


def _sd3(blocks: int) -> tuple[str, ...]:
    heads = ("pos_embed.", "x_embedder.", "context_embedder.", "y_embedder.", "t_embedder.")
    return (*heads, *(f"joint_blocks.{n}." for n in range(blocks)), "final_layer.")


_PREFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "ModelMergeBlocks": ("input", "middle", "out"),
    "ModelMergeSD1": _SD1,
    "ModelMergeSD2": _SD1,
    "ModelMergeSDXL": _SDXL,
    "ModelMergeFlux1": _FLUX,
    "ModelMergeSD3_2B": _sd3(24),
    "ModelMergeSD35_Large": _sd3(38),
}
_NAMED_IN_FILES: Final = (
    "ModelMergeAuraflow ModelMergeMochiPreview ModelMergeLTXV ModelMergeCosmos7B ModelMergeCosmos14B ModelMergeWAN2_1 "
    "ModelMergeCosmosPredict2_2B ModelMergeCosmosPredict2_14B ModelMergeQwenImage"
)
BLOCK_NODES: Final = frozenset(_PREFIXES) | frozenset(_NAMED_IN_FILES.split())
"""Classes of nodes that have a number for each prefix."""

_Table = dict[str, Decimal]


def prefixes_of(kind: str) -> tuple[str, ...]:
    """Return the prefixes of a class of nodes in the order of its numbers; none where only a file names them."""
    return _PREFIXES.get(kind, ())


def keys_of(kind: str, numbers: Mapping[str, Decimal]) -> _Table:
    """Return a number per tensor that is what the numbers of a node come to.

    Args:
        kind: The node's class.
        numbers: By prefix, in the node's order.
    """
    if len(set(numbers.values())) == 1:
        return {WHOLE: next(iter(numbers.values()))}
    if not set(numbers) <= set(prefixes_of(kind)):
        return _by_globs(numbers)
    match kind:
        case "ModelMergeBlocks":
            return _by_thirds(numbers)
        case "ModelMergeSD1" | "ModelMergeSD2":
            return _by_unet_blocks(numbers, 12)
        case "ModelMergeSDXL":
            return _by_unet_blocks(numbers, 9)
        case "ModelMergeFlux1":
            return _by_flux_blocks(numbers)
    return _by_joint_blocks(numbers)


def without_wrapper(key: str) -> str:
    """Return a key for files of the model alone: their names have the wrapper before them or not."""
    prefix = key.removeprefix(_WRAPPER)
    return f"re:^(?:model\\.)?(?:diffusion_model\\.)?{re.escape(prefix[:-1])}" if prefix != key else key


def _at(numbers: Mapping[str, Decimal], name: str) -> Decimal:
    """Return the number of a tensor whose name begins so."""
    fits = [prefix for prefix in numbers if name.startswith(prefix)]
    return numbers[max(fits, key=len)] if fits else next(iter(numbers.values()))


def _by_thirds(numbers: Mapping[str, Decimal]) -> _Table:
    reps = {"IN": "input_blocks.", "M00": "middle_block.", "OUT": "output_blocks."}
    table = {block: _at(numbers, name) for block, name in reps.items()}
    return table | _apart(numbers, {"time_embed.": table["IN"], "label_emb.": table["IN"], "out.": table["OUT"]})


def _by_unet_blocks(numbers: Mapping[str, Decimal], count: int) -> _Table:
    inputs = [_at(numbers, f"input_blocks.{n}.") for n in range(count)]
    outputs = [_at(numbers, f"output_blocks.{n}.") for n in range(count)]
    middle = [_at(numbers, f"middle_block.{n}.") for n in range(3)]
    table = dict([*_ranges("IN", inputs), ("M00", middle[1]), *_ranges("OUT", outputs)])
    others = {"time_embed.": inputs[0], "middle_block.0.": middle[1], "middle_block.2.": middle[1], "out.": outputs[-1]}
    if count == 9:  # the others have no such tensors
        others["label_emb."] = inputs[0]
    return table | _apart(numbers, others)


def _by_flux_blocks(numbers: Mapping[str, Decimal]) -> _Table:
    doubles = [_at(numbers, f"double_blocks.{n}.") for n in range(19)]
    singles = [_at(numbers, f"single_blocks.{n}.") for n in range(38)]
    first = _at(numbers, _FLUX_INPUTS[0])
    rows = [("IN", first), *_ranges("D", doubles), *_ranges("S", singles), ("OUT", _at(numbers, "final_layer."))]
    return dict(rows) | _apart(numbers, {f"{name.rstrip('.')}.": first for name in _FLUX_INPUTS[1:]})


def _by_joint_blocks(numbers: Mapping[str, Decimal]) -> _Table:
    """Return the table of Stable Diffusion 3, whose `pos_embed` is no prefix of a name, so that none fits it."""
    count = sum(name.startswith("joint_blocks.") for name in numbers)
    rows = _ranges("IN", [_at(numbers, f"joint_blocks.{n}.") for n in range(count)])
    others = [name for name in numbers if not name.startswith(("joint_blocks.", "pos_embed."))]
    return {WHOLE: _at(numbers, "pos_embed")} | dict(rows) | {_glob(name): numbers[name] for name in others}


def _by_globs(numbers: Mapping[str, Decimal]) -> _Table:
    first, *rest = numbers
    ordered = sorted(rest, key=len)
    return {WHOLE: numbers[first]} | {_glob(prefix): numbers[prefix] for prefix in ordered if prefix}


def _apart(numbers: Mapping[str, Decimal], blocks: Mapping[str, Decimal]) -> _Table:
    """Return the keys of prefixes whose number is not that of the block which they belong to."""
    found = {name: _at(numbers, name) for name in blocks}
    return {_glob(name): number for name, number in found.items() if number != blocks[name]}


def _glob(prefix: str) -> str:
    return f"{_WRAPPER}{prefix}*"


def _ranges(block: str, numbers: Sequence[Decimal]) -> Iterator[tuple[str, Decimal]]:
    """Yield keys of blocks in a row that have one number."""
    for number, group in groupby(enumerate(numbers), key=lambda each: each[1]):
        yield _range(block, [at for at, _ in group]), number


def _range(block: str, at: Sequence[int]) -> str:
    ends: Iterable[int] = (at[0], at[-1]) if len(at) > 1 else at
    return "-".join(f"{block}{each:02}" for each in ends)
