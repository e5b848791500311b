"""What kernels are told of LoRAs, as frozen values: what a module adds to a tensor, and how a new module is made.

A module's factors are made of a difference of weights, or of the factors of other LoRAs. Either way their shapes follow
from headers: where a share of the squares asks for less than the rank, the factors beyond it are zeros.

All of it is in the digests of what is made, as the text that `key_text` returns: JSON of all fields, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Final, Literal, NamedTuple

from mergebuild.lora.adapter import Fact
from mergebuild.lora.match import Delta, LoraTensor

__all__ = ["ROLES", "DeltaSum", "Extraction", "Merging", "Role", "ShapedDelta", "SketchWords", "shaped"]

Role = Literal["up", "down", "alpha"]
"""What a tensor is to its module: `up [rows, r]`, `down [r, columns]`, or the number that scales their product."""
ROLES: Final[tuple[Role, ...]] = ("up", "down", "alpha")


@dataclass(frozen=True, slots=True)
class ShapedDelta:
    """A `Delta` by itself: its tensors have shapes in place of names, and are read in the order of the factors."""

    family: str
    factors: tuple[tuple[str, tuple[int, ...]], ...]
    """The role and the shape of each."""
    rows: tuple[int, int] | None
    facts: tuple[tuple[str, Fact], ...]


@dataclass(frozen=True, slots=True)
class DeltaSum:
    """What one or several modules add to a tensor of a model."""

    deltas: tuple[ShapedDelta, ...]

    @property
    def key_text(self) -> str:
        """Return the text that digests have of it."""
        return _json(list(map(_plain, self.deltas)))


class SketchWords(NamedTuple):
    """How directions are found approximately: from random vectors that follow from a seed and a name."""

    seed: int
    name: str
    iterations: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """A module's factors out of a difference of weights."""

    shape: tuple[int, ...]
    """Of the module's weight."""
    rows: tuple[int, int] | None
    """Which rows of the tensor that is read it is; None: all of them."""
    rank: int
    """As wide as the factors are."""
    energy: Fraction | None
    """The share of all squares that is enough; None: all."""
    clamp: Fraction | None
    """The quantile at which both factors are clamped; None: nothing is, and both take half of the singular values."""
    sketch: SketchWords | None

    @property
    def key_text(self) -> str:
        """Return the text that digests have of it."""
        return _json(["extraction", _fields(self)])


@dataclass(frozen=True, slots=True)
class Merging:
    """A module's factors out of those of LoRAs, which are read one after another."""

    shape: tuple[int, ...]
    """Of the product, kernels not laid flat."""
    rank: int
    """As wide as the factors are."""
    is_cut: bool
    """Whether they are decomposed anew; else laid side by side, which is exact."""
    energy: Fraction | None
    """As in `Extraction`."""
    has_alpha: bool
    """Whether a tensor says the scale; else it is part of the factors."""
    deltas: tuple[ShapedDelta, ...]
    """What each LoRA has of the module."""
    strengths: tuple[Fraction, ...]
    """What each is multiplied by."""

    @property
    def key_text(self) -> str:
        """Return the text that digests have of it, in which each delta is a text itself."""
        return _json(["merging", _fields(self) | {"deltas": [DeltaSum((each,)).key_text for each in self.deltas]}])


def shaped(delta: Delta, tensors: Mapping[str, LoraTensor]) -> ShapedDelta:
    """Return a delta of a LoRA with these tensors by itself."""
    factors = tuple((factor.role, tuple(tensors[factor.tensor].shape)) for factor in delta.factors)
    return ShapedDelta(delta.family, factors, delta.rows, delta.facts)


def _plain(delta: ShapedDelta) -> Mapping[str, object]:
    facts = {name: {"fraction": str(fact)} if isinstance(fact, Fraction) else fact for name, fact in delta.facts}
    return _fields(delta) | {"facts": facts}


def _fields(value: Any) -> dict[str, object]:
    """Return the fields of a dataclass in their order."""
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), default=_fraction)


def _fraction(value: object) -> str:
    assert isinstance(value, Fraction)  # all other fields are what JSON has
    return str(value)
