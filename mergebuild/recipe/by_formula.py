"""Reads a target with a formula: its inputs are the models in the formula, its numbers are keys of the target."""

from __future__ import annotations

from mergebuild.errors import did_you_mean
from mergebuild.recipe.expression import ExpressionError, Name
from mergebuild.recipe.formula import LinearFormula, parse_formula
from mergebuild.recipe.later import LATER_KEYS
from mergebuild.recipe.model import Input, NumberPerTensor
from mergebuild.recipe.namespace import NoSuchNameError
from mergebuild.recipe.nodes import Node, among
from mergebuild.recipe.per_tensor import number_per_tensor
from mergebuild.recipe.target_table import MadeBy, TargetTable
from mergebuild.recipe.vocabulary import COMMON_KEYS, FOREIGN, FOREIGN_SAYINGS

__all__ = ["by_formula"]

_FORMULA = 'a formula is text in quotes: `formula = "0.7*a + 0.3*b"`'


def by_formula(table: TargetTable, node: Node) -> MadeBy | None:
    """Read a target whose `formula` is `node`; None if that is no formula."""
    text = table.reader.text(node, table.what("formula"), expected="a formula such as `0.7*a + 0.3*b`", hint=_FORMULA)
    own = [key for key in table.values if key not in COMMON_KEYS]
    formula = _parsed(table, text, own, node) if text is not None else None
    if formula is None:
        return None
    numbers = _numbers(table, formula, own)
    table.refs.extend((ref, node.at) for ref in formula.models)
    roles = {index: spelled for spelled, index in reversed(list(formula.spellings.items()))}
    inputs = tuple(Input(roles[index], ref, node.at) for index, ref in enumerate(formula.models))
    return MadeBy("formula", inputs, numbers, {}, {}, formula)


def _numbers(
    table: TargetTable, formula: LinearFormula, own: list[str]
) -> dict[str, NumberPerTensor | tuple[NumberPerTensor, ...]]:
    found: dict[str, NumberPerTensor | tuple[NumberPerTensor, ...]] = {}
    for key in own:
        if key not in formula.numbers:
            _unused(table, key, formula)
            continue
        number = number_per_tensor(table.reader, table.values[key], table.what(key))
        if number is not None:
            found[key] = number
    return found


def _parsed(table: TargetTable, text: str, own: list[str], node: Node) -> LinearFormula | None:
    failures: list[None] = []

    def refer(name: Name) -> str:
        try:
            return table.context.namespace.reference(name.name, node.at)
        except NoSuchNameError as error:
            failures.append(None)
            first = text.index(name.name, name.start)
            start, end = (first + offset for offset in error.span) if error.span else (name.start, name.end)
            at = node.at.inside(text, start, end)
            message = f"{table.what('formula')}: {error}"
            table.problems.add(error.code, message, at, help=_name_help(table, name.name) or error.hint)
            return name.name

    try:
        formula = parse_formula(text, own, refer)
    except ExpressionError as error:
        if not failures:
            at = node.at.inside(text, error.start, error.end)
            message = f"{table.what('formula')}: {error}"
            table.problems.add("bad-formula", message, at, help=error.hint)
        return None
    return None if failures else formula


def _name_help(table: TargetTable, name: str) -> str:
    if name in table.context.scope:
        return f"a variable stands in braces: `${{{name}}}`"
    longer = table.context.namespace.continued(name)
    return f"names with other signs stand in quotes: `'{longer}'`" if longer else ""


def _unused(table: TargetTable, key: str, formula: LinearFormula) -> None:
    """Report a key that the formula does not use."""
    if key in LATER_KEYS or key in FOREIGN_SAYINGS or FOREIGN.get(key) in COMMON_KEYS:
        table.unknown(key, COMMON_KEYS)
        return
    message = f"target `{table.name}` has unknown key `{key}`, and its formula does not use it"
    known = (*formula.numbers, *COMMON_KEYS)
    hint = did_you_mean(key, known, otherwise=f"allowed: {among(known)}")
    table.problems.add("unknown-key", message, table.values[key].at, key=True, help=hint)
