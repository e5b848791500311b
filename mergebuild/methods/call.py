"""What a kernel is called with beside values, and where it lets a tensor be cut. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from math import prod
from typing import Any

from mergebuild.methods.arguments import Argument

__all__ = ["Call", "Grain", "State", "unit_of"]


class Grain(Enum):
    """Where a tensor may be cut. Tensors lie row-major, so each of these is a run of consecutive elements."""

    ELEMENT = "element"
    """Anywhere."""
    VECTOR = "vector"
    """Between vectors along the last dimension: chunks hold whole ones. 0-d and 1-d tensors are one vector."""
    ROW = "row"
    """Between indices of the first dimension: chunks hold all that lies behind one. 0-d is one row; 1-d tensors are
    one row too, as a bias is not cut into single numbers."""
    TENSOR = "tensor"
    """Nowhere."""


@dataclass(frozen=True, slots=True)
class Call:
    """One tensor to be made: all that decides about it besides the inputs' values."""

    tensor: str
    """Its name."""
    shape: tuple[int, ...]
    arguments: Mapping[str, Argument]
    """By parameter: an exact number, one a model, a flag, or a word."""

    @property
    def count(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def number(self, name: str) -> Fraction:
        """Return a number that is one for all inputs, exact."""
        found = self.arguments[name]
        assert isinstance(found, Fraction)
        return found

    def numbers(self, name: str) -> tuple[Fraction, ...]:
        """Return a number for each model, exact."""
        found = self.arguments[name]
        assert isinstance(found, tuple)
        return found

    def flag(self, name: str) -> bool:
        """Return a switch."""
        found = self.arguments[name]
        assert isinstance(found, bool)
        return found

    def word(self, name: str) -> str:
        """Return a word of a few that are allowed."""
        found = self.arguments[name]
        assert isinstance(found, str)
        return found


State = Any
"""What a statistic comes to: a tuple of Python floats and integers where it is small and worth keeping; any value that
the kernel understands otherwise."""


def unit_of(grain: Grain, call: Call) -> int:
    """Return how many elements a kernel must have together."""
    shape, count = call.shape, max(1, call.count)
    match grain:
        case Grain.ELEMENT:
            return 1
        case Grain.VECTOR:
            return max(1, shape[-1]) if len(shape) > 1 else count
        case Grain.ROW:
            return max(1, count // max(1, shape[0])) if len(shape) > 1 else count
        case Grain.TENSOR:
            return count
