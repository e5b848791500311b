"""What a build does for each tensor: the rows that `plan -v` lists."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["How", "TensorWork"]


class How(StrEnum):
    """How a tensor gets into the output."""

    COMPUTED = "computed"
    COPIED = "copied"
    """Equal to a source's tensor, and copied, from the source or from an artifact that has it too."""
    HELD = "held"
    """Made by an earlier build: it is in an artifact, and is copied from there, or shared."""
    SHARED = "shared"
    """Equal to a tensor that this build makes earlier."""


class TensorWork(NamedTuple):
    """One tensor of a target that is to be built or restored."""

    tensor: str
    how: How
    origins: tuple[str, ...]
    """What it is made of: `source opk`, `target mix`, or an artifact's path, with its name there if that differs."""
    bytes: int
    """Its size in the output."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object of a tensor of `plan -v`."""
        return {"tensor": self.tensor, "how": str(self.how), "from": list(self.origins), "bytes": self.bytes}
