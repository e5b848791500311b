"""Reads ahead: a thread asks the disk for the bytes that the workers need next, in the order in which they need them.

A system by itself reads little ahead in a mapping, stops at the end of each tensor, and makes a disk seek between two
files that are read together. For bytes that are in the page cache already, only one check for each piece is done.
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
"""How many bytes the disk is asked for in advance."""

_STRIDE = 1 << 24
"""Bytes of leaves between two waits: waking a thread for each tensor would cost more than it gains."""

_PIECE = 1 << 21
"""Bytes to ask for at once."""


class Prefetch:
    """Reads ahead of workers that report how far they are. As a context, it ends the thread at the end."""

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
        except BaseException:  # an interrupt while the thread was starting
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
        """Report that a worker began with leaves of so many bytes, the next in order."""
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
                    return  # the worker that needs the file will raise the error
                for start in range(begin, begin + length, _PIECE):
                    size = min(_PIECE, begin + length - start)
                    if asked - self._begun >= AHEAD and not self._waited(asked - AHEAD + _STRIDE):
                        return
                    if mapping is not None and not platform.is_cached(file.fd, start + size - 1):
                        with span("read ahead", file=path, offset=start, bytes=size):
                            platform.advise(mapping, "willneed", start, size)
                    asked += size

    def _waited(self, begun: int) -> bool:
        """Wait until workers began with so many bytes; False if that will not happen."""
        with self._moved, span("wait for workers"):
            self._awaited = begun
            self._moved.wait_for(lambda: self._ended or self._begun >= begun)
            return not self._ended
