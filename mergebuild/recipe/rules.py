"""Reads the `rules` of a target: another method, or other parameters, for some tensors."""

from __future__ import annotations

from dataclasses import replace

from mergebuild.recipe.made_by import made_by
from mergebuild.recipe.model import SelectorText, Target, TensorRule
from mergebuild.recipe.nodes import Node
from mergebuild.recipe.per_tensor import selectors
from mergebuild.recipe.target_table import MadeBy, TargetTable
from mergebuild.recipe.vocabulary import COMMON_KEYS, OF_A_RULE

__all__ = ["read_rules"]

_RULES = 'such as `[[targets.NAME.rules]]` with `tensors = ["attn"]` and a `method`, or other numbers'


def read_rules(table: TargetTable, target: Target) -> tuple[TensorRule, ...]:
    """Read the rules of a target; everything else in it is valid."""
    node = table.values.get("rules")
    if node is None:
        return ()
    items = table.reader.items(node, table.what("rules"), "a list of tables", _RULES)
    if items == []:
        table.problems.add("bad-value", f"{table.what('rules')} is empty", node.at, help=_RULES)
    found = [_rule(table, number, item, target) for number, item in enumerate(items or [])]
    return tuple(rule for rule in found if rule is not None)


def _rule(table: TargetTable, number: int, node: Node, target: Target) -> TensorRule | None:
    name = f"{table.name}.rules[{number}]"
    if not isinstance(node.value, dict):
        table.reader.wrong(node, f"`{name}`", "a table", _RULES)
        return None
    own = dict(node.value)
    tensors = _tensors(table, own, node, name)
    for key in [key for key in own if key in COMMON_KEYS and key not in OF_A_RULE]:
        message, at = f"`{name}` has unknown key `{key}`", own.pop(key).at
        table.problems.add("unknown-key", message, at, key=True, help="it belongs to the target itself")
    rule = table.beside(node, {**_inherited(table, own), **own}, name)
    made = _made(rule, target)
    table.refs.extend(rule.refs)
    return TensorRule(tensors, made) if made is not None else None


def _tensors(table: TargetTable, own: dict[str, Node], node: Node, name: str) -> tuple[SelectorText, ...]:
    """Remove the selectors from a rule's table, and return them."""
    given = own.pop("tensors", None)
    found = selectors(table.reader, given, f"`tensors` of `{name}`") if given is not None else None
    if not given or found == ():
        message = f"`{name}` has no `tensors`"
        table.problems.add("missing-key", message, node.at, help='such as `tensors = ["attn"]`')
    return found or ()


def _inherited(table: TargetTable, own: dict[str, Node]) -> dict[str, Node]:
    """Return what a rule has from its target: its own method's inputs, or without one all that makes the target."""
    if "method" in own or "formula" in own:
        method = table.method(own)
        inputs = method.inputs if method else ()
        return {key: value for key, value in table.values.items() if key in inputs}
    return {key: value for key, value in table.values.items() if key not in COMMON_KEYS or key in OF_A_RULE}


def _made(rule: TargetTable, target: Target) -> Target | None:
    """Return the target that a rule stands for; None if it is invalid, which is reported."""
    before = len(rule.problems)
    made = made_by(rule)
    if made is None or len(rule.problems) > before:
        return None
    if made.inputs[0].ref != target.inputs[0].ref:
        _goes_from_another(rule, made, target)
        return None
    rule.seed()
    return replace(
        target, name=rule.name, method=made.method, inputs=made.inputs, numbers=made.numbers, flags=made.flags,
        words=made.words, formula=made.formula, where=rule.node.at, row=rule.context.methods.rows.get(made.method),
    )  # fmt: skip


def _goes_from_another(rule: TargetTable, made: MadeBy, target: Target) -> None:
    message = f"the first input of `{rule.name}` is `{made.inputs[0].ref}`, and that of its target is not"
    hint = f"all of a target goes from one model to others: begin with `{target.inputs[0].ref}`"
    rule.problems.add("bad-rule", message, made.inputs[0].where.place(), help=hint)
