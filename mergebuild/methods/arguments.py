"""Arguments: the values of a method's parameters for one tensor, and their lines in keys."""

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
        """Its text in keys; two values have the same text if and only if they are equal."""


Argument = Fraction | tuple[Fraction, ...] | bool | str | Described
"""The value of a parameter: a number, one number per model, a flag, a word, or a description."""

Arguments = tuple[tuple[str, Argument], ...]
"""Pairs of parameter and argument, in the order of the parameters' names."""

Numbers = Mapping[str, Fraction | tuple[Fraction, ...]]
Flags = Mapping[str, bool]


def lines_of(arguments: Arguments) -> Iterator[Line]:
    """Yield the lines of arguments in a key."""
    for name, value in arguments:
        yield Line(name, value if isinstance(value, Fraction | tuple | bool | str) else value.key_text)
