"""Files mapped for reading, each once, for all workers of a pass; and what was read let go of in large pieces.

A file that is mapped and cut short by somebody kills the process that looks at it. So the kernel is asked to hold up
whoever is to write to one of them; when somebody comes, the pass ends, and lets go of the files.

Resident memory stays bounded by `RESIDENT` bytes, whatever the size of the model. Letting go of each tensor as it is
done would cost a quarter of the pass: every call makes all processors forget addresses.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mergebuild import portable
from mergebuild.engine.work import Leaf
from mergebuild.errors import SourceError
from mergebuild.formats.gathering import gather

__all__ = ["RESIDENT", "Mappings"]

RESIDENT = 1 << 29
"""Bytes that may be read before their pages are let go of."""

_LOOK = 0.1
"""Seconds between two looks at whether somebody waits to write to one of the files."""

_GAP = 1 << 22
"""Ranges so near to each other are let go of in one call; what lies between is read again from the page cache."""


class Mappings:
    """Maps a file when it is first asked for. A context: leaving it closes all of them."""

    def __init__(self) -> None:
        self._files: dict[Path, tuple[mmap.mmap, BinaryIO]] = {}
        self._held: dict[Path, int] = {}
        """The files that nobody can begin to write to, by path, with their descriptors."""
        self._looked = 0.0
        self._lock = threading.Lock()
        self._done: list[tuple[Path, int, int]] = []
        self._done_bytes = 0

    def __getitem__(self, path: Path) -> mmap.mmap:
        """Return a file's mapping.

        Raises:
            SourceError: somebody waits to write to one of the files.
            OSError: it can't be opened, or is empty.
        """
        found, _ = self.opened(path)
        self._look()
        return found

    def opened(self, path: Path) -> tuple[mmap.mmap, int]:
        """Return a file's mapping and its descriptor, both open until the context is left.

        Raises:
            OSError: it can't be opened, or is empty.
        """
        with self._lock:
            found = self._files.get(path)
            if found is None:
                file = path.open("rb")
                try:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), file
                except BaseException:
                    file.close()
                    raise
                self._files[path] = found
                if portable.hold_still(file.fileno()):
                    self._held[path] = file.fileno()
            return found[0], found[1].fileno()

    def _look(self) -> None:
        """See whether somebody waits to write to one of the files, once in a while."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        with self._lock:
            wanted = next((path for path, fd in self._held.items() if portable.is_wanted(fd)), None)
        if wanted is not None:
            raise SourceError.one(
                "source-changed",
                f"`{wanted}` is being written by another process while it is read",
                help="let it finish, then build again: what was published stays",
            )

    def gathered(self, leaf: Leaf, start: int, count: int) -> bytearray:
        """Return elements of a leaf in pieces."""
        width = leaf.size // leaf.count
        return gather(leaf.pieces, lambda file: memoryview(self[leaf.files[file]]), width, start, count)

    def release_leaf(self, leaf: Leaf) -> None:
        """Say that a whole leaf was read and is not needed again."""
        for path, begin, size in leaf.ranges:
            self.release(path, begin, size)

    def release(self, path: Path, offset: int, size: int) -> None:
        """Say that a range was read and is not needed again."""
        with self._lock:
            self._done.append((path, offset, offset + size))
            self._done_bytes += size
            if self._done_bytes < RESIDENT:
                return
            done, self._done, self._done_bytes = self._done, [], 0
        for file, begin, end in _joined(done):
            portable.advise(self[file], "dontneed", begin, end - begin)

    def __enter__(self) -> Mappings:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files and drop the mappings; one that a tensor still views goes with that tensor."""
        for fd in self._held.values():
            portable.let_go(fd)
        self._held.clear()
        for _, file in self._files.values():
            file.close()
        self._files.clear()


def _joined(ranges: Sequence[tuple[Path, int, int]]) -> Iterator[tuple[Path, int, int]]:
    """Yield ranges (file, begin, end) with near neighbours joined."""
    first, *rest = sorted(ranges)
    for each in rest:
        if each[0] == first[0] and each[1] - first[2] <= _GAP:
            first = (first[0], first[1], max(first[2], each[2]))
        else:
            yield first
            first = each
    yield first
