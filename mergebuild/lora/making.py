"""How the tensors of one module of a new LoRA are made, as text: what their digests say, and what the kernel reads.

A module's factors are made of a difference of weights, or of the factors of other LoRAs. Either way their shapes follow
from headers: where a share of the squares asks for less than the rank, the factors beyond it are zeros.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, NamedTuple

__all__ = ["ROLES", "Extraction", "Merging", "Role", "SketchWords", "making"]

Role = Literal["up", "down", "alpha"]
"""What a tensor is to its module: `up [rows, r]`, `down [r, columns]`, or the number that scales their product."""
ROLES: Final[tuple[Role, ...]] = ("up", "down", "alpha")


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

    def text(self) -> str:
        """Return it as `making` reads it."""
        return _text(
            "extraction",
            shape=self.shape,
            rows=self.rows,
            rank=self.rank,
            energy=_shown(self.energy),
            clamp=_shown(self.clamp),
            sketch=self.sketch,
        )


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
    deltas: tuple[str, ...]
    """What each LoRA has of the module, as `written` writes it."""
    strengths: tuple[Fraction, ...]
    """What each is multiplied by."""

    def text(self) -> str:
        """Return it as `making` reads it."""
        return _text(
            "merging",
            shape=self.shape,
            rank=self.rank,
            is_cut=self.is_cut,
            energy=_shown(self.energy),
            has_alpha=self.has_alpha,
            deltas=self.deltas,
            strengths=[str(each) for each in self.strengths],
        )


def making(text: str) -> Extraction | Merging:
    """Return what `Extraction.text` or `Merging.text` wrote."""
    kind, found = json.loads(text)
    if kind == "extraction":
        return Extraction(
            tuple(found["shape"]),
            _span(found["rows"]),
            found["rank"],
            _share(found["energy"]),
            _share(found["clamp"]),
            SketchWords(*found["sketch"]) if found["sketch"] else None,
        )
    return Merging(
        tuple(found["shape"]),
        found["rank"],
        found["is_cut"],
        _share(found["energy"]),
        found["has_alpha"],
        tuple(found["deltas"]),
        tuple(map(Fraction, found["strengths"])),
    )


def _text(kind: str, **facts: object) -> str:
    return json.dumps([kind, facts], separators=(",", ":"))


def _shown(share: Fraction | None) -> str | None:
    return None if share is None else str(share)


def _share(text: str | None) -> Fraction | None:
    return None if text is None else Fraction(text)


def _span(found: Sequence[int] | None) -> tuple[int, int] | None:
    return None if found is None else (found[0], found[1])
