"""Reads the `slices` of a target: a stack, whose layers come from layers of its inputs.

A slice is read as a target of its own, like a rule: what it leaves out, it has from its target. Its inputs are cut to
layers, all to equally many. How many layers a model has is in its header, so only the text is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from mergebuild.recipe.made_by import made_by
from mergebuild.recipe.model import LayerRange, Slice, Target
from mergebuild.recipe.nodes import Node
from mergebuild.recipe.target_table import MadeBy, TargetTable
from mergebuild.recipe.vocabulary import COMMON_KEYS, INPUTS, OF_A_SLICE, keys_of

__all__ = ["MadeSlice", "read_slices", "with_slices"]

_SLICES: Final = 'such as `slices = [{ a = "base", layers = "L00-L15" }, { a = "chat", layers = "L08-L23" }]`'
_LAYERS: Final = '`layers` are written `"L00-L15"`, with the last one, or `"L07"`, or `"none"`'
_RANGE: Final = re.compile(r"L(?P<first>[0-9]{1,6})(?:-L(?P<last>[0-9]{1,6}))?")
_IN_PARTS: Final = ("rules", "components")
"""Keys of a target that divide its tensors in other ways."""


class MadeSlice(NamedTuple):
    """A slice as it is read before its target."""

    table: TargetTable
    made: MadeBy
    layers: tuple[LayerRange, ...]
    part: str
    own: tuple[str, ...]


def read_slices(table: TargetTable) -> list[MadeSlice] | None:
    """Read the slices of a target; None if it has none, and no slice if they are invalid, which is reported."""
    before = len(table.problems)
    node = table.values.get("slices")
    if node is None:
        _check_part(table)
        return None
    for key in _IN_PARTS:
        if key in table.values:
            _divided_twice(table, key)
    if not _has_known_keys(table):
        return []
    items = table.reader.items(node, table.what("slices"), "a list of tables", _SLICES)
    if items == []:
        table.problems.add("bad-value", f"{table.what('slices')} is empty", node.at, help=_SLICES)
    found = [_slice(table, number, item) for number, item in enumerate(items or [])]
    whole = [each for each in found if each is not None]
    if len(table.problems) == before and len(whole) == len(found):  # a method of the user's own may be invalid
        _check_empty(table, whole)
        _check_used(table, whole)
    return whole if len(table.problems) == before and len(whole) == len(found) else []


def with_slices(target: Target, slices: Sequence[MadeSlice]) -> Target:
    """Return a target, which has the method and the inputs of the first slice, with its slices."""
    return replace(target, slices=tuple(_target_of(target, each) for each in slices))


def _target_of(target: Target, each: MadeSlice) -> Slice:
    made, table = each.made, each.table
    row = table.context.methods.rows.get(made.method)
    own = replace(
        target, name=table.name, method=made.method, inputs=made.inputs, numbers=made.numbers, flags=made.flags,
        words=made.words, formula=made.formula, where=table.node.at, row=row, drop=(), config=None,
    )  # fmt: skip
    return Slice(own, each.layers, each.part, each.own)


def _slice(table: TargetTable, number: int, node: Node) -> MadeSlice | None:
    name = f"{table.name}.slices[{number}]"
    if not isinstance(node.value, dict):
        table.reader.wrong(node, f"`{name}`", "a table", _SLICES)
        return None
    own = dict(node.value)
    for key in [key for key in own if key in COMMON_KEYS and key not in OF_A_SLICE]:
        message, at = f"`{name}` has unknown key `{key}`", own.pop(key).at
        table.problems.add("unknown-key", message, at, key=True, help="it belongs to the target itself")
    layers, part = own.pop("layers", None), _part(table, own.pop("part", table.values.get("part")), name)
    apart = _layers_apart(own)
    made_of = table.beside(node, {**_inherited(table, own), **own}, name)
    made = made_by(made_of)
    table.refs.extend(made_of.refs)
    if made is None:
        return None
    made_of.seed()
    ranges = _ranges(made_of, made, apart, layers)
    return MadeSlice(made_of, made, ranges, part, tuple(sorted(own))) if ranges is not None else None


def _inherited(table: TargetTable, own: Mapping[str, Node]) -> dict[str, Node]:
    """Return what a slice has from its target: its own method's inputs, or without one all that makes the target."""
    if "method" in own or "formula" in own:
        method = table.method(own)
        inputs = method.inputs if method else ()
        return {key: value for key, value in table.values.items() if key in inputs}
    return {key: value for key, value in table.values.items() if key not in COMMON_KEYS or key in OF_A_SLICE}


def _part(table: TargetTable, node: Node | None, name: str) -> str:
    """Return the part whose layers a slice is about; empty: the model's only stack."""
    hint = 'such as `part = "encoder"`, or a prefix of tensors\' names'
    return (table.reader.text(node, f"`part` of `{name}`", hint=hint) or "") if node is not None else ""


# -- layers


def _layers_apart(own: dict[str, Node]) -> dict[str, Node]:
    """Take the layers of single inputs out of a slice's table, and return them by role."""
    found: dict[str, Node] = {}
    for role in (role for role in INPUTS if role in own):
        node = own[role]
        if isinstance(node.value, list):
            items = [_without_layers(item, f"{role}[{index}]", found) for index, item in enumerate(node.value)]
            own[role] = node._replace(value=items)
        else:
            own[role] = _without_layers(node, role, found)
    return found


def _without_layers(node: Node, role: str, found: dict[str, Node]) -> Node:
    """Return an input without its layers, which are added to `found`."""
    if not isinstance(node.value, dict) or "layers" not in node.value or role.startswith("loras"):
        return node
    found[role] = node.value["layers"]
    return node._replace(value={key: value for key, value in node.value.items() if key != "layers"})


def _ranges(
    table: TargetTable, made: MadeBy, apart: Mapping[str, Node], layers: Node | None
) -> tuple[LayerRange, ...] | None:
    """Return the layers of each input; None if they are invalid, which is reported."""
    first = apart.get(made.inputs[0].role, layers) if made.inputs else layers
    nodes = [apart.get(each.role, first if each.role.startswith("loras") else layers) for each in made.inputs]
    if None in nodes:
        role = next(each.role for each, node in zip(made.inputs, nodes, strict=True) if node is None)
        table.problems.add("missing-key", f"`{role}` of `{table.name}` has no `layers`", table.node.at, help=_LAYERS)
        return None
    given = [node for node in (*nodes, layers) if node is not None]
    known = {node.at.path: _range(table, node) for node in given}
    found = [known[node.at.path] for node in nodes if node is not None]
    ranges = tuple(each for each in found if each is not None)
    return ranges if None not in known.values() and _are_equally_many(table, made, ranges) else None


def _range(table: TargetTable, node: Node) -> LayerRange | None:
    """Return the layers that a value names; None if it names none in a form that is known, which is reported."""
    text = table.reader.text(node, f"`layers` of `{table.name}`", hint=_LAYERS)
    if text is None:
        return None
    if text == "none":
        return LayerRange(0, 0, node.at)
    match = _RANGE.fullmatch(text)
    first, last = (int(match["first"]), int(match["last"] or match["first"])) if match else (0, -1)
    if last < first:
        what = "runs backwards" if match else "is no range of layers"
        message = f"`layers` of `{table.name}` is `{text}`, which {what}"
        table.problems.add("bad-layers", message, node.at, help=_LAYERS)
        return None
    return LayerRange(first, last - first + 1, node.at)


def _are_equally_many(table: TargetTable, made: MadeBy, ranges: Sequence[LayerRange]) -> bool:
    """Report inputs of a slice that have not as many layers as the first; return whether there are none."""
    odd = [place for place, each in enumerate(ranges) if each.count != ranges[0].count]
    if odd:
        roles = [made.inputs[place].role for place in (0, odd[0])]
        counts = f"{ranges[0].count} layers of `{roles[0]}` and {ranges[odd[0]].count} of `{roles[1]}`"
        message = f"`{table.name}` takes {counts}, and one by one they are merged"
        hint = "all inputs of a slice have equally many layers"
        table.problems.add("slice-lengths", message, ranges[odd[0]].where.place(), help=hint)
    return not odd


# -- all slices together


def _check_empty(table: TargetTable, slices: Sequence[MadeSlice]) -> None:
    """Report slices without layers that give nothing, and stacks without any layer."""
    for of in _by_part(slices):
        for each in of[1:-1]:
            if not each.layers[0].count:
                message = f"`{each.table.name}` has no layers, and is neither the first slice nor the last"
                hint = "the first gives the embeddings, and the last the final norm and the head"
                table.problems.add("bad-layers", message, each.layers[0].where.place(), help=hint)
        if not any(each.layers[0].count for each in of):
            where = of[0].layers[0].where.place()
            table.problems.add("bad-layers", f"the slices of target `{table.name}` have no layers", where, help=_LAYERS)


def _by_part(slices: Sequence[MadeSlice]) -> Iterator[list[MadeSlice]]:
    for part in dict.fromkeys(each.part for each in slices):
        yield [each for each in slices if each.part == part]


def _check_part(table: TargetTable) -> None:
    """Report a `part` of a target that is no stack."""
    if (node := table.values.get("part")) is not None:
        message = f"{table.what('part')} says whose layers slices are, and there are none"
        table.problems.add("missing-key", message, node.at, key=True, help=_SLICES)


def _has_known_keys(table: TargetTable) -> bool:
    """Report keys of the target that its method, which slices have from it, does not know."""
    method = table.method()
    unknown = [key for key in table.values if method is not None and key not in keys_of(method)]
    for key in unknown:
        table.unknown(key, keys_of(method) if method else (), method)
    return not unknown


def _check_used(table: TargetTable, slices: Sequence[MadeSlice]) -> None:
    """Report keys of the target that no slice can have from it."""
    known = {key for each in slices for key in each.table.values}
    for key, node in table.values.items():
        if key not in COMMON_KEYS and key not in known:
            message = f"`{key}` in target `{table.name}` is for no slice: each has a method of its own"
            table.problems.add("unknown-key", message, node.at, key=True, help="write it in the slices that it is for")


def _divided_twice(table: TargetTable, key: str) -> None:
    message = f"target `{table.name}` has `slices` and `{key}`"
    hint = f"give the `{key}` to another target, whose first input is this one; without an `output` it is virtual"
    table.problems.add("bad-slices", message, table.values[key].at, key=True, help=hint)
