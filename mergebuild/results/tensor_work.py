"""What a build does for single tensors: what `plan -v` lists."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["How", "TensorWork"]


class How(StrEnum):
    """How a tensor comes to its place."""

    COMPUTED = "computed"
    COPIED = "copied"
    """It is a source's, as it lies there; read from an artifact where one has it, too."""
    HELD = "held"
    """An artifact has it: it is copied from there, or shared."""
    SHARED = "shared"
    """Something else that this build makes before it is the same."""


class TensorWork(NamedTuple):
    """One tensor of a target that is to be built or restored."""

    tensor: str
    how: How
    origins: tuple[str, ...]
    """What it is made of: `source opk`, `target mix`, or an artifact's path; with the name there if that is another."""
    bytes: int
    """Its size in the file."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object of a tensor of `plan -v`."""
        return {"tensor": self.tensor, "how": str(self.how), "from": list(self.origins), "bytes": self.bytes}
