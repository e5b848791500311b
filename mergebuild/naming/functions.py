"""Spellings that depend on how many levels and layers a part has, and so are no rows: functions that rules name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mergebuild.naming import unet, vae
from mergebuild.naming.renamed import Shapes

__all__ = ["FUNCTIONS"]

FUNCTIONS: Final[Mapping[str, Callable[[Shapes], Mapping[str, tuple[str, tuple[int, ...]]]]]] = {
    "unet": unet.in_original,
    "vae": vae.in_original,
}
"""From the tensors of a part, without prefix, to the canonical names and shapes of those that are spelled otherwise."""
