"""Inputs made where they are named: `chat+style` (LoRAs added), and `{ model = "chat", dtype = "bfloat16" }` (rounded).

Each is what a virtual target would be that adds the LoRAs with strength 1, or that copies the input in another dtype;
so it is a target, which no table declares. Its name is made of the names in it, so that inputs that are written alike
are one target. No other input and no declaration has the same name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction

from mergebuild.methods.method import Method
from mergebuild.recipe.model import Constant, Input, NumberPerTensor, Rule, Target
from mergebuild.recipe.places import At

__all__ = ["InlineTargets", "Rounded", "WithLoras"]

_PLAIN = re.compile(r"[\w.-]+")
"""A name that needs no quotes beside a `+`."""


@dataclass(frozen=True, slots=True)
class WithLoras:
    """An input with LoRAs added, each with strength 1; all of them canonical names."""

    base: str
    loras: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its parts joined by `+`."""
        parts = (self.base, *self.loras)
        return "+".join(part if _PLAIN.fullmatch(part) else _quoted(part) for part in parts)

    def target(self, name: str, rows: Mapping[str, Method], at: At) -> Target:
        """Return the target that it stands for."""
        loras = (Input(f"loras[{number}]", lora, at) for number, lora in enumerate(self.loras))
        one = NumberPerTensor((Rule("default", Constant(Fraction(1)), at),))
        strength, flags = {"strength": (one,) * len(self.loras)}, {"allow_unmatched": False}
        return _target(name, rows["add_lora"], (Input("base", self.base, at), *loras), at, strength, flags)


@dataclass(frozen=True, slots=True)
class Rounded:
    """An input rounded to a dtype before it is used."""

    base: str
    dtype: str

    @property
    def name(self) -> str:
        """The input's name and the dtype."""
        return f"{_quoted(self.base) if '@' in self.base else self.base} as {self.dtype}"

    def target(self, name: str, rows: Mapping[str, Method], at: At) -> Target:
        """Return the target that it stands for."""
        return _target(name, rows["copy"], (Input("a", self.base, at),), at, dtype=self.dtype)


class InlineTargets:
    """The inline inputs of a recipe that were read so far, by name."""

    def __init__(self, declared: Collection[str]) -> None:
        """`declared`: the names that sources and targets have."""
        self._declared = declared
        self._known: dict[str, tuple[WithLoras | Rounded, At]] = {}

    def __contains__(self, name: str) -> bool:
        """Whether an inline input has this name."""
        return name in self._known

    def add(self, made: WithLoras | Rounded, at: At) -> str:
        """Return the name of an inline input that is written at a place."""
        name = f"{made.name}@" if made.name in self._declared else made.name  # nothing declared ends in `@`
        self._known.setdefault(name, (made, at))
        return name

    def at(self, name: str) -> At:
        """Return where it is written first."""
        return self._known[name][1]

    def target(self, name: str, rows: Mapping[str, Method]) -> Target:
        """Return the target that an inline input stands for. `rows`: the methods of the catalog."""
        made, at = self._known[name]
        return made.target(name, rows, at)


def _quoted(part: str) -> str:
    return "'" + part.replace("'", "''") + "'"


def _target(
    name: str,
    row: Method,
    inputs: tuple[Input, ...],
    at: At,
    numbers: Mapping[str, NumberPerTensor | tuple[NumberPerTensor, ...]] | None = None,
    flags: Mapping[str, bool] | None = None,
    dtype: str | None = None,
) -> Target:
    """Return a target without an output, with the defaults of all keys that are left out."""
    return Target(
        name=name, method=row.name, inputs=inputs, numbers=numbers or {}, flags=flags or {}, words={}, formula=None,
        output=None, output_path=None, dtype=dtype, merge=None, drop=(), missing="keep", ema="drop", nonfinite="error",
        metadata="minimal", cache=True, where=at, row=row,
    )  # fmt: skip
