"""What every kernel knows of a module's factors beside their values: which matrix each is, and their common scale."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from fractions import Fraction
from math import prod, sqrt

from mergebuild.lora.adapter import Fact

__all__ = ["matrix_of", "scale_of"]


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """Return a shape as that of a matrix: its first dimension, and all behind it."""
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def scale_of(roles: Container[str], number: Callable[[str], float], facts: Mapping[str, Fact]) -> float:
    """Return what the product of a module's factors is multiplied by.

    Args:
        roles: Which tensors the module has.
        number: Reads the one of a role that is a single number.
        facts: Its facts.
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
