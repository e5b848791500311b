"""What a method is told beside its inputs: an argument for each parameter, and the lines that keys have of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Protocol

from mergebuild.key import Line

__all__ = ["Argument", "Arguments", "Described", "Flags", "Numbers", "lines_of"]


class Described(Protocol):
    """An argument that describes a part of a LoRA: a frozen value with a text of its own."""

    @property
    def key_text(self) -> str:
        """Its text in keys: equal for equal values, and only for these."""


Argument = Fraction | tuple[Fraction, ...] | bool | str | Described
"""What a parameter of an operation is: a number, one a model, a switch, a word, or a description."""

Arguments = tuple[tuple[str, Argument], ...]
"""Arguments by parameter, in the order of their names."""

Numbers = Mapping[str, Fraction | tuple[Fraction, ...]]
Flags = Mapping[str, bool]


def lines_of(arguments: Arguments) -> Iterator[Line]:
    """Yield the lines that keys have of arguments."""
    for name, value in arguments:
        yield Line(name, value if isinstance(value, Fraction | tuple | bool | str) else value.key_text)
