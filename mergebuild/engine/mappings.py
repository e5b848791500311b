"""Files mapped for reading, each once, for all workers of a pass; and what was read let go of in large pieces.

A file that is mapped and cut short by somebody kills the process that looks at it. So the kernel is asked to hold up
whoever is to write to one of them; when somebody comes, the pass ends, and lets go of the files.

Resident memory stays bounded by `RESIDENT` bytes, whatever the size of the model. Letting go of each tensor as it is
done would cost a quarter of the pass: every call makes all processors forget addresses.

A file that can't be mapped (the address space is too small for it, or its file system has no mappings) is read instead.
There are never more files open than the process may have: the one that was not used for longest is closed for the next.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mergebuild.engine.work import Leaf, Location
from mergebuild.errors import SourceError
from mergebuild.formats.gathering import gather
from mergebuild.system import limits, platform
from mergebuild.system.spans import span

__all__ = ["RESIDENT", "Mappings", "OpenFile"]

RESIDENT = 1 << 29
"""Bytes that may be read before their pages are let go of."""

_LOOK = 0.1
"""Seconds between two looks at whether somebody waits to write to one of the files."""

_GAP = 1 << 22
"""Ranges so near to each other are let go of in one call; what lies between is read again from the page cache."""

_NO_MAPPING = frozenset({errno.ENOMEM, errno.ENODEV, errno.EACCES, errno.EINVAL})
"""What a system answers when a file that can be read can't be mapped."""


class OpenFile:
    """A file open for reading, held still where that can be.

    It is closed when nobody has it any more; so whoever has it can rely on `fd`.
    """

    def __init__(self, path: Path) -> None:
        self._is_held = False
        self.fd = platform.open_to_read(path)
        self._mapping: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._is_tried = False
        self._is_held = platform.hold_still(self.fd)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            with suppress(OSError):  # all was read, and there is nobody here to be told
                self.let_go()
            with suppress(OSError):
                os.close(self.fd)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits to write to it."""
        return self._is_held and platform.is_wanted(self.fd)

    def let_go(self) -> None:
        """Hold up nobody any more who is to write to it; to close it is not enough while its mapping is in use."""
        if self._is_held:
            self._is_held = False
            platform.let_go(self.fd)

    @property
    def mapping(self) -> mmap.mmap | None:
        """All of it as memory; None where it must be read."""
        with self._lock:
            if not self._is_tried:
                self._is_tried = True
                try:
                    self._mapping = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
                except ValueError:  # it is empty, which reading shows as well
                    pass
                except OSError as error:
                    if error.errno not in _NO_MAPPING:
                        raise
            return self._mapping


class Mappings:
    """Opens a file when it is first asked for. A context: leaving it lets go of all of them."""

    def __init__(self) -> None:
        self._files: dict[Path, OpenFile] = {}
        """The one that was asked for last is the last."""
        self.most = limits.files_at_once()
        """Files that may be open at once."""
        self._looked = 0.0
        self._lock = threading.Lock()
        self._done: dict[Path, list[tuple[int, int]]] = {}
        """By file, the ranges that were read since pages were let go of last; `_done_bytes` in all."""
        self._done_bytes = 0

    def opened(self, path: Path) -> OpenFile:
        """Return a file.

        Raises:
            OSError: it can't be opened.
            SourceError: somebody waits to write to one of the files.
        """
        with self._lock:
            found = self._files.pop(path, None)
            if found is None:
                while len(self._files) >= self.most:
                    del self._files[next(iter(self._files))]
                found = OpenFile(path)
            self._files[path] = found
        self._look()
        return found

    def view(self, path: Path, offset: int, size: int) -> memoryview:
        """Return bytes of a file: as they lie, or a copy where the file can't be mapped.

        Raises:
            OSError: it can't be opened or read, or ends early (`EIO`).
        """
        file = self.opened(path)
        mapping = file.mapping
        if mapping is not None and offset + size <= len(mapping):
            return memoryview(mapping)[offset : offset + size]
        found = memoryview(bytearray(size))
        self.read_into(found, path, offset)
        return found

    def read_into(self, room: memoryview, path: Path, offset: int) -> None:
        """Fill `room` with bytes of a file; nothing is mapped.

        Raises:
            OSError: as `view`.
        """
        file = self.opened(path)  # had until all is read: else another thread's next file may get its number
        with span("read", file=path, offset=offset, bytes=len(room)):
            read = platform.pread_into(file.fd, room, offset)
        if read < len(room):
            raise OSError(errno.EIO, f"the file ends {len(room) - read} bytes early", str(path))

    def _look(self) -> None:
        """See whether somebody waits to write to one of the files, once in a while."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        with self._lock:
            wanted = next((path for path, file in self._files.items() if file.is_wanted), None)
        if wanted is not None:
            raise SourceError.one(
                "source-changed",
                f"`{wanted}` is being written by another process while it is read",
                help="let it finish, then build again: what was published stays",
            )

    def gathered(self, location: Location, start: int, count: int) -> bytearray:
        """Return elements of a tensor in pieces."""
        return gather(location.pieces, lambda file: _Slices(self, location.files[file]), location.width, start, count)

    def release_all(self, lying: Leaf | Location) -> None:
        """Say that all that lies at a location, or of a leaf, was read and is not needed again."""
        for path, begin, size in lying.ranges:
            self.release(path, begin, size)

    def release(self, path: Path, offset: int, size: int) -> None:
        """Say that a range was read and is not needed again."""
        with self._lock:
            self._done.setdefault(path, []).append((offset, offset + size))
            self._done_bytes += size
            if self._done_bytes < RESIDENT:
                return
            done, self._done, self._done_bytes = self._done, {}, 0
        for file, ranges in done.items():
            found = self._files.get(file)
            if found is not None and found.mapping is not None:
                for begin, end in _joined(ranges):
                    platform.advise(found.mapping, "dontneed", begin, end - begin)

    def __enter__(self) -> Mappings:
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of the files; a mapping that a tensor still views goes with that tensor."""
        with self._lock:  # whoever reads ahead may still be at it, when an interrupt came as it began
            files = list(self._files.values())
            self._files.clear()
        for file in files:
            file.let_go()


class _Slices:
    """The bytes of a file, by slices."""

    def __init__(self, mappings: Mappings, path: Path) -> None:
        self._mappings = mappings
        self._path = path

    def __getitem__(self, span: slice) -> memoryview:
        return self._mappings.view(self._path, span.start, span.stop - span.start)


def _joined(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges (begin, end) of a file in order, with near neighbours joined."""
    (begin, end), *rest = sorted(ranges)
    for each in rest:
        if each[0] - end <= _GAP:
            end = max(end, each[1])
        else:
            yield begin, end
            begin, end = each
    yield begin, end
