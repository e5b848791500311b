"""The graph of a recipe: sources and targets are nodes; an edge goes from an input to the target that reads it.

It is made from the text alone: no source is opened. Each listed member of a family is a node of its own, and so is an
unlisted one that a target reads. networkx orders the graph, and is imported only for that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import networkx as nx

    from mergebuild.recipe import Recipe

__all__ = [
    "Edge",
    "Graph",
    "GraphNode",
    "ancestors",
    "from_recipe",
    "order",
    "to_dot",
    "to_json",
    "to_mermaid",
    "to_text",
]

_FAMILY_SHOWN = 20
"""A family with more members than this is one line of the text form."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A source or a target."""

    name: str
    kind: Literal["source", "target"]
    output: str | None = None
    """A target's output as written; None for sources and virtual targets."""

    @property
    def family(self) -> str | None:
        """The family whose member it is."""
        family, at, _ = self.name.partition("@")
        return family if at and self.kind == "target" else None


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` reads `source` (which may be a target too) as `role`, such as `a` or `models[0]`."""

    source: str
    target: str
    role: str


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of the recipe, sources first; edges in the order of the targets and of their inputs."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[Edge, ...]

    @cached_property
    def by_name(self) -> Mapping[str, GraphNode]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def inputs(self) -> Mapping[str, Sequence[Edge]]:
        """The edges into each target that has inputs, by its name."""
        found: dict[str, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            found[edge.target].append(edge)
        return found


def from_recipe(recipe: Recipe, targets: Iterable[str] = ()) -> Graph:
    """Return the graph of these targets and of what they are made of; of the whole recipe if none are named.

    Raises:
        UsageError: a name is no target.
        RecipeError: a member of a family that is asked for is invalid.
    """
    asked = list(targets)
    nodes = {name: GraphNode(name, "source") for name in recipe.sources if not asked}
    edges: list[Edge] = []
    waiting = list(recipe.resolve(asked) if asked else recipe.target_names())
    # breadth first: those asked for in their order, then what these need
    for name in waiting:
        if name in nodes:
            continue
        if name in recipe.sources:
            nodes[name] = GraphNode(name, "source")
            continue
        target = recipe.target(name)
        nodes[name] = GraphNode(name, "target", target.output)
        edges += (Edge(each.ref, name, each.role) for each in target.reads)
        waiting += (each.ref for each in target.reads)
    ordered = sorted(nodes.values(), key=lambda node: node.kind)  # a stable sort: sources first
    return Graph(tuple(ordered), tuple(edges))


def ancestors(graph: Graph, names: Iterable[str]) -> frozenset[str]:
    """Return everything that these nodes are made of, directly or indirectly, without the nodes themselves."""
    import networkx as nx

    directed = _directed(graph)
    return frozenset().union(*(nx.ancestors(directed, name) for name in names))


def order(graph: Graph) -> tuple[str, ...]:
    """Return the names, each after everything that it is made of, otherwise in the order of the recipe."""
    import networkx as nx

    place = {node.name: at for at, node in enumerate(graph.nodes)}
    return tuple(nx.lexicographical_topological_sort(_directed(graph), key=place.__getitem__))


def _directed(graph: Graph) -> nx.DiGraph:
    import networkx as nx

    directed = nx.DiGraph()
    directed.add_nodes_from(node.name for node in graph.nodes)
    directed.add_edges_from((edge.source, edge.target) for edge in graph.edges)
    return directed


def to_json(graph: Graph) -> dict[str, object]:
    """Return the graph as plain values: `nodes` with `name`, `kind`, `output`; `edges` with `from`, `to`, `role`."""
    return {
        "nodes": [{"name": node.name, "kind": node.kind, "output": node.output} for node in graph.nodes],
        "edges": [{"from": edge.source, "to": edge.target, "role": edge.role} for edge in graph.edges],
    }


def to_dot(graph: Graph) -> list[str]:
    """Return the graph in Graphviz' language: sources are boxes, targets ellipses, filled if they have an output."""
    lines = ["digraph mergebuild {", "  rankdir=LR;", "  node [shape=ellipse];"]
    lines += (f"  {_dot_name(node.name)}{_dot_style(node)};" for node in graph.nodes)
    for edge in graph.edges:
        source, target, role = map(_dot_name, (edge.source, edge.target, edge.role))
        lines.append(f"  {source} -> {target} [label={role}];")
    return [*lines, "}"]


def _dot_name(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _dot_style(node: GraphNode) -> str:
    if node.kind == "source":
        return " [shape=box]"
    return " [style=filled, fillcolor=lightgrey]" if node.output else " [style=dashed]"


def to_mermaid(graph: Graph) -> list[str]:
    """Return the graph in Mermaid's language, with the names as labels."""
    numbers = {node.name: f"n{at}" for at, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node in graph.nodes:
        left, right = ("[", "]") if node.kind == "source" else ("([", "])") if node.output else ("(", ")")
        lines.append(f"  {numbers[node.name]}{left}{_mermaid_label(node.name)}{right}")
    arrows = ((numbers[edge.source], _mermaid_label(edge.role), numbers[edge.target]) for edge in graph.edges)
    return [*lines, *(f"  {source} -->|{role}| {target}" for source, role, target in arrows)]


def _mermaid_label(text: str) -> str:
    escaped = text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
    return f'"{escaped}"'


def to_text(graph: Graph) -> list[str]:
    """Return an indented tree, from targets that no other target reads down to sources; nothing is shown twice.

    Sources that nothing reads come last.
    """
    read = {edge.source for edge in graph.edges}
    tops = [node for node in graph.nodes if node.name not in read]
    shown: set[str] = set()
    lines = [line for node in _collapsed(tops) for line in _tree(graph, node, shown)]
    unused = [node.name for node in tops if node.kind == "source"]
    return [*lines, *(f"{name}  (a source that nothing reads)" for name in unused)]


def _collapsed(nodes: Iterable[GraphNode]) -> Iterator[GraphNode | list[GraphNode]]:
    """Yield the targets; a large family is one list, at the position of its first member."""
    families: dict[str, list[GraphNode]] = defaultdict(list)
    targets = [node for node in nodes if node.kind == "target"]
    for node in targets:
        families[node.family or node.name].append(node)
    for node in targets:
        members = families[node.family or node.name]
        if len(members) <= _FAMILY_SHOWN:
            yield node
        elif node is members[0]:
            yield members


def _tree(graph: Graph, top: GraphNode | list[GraphNode], shown: set[str]) -> Iterator[str]:
    """Yield the lines of a tree. Not recursive, as chains of merges may be longer than the stack allows."""
    if isinstance(top, list):
        yield f"{top[0].family}  ({len(top)} members, {top[0].name} to {top[-1].name})"
        top = top[0]
        waiting = [(edge.source, edge.role, 1) for edge in reversed(graph.inputs[top.name])]
    else:
        waiting = [(top.name, "", 0)]
    while waiting:
        name, role, depth = waiting.pop()
        node = graph.by_name[name]
        edges = graph.inputs.get(name, ())
        repeated = name in shown and bool(edges)
        shown.add(name)
        label = f"{role}: " if role and role != name else ""
        yield f"{'  ' * depth}{label}{name}{_suffix(node, repeated)}"
        if not repeated:
            waiting += ((edge.source, edge.role, depth + 1) for edge in reversed(edges))


def _suffix(node: GraphNode, repeated: bool) -> str:
    if repeated:
        return "  (see above)"
    return f"  -> {node.output}" if node.output else ""
