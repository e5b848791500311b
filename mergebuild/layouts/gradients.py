"""Gradients: anchors at equal distances over the layers of a model, with linear interpolation between them.

Layer k of n is at `t = k / (n - 1)`, an only layer at 1. The embedding is at 0, the final norm and the head at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from mergebuild.layouts.layout import Layout

__all__ = ["at", "positions"]


def positions(layout: Layout, names: Sequence[str]) -> Mapping[str, Fraction]:
    """Return the position of each block, 0 to 1; blocks that gradients don't reach are absent."""
    layers = layout.layers(names)
    last = len(layers) - 1
    found = {block: Fraction(place, last) if last else Fraction(1) for place, block in enumerate(layers)}
    return found | dict.fromkeys(layout.first, Fraction(0)) | dict.fromkeys(layout.last, Fraction(1))


def at(anchors: Sequence[Fraction], t: Fraction) -> Fraction:
    """Return the exact number of a gradient at position `t` (0 to 1). There is at least one anchor."""
    place = t * (len(anchors) - 1)
    before = min(int(place), len(anchors) - 2)
    if before < 0:
        return anchors[0]
    return anchors[before] + (anchors[before + 1] - anchors[before]) * (place - before)
