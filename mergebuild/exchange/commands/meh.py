"""The command line of sd-meh."""

from __future__ import annotations

from typing import Final

from mergebuild.exchange.commands.command_line import CommandLine, model_of
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.figures import figure
from mergebuild.exchange.file_names import last_step, without_suffix
from mergebuild.exchange.merges.blocks import list_of_text
from mergebuild.exchange.merges.meh import MehMerge, MehWeights
from mergebuild.exchange.merges.node import UnsayableError

__all__ = ["merge"]

_MODELS: Final = {"a": "model_a", "b": "model_b", "c": "model_c"}
_WEIGHTS: Final = {
    "alpha": ("wa", "weights_alpha", "ba", "base_alpha", "bwpa", "block_weights_preset_alpha"),
    "beta": ("wb", "weights_beta", "bb", "base_beta", "bwpb", "block_weights_preset_beta"),
}
_READ: Final = frozenset(
    "a b c model_a model_b model_c m merging_mode merging_method wc weights_clip p precision o output_path f "
    "output_format wa weights_alpha ba base_alpha wb weights_beta bb base_beta bwpa block_weights_preset_alpha bwpb "
    "block_weights_preset_beta".split()
)
_NO_MATTER: Final = frozenset("d device wd work_device j threads pr prune v logging_level".split())


def merge(line: CommandLine, draft: Draft) -> None:
    """Add the target of a command."""
    given = {letter: line.one(letter, long, default="") for letter, long in _MODELS.items()}
    output = line.one("o", "output_path", default="merge")
    suffix = ".ckpt" if line.one("f", "output_format", default="safetensors") == "ckpt" else ".safetensors"
    method = line.one("m", "merging_mode", "merging_method")
    alpha, beta = (_weights(line, *names) for names in _WEIGHTS.values())
    inputs = [model_of(draft, each) if each else "" for each in given.values()]
    made = MehMerge(
        where=line.where,
        name=without_suffix(last_step(output)),
        method=method,
        inputs=inputs,
        alpha=alpha,
        beta=beta,
        clips=line.has("wc") or line.has("weights_clip"),
        output=without_suffix(output) + suffix,
        dtype="float16" if line.one("p", "precision", default="16") == "16" else "float32",
    ).add(draft)
    for name in line.options.keys() - _READ - _NO_MATTER:
        draft.leave_out(line.where, f"option `-{name[:60]}` of sd-meh", target=made)


def _weights(line: CommandLine, short: str, long: str, base: str, longer: str, preset: str, name: str) -> MehWeights:
    """Return the weights of alpha or beta, by the names of its options."""
    if line.has(preset) or line.has(name):
        return line.one(preset, name)
    try:
        start = figure(line.one(base, longer, default="0"))
        words = [*line.many(short), *line.many(long)]
        return [start, *list_of_text(",".join(words))] if words else start
    except ValueError as error:
        raise UnsayableError(f"`-{short}` or `-{base}`: {error}") from None
