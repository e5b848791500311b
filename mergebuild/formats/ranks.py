"""Recognizes files of checkpoints written by several devices, each with a part of the tensors or of every tensor.

Tensor parallelism cuts each matrix, and a sharded optimizer cuts the flat list of all parameters. One such file looks
like a model with other shapes, and merging it would merge a part. The programs that write such files also have one that
combines them. The files are recognized by their names, which are part of each program's format.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NamedTuple

from mergebuild.formats.quantized import listed

__all__ = ["Ranks", "may_be_one", "ranks"]

_OF_EVERY: Final = "of which each holds a part of every tensor, as several devices had them"
_OF_ALL: Final = "of which each holds a part of the tensors, as several devices had them"


class Ranks(NamedTuple):
    """Files of one checkpoint: a clause about them, and what to do."""

    names: tuple[str, ...]
    sentence: str
    help: str

    @property
    def rows(self) -> tuple[str, ...]:
        """Their names, the first few."""
        return listed(self.names)


_KINDS: Final = (
    (
        re.compile(r"(?i)consolidated\.\d+\.(?:pth|pt|safetensors)"),
        _OF_EVERY,
        "take the release for transformers, or convert them (transformers has `convert_llama_weights_to_hf.py`)",
    ),
    (
        re.compile(r"(?i)(?:layer_\d+-model_\d+-model_states|(?:zero_pp_rank_\d+_)?mp_rank_\d+\w*)\.pt"),
        _OF_ALL,
        "put them together with `zero_to_fp32.py`, which DeepSpeed leaves beside them, and name what it writes",
    ),
    (
        re.compile(r"__\d+_\d+\.distcp"),
        _OF_ALL,
        "put them together with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`",
    ),
    (
        re.compile(r"(?i)(?:[\w.-]+[-_.])?rank[-_]?(?P<rank>\d+)\w*\.(?:pt|pth|bin|safetensors)"),
        _OF_ALL,
        "put them together with the program that wrote them, and name what it writes",
    ),
)


def may_be_one(name: str) -> bool:
    """Return whether a file has the name of such a part."""
    return any(pattern.fullmatch(name) for pattern, _, _ in _KINDS)


def ranks(names: Collection[str]) -> Ranks | None:
    """Return the files among these that are parts of one checkpoint; None if there are not several."""
    for pattern, sentence, help_ in _KINDS:
        matches = [found for name in names if (found := pattern.fullmatch(name))]
        numbers = {int(found["rank"]) for found in matches if "rank" in pattern.groupindex}
        if len(matches) > 1 and numbers == set(range(len(numbers))):  # else it is a rank of a LoRA: `rank32`
            return Ranks(tuple(sorted(found[0] for found in matches)), sentence, help_)
    return None
