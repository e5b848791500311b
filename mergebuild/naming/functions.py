"""Spellings that depend on how many levels and layers a part has, so that rules name a function and have no rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from mergebuild.naming import unet, vae
from mergebuild.naming.renamed import Renamed, Shapes, State

__all__ = ["FUNCTIONS", "Function"]


class Function(NamedTuple):
    """The conversions between canonical names of a part and a program's names, both without prefixes."""

    ours: Callable[[Shapes], Mapping[str, tuple[str, tuple[int, ...]]]]
    """From a part's tensors to the canonical names and shapes of those whose names differ."""
    theirs: Callable[[State], Mapping[str, Renamed]]
    """From canonical tensors to the program's."""


FUNCTIONS: Final[Mapping[str, Function]] = {
    "unet": Function(unet.in_original, unet.to_diffusers),
    "vae": Function(vae.in_original, vae.to_diffusers),
}
