"""`Call` and `Grain`: what a kernel is called with besides values, and where it lets a tensor be cut. No torch."""

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
    """Where a tensor may be cut into chunks.

    Tensors are stored row by row, so each of these is a run of consecutive elements.
    """

    ELEMENT = "element"
    """Between any two elements."""
    VECTOR = "vector"
    """Between vectors along the last dimension: a chunk holds whole vectors. 0-d and 1-d tensors are one vector."""
    ROW = "row"
    """Between indices of the first dimension: a chunk holds whole rows. 0-d and 1-d tensors are one row, as a bias is
    not cut into single numbers."""
    TENSOR = "tensor"
    """Nowhere: the chunk is the whole tensor."""


@dataclass(frozen=True, slots=True)
class Call:
    """One tensor to be made: everything that decides about it besides the values of the inputs."""

    tensor: str
    """The tensor's name."""
    shape: tuple[int, ...]
    arguments: Mapping[str, Argument]
    """By parameter: an exact number, one number per model, a flag, or a word."""

    @property
    def count(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def number(self, name: str) -> Fraction:
        """Return the exact value of a parameter that is one number."""
        found = self.arguments[name]
        assert isinstance(found, Fraction)
        return found

    def numbers(self, name: str) -> tuple[Fraction, ...]:
        """Return the exact values of a parameter that has one number per model."""
        found = self.arguments[name]
        assert isinstance(found, tuple)
        return found

    def flag(self, name: str) -> bool:
        """Return the value of a parameter that is a flag."""
        found = self.arguments[name]
        assert isinstance(found, bool)
        return found

    def word(self, name: str) -> str:
        """Return the value of a parameter that is one of a few words."""
        found = self.arguments[name]
        assert isinstance(found, str)
        return found


State = Any
"""The result of a statistic or survey. A tuple of Python floats and integers is kept for later builds; it may also be
any other value that the kernel understands."""


def unit_of(grain: Grain, call: Call) -> int:
    """Return the number of elements that must not be cut apart: chunks hold a multiple of it."""
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
