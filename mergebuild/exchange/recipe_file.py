"""A recipe file as its reader gets it: bounded bytes, its text, and the texts that a model file or a PNG carries.

Recipe files come from strangers: nothing is trusted but the limits here.
"""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

__all__ = ["MOST_BYTES", "RecipeFile"]

MOST_BYTES = 10_000_000
"""The longest text of a recipe that is read."""


@dataclass(frozen=True)
class RecipeFile:
    """A file that was given to `import`."""

    path: Path
    data: bytes
    """Its bytes; of a model file or a PNG, which have `metadata`, nothing."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The texts in the header of a safetensors file, or in the text chunks of a PNG."""

    @cached_property
    def text(self) -> str:
        """The file as text, in UTF-8, or in UTF-16 as PowerShell writes it; "" where it is none."""
        try:
            return self.data.decode("utf-16" if self.data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
        except UnicodeDecodeError:
            return ""

    @property
    def stem(self) -> str:
        """The file's name without its suffix: the name of a target whose recipe has none."""
        return self.path.stem
