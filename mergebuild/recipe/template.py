"""Makes the other members of a family from one that was read: they differ only in names, outputs and numbers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from mergebuild.recipe.model import NumberPerTensor, Target
from mergebuild.recipe.namespace import Namespace
from mergebuild.recipe.nodes import Reader, resolve
from mergebuild.recipe.per_tensor import number_per_tensor
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.target_table import Declaration, Methods
from mergebuild.recipe.targets import Reading, read_target
from mergebuild.recipe.variables import Scope

__all__ = ["Template"]


class Template:
    """A member of a family that was read, from which others are made: they differ only in names, outputs and numbers.

    A family may have ten thousand members, and values that name no axis are equal for all of them.
    """

    def __init__(self, declaration: Declaration, target: Target, refs: tuple[tuple[str, At], ...]) -> None:
        """Take a member that was read. In its table only the output and numbers may name a variable."""
        self._declaration = declaration
        self._refs = refs
        self._fields: dict[str, Any] = {each.name: getattr(target, each.name) for each in fields(target)}
        self._fields["kin"] = self
        self._numbers = [key for key in _varying(declaration) if key != "output"]

    @staticmethod
    def of(
        declaration: Declaration, name: str, scope: Scope, namespace: Namespace, methods: Methods, default_dtype: str
    ) -> Template | None:
        """Return the template that a member makes; None if it is invalid, or if members differ in more."""
        problems = Problems()
        reading = read_target(declaration, name, scope, namespace, methods, default_dtype, problems)
        target = reading.target
        beside = target is not None and (target.config or target.tokenizer or target.chat_template)
        if target is None or problems or target.rules or target.slices or beside or target.max_shard_size:
            return None  # rules have the target's numbers too; the other keys depend on the kind of output
        plain = {key for key, number in target.numbers.items() if isinstance(number, NumberPerTensor)}
        return Template(declaration, target, reading.refs) if _varying(declaration) <= {*plain, "output"} else None

    def member(self, name: str, scope: Scope, output: str, output_path: str, problems: Problems) -> Reading:
        """Return another member, whose output was checked; mistakes in a number are reported."""
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
    """Return the keys of a family's table whose values contain a variable."""
    return frozenset(key for key, raw in declaration.table.items() if key != "foreach" and "${" in repr((key, raw)))
