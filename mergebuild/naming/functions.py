"""Spellings that depend on how many levels and layers a part has, and so are no rows: functions that rules name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from mergebuild.naming import unet, vae
from mergebuild.naming.renamed import Renamed, Shapes, State

__all__ = ["FUNCTIONS", "Function"]


class Function(NamedTuple):
    """Both ways between the canonical names of a part and those of a program, without prefixes."""

    ours: Callable[[Shapes], Mapping[str, tuple[str, tuple[int, ...]]]]
    """From the tensors of a part to the canonical names and shapes of those that are spelled otherwise."""
    theirs: Callable[[State], Mapping[str, Renamed]]
    """From canonical tensors to those of the program."""


FUNCTIONS: Final[Mapping[str, Function]] = {
    "unet": Function(unet.in_original, unet.to_diffusers),
    "vae": Function(vae.in_original, vae.to_diffusers),
}
