"""The command line of Chattiori's merger: `merge.py MODE FOLDER model_0 model_1 model_2`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from mergebuild.exchange.commands.command_line import CommandLine, model_of
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.figures import figure
from mergebuild.exchange.file_names import without_suffix
from mergebuild.exchange.merges.chattiori import MODES, ChattioriMerge, ChattioriWeights
from mergebuild.exchange.merges.elemental import rules_of
from mergebuild.exchange.merges.node import UnsayableError

__all__ = ["merge"]

_DTYPES: Final = {"save_half": "float16", "save_bhalf": "bfloat16"}
_READ: Final = frozenset({"alpha", "beta", "vae", "seed", "output", "model_1", "model_2", "save_safetensors", *_DTYPES})
_NO_MATTER: Final = frozenset(
    "m0_name m1_name m2_name prune no_metadata device functn memo force turbo deturbo".split()
)


def merge(line: CommandLine, draft: Draft) -> None:
    """Add the targets of a command."""
    if len(line.rest) < 3:
        raise UnsayableError("`merge.py` without a mode, a folder and models")
    mode, _, *models = line.rest
    given = [*models, *line.many("model_1"), *line.many("model_2")]
    name = line.one("output", default="merged")
    made = ChattioriMerge(
        where=line.where,
        name=without_suffix(name),
        mode=MODES.get(mode, mode),
        inputs=[model_of(draft, each) for each in map(_named, given)],
        alpha=ChattioriWeights(),
        beta=ChattioriWeights(),
        output=without_suffix(name) + (".safetensors" if line.has("save_safetensors") else ".ckpt"),
        dtype=next((dtype for option, dtype in _DTYPES.items() if line.has(option)), None),
        vae=line.one("vae", default=""),
        seed=int(seed) if (seed := line.one("seed", default="")).isdigit() and seed.isascii() else None,
    )
    made.alpha, made.beta = (_weights(line, greek, made) for greek in ("alpha", "beta"))
    for option in line.options.keys() - _READ - _NO_MATTER:
        made.left_out.append(f"option `--{option[:60]}` of `merge.py`")
    made.add(draft)


def _named(word: str) -> str:
    if "$" in word or re.search(r"%\w+%", word):
        raise UnsayableError(f"`{word[:60]}` is a variable of the shell: write its value in its place")
    return word


def _weights(line: CommandLine, greek: str, made: ChattioriMerge) -> ChattioriWeights:
    """Return alpha or beta: numbers, the name of a preset, and rules, with commas between them."""
    words = [each.strip() for each in ",".join(line.many(greek)).split(",") if each.strip()]
    rules = rules_of("\n".join(word for word in words if ":" in word), made.told.append, made.left_out.append)
    rest = [word for word in words if ":" not in word]
    try:
        numbers = [figure(word) for word in rest]
    except ValueError:
        if len(rest) != 1:
            raise UnsayableError(f"`--{greek} {' '.join(rest)[:60]}` is no list of numbers") from None
        return ChattioriWeights(preset=rest[0], rules=rules)
    if len(numbers) > 1:
        return ChattioriWeights(blocks=numbers, rules=rules)
    return ChattioriWeights(numbers[0] if numbers else Decimal(0), rules=rules)
