"""Maps files for reading, each once for all workers of a pass, and releases pages that were read in large pieces.

If another process truncates a mapped file, reading it kills this process. So the kernel is asked to hold up processes
that want to write to one of the files; when one comes, the pass ends and the files are released.

Resident memory stays below `RESIDENT` bytes, however large the model is. Releasing each tensor when it is done would
cost a quarter of the pass, as every call makes all processors forget addresses.

A file that can't be mapped (address space is too small, or its file system has no mappings) is read instead. There are
never more files open than the process may have: the one that was not used for longest is closed for the next.
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
"""Bytes that may be read before their pages are released."""

_LOOK = 0.1
"""Seconds between two checks whether a process waits to write to one of the files."""

_GAP = 1 << 22
"""Ranges with smaller gaps are released in one call; bytes in the gap are read again from the page cache."""

_NO_MAPPING = frozenset({errno.ENOMEM, errno.ENODEV, errno.EACCES, errno.EINVAL})
"""Errors of a system for a file that can be read but not mapped."""


class OpenFile:
    """A file open for reading, held against writers if possible.

    It is closed when nothing refers to it any more, so `fd` is valid for all that do.
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
            with suppress(OSError):  # everything was read already
                self.let_go()
            with suppress(OSError):
                os.close(self.fd)

    @property
    def is_wanted(self) -> bool:
        """Whether a process waits to write to it."""
        return self._is_held and platform.is_wanted(self.fd)

    def let_go(self) -> None:
        """Stop holding up writers; closing it does not, while its mapping is in use."""
        if self._is_held:
            self._is_held = False
            platform.let_go(self.fd)

    @property
    def mapping(self) -> mmap.mmap | None:
        """All of it as memory; None if it must be read."""
        with self._lock:
            if not self._is_tried:
                self._is_tried = True
                try:
                    self._mapping = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
                except ValueError:  # it is empty, as reading will show
                    pass
                except OSError as error:
                    if error.errno not in _NO_MAPPING:
                        raise
            return self._mapping


class Mappings:
    """Opens files when they are first asked for. As a context, it releases all of them at the end."""

    def __init__(self) -> None:
        self._files: dict[Path, OpenFile] = {}
        """In the order of use, the latest last."""
        self.most = limits.files_at_once()
        """The most files that may be open at once."""
        self._looked = 0.0
        self._lock = threading.Lock()
        self._done: dict[Path, list[tuple[int, int]]] = {}
        """By file, the ranges that were read since pages were last released; `_done_bytes` in all."""
        self._done_bytes = 0

    def opened(self, path: Path) -> OpenFile:
        """Return a file.

        Raises:
            OSError: it can't be opened.
            SourceError: a process waits to write to one of the files.
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
        """Return bytes of a file: a view, or a copy if the file can't be mapped.

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
        file = self.opened(path)  # kept until all is read: else another thread's file may get its descriptor
        with span("read", file=path, offset=offset, bytes=len(room)):
            read = platform.pread_into(file.fd, room, offset)
        if read < len(room):
            raise OSError(errno.EIO, f"the file ends {len(room) - read} bytes early", str(path))

    def _look(self) -> None:
        """Check from time to time whether a process waits to write to one of the files."""
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
        """Return elements of a scattered tensor."""
        return gather(location.pieces, lambda file: _Slices(self, location.files[file]), location.width, start, count)

    def release_all(self, lying: Leaf | Location) -> None:
        """Release all ranges of a location or a leaf: they were read and are not needed again."""
        for path, begin, size in lying.ranges:
            self.release(path, begin, size)

    def release(self, path: Path, offset: int, size: int) -> None:
        """Release a range: it was read and is not needed again."""
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
        """Release the files; a mapping that a tensor still views is closed with that tensor."""
        with self._lock:  # the prefetcher may still run, if an interrupt came as it began
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
