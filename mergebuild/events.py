"""Events that a running build sends to its caller.

The engine and the build emit them, and `report` shows them; nothing else depends on them. An `Emit` must be cheap and
may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Emit", "Event", "Hashing", "Notice", "PassBegun", "PassEnded", "Progress", "TargetDone", "silent"]


class Notice(NamedTuple):
    """A sentence that the user should read; the build goes on."""

    text: str
    warning: bool = False


class Hashing(NamedTuple):
    """A source of `size` bytes is about to be hashed."""

    path: str
    size: int


class PassBegun(NamedTuple):
    """A pass begins: it will write `bytes_total` bytes for these targets."""

    targets: tuple[str, ...]
    bytes_total: int


class Progress(NamedTuple):
    """So many more bytes of outputs are written. A negative number: bytes that were counted must be written again."""

    bytes_written: int


class PassEnded(NamedTuple):
    """The pass is over, whether its outputs were published or not."""


class TargetDone(NamedTuple):
    """A target's verdict is known; `detail` describes it in a few words."""

    target: str
    verdict: str
    detail: str = ""


Event = Notice | Hashing | PassBegun | Progress | PassEnded | TargetDone
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore an event."""
