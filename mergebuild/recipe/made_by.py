"""Reads what makes a target, or a rule of one: a method or a formula, with its inputs and numbers."""

from __future__ import annotations

from mergebuild.recipe.by_formula import by_formula
from mergebuild.recipe.by_method import METHOD, by_method
from mergebuild.recipe.inputs import check_inputs
from mergebuild.recipe.nodes import dotted_help
from mergebuild.recipe.target_table import MadeBy, TargetTable
from mergebuild.recipe.vocabulary import ANY_KEYS, means

__all__ = ["made_by"]


def made_by(table: TargetTable) -> MadeBy | None:
    """Read what makes a target; None if that is invalid, which is reported."""
    values = table.values
    if "method" in values and "formula" in values:
        message = f"target `{table.name}` has a `method` and a `formula`"
        at = values["formula"].at
        table.problems.add("method-and-formula", message, at, key=True, help="leave one of them out")
        return None
    if "formula" in values:
        return by_formula(table, values["formula"])
    if "method" in values:
        return by_method(table, values["method"])
    _nothing(table)
    return None


def _nothing(table: TargetTable) -> None:
    """Report a target with neither a method nor a formula."""
    check_inputs(table)
    foreign = [key for key in table.values if any(means(key, made, ANY_KEYS) for made in ("method", "formula"))]
    for key in foreign:
        table.unknown(key, ANY_KEYS)
    if not foreign:
        message = f"target `{table.name}` has no `method` and no `formula`"
        dotted = dotted_help(table.node)
        code = "dotted-key" if dotted else "missing-key"
        table.problems.add(code, message, table.node.at, help=dotted or METHOD)
