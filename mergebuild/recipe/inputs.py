"""Checks inputs of a target whose method is unknown, and reads the lists `models` and `loras`."""

from __future__ import annotations

from mergebuild.methods.method import LISTS
from mergebuild.recipe.nodes import Node
from mergebuild.recipe.target_table import TargetTable
from mergebuild.recipe.vocabulary import INPUTS

__all__ = ["check_inputs", "listed"]


def check_inputs(table: TargetTable) -> None:
    """Check what the inputs name, if it is not known which inputs the method has."""
    for role in INPUTS:
        node = table.values.get(role)
        if node is not None and role in LISTS:
            _check_listed(table, node, role)
        elif node is not None:
            table.input(role, node)


def _check_listed(table: TargetTable, node: Node, role: str) -> None:
    for number, item in enumerate(listed(table, node, role)):
        named = item.value.get(role[:-1]) if isinstance(item.value, dict) else item
        if named is not None:
            table.input(f"{role}[{number}]", named)


def listed(table: TargetTable, node: Node, role: str) -> list[Node]:
    """Return the items of `models` or `loras`."""
    hint = f'such as `{role} = ["one", "two"]`'
    items = table.reader.items(node, table.what(role), "a list of sources and targets", hint)
    if items == []:
        table.problems.add("bad-value", f"{table.what(role)} is empty", node.at, help=hint)
    return items or []
