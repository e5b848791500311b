"""Reads a target with a method: the inputs as its table lists them, and all parameters."""

from __future__ import annotations

from mergebuild.errors import did_you_mean
from mergebuild.methods.catalog import Method
from mergebuild.methods.method import LISTS
from mergebuild.recipe.experts import check_experts
from mergebuild.recipe.input_values import INLINE_KEYS
from mergebuild.recipe.inputs import check_inputs, listed
from mergebuild.recipe.model import Input
from mergebuild.recipe.nodes import Node, among, misspelt
from mergebuild.recipe.parameters import ModelEntry, Parameters
from mergebuild.recipe.target_table import MadeBy, TargetTable
from mergebuild.recipe.vocabulary import FOREIGN, keys_of

__all__ = ["METHOD", "by_method"]

METHOD = 'such as `method = "weighted_sum"`; `mergebuild methods` shows all'
"""Help for a missing or mistyped `method`."""


def by_method(table: TargetTable, node: Node) -> MadeBy | None:
    """Read a target whose `method` is `node`; None if there is no such method."""
    method = _method(table, node)
    if method is None:
        check_inputs(table)
        return None
    allowed = keys_of(method)
    for key in table.values:
        if key not in allowed:
            table.unknown(key, allowed, method)
    inputs, models = _inputs(table, method)
    parameters = Parameters(table, method)
    for parameter in method.parameters:
        parameters.read(parameter, models)
    if method.makes.makes_experts:
        check_experts(table, parameters, models)
    return MadeBy(method.name, (*inputs, *parameters.inputs), parameters.numbers, parameters.flags, parameters.words)


def _method(table: TargetTable, node: Node) -> Method | None:
    """Return the method that a target names; None if there is no such method."""
    name = table.reader.text(node, table.what("method"), expected="the name of a method", hint=METHOD)
    method = table.context.methods.rows.get(name or "")
    if method is None and name is not None and name not in table.context.methods.broken:
        _unknown_method(table, name, node)
    return method


def _inputs(table: TargetTable, method: Method) -> tuple[list[Input], list[ModelEntry]]:
    """Return all inputs, and the entries of those that are in a list."""
    inputs: list[Input | None] = []
    models: list[ModelEntry] = []
    for role in method.inputs:
        if role not in table.values:
            if role not in method.optional:
                table.missing(role, method, f"the inputs of `{method.name}` are {among(method.inputs)}")
        elif role in LISTS:
            models = _models(table, table.values[role], method)
            _count_models(table, models, method)
            inputs.extend(entry.given for entry in models)
        else:
            inputs.append(table.input(role, table.values[role]))
    return [given for given in inputs if given is not None], models


def _models(table: TargetTable, node: Node, method: Method) -> list[ModelEntry]:
    items = listed(table, node, method.listed)
    return [_model(table, number, item, method) for number, item in enumerate(items)]


def _model(table: TargetTable, number: int, item: Node, method: Method) -> ModelEntry:
    one, role = method.listed[:-1], f"{method.listed}[{number}]"
    if not isinstance(item.value, dict):
        return ModelEntry(table.input(role, item), {})
    beside = {parameter.name for parameter in method.parameters if parameter.per == "model"}
    for key, below in item.value.items():
        if key not in beside and key != one and key not in INLINE_KEYS[one]:
            message = f"{role} of target `{table.name}` has unknown key `{key}`"
            hint = _meant_beside(key, method, one, beside)
            table.problems.add("unknown-key", message, below.at, key=True, help=hint)
    if one in item.value:
        return ModelEntry(table.input_in(role, one, item, INLINE_KEYS[one]), item.value)
    if not misspelt(one, item.value, (one, *sorted(beside))):
        _no_model(table, role, item, one, beside)
    return ModelEntry(None, item.value)


def _no_model(table: TargetTable, role: str, item: Node, one: str, beside: set[str]) -> None:
    """Report an item of a list of models that names none; `one`: the key that would name it."""
    message = f"{role} of target `{table.name}` has no `{one}`"
    example = f'such as `{{ {one} = "name", {next(iter(beside), "weight")} = 0.5 }}`'
    table.problems.add("missing-key", message, item.at, help=example)


def _meant_beside(key: str, method: Method, one: str, beside: set[str]) -> str:
    """Return help for an unknown key beside a model."""
    if method.parameter(key) is not None:
        return f"`{key}` is one number for the whole target"
    meant = FOREIGN.get(key)
    if meant in beside:
        return f"it is called `{meant}` here"
    keys = (*sorted(beside), *INLINE_KEYS[one])
    return did_you_mean(key, (one, *keys), otherwise=f"beside a {one}: {among(keys)}")


def _count_models(table: TargetTable, models: list[ModelEntry], method: Method) -> None:
    found, least, most = len(models), method.least_models, method.most_models
    if 0 < found < least or (most is not None and found > most):
        wanted = f"needs {least}" if least == most else f"needs at least {least}"
        message = f"{table.what(method.listed)} has {found}, and `{method.name}` {wanted}"
        hint = "add another model" if found < least else "take one away, or merge in steps: one target after another"
        table.problems.add("wrong-count", message, table.values[method.listed].at, help=hint)


def _unknown_method(table: TargetTable, name: str, node: Node) -> None:
    known = table.context.methods.rows
    aliases = {_plain(alias): row.name for row in known.values() for alias in (*row.aliases, row.name)}
    meant = aliases.get(_plain(name))
    otherwise = "`mergebuild methods` shows all"
    hint = f"did you mean `{meant}`?  {otherwise}" if meant else did_you_mean(name, [*known], otherwise=otherwise)
    message = f"target `{table.name}` uses unknown method `{name}`"
    table.problems.add("unknown-method", message, node.at, help=hint)


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())
