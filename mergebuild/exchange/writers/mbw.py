"""A list of block weights, as supermerger's *Merge Block Weights* takes it: 26 numbers, or 20 for SDXL, BASE first.

The numbers alone don't say what is merged: comments above them do, in the tool's own words, and `import` reads both.
The tool gives the VAE the number of BASE, and ours may be another one: a comment has it.

What counts is the number of each tensor, not how the mergefile says it: so a preset, a range of blocks or an elemental
rule are written like a list, if all tensors of each block have one number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final

from mergebuild.exchange.writers.asked import Asked
from mergebuild.layouts import Layout
from mergebuild.recipe.model import NumberPerTensor, Preset, Target

__all__ = ["write"]

_MODES: Final = {"weighted_sum": "Weight sum", "add_difference": "Add difference"}
_VAE: Final = "VAE"


def write(asked: Asked) -> str:
    """Return comments and the line of numbers; what the format can't say is refused."""
    target = asked.target
    asked.check(target)
    if target.method not in _MODES:
        known = "weighted_sum and add_difference"
        message = f"target `{target.name}` is made by `{target.method}`, and {asked.format} is for {known}"
        asked.refuse(message, target.where, "formula" if target.formula else "method")
        return ""
    head = [f"# mode: {_MODES[target.method]}", *_models(asked), *_saved(asked)]
    if asked.refused:
        return ""
    layout = asked.layout(target)
    blocks = _listed(layout)
    if layout is None or blocks is None:
        told = f"`{layout.name}`" if layout else "unknown"
        asked.refuse(f"the layout of `{target.name}` is {told}, for which there is no list with BASE", target.where)
        return ""
    return "\n".join([*head, *_lines(asked, target, layout, blocks)]) + "\n"


def _lines(asked: Asked, target: Target, layout: Layout, blocks: Sequence[str]) -> Sequence[str]:
    """Return the comment about the VAE, where there is one, and the list, or the name of a preset that is all of it."""
    number = target.numbers["alpha"]
    assert isinstance(number, NumberPerTensor), "alpha is one for all inputs"
    by_block = _by_block(asked, target, number, layout, blocks)
    preset = _preset(number)
    if preset:
        return [*(["# VAE: 0"] if _VAE in by_block else []), preset]
    texts = {block: asked.decimal(each, target.where, "alpha") for block, each in by_block.items()}
    vae = [f"# VAE: {texts[_VAE]}"] if _VAE in texts else []
    return [*vae, ",".join(texts.get(block, "0") for block in blocks)]


def _preset(number: NumberPerTensor) -> str:
    """Return the name of the preset that a number is, as it is; "" if it is anything else."""
    rules = number.rules
    value = rules[0].value if len(rules) == 1 and rules[0].key in ("default", "preset") else None
    return value.name if isinstance(value, Preset) and value.low == 0 and value.high == 1 else ""


def _models(asked: Asked) -> Iterator[str]:
    for letter, each in zip("ABC", asked.target.inputs, strict=False):
        source = asked.source(each)
        if source is None:
            asked.refuse(f"`{each.ref}` is a target, and {asked.format} is of one merge", each.where)
            continue
        path = asked.file(source)
        if path != path.strip() or not path.isprintable():
            asked.refuse(f"`{path}` can't be told in a line of text", source.where, help="rename the file")
        yield f"# model {letter}: {path}"


def _saved(asked: Asked) -> Iterator[str]:
    suffix = asked.check_file()
    yield f"# save: {'fp16, ' * asked.is_halved()}{suffix.removeprefix('.')}"


def _listed(layout: Layout | None) -> Sequence[str] | None:
    """Return the blocks of the list with BASE and without the VAE; None if the layout has none."""
    found = layout.mbw if layout else ()
    return next((blocks for blocks in found if blocks[0] == "BASE" and _VAE not in blocks), None)


def _by_block(
    asked: Asked, target: Target, number: NumberPerTensor, layout: Layout, blocks: Sequence[str]
) -> Mapping[str, Fraction]:
    """Return the number of each block that has tensors, the VAE too; a block whose tensors differ is refused."""
    reached = asked.reached(target, number)
    found: dict[str, Fraction] = {}
    for name in asked.floats(target):
        block = layout.block(name) or "BASE"
        here = reached.get(name, Fraction(0))
        if found.setdefault(block, here) != here:
            message = f"the tensors of block {block} of `{target.name}` have several numbers, such as that of `{name}`"
            asked.refuse(message, target.where, "alpha", key=True)
            return {}
        if here and block != _VAE and block not in blocks:
            asked.refuse(f"block {block} of `{target.name}` is not in the list", target.where, "alpha", key=True)
            return {}
    return found
