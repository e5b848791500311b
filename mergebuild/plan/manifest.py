"""What a target was made from, as lines for people: `why` prints the difference of two manifests.

The lines of a target are its method, its numbers rule by rule, its options, and the content of its inputs; then come
those of the virtual targets below it, with their names as prefixes, and last the small files of a folder. Every field
of a target is either here or listed as left out (`tests/unit/plan/test_plan_manifest.py`): a field that changes bytes
and is missing here would be a change without a reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction

from mergebuild.digest import checksum, tagged
from mergebuild.fold.folder import Folding
from mergebuild.layouts import Layout
from mergebuild.recipe import shortest_text
from mergebuild.recipe.model import (
    Constant,
    Elemental,
    Gradient,
    Mbw,
    NumberPerTensor,
    Preset,
    SelectorText,
    Target,
    Value,
)
from mergebuild.recipe.tokenizer import TokenRow
from mergebuild.results.looks import Change

__all__ = ["STATISTICS", "changes", "decode", "encode", "lines_of", "manifest"]

STATISTICS = "statistics of made tensors"
"""The line of a target that needs statistics of another target's tensors: the version of how these are computed."""

Manifest = Mapping[str, str]


def manifest(folder: Folding, name: str, contents: Mapping[str, str], *, dtype: str | None) -> dict[str, str]:
    """Return the lines of a target.

    `contents`: the content digest of each source or file target whose tensors are used, as text. The content of others
    does not matter.
    """
    blueprint = folder.blueprint(name)
    lines = dict(lines_of(blueprint.target, blueprint.layout, dtype)) | dict(_programs(blueprint.target))
    seen = {name}
    waiting = [each.ref for each in reversed(blueprint.target.reads)]
    while waiting:
        ref = waiting.pop()
        if ref in seen:
            continue
        seen.add(ref)
        if folder.is_virtual(ref):
            below = folder.blueprint(ref)
            lines |= {f"{ref}.{key}": value for key, value in lines_of(below.target, below.layout, None)}
            lines |= dict(_programs(below.target))
            waiting += [each.ref for each in reversed(below.target.reads)]
        elif (content := contents.get(ref)) is not None:
            lines[f"input {ref}"] = content
    return lines


def changes(before: Manifest, after: Manifest) -> list[Change]:
    """Return how one manifest differs from an earlier one."""
    found = []
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if old == new or (key == STATISTICS and new is None):
            continue
        found.append(Change(key, old, new, _sentence(key, old, new)))
    return found


def _sentence(key: str, old: str | None, new: str | None) -> str:
    """Return how a line changed, in words."""
    if key.startswith(("input ", "program ")):
        what = "changed" if old and new else ("is new" if new else "is gone")
        is_small_file = ": " in key
        return f"{key} {what}" if is_small_file else f"{key}: {'contents ' if old and new else ''}{what}"
    if key == STATISTICS:
        return "statistics of tensors that another target makes are taken again: earlier versions took wrong ones"
    return f"{key} {old if old is not None else '(none)'} -> {new if new is not None else '(none)'}"


def encode(lines: Manifest) -> str:
    """Return a manifest as text for the store."""
    return json.dumps(lines, separators=(",", ":"))


def decode(text: str) -> dict[str, str]:
    """Return the manifest that `encode` wrote."""
    return {str(key): str(value) for key, value in json.loads(text).items()}


def lines_of(target: Target, layout: Layout | None, dtype: str | None) -> Iterator[tuple[str, str]]:
    """Yield the lines of a target that follow from its text.

    `dtype`: the dtype to which it is rounded, if to another one.
    """
    yield from _slices(target, layout) if target.slices else _made(target, layout)
    yield from _rules(target, layout)
    if dtype:
        yield "dtype", dtype
    yield from _components(target)
    yield from _settings(target)


def _slices(target: Target, layout: Layout | None) -> Iterator[tuple[str, str]]:
    """Yield the layers of each slice, and how they are made."""
    for index, each in enumerate(target.slices):
        if each.part:
            yield f"slices[{index}].part", each.part
        for given, layers in zip(each.target.inputs, each.layers, strict=True):
            yield f"slices[{index}].{given.role}.layers", layers.text
        for key, value in _made(each.target, layout):
            yield f"slices[{index}].{key}", value


def _rules(target: Target, layout: Layout | None) -> Iterator[tuple[str, str]]:
    """Yield the tensors of each rule, and how they are made."""
    for index, rule in enumerate(target.rules):
        yield f"rules[{index}].tensors", _selectors(rule.tensors)
        for key, value in _made(rule.target, layout):
            yield f"rules[{index}].{key}", value


def _components(target: Target) -> Iterator[tuple[str, str]]:
    """Yield the model and dtype of each component, as far as it has its own."""
    for each in target.components:
        if each.input is not None:
            yield f"components.{each.name}", each.input.ref
        if each.dtype is not None:
            yield f"components.{each.name}.dtype", each.dtype


def _settings(target: Target) -> Iterator[tuple[str, str]]:
    """Yield the keys of a target that are for all of its tensors, as far as they don't have their default."""
    if target.on_channels != "error":
        yield "on_channels", target.on_channels
    if target.merge is not None:
        yield "merge", _selectors(target.merge)
    if target.drop:
        yield "drop", _selectors(target.drop)
    if target.ema != "drop":
        yield "ema", target.ema
    if target.config is not None:
        yield "config", target.config.ref
    yield from _tokens(target)


def _tokens(target: Target) -> Iterator[tuple[str, str]]:
    """Yield whose tokens and chat template a target has."""
    if (text := target.tokenizer) is not None:
        yield "tokenizer", text.input.ref if text.input else "union"
        if text.pad_to_multiple_of:
            yield "tokenizer.pad_to_multiple_of", str(text.pad_to_multiple_of)
        yield from ((f"tokenizer.tokens[{each.token}]", _token_row(each)) for each in text.tokens)
    if (template := target.chat_template) is not None:
        said = template.input.ref if template.input else f"{template.path and template.path.name}"
        yield "chat_template", f"{said} {tagged(checksum(template.text.encode()))}" if template.text else said


def _token_row(row: TokenRow) -> str:
    """Return the row of a token in words."""
    words = [row.input.ref if row.input else "", "" if row.of is None else str(row.of)]
    words += ["zero" if row.zero else "", "force" if row.force else ""]
    return " ".join(word for word in words if word)


def _programs(target: Target) -> Iterator[tuple[str, str]]:
    """Yield the files of the user's own methods, by content."""
    for each in target.programs:
        if (program := each.makes.program) is not None:
            yield f"program {program.file}", program.content


def _made(target: Target, layout: Layout | None) -> Iterator[tuple[str, str]]:
    """Yield the method, its inputs and parameters."""
    yield "method", target.formula.text if target.formula else target.method
    for each in target.inputs:
        yield each.role, each.ref
    for name, number in target.numbers.items():
        if isinstance(number, NumberPerTensor):
            yield from _number(name, number, layout)
        else:
            for index, one in enumerate(number):
                yield from _number(f"{name}[{index}]", one, layout)
    for name, flag in sorted(target.flags.items()):
        yield name, str(flag).lower()
    for name, word in sorted(target.words.items()):
        yield name, str(word)


def _number(name: str, number: NumberPerTensor, layout: Layout | None) -> Iterator[tuple[str, str]]:
    if number.constant is not None:
        yield name, _text(number.constant)
        return
    for rule in number.rules:
        if isinstance(rule.value, Mbw):
            blocks = (layout.mbw_of(len(rule.value.numbers)) if layout else None) or ()
            for block, value in zip(blocks, rule.value.numbers, strict=False):
                yield f"{name}[{block}]", _text(value)
        elif isinstance(rule.value, Elemental):
            yield f"{name}[{_elemental(rule.value)}]", _text(rule.value.number)
        else:
            yield name if rule.key == "default" else f"{name}[{rule.key}]", _value(rule.value)


def _value(value: Value) -> str:
    match value:
        case Constant(number):
            return _text(number)
        case Gradient(anchors):
            return f"gradient [{', '.join(map(_text, anchors))}]"
        case Preset(name, low, high):
            return name if low == 0 and high == 1 else f"{name} {_text(low)} to {_text(high)}"
        case _:
            return str(value)


def _elemental(rule: Elemental) -> str:
    blocks = ("NOT " if rule.not_blocks else "") + " ".join(rule.blocks)
    elements = ("NOT " if rule.not_elements else "") + " ".join(rule.elements)
    return f"{blocks}:{elements}"


def _selectors(selectors: tuple[SelectorText, ...]) -> str:
    return ", ".join(each.text for each in selectors)


def _text(number: Fraction) -> str:
    """Return a number as its shortest decimal, or as a fraction if it has none."""
    try:
        return shortest_text(number)
    except ValueError:
        return str(number)
