"""The table of a target, or of a rule: its values by key, what names in it mean, and how mistakes are reported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mergebuild.errors import did_you_mean
from mergebuild.methods.catalog import Method
from mergebuild.recipe.input_values import InputValues
from mergebuild.recipe.later import LATER_KEYS
from mergebuild.recipe.model import Formula, Input, NumberPerTensor
from mergebuild.recipe.namespace import Namespace
from mergebuild.recipe.nodes import Node, Reader, among
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.variables import Scope
from mergebuild.recipe.vocabulary import COMMON_KEYS, FOREIGN_SAYINGS, foreign, keys_of, means

__all__ = ["LARGEST_SEED", "Context", "Declaration", "MadeBy", "Methods", "TargetTable"]

LARGEST_SEED = 2**64


@dataclass(frozen=True, slots=True)
class Declaration:
    """A target as it is written in a file."""

    name: str
    table: dict[str, object]
    at: At


class Methods(NamedTuple):
    """The methods that a target may name; and names of the user's own that are invalid, which is reported elsewhere."""

    rows: Mapping[str, Method]
    broken: frozenset[str] = frozenset()


class Context(NamedTuple):
    """What names in a target mean."""

    scope: Scope
    namespace: Namespace
    methods: Methods


class MadeBy(NamedTuple):
    """The method of a target, its inputs and its parameters. For a formula the method is `formula`."""

    method: str
    inputs: tuple[Input, ...]
    numbers: dict[str, NumberPerTensor | tuple[NumberPerTensor, ...]]
    flags: dict[str, bool]
    words: dict[str, str | int]
    formula: Formula | None = None


class TargetTable:
    """The values of a target or a rule, by key. Mistakes are reported to `problems`."""

    def __init__(self, node: Node, values: dict[str, Node], name: str, context: Context, problems: Problems) -> None:
        self.node = node
        self.values = values
        self.name = name
        self.context = context
        self.problems = problems
        self.reader = Reader(problems)
        self.inputs = InputValues(self.reader, context.namespace)
        """Reads its inputs."""
        self.refs: list[tuple[str, At]] = []
        """The sources and targets that it names, as far as it was read."""

    def beside(self, node: Node, values: dict[str, Node], name: str) -> TargetTable:
        """Return another table of the same target, such as that of a rule."""
        return TargetTable(node, values, name, self.context, self.problems)

    def what(self, key: str) -> str:
        """Return how a message names a key."""
        return f"`{key}` of target `{self.name}`"

    def method(self, values: Mapping[str, Node] | None = None) -> Method | None:
        """Return the method that the table (or `values`) names; None if there is none or it is unknown."""
        node = (self.values if values is None else values).get("method")
        return self.context.methods.rows.get(node.value) if node and isinstance(node.value, str) else None

    def input(self, role: str, node: Node) -> Input | None:
        """Return the source or target that a value names; None if it names none, which is reported."""
        one = "" if role == "config" else "lora" if role.startswith("loras[") else "model"
        return self._input(role, node, self.inputs.ref(node, self.what(role), one))

    def input_in(self, role: str, one: str, node: Node, keys: Collection[str]) -> Input | None:
        """Return the source or target that a table names by its key `one`, which it has; None if that is wrong.

        `keys`: those that say what is done with it first. The table may have other keys, which are read elsewhere.
        """
        assert isinstance(node.value, dict)  # as it has the key
        what = self.what(role)
        ref = self.inputs.ref(node.value[one], what, one)
        return self._input(role, node.value[one], self.inputs.changed(ref, node, what, keys))

    def _input(self, role: str, node: Node, ref: str | None) -> Input | None:
        if ref is None:
            return None
        self.refs.append((ref, node.at))
        return Input(role, ref, node.at)

    def seed(self) -> None:
        """Report an invalid `seed`, even if the method draws no numbers (one that does has it in its words)."""
        if (node := self.values.get("seed")) is not None:
            self.reader.integer(node, self.what("seed"), LARGEST_SEED)

    def missing(self, key: str, method: Method, hint: str) -> None:
        """Report a missing key, unless it is there under another name, which is reported by itself."""
        allowed = keys_of(method)
        if not any(means(found, key, allowed) for found in self.values):
            self.problems.add("missing-key", f"target `{self.name}` has no `{key}`", self.node.at, help=hint)

    def unknown(self, key: str, allowed: tuple[str, ...], method: Method | None = None) -> None:
        """Report an unknown key."""
        at = self.values[key].at
        if key in LATER_KEYS:
            message = f"`{key}` in target `{self.name}` is not in this version"
            self.problems.add("not-in-this-version", message, at, key=True, help=f"take it out; {LATER_KEYS[key]}")
            return
        hint = _meant(key, allowed, method)
        self.problems.add("unknown-key", f"target `{self.name}` has unknown key `{key}`", at, key=True, help=hint)


def _meant(key: str, allowed: tuple[str, ...], method: Method | None) -> str:
    """Return help for an unknown key."""
    meant = foreign(key, allowed)
    if meant is not None:
        return f"it is called `{meant}` here"
    if key in FOREIGN_SAYINGS:
        return FOREIGN_SAYINGS[key]
    takes = tuple(word for word in allowed if word not in COMMON_KEYS)
    own = f"`{method.name}` takes {among(takes)}; " if method else ""
    return did_you_mean(key, allowed, otherwise=f"{own}every target: {among(COMMON_KEYS)}")
