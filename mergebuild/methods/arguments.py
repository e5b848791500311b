"""What a method is told beside its inputs: an argument for each of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

__all__ = ["Argument", "Flags", "Numbers"]

Argument = Fraction | tuple[Fraction, ...] | bool | str
"""What a parameter of an operation is: a number, one a model, a switch, or a word."""

Numbers = Mapping[str, Fraction | tuple[Fraction, ...]]
Flags = Mapping[str, bool]
