"""Which part of the base weight is needed to compute a LoRA's delta: nothing, the same rows, or all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from mergebuild.lora.adapter import Fact

__all__ = ["OF_THE_WEIGHT", "PRODUCTS", "Needs", "by_columns", "needs"]

Needs = Literal["nothing", "rows", "whole"]

OF_THE_WEIGHT: Final = frozenset({"ia3", "replace", "tokens"})
"""Families whose delta is a function of the weight, row by row."""
PRODUCTS: Final = frozenset({"lora", "tucker", "peft_embedding"})
"""Families whose delta is a product of two matrices, unless the weight is decomposed (DoRA)."""


def needs(family: str, facts: Mapping[str, Fact]) -> Needs:
    """Return which part of the weight is needed: nothing, the same rows, or all of it."""
    if "dora" in facts:
        return "whole" if by_columns(facts) else "rows"
    return "rows" if family in OF_THE_WEIGHT else "nothing"


def by_columns(facts: Mapping[str, Fact]) -> bool:
    """Return whether norms are over the columns of the weight as the model stores it."""
    return (facts.get("dora") == "columns") != bool(facts.get("transposed"))
