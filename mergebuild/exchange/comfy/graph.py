"""A graph of ComfyUI as its server gets it: nodes by id, whose inputs are values or links to outputs of other nodes.

This is the API form. The workflow form, which the editor saves, is brought into it by `workflow`. Graphs come from
strangers: they may have any type in any place, circles, and nodes without end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple, TypeGuard

from mergebuild.errors import Place, RecipeError

__all__ = ["MOST_NODES", "ComfyNode", "Graph", "Link", "bad_graph", "graph_of", "in_order", "is_api_form", "parsed"]

MOST_NODES: Final = 20_000
"""Nodes of a graph, those of its sub-graphs among them."""


class Link(NamedTuple):
    """An output of a node."""

    node: str
    slot: int


@dataclass(frozen=True, slots=True)
class ComfyNode:
    """A node: what it does, and with what."""

    id: str
    kind: str
    """The name of its class."""
    inputs: Mapping[str, object]
    """Links, and values of JSON with decimals as they were spelt, in the order of the file."""
    title: str = ""

    @property
    def shown(self) -> str:
        """The node in messages."""
        return f"node {_clipped(self.id)} ({_clipped(self.kind)})"


Graph = dict[str, ComfyNode]


def bad_graph(message: str, shown: str) -> RecipeError:
    """Return the error of a graph that ComfyUI would not run."""
    return RecipeError.one("bad-recipe", message, where=Place(shown), help="open it in ComfyUI, and save it again")


def parsed(text: str) -> object:
    """Return a text of JSON with its decimals as they are spelt; None: it is none."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def is_api_form(value: object) -> TypeGuard[dict[str, dict[str, object]]]:
    """Whether a value of JSON is a graph in the API form."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(each, dict) and isinstance(each.get("class_type"), str) for each in value.values())
    )


def graph_of(value: Mapping[str, Mapping[str, object]], shown: str) -> Graph:
    """Return the graph of a value that `is_api_form`.

    Raises:
        RecipeError: it has too many nodes.
    """
    if len(value) > MOST_NODES:
        raise bad_graph(f"the graph has {len(value):,} nodes, and at most {MOST_NODES:,} are read", shown)
    return {key: _node(key, each) for key, each in value.items()}


def _node(id: str, found: Mapping[str, object]) -> ComfyNode:
    inputs, meta = found.get("inputs"), found.get("_meta")
    given = {name: _input(value) for name, value in inputs.items()} if isinstance(inputs, dict) else {}
    title = meta.get("title") if isinstance(meta, dict) else None
    return ComfyNode(id, str(found["class_type"]), given, title if isinstance(title, str) else "")


def _input(value: object) -> object:
    match value:
        case [str() | int() as id, int() as slot] if not isinstance(id, bool) and not isinstance(slot, bool):
            return Link(str(id), slot)
        case {"__value__": inner}:
            return inner
    return value


def in_order(graph: Graph, last: Iterable[str], shown: str) -> list[ComfyNode]:
    """Return nodes and all that they need, each behind what it needs. Links to nowhere need nothing.

    Raises:
        RecipeError: nodes need each other in a circle.
    """
    done: dict[str, bool] = {}
    order: list[ComfyNode] = []
    stack = [(key, False) for key in last]
    while stack:
        key, is_seen = stack.pop()
        if is_seen:
            done[key] = True
            order.append(graph[key])
        elif key not in done and key in graph:
            done[key] = False
            stack.append((key, True))
            stack.extend((link.node, False) for link in _links(graph[key]) if not _is_waiting(link, done, shown))
    return order


def _is_waiting(link: Link, done: Mapping[str, bool], shown: str) -> bool:
    """Whether a node was ordered already.

    Raises:
        RecipeError: it waits for the node that links to it.
    """
    if done.get(link.node) is False:
        raise bad_graph(f"the graph goes in a circle through node {_clipped(link.node)}", shown)
    return link.node in done


def _links(node: ComfyNode) -> list[Link]:
    return [value for value in node.inputs.values() if isinstance(value, Link)]


def _clipped(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"


def _no_number(_word: str) -> None:
    """Return nothing in place of NaN, which ComfyUI writes beside inputs to say that they changed."""
