"""From the table of a target to a `Target`: its method or formula, inputs, numbers, and what every target has.

Everything is checked against the catalog of methods and the names of the recipe, and every mistake is reported before
the target is given up. What other tools call a thing gets its name here as help.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from mergebuild.errors import did_you_mean
from mergebuild.formats import registry
from mergebuild.methods.catalog import Method, Parameter
from mergebuild.methods.method import LISTS
from mergebuild.recipe.expression import ExpressionError, Name
from mergebuild.recipe.formula import LinearFormula, parse_formula
from mergebuild.recipe.later import LATER_KEYS
from mergebuild.recipe.model import (
    Component,
    Constant,
    Formula,
    Input,
    NumberPerTensor,
    Rule,
    SelectorText,
    Target,
    TensorRule,
)
from mergebuild.recipe.namespace import Namespace, NoSuchNameError
from mergebuild.recipe.nodes import Invalid, Node, Reader, among, dotted_help, misspelt, resolve
from mergebuild.recipe.per_tensor import number_per_tensor, selectors
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.variables import Scope

__all__ = [
    "COMMON_KEYS",
    "DTYPES",
    "INPUTS",
    "SAFETENSORS",
    "Declaration",
    "Methods",
    "OutputError",
    "Reading",
    "Template",
    "absolute",
    "check_output",
    "read_dtype",
    "read_target",
]

DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "source")

_DTYPE_HINTS = {
    "fp32": "float32", "f32": "float32", "float": "float32", "full": "float32",
    "fp16": "float16", "f16": "float16", "half": "float16",
    "bf16": "bfloat16", "brain": "bfloat16",
    "fp8": "float8_e4m3fn", "float8": "float8_e4m3fn", "f8_e4m3": "float8_e4m3fn", "fp8_e4m3fn": "float8_e4m3fn",
    "f8_e5m2": "float8_e5m2", "fp8_e5m2": "float8_e5m2",
    "auto": "source", "keep": "source", "same": "source",
}  # fmt: skip
COMMON_KEYS = (
    "method", "formula", "output", "dtype", "foreach", "merge", "drop", "missing", "ema", "nonfinite", "metadata",
    "compat", "seed", "cache", "rules", "config", "max_shard_size",
    "components", "on_channels", "architectures",
)  # fmt: skip
"""Keys that every target may have."""
_OF_A_RULE = ("tensors", "method", "formula", "compat", "seed")
"""What a rule may have beside the inputs and parameters of its method."""
INPUTS = ("a", "b", "c", "base", "models", "loras")
"""Keys that name inputs."""
_ANY = (*COMMON_KEYS, *INPUTS)
_FOREIGN = {
    "M": "alpha", "m": "alpha", "multiplier": "alpha", "ratio": "alpha", "amount": "alpha", "base_alpha": "alpha",
    "\N{GREEK SMALL LETTER ALPHA}": "alpha", "β": "beta", "λ": "lambda", "lambda_": "lambda",
    "alphas": "alpha", "betas": "beta",
    "merge_method": "method", "interp_method": "method", "mode": "method", "type": "method",
    "base_model": "base", "model_a": "a", "model_b": "b", "model_c": "c", "A": "a", "B": "b", "C": "c",
    "model": "a", "primary_model": "a", "secondary_model": "b", "tertiary_model": "c", "model1": "a", "model2": "b",
    "model_org": "base", "model_tuned": "a", "dim": "rank", "new_rank": "rank", "max_rank": "rank",
    "conv_dim": "conv_rank", "ratios": "strength", "strengths": "strength", "lora": "loras",
    "inputs": "models", "sources": "models", "weights": "weight", "densities": "density",
    "normalise": "normalize", "out_dtype": "dtype", "precision": "dtype", "save_as": "output", "out": "output",
    "output_path": "output", "filename": "output",
}  # fmt: skip
_FIRST_INPUTS = {"base": "a", "a": "base"}
_FOREIGN_SAYINGS = {
    "filter": "a number per tensor has selectors as keys: `alpha = { default = 0.3, attn = 0.7 }`",
    "parameters": "parameters are keys of the target itself, such as `alpha = 0.3`",
    "mbw": "block weights belong to a number: `alpha = { mbw = [...] }`",
    "preset": 'a preset belongs to a number: `alpha = { preset = "GRAD_V" }`',
    "elemental": 'elemental rules belong to a number: `alpha = { elemental = "OUT03:attn2:0.5" }`',
    "curve": "a curve belongs to a number: `alpha = { sigmoid = 0.3 }`",
    "allow_crimes": 'models of different architectures are merged with `architectures = "allow"`',
    "int8_mask": "it would change nothing; leave it out",
    "include": "write it in `[project]`",
}
_LARGEST_SEED = 2**64
_FORMULA = 'a formula is text in quotes: `formula = "0.7*a + 0.3*b"`'
_METHOD = 'such as `method = "weighted_sum"`; `mergebuild methods` shows all'


class OutputError(ValueError):
    """An output that can't be one here."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Declaration:
    """A target as it stands in a file."""

    name: str
    table: dict[str, object]
    at: At


class Methods(NamedTuple):
    """The methods that a target may name; and names of some of the user's own that are wrong, which is reported."""

    rows: Mapping[str, Method]
    broken: frozenset[str] = frozenset()


class Reading(NamedTuple):
    """What came of a target: itself, if nothing is wrong with it, and what it refers to in any case."""

    target: Target | None
    refs: tuple[tuple[str, At], ...]


class _ModelEntry(NamedTuple):
    given: Input | None
    beside: dict[str, Node]


def check_output(text: str) -> None:
    """Check the text of an output's path.

    Raises:
        OutputError: neither a file of a format that is written, nor a folder.
    """
    shown = text.encode("unicode_escape").decode() if not text.isprintable() else text
    if min(text, default=" ") < " ":
        message = f"is `{shown}`, which has a sign that no path has"
        raise OutputError("bad-path", message, "write paths with `/`, or in single quotes")
    found = registry.of_text(text)
    if registry.is_folder_text(text):
        if found is None or text.replace("\\", "/").rstrip("/").rpartition("/")[2] in (".", "..", "~"):
            message = f"is `{shown}`, expected the path of a folder of its own"
            raise OutputError("bad-output", message, FOLDER)
    elif found is None:
        files = registry.shown_suffixes(" or ")
        message = f"is `{shown}`, expected the path of a {files} file, or of a folder with a `/` behind"
        raise OutputError("bad-output", message, SAFETENSORS)


def is_folder(node: Node | None) -> bool:
    """Whether the value of `output` is the path of a folder."""
    return node is not None and isinstance(node.value, str) and registry.is_folder_text(node.value)


FOLDER = 'such as `output = "out/name/"`, with a `/` at its end'
"""How to mend the output of a folder."""
SAFETENSORS = 'such as `output = "out/name.safetensors"`'
"""How to mend an output."""


def read_dtype(reader: Reader, node: Node, what: str) -> str | None:
    """Return a dtype's name."""
    return reader.choice(node, what, DTYPES, _DTYPE_HINTS)


def read_target(
    declaration: Declaration,
    name: str,
    scope: Scope,
    namespace: Namespace,
    methods: Methods,
    default_dtype: str,
    problems: Problems,
) -> Reading:
    """Read one target, or one member of a family (`scope` then holds its axes)."""
    raw = {key: value for key, value in declaration.table.items() if key != "foreach"}
    node = resolve(raw, declaration.at, scope, problems)
    assert isinstance(node.value, dict)  # raw is a table
    return _TargetReading(node, node.value, name, _Context(scope, namespace, methods), problems).read(default_dtype)


class Template:
    """A member of a family that was read: others are the same but for their names, outputs and numbers.

    A family may have ten thousand members, and what names no axis is equal for all of them.
    """

    def __init__(self, declaration: Declaration, target: Target, refs: tuple[tuple[str, At], ...]) -> None:
        """Take what a member came to, in whose table nothing but its output and numbers names a variable."""
        self._declaration = declaration
        self._refs = refs
        self._fields: dict[str, Any] = {each.name: getattr(target, each.name) for each in fields(target)}
        self._fields["kin"] = self
        self._numbers = [key for key in _varying(declaration) if key != "output"]

    @staticmethod
    def of(
        declaration: Declaration, name: str, scope: Scope, namespace: Namespace, methods: Methods, default_dtype: str
    ) -> Template | None:
        """Return the template that a member makes; None where something is wrong with it, or where more varies."""
        problems = Problems()
        reading = read_target(declaration, name, scope, namespace, methods, default_dtype, problems)
        target = reading.target
        if target is None or problems or target.rules or target.config or target.max_shard_size:
            return None  # rules repeat the target's numbers; the others are for outputs of one kind
        plain = {key for key, number in target.numbers.items() if isinstance(number, NumberPerTensor)}
        return Template(declaration, target, reading.refs) if _varying(declaration) <= {*plain, "output"} else None

    def member(self, name: str, scope: Scope, output: str, output_path: str, problems: Problems) -> Reading:
        """Return another member, whose output is known and sound; what is wrong with a number is reported."""
        numbers = dict(self._fields["numbers"])
        reader = Reader(problems)
        for key in self._numbers:
            node = resolve(self._declaration.table[key], self._declaration.at.child(key), scope, problems)
            number = number_per_tensor(reader, node, f"`{key}` of target `{name}`")
            if number is None:
                return Reading(None, self._refs)
            numbers[key] = number
        own = {"name": name, "numbers": numbers, "output": output, "output_path": Path(output_path)}
        return Reading(Target(**{**self._fields, **own}), self._refs)


def _varying(declaration: Declaration) -> frozenset[str]:
    """Return the keys of a family's table whose values name a variable anywhere."""
    return frozenset(key for key, raw in declaration.table.items() if key != "foreach" and "${" in repr((key, raw)))


class _Context(NamedTuple):
    """What names mean where a target stands."""

    scope: Scope
    namespace: Namespace
    methods: Methods


class _TargetReading:
    def __init__(self, node: Node, table: dict[str, Node], name: str, context: _Context, problems: Problems) -> None:
        self._node = node
        self._table = table
        self._name = name
        self._context = context
        self._problems = problems
        self._reader = Reader(problems)
        self._refs: list[tuple[str, At]] = []
        self._numbers: dict[str, NumberPerTensor | tuple[NumberPerTensor, ...]] = {}
        self._flags: dict[str, bool] = {}
        self._words: dict[str, str | int] = {}

    def read(self, default_dtype: str) -> Reading:
        before = len(self._problems)
        method, inputs, formula = self._made()
        output, output_path = self._output()
        dtype = self._dtype(output is not None or "output" in self._table, default_dtype)
        merge = self._selectors("merge")
        if merge == ():
            self._problems.add("bad-value", f"{self._what('merge')} is empty", self._table["merge"].at,
                               help="list what is merged, or leave it out")  # fmt: skip
        options = self._options()
        drop, cache = self._selectors("drop") or (), self._cache()
        self._check_seed()
        config, most, components = self._config(), self._max_shard_size(), self._components(output is not None)
        if len(self._problems) > before or method is None:
            return Reading(None, tuple(self._refs))
        target = Target(
            name=self._name,
            method=method,
            inputs=inputs,
            numbers=self._numbers,
            flags=self._flags,
            words=self._words,
            formula=formula,
            output=output,
            output_path=output_path,
            dtype=dtype,
            merge=merge,
            drop=drop,
            missing=cast("Literal['keep', 'error']", options["missing"]),
            ema=cast("Literal['drop', 'keep', 'use']", options["ema"]),
            nonfinite=cast("Literal['error', 'allow']", options["nonfinite"]),
            metadata=cast("Literal['minimal', 'full', 'none']", options["metadata"]),
            cache=cache,
            where=self._node.at,
            on_channels=cast("Literal['error', 'common']", options["on_channels"]),
            architectures=cast("Literal['error', 'allow']", options["architectures"]),
            config=config,
            max_shard_size=most,
            components=components,
            row=self._context.methods.rows.get(method),
        )
        rules = self._rules(target)
        if len(self._problems) > before:
            return Reading(None, tuple(self._refs))
        return Reading(replace(target, rules=rules) if rules else target, tuple(self._refs))

    # -- its rules

    def _rules(self, target: Target) -> tuple[TensorRule, ...]:
        """Read `rules`: for some tensors another method, or other parameters of the target's own."""
        node = self._table.get("rules")
        hint = 'such as `[[targets.NAME.rules]]` with `tensors = ["attn"]` and a `method`, or other numbers'
        items = self._reader.items(node, self._what("rules"), "a list of tables", hint) if node is not None else None
        if node is not None and items == []:
            self._problems.add("bad-value", f"{self._what('rules')} is empty", node.at, help=hint)
        found = [self._rule(number, item, target, hint) for number, item in enumerate(items or [])]
        return tuple(rule for rule in found if rule is not None)

    def _rule(self, number: int, node: Node, target: Target, hint: str) -> TensorRule | None:
        name = f"{self._name}.rules[{number}]"
        if not isinstance(node.value, dict):
            self._reader.wrong(node, f"`{name}`", "a table", hint)
            return None
        own = dict(node.value)
        tensors = selectors(self._reader, own["tensors"], f"`tensors` of `{name}`") if "tensors" in own else None
        if not own.get("tensors") or tensors == ():
            message = f"`{name}` has no `tensors`"
            self._problems.add("missing-key", message, node.at, help='such as `tensors = ["attn"]`')
        own.pop("tensors", None)
        for key in [key for key in own if key in COMMON_KEYS and key not in _OF_A_RULE]:
            message = f"`{name}` has unknown key `{key}`"
            self._problems.add(
                "unknown-key", message, own.pop(key).at, key=True, help="it belongs to the target itself"
            )
        if "method" in own or "formula" in own:
            inherited = {key: value for key, value in self._table.items() if key in self._inputs_of(own)}
        else:
            kept = (key for key in self._table if key not in COMMON_KEYS or key in _OF_A_RULE)
            inherited = {key: self._table[key] for key in kept}
        table = {**inherited, **own}
        reading = _TargetReading(Node(table, node.at), table, name, self._context, self._problems)
        return reading.read_rule(tensors or (), target, self._refs)

    def read_rule(
        self, tensors: tuple[SelectorText, ...], target: Target, refs: list[tuple[str, At]]
    ) -> TensorRule | None:
        """Read this table as a rule of a target, for `tensors`; what it refers to is added to `refs`."""
        before = len(self._problems)
        method, inputs, formula = self._made()
        refs.extend(self._refs)
        if method is None or len(self._problems) > before:
            return None
        if inputs[0].ref != target.inputs[0].ref:
            message = f"the first input of `{self._name}` is `{inputs[0].ref}`, and that of its target is not"
            hint = f"all of a target goes from one model to others: begin with `{target.inputs[0].ref}`"
            self._problems.add("bad-rule", message, inputs[0].where.place(), help=hint)
            return None
        self._check_seed()
        made = replace(
            target, name=self._name, method=method, inputs=inputs, numbers=self._numbers, flags=self._flags,
            words=self._words, formula=formula, where=self._node.at,
            row=self._context.methods.rows.get(method),
        )  # fmt: skip
        return TensorRule(tensors, made)

    def _inputs_of(self, rule: Mapping[str, Node]) -> tuple[str, ...]:
        """Return which inputs of its target a rule with a method of its own takes."""
        method = self._named_method(rule)
        return method.inputs if method else ()

    # -- what makes it

    def _named_method(self, table: Mapping[str, Node]) -> Method | None:
        named = table["method"].value if "method" in table else None
        return self._context.methods.rows.get(named) if isinstance(named, str) else None

    def _made(self) -> tuple[str | None, tuple[Input, ...], Formula | None]:
        table = self._table
        if "method" in table and "formula" in table:
            message = f"target `{self._name}` has a `method` and a `formula`"
            self._problems.add(
                "method-and-formula", message, table["formula"].at, key=True, help="leave one of them out"
            )
            return None, (), None
        if "formula" in table:
            return self._by_formula(table["formula"])
        if "method" in table:
            return self._by_method(table["method"])
        self._references()
        foreign = [key for key in table if any(_means(key, made, _ANY) for made in ("method", "formula"))]
        for key in foreign:
            self._unknown_key(key, _ANY, None)
        if not foreign:
            message = f"target `{self._name}` has no `method` and no `formula`"
            dotted = dotted_help(self._node)
            hint = dotted or _METHOD
            self._problems.add("dotted-key" if dotted else "missing-key", message, self._node.at, help=hint)
        return None, (), None

    def _by_method(self, node: Node) -> tuple[str | None, tuple[Input, ...], Formula | None]:
        name = self._reader.text(node, self._what("method"), expected="the name of a method", hint=_METHOD)
        method = self._context.methods.rows.get(name or "")
        if name is None or method is None:
            if name is not None and name not in self._context.methods.broken:
                self._unknown_method(name, node)
            self._references()
            return None, (), None
        allowed = _keys(method)
        for key in self._table:
            if key not in allowed:
                self._unknown_key(key, allowed, method)
        inputs: list[Input] = []
        models: list[_ModelEntry] = []
        for role in method.inputs:
            if role not in self._table:
                if role not in method.optional:
                    self._missing(role, method, f"the inputs of `{method.name}` are {among(method.inputs)}")
            elif role in LISTS:
                models = self._models(self._table[role], method)
                self._count_models(models, method)
                inputs.extend(entry.given for entry in models if entry.given is not None)
            else:
                inputs.extend(self._input(role, self._table[role]))
        for parameter in method.parameters:
            self._parameter(parameter, method, models)
        return name, tuple(inputs), None

    def _count_models(self, models: list[_ModelEntry], method: Method) -> None:
        found, least, most = len(models), method.least_models, method.most_models
        if 0 < found < least or (most is not None and found > most):
            wanted = f"needs {least}" if least == most else f"needs at least {least}"
            message = f"{self._what(method.listed)} has {found}, and `{method.name}` {wanted}"
            hint = (
                "add another model" if found < least else "take one away, or merge in steps: one target after another"
            )
            self._problems.add("wrong-count", message, self._table[method.listed].at, help=hint)

    def _unknown_method(self, name: str, node: Node) -> None:
        known = self._context.methods.rows
        aliases = {_plain(alias): row.name for row in known.values() for alias in (*row.aliases, row.name)}
        meant = aliases.get(_plain(name))
        otherwise = "`mergebuild methods` shows all"
        hint = f"did you mean `{meant}`?  {otherwise}" if meant else did_you_mean(
            name, [*known], otherwise=otherwise
        )  # fmt: skip
        self._problems.add("unknown-method", f"target `{self._name}` uses unknown method `{name}`", node.at, help=hint)

    def _unknown_key(self, key: str, allowed: tuple[str, ...], method: Method | None) -> None:
        at = self._table[key].at
        if key in LATER_KEYS:
            message = f"`{key}` in target `{self._name}` is not in this version"
            self._problems.add("not-in-this-version", message, at, key=True, help=f"take it out; {LATER_KEYS[key]}")
            return
        takes = tuple(word for word in allowed if word not in COMMON_KEYS)
        own = f"`{method.name}` takes {among(takes)}; " if method else ""
        listed = f"{own}every target: {among(COMMON_KEYS)}"
        meant = _foreign(key, allowed)
        if meant is not None:
            hint = f"it is called `{meant}` here"
        elif key in _FOREIGN_SAYINGS:
            hint = _FOREIGN_SAYINGS[key]
        else:
            hint = did_you_mean(key, allowed, otherwise=listed)
        self._problems.add("unknown-key", f"target `{self._name}` has unknown key `{key}`", at, key=True, help=hint)

    def _missing(self, key: str, method: Method, hint: str) -> None:
        allowed = _keys(method)
        if any(_means(found, key, allowed) for found in self._table):
            return  # it is there under another name, and reported so
        self._problems.add("missing-key", f"target `{self._name}` has no `{key}`", self._node.at, help=hint)

    def _references(self) -> None:
        """Check what the inputs name where no method says which of them there are."""
        for role in INPUTS:
            node = self._table.get(role)
            if node is None:
                continue
            if role not in LISTS:
                self._input(role, node)
                continue
            for number, item in enumerate(self._listed_models(node, role)):
                whole = item.value
                named = whole.get(role[:-1]) if isinstance(whole, dict) else item
                if named is not None:
                    self._input(f"{role}[{number}]", named)

    def _models(self, node: Node, method: Method) -> list[_ModelEntry]:
        items = self._listed_models(node, method.listed)
        return [self._model(number, item, method) for number, item in enumerate(items)]

    def _listed_models(self, node: Node, role: str) -> list[Node]:
        hint = f'such as `{role} = ["one", "two"]`'
        items = self._reader.items(node, self._what(role), "a list of sources and targets", hint)
        if items == []:
            self._problems.add("bad-value", f"{self._what(role)} is empty", node.at, help=hint)
        return items or []

    def _model(self, number: int, item: Node, method: Method) -> _ModelEntry:
        one, role = method.listed[:-1], f"{method.listed}[{number}]"
        if not isinstance(item.value, dict):
            return _ModelEntry(next(iter(self._input(role, item)), None), {})
        beside = {parameter.name for parameter in method.parameters if parameter.per == "model"}
        allowed = (one, *sorted(beside))
        for key, below in item.value.items():
            if key not in beside and key != one:
                whole = method.parameter(key) is not None
                meant = _FOREIGN.get(key)
                hint = (
                    f"`{key}` is one number for the whole target" if whole
                    else f"it is called `{meant}` here" if meant in beside
                    else did_you_mean(key, allowed, otherwise=f"beside a {one}: {among(sorted(beside))}")
                )  # fmt: skip
                message = f"{role} of target `{self._name}` has unknown key `{key}`"
                self._problems.add("unknown-key", message, below.at, key=True, help=hint)
        if one not in item.value:
            if not misspelt(one, item.value, allowed):
                message = f"{role} of target `{self._name}` has no `{one}`"
                example = f'such as `{{ {one} = "name", {next(iter(beside), "weight")} = 0.5 }}`'
                self._problems.add("missing-key", message, item.at, help=example)
            return _ModelEntry(None, item.value)
        return _ModelEntry(next(iter(self._input(role, item.value[one])), None), item.value)

    def _input(self, role: str, node: Node) -> list[Input]:
        hint = "write one name in quotes; `mergebuild list` shows all"
        text = self._reader.text(node, self._what(role), expected="the name of a source or target", hint=hint)
        if text is None:
            return []
        try:
            ref = self._context.namespace.one(text)
        except NoSuchNameError as error:
            self._problems.add(error.code, f"{self._what(role)}: {error}", node.at, help=error.hint)
            return []
        self._refs.append((ref, node.at))
        return [Input(role, ref, node.at)]

    # -- its numbers

    def _parameter(self, parameter: Parameter, method: Method, models: list[_ModelEntry]) -> None:
        node = self._table.get(parameter.name)
        if parameter.kind == "flag":
            default = bool(parameter.default)
            found = self._reader.flag(node, self._what(parameter.name)) if node is not None else default
            self._flags[parameter.name] = default if found is None else found
        elif parameter.kind in ("word", "integer"):
            self._word(parameter, method, node)
        elif parameter.per == "model":
            self._per_model(parameter, method, node, models)
        elif node is not None:
            number = number_per_tensor(self._reader, node, self._what(parameter.name))
            if number is not None:
                self._numbers[parameter.name] = number
        elif parameter.default is None:
            self._missing_number(parameter, method)
        else:
            self._numbers[parameter.name] = self._constant(parameter)

    def _word(self, parameter: Parameter, method: Method, node: Node | None) -> None:
        """Read a parameter that is one word or whole number for all tensors."""
        what = self._what(parameter.name)
        found: str | int | None
        if node is None:
            default = parameter.default
            found = int(default) if isinstance(default, Fraction) else str(default) if default is not None else None
            if found is None:
                self._missing_number(parameter, method)
        elif parameter.kind == "word":
            found = self._reader.choice(node, what, parameter.choices)
        else:
            found = self._reader.integer(
                node, what, _LARGEST_SEED if parameter.high is None else int(parameter.high) + 1
            )
            if found is not None and parameter.low is not None and found < parameter.low:
                self._reader.wrong(node, what, f"a whole number from {parameter.low} on", "write a larger one")
        if found is not None:
            self._words[parameter.name] = found

    def _per_model(self, parameter: Parameter, method: Method, node: Node | None, models: list[_ModelEntry]) -> None:
        name = parameter.name
        shared: list[NumberPerTensor | None]
        if node is not None and isinstance(node.value, list):
            if models and len(node.value) != len(models):
                listed = method.listed
                message = f"{self._what(name)} lists {len(node.value)} numbers for {len(models)} {listed}"
                self._problems.add("wrong-count", message, node.at, help=f"one for each of `{listed}`, in their order")
                return
            shared = [number_per_tensor(self._reader, item, f"item {number} of {self._what(name)}")
                      for number, item in enumerate(node.value)]  # fmt: skip
        elif node is not None:
            shared = [number_per_tensor(self._reader, node, self._what(name))] * len(models)
        else:
            default = self._constant(parameter) if parameter.default is not None else None
            shared = [default] * len(models)
        given: list[NumberPerTensor] = []
        for entry, (index, number) in zip(models, enumerate(shared), strict=False):
            if name in entry.beside:
                number = number_per_tensor(self._reader, entry.beside[name], f"`{name}` of {method.listed}[{index}]")  # noqa: PLW2901
            elif number is None and node is None:
                self._missing_number(parameter, method)
                return
            if number is not None:
                given.append(number)
        self._numbers[name] = tuple(given)

    def _missing_number(self, parameter: Parameter, method: Method) -> None:
        what = parameter.summary or "it has no default"
        self._missing(parameter.name, method, f"`{method.name}` needs it: {what}")

    def _constant(self, parameter: Parameter) -> NumberPerTensor:
        assert isinstance(parameter.default, Fraction)  # numbers have numbers as defaults
        return NumberPerTensor((Rule("default", Constant(parameter.default), self._node.at),))

    # -- a formula

    def _by_formula(self, node: Node) -> tuple[str | None, tuple[Input, ...], Formula | None]:
        text = self._reader.text(
            node, self._what("formula"), expected="a formula such as `0.7*a + 0.3*b`", hint=_FORMULA
        )
        if text is None:
            return None, (), None
        own = [key for key in self._table if key not in COMMON_KEYS]
        formula = self._parsed(text, own, node)
        if formula is None:
            return None, (), None
        for key in own:
            if key not in formula.numbers:
                self._unused_number(key, formula)
                continue
            number = number_per_tensor(self._reader, self._table[key], self._what(key))
            if number is not None:
                self._numbers[key] = number
        self._refs.extend((ref, node.at) for ref in formula.models)
        roles = {index: spelled for spelled, index in reversed(list(formula.spellings.items()))}
        inputs = tuple(Input(roles[index], ref, node.at) for index, ref in enumerate(formula.models))
        return "formula", inputs, formula

    def _parsed(self, text: str, own: list[str], node: Node) -> LinearFormula | None:
        failures: list[None] = []

        def refer(name: Name) -> str:
            try:
                return self._context.namespace.one(name.name)
            except NoSuchNameError as error:
                failures.append(None)
                at = node.at.inside(text, name.start, name.end)
                message = f"{self._what('formula')}: {error}"
                self._problems.add(error.code, message, at, help=self._name_help(name.name) or error.hint)
                return name.name

        try:
            formula = parse_formula(text, own, refer)
        except ExpressionError as error:
            if not failures:
                at = node.at.inside(text, error.start, error.end)
                message = f"{self._what('formula')}: {error}"
                self._problems.add("bad-formula", message, at, help=error.hint)
            return None
        return None if failures else formula

    def _name_help(self, name: str) -> str:
        if name in self._context.scope:
            return f"a variable stands in braces: `${{{name}}}`"
        longer = self._context.namespace.continued(name)
        return f"names with other signs stand in quotes: `'{longer}'`" if longer else ""

    def _unused_number(self, key: str, formula: LinearFormula) -> None:
        if key in LATER_KEYS or key in _FOREIGN_SAYINGS or _FOREIGN.get(key) in COMMON_KEYS:
            self._unknown_key(key, COMMON_KEYS, None)
            return
        message = f"target `{self._name}` has unknown key `{key}`, and its formula does not use it"
        known = (*formula.numbers, *COMMON_KEYS)
        hint = did_you_mean(key, known, otherwise=f"allowed: {among(known)}")
        self._problems.add("unknown-key", message, self._table[key].at, key=True, help=hint)

    # -- what every target has

    def _what(self, key: str) -> str:
        return f"`{key}` of target `{self._name}`"

    def _output(self) -> tuple[str | None, Path | None]:
        node = self._table.get("output")
        text = (
            self._reader.text(node, self._what("output"), expected="a path", hint=SAFETENSORS)
            if node is not None
            else None
        )
        if node is None or text is None:
            return None, None
        try:
            check_output(text)
        except OutputError as error:
            self._problems.add(error.code, f"{self._what('output')} {error}", node.at, help=error.hint)
        return text, Path(absolute(text, node.at.document.folder))

    def _dtype(self, has_output: bool, default: str) -> str | None:
        node = self._table.get("dtype")
        if node is None:
            return default if has_output else None
        if not has_output:
            message = f"target `{self._name}` has a `dtype` and no `output`"
            hint = "a target without an output is exact; give the `dtype` where it is written"
            self._problems.add("dtype-on-virtual", message, node.at, key=True, help=hint)
            return None
        return read_dtype(self._reader, node, self._what("dtype"))

    def _selectors(self, key: str) -> tuple[SelectorText, ...] | None:
        node = self._table.get(key)
        return selectors(self._reader, node, self._what(key)) if node is not None else None

    def _components(self, has_output: bool) -> tuple[Component, ...]:
        """Read which parts of the model come from elsewhere."""
        node = self._table.get("components")
        hint = 'such as `components.vae = "kl_f8_anime2"`, or `{ model = "kl_f8_anime2", dtype = "float32" }`'
        table = self._reader.table(node, self._what("components"), hint) if node is not None else None
        found = [self._component(name, each, has_output) for name, each in (table or {}).items()]
        return tuple(each for each in found if each is not None)

    def _component(self, name: str, node: Node, has_output: bool) -> Component | None:
        role = f"components.{name}"
        if not isinstance(node.value, dict):
            given = self._input(role, node)
            return Component(name, given[0], None) if given else None
        allowed = ("model", "dtype")
        for key, below in node.value.items():
            if key not in allowed:
                message = f"{self._what(role)} has unknown key `{key}`"
                hint = did_you_mean(key, allowed, otherwise=f"allowed: {among(allowed)}")
                self._problems.add("unknown-key", message, below.at, key=True, help=hint)
        model, dtype = node.value.get("model"), node.value.get("dtype")
        if dtype is not None and not has_output:
            message = f"target `{self._name}` has a `dtype` for its `{name}` and no `output`"
            hint = "a target without an output is exact; give the `dtype` where it is written"
            self._problems.add("dtype-on-virtual", message, dtype.at, key=True, help=hint)
        given = self._input(role, model) if model is not None else []
        if model is None and dtype is None:
            message = f"{self._what(role)} says nothing"
            self._problems.add("missing-key", message, node.at, help="name a `model`, or a `dtype`")
        rounded = read_dtype(self._reader, dtype, f"`dtype` of {role}") if dtype is not None else None
        return Component(name, given[0] if given else None, rounded)

    def _config(self) -> Input | None:
        """Read whose configuration goes beside the weights."""
        node = self._table.get("config")
        found = self._input("config", node) if node is not None else []
        if node is not None and found and not is_folder(self._table.get("output")):
            message = f"{self._what('config')} goes beside the weights of a folder, and there is none"
            self._problems.add("no-folder", message, node.at, key=True, help=FOLDER)
        return found[0] if found else None

    def _max_shard_size(self) -> int | None:
        node = self._table.get("max_shard_size")
        if node is None or isinstance(node.value, Invalid):
            return None
        found = self._reader.size(node, self._what("max_shard_size"), 'such as `max_shard_size = "5GB"`', least=1)
        if found is None:
            return None
        if not is_folder(self._table.get("output")):
            message = f"{self._what('max_shard_size')} is about the files of a folder, and there is none"
            self._problems.add("no-folder", message, node.at, key=True, help=FOLDER)
        return found

    def _options(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, allowed in _CHOICES.items():
            node = self._table.get(key)
            chosen = self._reader.choice(node, self._what(key), allowed) if node is not None else None
            found[key] = chosen or allowed[0]
        method = self._named_method(self._table)
        if "compat" in self._table and not (method and method.parameter("compat")):
            message = f"`compat` in target `{self._name}` is not what its method has"
            hint = "`mergebuild methods NAME` says what there is, and how other tools differ"
            self._problems.add("not-in-this-version", message, self._table["compat"].at, key=True, help=hint)
        return found

    def _check_seed(self) -> None:
        """Refuse a `seed` that is none, whether or not the method draws numbers: one that does has it in its words."""
        if (node := self._table.get("seed")) is not None:
            self._reader.integer(node, self._what("seed"), _LARGEST_SEED)

    def _cache(self) -> bool:
        node = self._table.get("cache")
        found = self._reader.flag(node, self._what("cache")) if node is not None else None
        return found is not False


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "missing": ("keep", "error"),
    "ema": ("drop", "keep", "use"),
    "nonfinite": ("error", "allow"),
    "metadata": ("minimal", "full", "none"),
    "on_channels": ("error", "common"),
    "architectures": ("error", "allow"),
}
"""The first is the default."""


def absolute(text: str, folder: str) -> str:
    """Return a path as written in a file of that folder, absolute and normal, not resolved through links."""
    return os.path.normpath(f"{folder}/{text}" if text[:1] not in "~/\\" else _from_elsewhere(text, folder))


def _from_elsewhere(text: str, folder: str) -> str:
    return os.path.join(folder, os.path.expanduser(text))  # noqa: PTH111, PTH118 -- strings, for there may be many


def _keys(method: Method) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*method.inputs, *(parameter.name for parameter in method.parameters), *COMMON_KEYS)))


def _foreign(key: str, allowed: Collection[str]) -> str | None:
    """Return what another tool's name is called here."""
    meant = _FOREIGN.get(key, "")
    return next((word for word in (meant, _FIRST_INPUTS.get(meant)) if word in allowed), None)


def _means(key: str, wanted: str, allowed: Collection[str]) -> bool:
    """Return whether a key is unknown, and the help for it is just this one."""
    if key in allowed or key in LATER_KEYS:
        return False
    meant = _foreign(key, allowed)
    return meant == wanted if meant or key in _FOREIGN_SAYINGS else misspelt(wanted, [key], allowed)


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())
