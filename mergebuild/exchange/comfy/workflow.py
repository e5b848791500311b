"""The workflow form of a graph, which ComfyUI's editor saves, brought into the form that its server gets.

The editor does what is done here before it sends a graph: links lead past reroutes, primitives, getters and setters,
which are no nodes of the server; muted nodes vanish, and with them the inputs of others; a bypassed node hands on an
input of the type that is asked for; the nodes of a sub-graph take the place of each node that stands for it. Values of
widgets come without names, in the order of their node's definition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeGuard

from mergebuild.exchange.comfy.blocks import prefixes_of
from mergebuild.exchange.comfy.graph import MOST_NODES, ComfyNode, Graph, Link, bad_graph

__all__ = ["is_workflow", "workflow_graph"]

_MUTED: Final = 2
_BYPASSED: Final = 4
_ENTRY: Final = -10
"""The id of the node that stands for the inputs of a sub-graph."""
_EXIT: Final = -20
_DEEPEST: Final = 16
"""Sub-graphs in sub-graphs."""
_MOST_PARTS: Final = 500_000
"""Links and inputs of all nodes, those of its sub-graphs counted each time that these are used."""

_WIDGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "ImageOnlyCheckpointLoader": ("ckpt_name",),
    "unCLIPCheckpointLoader": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "CLIPLoader": ("clip_name", "type", "device"),
    "DualCLIPLoader": ("clip_name1", "clip_name2", "type", "device"),
    "TripleCLIPLoader": ("clip_name1", "clip_name2", "clip_name3"),
    "QuadrupleCLIPLoader": ("clip_name1", "clip_name2", "clip_name3", "clip_name4"),
    "VAELoader": ("vae_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "ModelMergeSimple": ("ratio",),
    "ModelMergeSubtract": ("multiplier",),
    "CLIPMergeSimple": ("ratio",),
    "CLIPMergeSubtract": ("multiplier",),
    "CheckpointSave": ("filename_prefix",),
    "ImageOnlyCheckpointSave": ("filename_prefix",),
    "ModelSave": ("filename_prefix",),
    "CLIPSave": ("filename_prefix",),
    "VAESave": ("filename_prefix",),
    "LoraSave": ("filename_prefix", "rank", "lora_type", "bias_diff"),
    "PrimitiveBoolean": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
}
"""The widgets of the nodes that are read, in the order of their definition."""

_Table = dict[str, Any]


def is_workflow(value: object) -> TypeGuard[_Table]:
    """Whether a value of JSON is a graph in the workflow form."""
    return isinstance(value, dict) and isinstance(value.get("nodes"), list) and isinstance(value.get("links"), list)


def workflow_graph(value: _Table, shown: str) -> Graph:
    """Return the graph of a value that `is_workflow`.

    Raises:
        RecipeError: its sub-graphs hold themselves, or it has too many nodes.
    """
    definitions = value.get("definitions")
    found = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    inner = {each["id"]: each for each in _tables(found) if isinstance(each.get("id"), str)}
    reading = _Flattening(inner, shown)
    reading.add(_Sheet("", value, None, None), 0)
    return reading.graph()


class _Wire(NamedTuple):
    """Where a link begins, and what goes through it."""

    node: int | str
    slot: int
    type: str


class _Sheet:
    """The nodes of a graph, or of one place where a sub-graph is used."""

    def __init__(self, prefix: str, found: _Table, around: _Sheet | None, host: _Table | None) -> None:
        self.prefix = prefix
        """What stands before the ids of its nodes."""
        self.around, self.host = around, host
        """The sheet on which it is used, and the node that it is there."""
        self.nodes = {_key(each): each for each in _tables(found.get("nodes"))}
        self.wires: dict[int | None, _Wire] = dict(_wires(found.get("links")))
        self.inputs = _tables(found.get("inputs"))
        """What a sub-graph gets, in the order of its slots."""
        self.outside = {str(each.get("name")): each for each in _tables(host.get("inputs"))} if host else {}
        """The inputs of the node that it is, by name."""
        self.promoted = _promoted(host) if host else {}
        self.types: dict[int | str, dict[str, int | None]] = {}
        """By bypassed node: the link of the first input of each type."""
        self.inner: dict[int | str, _Sheet] = {}
        """The sheets of nodes that are sub-graphs."""
        self.exits = {slot: link for link, slot in _exits(found.get("links"))}

    @property
    def size(self) -> int:
        """How much was read for it."""
        inputs = sum(len(node["inputs"]) for node in self.nodes.values() if isinstance(node.get("inputs"), list))
        return len(self.nodes) + len(self.wires) + len(self.inputs) + len(self.outside) + inputs

    def id_of(self, node: int | str) -> str:
        """Return the id of a node among all nodes of the graph."""
        return f"{self.prefix}{node}"


@dataclass
class _Flattening:
    """The sheets of a graph, which are read into one."""

    definitions: Mapping[str, _Table]
    shown: str
    sheets: list[_Sheet] = field(default_factory=list)
    setters: dict[str, tuple[_Sheet, _Table]] = field(default_factory=dict)
    followed: dict[tuple[int, _Wire], object] = field(default_factory=dict)
    """What comes through wires that were followed."""
    nodes: int = 0
    parts: int = 0

    def add(self, sheet: _Sheet, depth: int) -> None:
        """Add a sheet, and those of the sub-graphs on it.

        Raises:
            RecipeError: there are too many nodes, or sub-graphs in sub-graphs without end.
        """
        self.nodes += len(sheet.nodes)
        self.parts += sheet.size
        if self.nodes > MOST_NODES or self.parts > _MOST_PARTS or depth > _DEEPEST:
            message = (
                f"it has more than {MOST_NODES:,} nodes with its sub-graphs, or these are more than {_DEEPEST} deep"
            )
            raise bad_graph(message, self.shown)
        self.sheets.append(sheet)
        for key, node in sheet.nodes.items():
            kind = _kind(node)
            if kind in self.definitions:
                if node.get("mode") not in (_MUTED, _BYPASSED):
                    sheet.inner[key] = _Sheet(f"{sheet.id_of(key)}:", self.definitions[kind], sheet, node)
                    self.add(sheet.inner[key], depth + 1)
            elif kind == "SetNode" and node.get("mode") != _MUTED:
                self.setters.setdefault(str(_first(node.get("widgets_values"))), (sheet, node))

    def graph(self) -> Graph:
        """Return all nodes of the server."""
        found: Graph = {}
        for sheet in self.sheets:
            for key, node in sheet.nodes.items():
                if node.get("mode") in (_MUTED, _BYPASSED) or _kind(node) in _VIRTUAL or key in sheet.inner:
                    continue
                title = node.get("title")
                whole = sheet.id_of(key)
                shown = title if isinstance(title, str) else ""
                found[whole] = ComfyNode(whole, _kind(node), self._inputs(sheet, node), shown)
        return found

    def _inputs(self, sheet: _Sheet, node: _Table) -> dict[str, object]:
        """Return the inputs of a node by name: values of its widgets, and links, which win."""
        found = _values_of(node)
        for each in _tables(node.get("inputs")):
            name = each.get("name")
            wire = sheet.wires.get(_number(each.get("link")))
            if isinstance(name, str) and wire is not None:
                value = self._followed(sheet, wire)
                if value is not None:
                    found[name] = value
                elif "widget" not in each:
                    found.pop(name, None)
        return found

    def _followed(self, sheet: _Sheet, wire: _Wire) -> object:
        """Return what comes through a wire: a link to a node of the server, or a value; None: nothing comes."""
        passed: dict[tuple[int, _Wire], None] = {}
        step: object = (sheet, wire)
        while type(step) is tuple:
            sheet, wire = step
            key = (id(sheet), wire)
            if key in self.followed:
                step = self.followed[key]
                break
            if key in passed:
                raise bad_graph("its reroutes go in a circle", self.shown)
            passed[key] = None
            step = self._step(sheet, wire)
        self.followed |= dict.fromkeys(passed, step)
        return step

    def _step(self, sheet: _Sheet, wire: _Wire) -> object:
        """Return the next wire with its sheet, or what a wire brings."""
        if wire.node == _ENTRY and sheet.around is not None:
            return self._out_of(sheet, wire)
        node = sheet.nodes.get(wire.node)
        if node is None or node.get("mode") == _MUTED:
            return None
        if node.get("mode") == _BYPASSED:
            return self._before(sheet, _bypass(sheet, wire))
        if wire.node in sheet.inner:
            inner = sheet.inner[wire.node]
            return self._before(inner, inner.exits.get(wire.slot))
        if _kind(node) in _VIRTUAL:
            return self._virtual(sheet, node)
        return Link(sheet.id_of(wire.node), wire.slot)

    def _virtual(self, sheet: _Sheet, node: _Table) -> object:
        """Return what a node of the editor hands on: the wire before it, or the value of its widget."""
        match _kind(node):
            case "PrimitiveNode":
                return _first(node.get("widgets_values"))
            case "GetNode":
                setter = self.setters.get(str(_first(node.get("widgets_values"))))
                return self._before(setter[0], _first_link(setter[1])) if setter else None
        return self._before(sheet, _first_link(node))

    def _out_of(self, sheet: _Sheet, wire: _Wire) -> object:
        """Return what comes into a sub-graph from the sheet that it is used on."""
        assert sheet.around is not None
        name = str(sheet.inputs[wire.slot].get("name")) if 0 <= wire.slot < len(sheet.inputs) else ""
        slot = sheet.outside.get(name, {})
        if slot.get("link") is None:
            return sheet.promoted.get(name)
        return self._before(sheet.around, _number(slot.get("link")))

    def _before(self, sheet: _Sheet, link: int | None) -> tuple[_Sheet, _Wire] | None:
        wire = sheet.wires.get(link)
        return (sheet, wire) if wire is not None else None


_VIRTUAL: Final = frozenset({"Reroute", "PrimitiveNode", "GetNode", "SetNode", "Note", "MarkdownNote"})
"""Nodes of the editor alone."""


def _bypass(sheet: _Sheet, wire: _Wire) -> int | None:
    """Return the link of the input that a bypassed node hands on: that of the same place, or the first of the type."""
    found = sheet.nodes[wire.node].get("inputs")
    slots = found if isinstance(found, list) else []
    if wire.node not in sheet.types:
        linked = {str(each.get("type")): _number(each.get("link")) for each in reversed(_tables(slots))}
        sheet.types[wire.node] = linked
    same = slots[wire.slot] if 0 <= wire.slot < len(slots) else None
    if isinstance(same, dict) and str(same.get("type")) == wire.type:
        return _number(same.get("link"))
    return sheet.types[wire.node].get(wire.type)


def _promoted(host: _Table) -> dict[str, object]:
    """Return the values of a sub-graph's own widgets by name; where it has none, those of the inner nodes count."""
    values = host.get("widgets_values")
    names = [str(each.get("name")) for each in _tables(host.get("inputs")) if "widget" in each]
    return dict(zip(names, values, strict=True)) if isinstance(values, list) and len(values) == len(names) else {}


def _values_of(node: _Table) -> dict[str, object]:
    """Return the values of a node's widgets by name, as far as these are known."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return {name: value for name, value in values.items() if not isinstance(value, (dict, list))}
    if not isinstance(values, list):
        return {}
    kind = _kind(node)
    names: Sequence[object] = _WIDGETS.get(kind) or prefixes_of(kind)
    if not names:
        named = [
            each["widget"].get("name") for each in _tables(node.get("inputs")) if isinstance(each.get("widget"), dict)
        ]
        names = named if len(named) == len(values) else ()
    return {name: value for name, value in zip(names, values, strict=False) if isinstance(name, str)}


def _wires(found: object) -> Iterator[tuple[int | None, _Wire]]:
    """Yield where each link begins; links are lists, or tables in newer files and in sub-graphs."""
    for each in found if isinstance(found, list) else ():
        match each:
            case [int() as link, int() | str() as node, int() as slot, _, _, *rest]:
                yield link, _Wire(node, slot, str(rest[0] if rest else None))
            case {"id": int() as link, "origin_id": int() | str() as node, "origin_slot": int() as slot}:
                yield link, _Wire(node, slot, str(each.get("type")))


def _exits(found: object) -> Iterator[tuple[int, int]]:
    """Yield the links that lead out of a sub-graph, and to which output."""
    for each in found if isinstance(found, list) else ():
        match each:
            case {"id": int() as link, "target_id": node, "target_slot": int() as slot} if node == _EXIT:
                yield link, slot


def _tables(found: object) -> list[_Table]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _key(node: _Table) -> int | str:
    found = node.get("id")
    return found if isinstance(found, (int, str)) else ""


def _kind(node: _Table) -> str:
    found = node.get("type")
    return found if isinstance(found, str) else ""


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _first(values: object) -> object:
    """Return the first value of a widget, if it is a plain one."""
    found = values[0] if isinstance(values, list) and values else None
    return None if isinstance(found, (dict, list, tuple)) else found


def _first_link(node: _Table) -> int | None:
    slots = _tables(node.get("inputs"))
    return _number(slots[0].get("link")) if slots else None
