"""Reading ahead: a thread asks the disk for what the workers will need next, in the order in which they will.

What a system reads ahead by itself when a mapping is touched is little, stops at the end of each tensor, and of two
files side by side makes a disk seek. Of what is in the page cache already, one look a piece is all that is done.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType

from mergebuild.engine.mappings import Mappings
from mergebuild.engine.work import Leaf
from mergebuild.system import platform
from mergebuild.system.spans import span

__all__ = ["AHEAD", "Prefetch"]

AHEAD = 1 << 27
"""How many bytes the disk is asked for before they are needed."""

_STRIDE = 1 << 24
"""Bytes of leaves that are looked at between two waits: to wake a thread for each tensor costs more than it gains."""

_PIECE = 1 << 21
"""Bytes asked for at once."""


class Prefetch:
    """Reads ahead of workers that say how far they have come. A context: leaving it ends the thread."""

    def __init__(self, leaves: Iterable[Leaf], mappings: Mappings) -> None:
        self._leaves = leaves
        self._mappings = mappings
        self._moved = threading.Condition()
        self._begun = 0
        self._awaited = 0
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="mergebuild-read")

    def __enter__(self) -> Prefetch:
        try:
            self._thread.start()
        except BaseException:  # an interrupt, while the thread began
            self._end()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()
        self._thread.join()

    def _end(self) -> None:
        with self._moved:
            self._ended = True
            self._moved.notify()

    def began(self, size: int) -> None:
        """Say that a worker began with leaves of so many bytes, the next in order."""
        with self._moved:
            self._begun += size
            if self._begun >= self._awaited:
                self._moved.notify()

    def _run(self) -> None:
        asked = 0
        for leaf in self._leaves:
            for path, begin, length in leaf.ranges:
                try:
                    file = self._mappings.opened(path)
                    mapping = file.mapping
                except OSError:
                    return  # the worker that needs the file says so
                for start in range(begin, begin + length, _PIECE):
                    size = min(_PIECE, begin + length - start)
                    if asked - self._begun >= AHEAD and not self._waited(asked - AHEAD + _STRIDE):
                        return
                    if mapping is not None and not platform.is_cached(file.fd, start + size - 1):
                        with span("read ahead", file=path, offset=start, bytes=size):
                            platform.advise(mapping, "willneed", start, size)
                    asked += size

    def _waited(self, begun: int) -> bool:
        """Wait until workers began with so many bytes; False when there is no more use in it."""
        with self._moved, span("wait for workers"):
            self._awaited = begun
            self._moved.wait_for(lambda: self._ended or self._begun >= begun)
            return not self._ended
