"""What kernels need to know of a module's factors besides their values: their shapes as matrices, and their scale."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from fractions import Fraction
from math import prod, sqrt

from mergebuild.lora.adapter import Fact

__all__ = ["matrix_of", "scale_of"]


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """Return a tensor's shape as a matrix: the first dimension, and the product of the others."""
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def scale_of(roles: Container[str], number: Callable[[str], float], facts: Mapping[str, Fact]) -> float:
    """Return the number by which the product of a module's factors is multiplied.

    Args:
        roles: The roles of the module's tensors.
        number: Returns the value of the tensor with this role, which is a single number.
        facts: The module's facts.
    """
    if "scale" in roles:
        return number("scale")
    if "rank" not in facts:
        return 1.0
    rank = int(facts["rank"])
    fact = facts.get("alpha", rank)
    assert isinstance(fact, int | Fraction)
    alpha = number("alpha") if "alpha" in roles else float(fact)
    return alpha / sqrt(rank) if facts.get("rslora") else alpha / rank
