"""What a build tells whoever listens, while it runs.

The engine and the build emit these; `report` shows them; nothing else depends on them. An `Emit` must be cheap and
may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Emit", "Event", "Hashing", "Notice", "PassBegun", "PassEnded", "Progress", "TargetDone", "silent"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence that the user should read, but that stops nothing."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Hashing:
    """A source of `size` bytes is about to be hashed."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class PassBegun:
    """A pass begins: it will write `bytes_total` bytes for these targets."""

    targets: tuple[str, ...]
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Progress:
    """So many more bytes of outputs are written; a negative number are to be written anew."""

    bytes_written: int


@dataclass(frozen=True, slots=True)
class PassEnded:
    """The pass is over, published or not."""


@dataclass(frozen=True, slots=True)
class TargetDone:
    """A target's verdict is known; `detail` says what it came to, in a few words."""

    target: str
    verdict: str
    detail: str = ""


Event = Notice | Hashing | PassBegun | Progress | PassEnded | TargetDone
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing."""
