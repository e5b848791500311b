"""What kernels are told of LoRAs, as frozen values: the delta of a tensor, and how a new module is made.

The factors of a new module are made from a difference of weights, or from the factors of other LoRAs. Their shapes
follow from headers in both cases: if a share of the squares needs less than the rank, the rest of the factors is zeros.

All of this is in the digests of the results, as the text of `key_text`: JSON of all fields, in order.
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
"""What a tensor is in its module: `up [rows, r]`, `down [r, columns]`, or the number that scales their product."""
ROLES: Final[tuple[Role, ...]] = ("up", "down", "alpha")


@dataclass(frozen=True, slots=True)
class ShapedDelta:
    """A `Delta` whose tensors have shapes instead of names. The tensors are read in the order of `factors`."""

    family: str
    factors: tuple[tuple[str, tuple[int, ...]], ...]
    """The role and the shape of each."""
    rows: tuple[int, int] | None
    facts: tuple[tuple[str, Fact], ...]


@dataclass(frozen=True, slots=True)
class DeltaSum:
    """The delta of a tensor of a model, from one or several modules."""

    deltas: tuple[ShapedDelta, ...]

    @property
    def key_text(self) -> str:
        """Its text in digests."""
        return _json(list(map(_plain, self.deltas)))


class SketchWords(NamedTuple):
    """How directions are approximated: from random vectors that depend on a seed and a name."""

    seed: int
    name: str
    iterations: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """How a module's factors are extracted from a difference of weights."""

    shape: tuple[int, ...]
    """The shape of the module's weight."""
    rows: tuple[int, int] | None
    """Which rows of the tensor that is read are the weight; None: all of them."""
    rank: int
    """The rank of the factors."""
    energy: Fraction | None
    """The share of all squares that is enough to keep; None: all."""
    clamp: Fraction | None
    """The quantile at which both factors are clamped; None: they are not, and each has the roots of the singular
    values."""
    sketch: SketchWords | None

    @property
    def key_text(self) -> str:
        """Its text in digests."""
        return _json(["extraction", _fields(self)])


@dataclass(frozen=True, slots=True)
class Merging:
    """How a module's factors are made from those of several LoRAs, which are read one after another."""

    shape: tuple[int, ...]
    """The shape of the product, a kernel's dimensions not flattened."""
    rank: int
    """The rank of the factors."""
    is_cut: bool
    """Whether they are decomposed again; else they are concatenated, which is exact."""
    energy: Fraction | None
    """As in `Extraction`."""
    has_alpha: bool
    """Whether a tensor has the scale; else the factors include it."""
    deltas: tuple[ShapedDelta, ...]
    """The delta of each LoRA for this module."""
    strengths: tuple[Fraction, ...]
    """The number by which each is multiplied."""

    @property
    def key_text(self) -> str:
        """Its text in digests, in which each delta is a text of its own."""
        return _json(["merging", _fields(self) | {"deltas": [DeltaSum((each,)).key_text for each in self.deltas]}])


def shaped(delta: Delta, tensors: Mapping[str, LoraTensor]) -> ShapedDelta:
    """Return a delta of a LoRA with the shapes of its tensors instead of their names."""
    factors = tuple((factor.role, tuple(tensors[factor.tensor].shape)) for factor in delta.factors)
    return ShapedDelta(delta.family, factors, delta.rows, delta.facts)


def _plain(delta: ShapedDelta) -> Mapping[str, object]:
    facts = {name: {"fraction": str(fact)} if isinstance(fact, Fraction) else fact for name, fact in delta.facts}
    return _fields(delta) | {"facts": facts}


def _fields(value: Any) -> dict[str, object]:
    """Return the fields of a dataclass, in order."""
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), default=_fraction)


def _fraction(value: object) -> str:
    assert isinstance(value, Fraction)  # JSON has all other types
    return str(value)
