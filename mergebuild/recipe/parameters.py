"""Reads a method's parameters from a target: numbers per tensor, one for each model, flags, words."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import NamedTuple

from mergebuild.methods.catalog import Method, Parameter
from mergebuild.recipe.model import Constant, Input, NumberPerTensor, Rule
from mergebuild.recipe.nodes import Node
from mergebuild.recipe.per_tensor import number_per_tensor
from mergebuild.recipe.target_table import LARGEST_SEED, TargetTable
from mergebuild.recipe.vocabulary import GATE_HINTS

__all__ = ["ModelEntry", "Parameters"]


class ModelEntry(NamedTuple):
    """One item of a list of models or LoRAs, and the keys of its table."""

    given: Input | None
    beside: dict[str, Node]


class Parameters:
    """The parameters of a method that were read so far, by name."""

    def __init__(self, table: TargetTable, method: Method) -> None:
        self._table = table
        self._method = method
        self._reader = table.reader
        self.numbers: dict[str, NumberPerTensor | tuple[NumberPerTensor, ...]] = {}
        self.flags: dict[str, bool] = {}
        self.words: dict[str, str | int] = {}
        self.inputs: list[Input] = []
        """Inputs that parameters name."""

    def read(self, parameter: Parameter, models: list[ModelEntry]) -> None:
        """Read a parameter, or take its default; `models`: the items of the method's list."""
        node = self._table.values.get(parameter.name)
        if parameter.kind == "flag":
            self._flag(parameter, node)
        elif parameter.kind in ("word", "integer"):
            self._word(parameter, node)
        elif parameter.kind == "gate":
            self._gate(parameter, node)
        elif parameter.kind == "texts":
            self._texts(parameter, node, models)
        elif parameter.per == "model":
            self._per_model(parameter, node, models)
        elif node is not None:
            number = number_per_tensor(self._reader, node, self._table.what(parameter.name))
            if number is not None:
                self.numbers[parameter.name] = number
        elif parameter.default is None:
            self._missing(parameter)
        else:
            self.numbers[parameter.name] = self._constant(parameter)

    def _flag(self, parameter: Parameter, node: Node | None) -> None:
        default = bool(parameter.default)
        found = self._reader.flag(node, self._table.what(parameter.name)) if node is not None else default
        self.flags[parameter.name] = default if found is None else found

    def _word(self, parameter: Parameter, node: Node | None) -> None:
        """Read a parameter that is one word or integer for all tensors."""
        found: str | int | None
        if node is None:
            default = parameter.default
            found = int(default) if isinstance(default, Fraction) else str(default) if default is not None else None
            if found is None:
                self._missing(parameter)
        elif parameter.kind == "word":
            found = self._reader.choice(node, self._table.what(parameter.name), parameter.choices)
        else:
            found = self._integer(parameter, node)
        if found is not None:
            self.words[parameter.name] = found

    def _gate(self, parameter: Parameter, node: Node | None) -> None:
        """Read how experts are chosen: a word, or a table that names a source of gates."""
        if node is None:
            self._missing(parameter)
        elif isinstance(node.value, dict):
            given = self._table.input("gate", node)
            self.inputs += [given] if given is not None else []
        else:
            found = self._reader.choice(node, self._table.what(parameter.name), parameter.choices, GATE_HINTS)
            if found is not None:
                self.words["gate"] = found
            if found == "random" and "seed" not in self._table.values:
                self._table.missing("seed", self._method, "random gates need one, such as `seed = 1`")

    def _texts(self, parameter: Parameter, node: Node | None, models: list[ModelEntry]) -> None:
        """Read the lists of texts beside models; those of one model are kept as one word, a list in JSON."""
        listed = self._method.listed
        if node is not None:
            message = f"{self._table.what(parameter.name)} is for a model each"
            hint = f'write them beside it: `{{ {listed[:-1]} = "name", {parameter.name} = ["..."] }}`'
            self._table.problems.add("bad-value", message, node.at, key=True, help=hint)
        for index, entry in enumerate(models):
            given = entry.beside.get(parameter.name)
            what, hint = f"`{parameter.name}` of {listed}[{index}]", 'such as `["write code"]`'
            texts = self._reader.texts(given, what, hint) if given is not None else None
            if given is not None and given.value == []:
                self._table.problems.add("bad-value", f"{what} is empty", given.at, help=hint)
            elif texts:
                self.words[f"{parameter.name}[{index}]"] = json.dumps([text for text, _ in texts], ensure_ascii=False)

    def _integer(self, parameter: Parameter, node: Node) -> int | None:
        what = self._table.what(parameter.name)
        above = LARGEST_SEED if parameter.high is None else int(parameter.high) + 1
        found = self._reader.integer(node, what, above)
        if found is not None and parameter.low is not None and found < parameter.low:
            self._reader.wrong(node, what, f"a whole number from {parameter.low} on", "write a larger one")
        return found

    def _per_model(self, parameter: Parameter, node: Node | None, models: list[ModelEntry]) -> None:
        """Read a number for each model: from its item, from a list of numbers, or one for all."""
        name, listed = parameter.name, self._method.listed
        if node is not None and isinstance(node.value, list) and models and len(node.value) != len(models):
            message = f"{self._table.what(name)} lists {len(node.value)} numbers for {len(models)} {listed}"
            hint = f"one for each of `{listed}`, in their order"
            self._table.problems.add("wrong-count", message, node.at, help=hint)
            return
        given: list[NumberPerTensor] = []
        shared = self._shared(parameter, node, len(models))
        for index, (entry, common) in enumerate(zip(models, shared, strict=False)):
            number = common
            if name in entry.beside:
                number = number_per_tensor(self._reader, entry.beside[name], f"`{name}` of {listed}[{index}]")
            elif number is None and node is None:
                self._missing(parameter)
                return
            if number is not None:
                given.append(number)
        self.numbers[name] = tuple(given)

    def _shared(self, parameter: Parameter, node: Node | None, count: int) -> list[NumberPerTensor | None]:
        """Return, for each model, the number that it has unless its own item gives one."""
        if node is None:
            return [self._constant(parameter) if parameter.default is not None else None] * count
        what = self._table.what(parameter.name)
        if not isinstance(node.value, list):
            return [number_per_tensor(self._reader, node, what)] * count
        return [number_per_tensor(self._reader, item, f"item {n} of {what}") for n, item in enumerate(node.value)]

    def _missing(self, parameter: Parameter) -> None:
        what = parameter.summary or "it has no default"
        self._table.missing(parameter.name, self._method, f"`{self._method.name}` needs it: {what}")

    def _constant(self, parameter: Parameter) -> NumberPerTensor:
        assert isinstance(parameter.default, Fraction)  # numbers have numbers as defaults
        return NumberPerTensor((Rule("default", Constant(parameter.default), self._table.node.at),))
