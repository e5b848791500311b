"""The graph is the recipe's: every input an edge, whoever asks, in whatever form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mergebuild
from mergebuild.errors import UsageError
from mergebuild.recipe import Recipe, load_recipe
from mergebuild.recipe.graph import (
    Edge,
    Graph,
    GraphNode,
    ancestors,
    from_recipe,
    order,
    to_dot,
    to_json,
    to_mermaid,
    to_text,
)

MERGEFILE = """
[sources]
x = "a.safetensors"
y = "b.safetensors"
unused = "c.safetensors"

[targets.top]
method = "add_difference"
a = "base"
b = "mix@alpha=0.25"
c = "base"
alpha = 1
output = "out/top.safetensors"

[targets.base]
method = "weighted_sum"
a = "x"
b = "y"
alpha = 0.5

[targets.mix]
foreach.alpha = [0.1, 0.2]
method = "weighted_sum"
a = "base"
b = "y"
alpha = "${alpha}"
output = "out/mix-${alpha}.safetensors"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "mergefile.toml").write_text(MERGEFILE)
    return load_recipe(tmp_path / "mergefile.toml")


def test_nodes_are_sources_targets_and_members_that_only_an_input_names(recipe: Recipe) -> None:
    graph = from_recipe(recipe)
    assert [(node.name, node.kind) for node in graph.nodes] == [
        *((name, "source") for name in ("x", "y", "unused")),
        *((name, "target") for name in ("top", "base", "mix@alpha=0.1", "mix@alpha=0.2", "mix@alpha=0.25")),
    ]
    assert graph.by_name["mix@alpha=0.25"].family == "mix"
    assert graph.by_name["base"].output is None


def test_every_input_is_an_edge_with_its_role(recipe: Recipe) -> None:
    graph = from_recipe(recipe)
    assert set(graph.inputs["top"]) == {
        Edge("base", "top", "a"),
        Edge("mix@alpha=0.25", "top", "b"),
        Edge("base", "top", "c"),
    }
    assert len(graph.edges) == 3 + 2 + 3 * 2


def test_the_graph_of_a_target_is_what_it_is_made_of(recipe: Recipe) -> None:
    names = {node.name for node in from_recipe(recipe, ["mix@alpha=0.7"]).nodes}
    assert names == {"mix@alpha=0.7", "base", "x", "y"}
    with pytest.raises(UsageError):
        from_recipe(recipe, ["nobody"])


def test_ancestors_are_everything_below(recipe: Recipe) -> None:
    graph = from_recipe(recipe)
    assert ancestors(graph, ["mix@alpha=0.1"]) == {"base", "x", "y"}
    assert ancestors(graph, ["top", "base"]) == {"base", "mix@alpha=0.25", "x", "y"}
    assert ancestors(graph, []) == frozenset()


def test_the_json_form_has_the_keys_that_others_read(recipe: Recipe) -> None:
    document = to_json(from_recipe(recipe, ["base"]))
    assert document == {
        "nodes": [
            {"name": "x", "kind": "source", "output": None},
            {"name": "y", "kind": "source", "output": None},
            {"name": "base", "kind": "target", "output": None},
        ],
        "edges": [{"from": "x", "to": "base", "role": "a"}, {"from": "y", "to": "base", "role": "b"}],
    }
    json.dumps(document)


def test_the_text_form_shows_each_tree_once(recipe: Recipe) -> None:
    assert to_text(from_recipe(recipe)) == [
        "top  -> out/top.safetensors",
        "  a: base",
        "    a: x",
        "    b: y",
        "  b: mix@alpha=0.25  -> out/mix-0.25.safetensors",
        "    a: base  (see above)",
        "    b: y",
        "  c: base  (see above)",
        "mix@alpha=0.1  -> out/mix-0.1.safetensors",
        "  a: base  (see above)",
        "  b: y",
        "mix@alpha=0.2  -> out/mix-0.2.safetensors",
        "  a: base  (see above)",
        "  b: y",
        "unused  (a source that nothing reads)",
    ]


def test_a_large_family_is_one_line_and_the_inputs_of_its_first_member() -> None:
    members = [GraphNode(f"mix@n={number}", "target") for number in range(21)]
    edges = [Edge("x", member.name, "a") for member in members]
    assert to_text(Graph((GraphNode("x", "source"), *members), tuple(edges))) == [
        "mix  (21 members, mix@n=0 to mix@n=20)",
        "  a: x",
    ]
    assert len(to_text(Graph((GraphNode("x", "source"), *members[:20]), tuple(edges[:20])))) == 40


def test_a_chain_may_be_deeper_than_the_stack() -> None:
    depth = sys.getrecursionlimit() * 2
    nodes = (GraphNode("0", "source"), *(GraphNode(str(number), "target") for number in range(1, depth)))
    graph = Graph(nodes, tuple(Edge(str(number), str(number + 1), "a") for number in range(depth - 1)))
    assert len(to_text(graph)) == depth
    assert order(graph) == tuple(map(str, range(depth)))
    assert len(ancestors(graph, [str(depth - 1)])) == depth - 1


def test_names_are_quoted_in_the_languages_of_others() -> None:
    graph = Graph((GraphNode('a"\\b', "source"), GraphNode("x#<y>", "target")), (Edge('a"\\b', "x#<y>", "models[0]"),))
    assert '  "a\\"\\\\b" -> "x#<y>" [label="models[0]"];' in to_dot(graph)
    assert to_mermaid(graph) == [
        "flowchart LR",
        '  n0["a#quot;\\b"]',
        '  n1("x#35;#lt;y#gt;")',
        '  n0 -->|"models[0]"| n1',
    ]


@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=30))
def test_everything_stands_behind_what_it_is_made_of(below: list[set[int]]) -> None:
    """For any graph without cycles, every edge goes forward in `order`, and no name is lost or doubled."""
    nodes = tuple(GraphNode(str(number), "target") for number in reversed(range(len(below))))
    edges = tuple(
        Edge(str(source), str(target), "a")
        for target, sources in enumerate(below)
        for source in sources
        if source < target
    )
    found = order(Graph(nodes, edges))
    assert sorted(found) == sorted(node.name for node in nodes)
    assert all(found.index(edge.source) < found.index(edge.target) for edge in edges)


@pytest.mark.processes
def test_networkx_is_imported_only_to_order() -> None:
    code = "import sys, mergebuild.recipe.graph; sys.exit('networkx' in sys.modules)"
    root = Path(mergebuild.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
