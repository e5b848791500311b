"""Output files, written by all workers, in any order.

Blocks are anonymous memory maps: page-aligned, used by torch and by the system without a copy, and reused, so that
memory is limited.

Small outputs are written through the page cache. This is a copy in memory, done at once by the thread that filled the
block. Large ones would fill the cache and then wait for the disk at its slowest: their whole pages are written directly
to the disk, by separate threads while the others compute, several at once, as a disk is faster with several requests. A
file system lets only one thread at a time write to a file through the cache, and others wait without sleeping; hence a
lock. Kernels that write what they make, without the interpreter's lock, have one of their own.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import NamedTuple, TypeVar

from mergebuild import native
from mergebuild.engine.work import OutputFile, OutputRange
from mergebuild.events import Emit, Progress
from mergebuild.formats.gathering import scatter
from mergebuild.system import platform
from mergebuild.system.spans import is_listened_to, span

__all__ = ["DIRECT_SHARE", "Block", "Outputs"]

T = TypeVar("T")

DIRECT_SHARE = 10
"""Outputs that together have more than this part of the machine's memory are written past the page cache."""

_WRITERS = 4
"""The most threads that write past the page cache."""

_AT_ONCE = 1 << 19
"""Bytes that a kernel makes before it writes them: they stay in the second level of the cache."""

_EARLY = 1 << 26
"""Bytes in the page cache after which the disk is asked to begin writing them, if the build will wait for it."""


class Block:
    """Page-aligned memory of a fixed size in bytes."""

    def __init__(self, size: int) -> None:
        self.memory = memoryview(mmap.mmap(-1, max(size, mmap.PAGESIZE)))


class _Filled(NamedTuple):
    """A block, how many of its bytes are to be written, and where."""

    block: Block
    size: int
    places: Sequence[OutputRange]
    number: int = 0
    """Its number, for blocks that wait for a writing thread."""


class Outputs:
    """Creates the files of a pass, writes to them in the background, and closes them.

    As a context it waits at the end until everything is written, and raises errors of that. If it raises, or is left by
    an error, the files that it created are removed.
    """

    def __init__(
        self,
        outputs: Sequence[OutputFile],
        emit: Emit,
        *,
        stop: threading.Event,
        threads: int,
        durable: bool,
    ) -> None:
        self._outputs = outputs
        self._emit = emit
        self._stop = stop
        self._threads = threads
        self._durable = durable
        self._files: list[_OpenOutput] = []
        self._filled: SimpleQueue[_Filled | None] = SimpleQueue()
        self._writers: list[threading.Thread] = []
        self._free: SimpleQueue[Block] = SimpleQueue()
        self._under_way: set[int] = set()
        """The numbers of blocks that wait to be written, or are being written."""
        self._last = 0
        self._written = threading.Condition()
        """Notified whenever a block was written; guards the two above."""
        self._failed: Exception | None = None
        self.is_direct = False
        self.block_size = 0
        """Bytes of every block."""

    def __enter__(self) -> Outputs:
        try:
            for output in self._outputs:
                self._files.append(_OpenOutput(output, self._durable))
        except BaseException:
            self._close(is_whole=False)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._stop.set()
        for _ in self._writers:
            self._filled.put(None)
        for writer in self._writers:
            writer.join()
        self._close(is_whole=error is None and self._failed is None)
        if self._failed is not None and error is None:
            raise self._failed

    def _close(self, *, is_whole: bool) -> None:
        """Close the files; unless all are complete, remove those that can be removed.

        Raises:
            OSError: they were complete, and one could not be closed: some file systems report lost data only then.
        """
        failed = self._close_each()
        if is_whole and failed is None:
            return
        for file in self._files:
            with suppress(OSError):  # the earlier error is reported
                file.output.path.unlink(missing_ok=True)
        if is_whole and failed is not None:
            raise failed

    def _close_each(self) -> OSError | None:
        """Close the files; return the first error, if there was one."""
        failed: OSError | None = None
        for file in self._files:
            try:
                file.close()
            except OSError as error:
                failed = failed or error
        return failed

    def descriptor(self, index: int) -> int:
        """Return the descriptor of an output."""
        return self._files[index].fd

    def allocate(self, shared: int) -> None:
        """Give the files their sizes, so that a full disk shows before the work.

        `shared`: how many bytes they share with other files already.
        """
        size = 0
        for file in self._files:
            platform.preallocate(file.fd, file.output.size)
            size += file.output.size
        self.is_direct = size - shared > platform.memory_bytes() // DIRECT_SHARE > 0
        if self.is_direct:
            for file in self._files:
                file.go_direct()

    def start(self, block: int) -> None:
        """Begin to hand out blocks of so many bytes."""
        self.block_size = block
        for _ in range(2 * self._threads + 2):
            self._free.put(Block(block))
        for _ in range(min(_WRITERS, self._threads) if self.is_direct else 0):
            name = f"mergebuild-write_{len(self._writers)}"
            self._writers.append(threading.Thread(target=self._write_all, name=name))
            self._writers[-1].start()

    def block(self) -> Block:
        """Return a block to fill, as soon as one is free."""
        try:
            return self._free.get_nowait()
        except Empty:
            with span("wait for a block"):
                return self._free.get()

    def put(self, block: Block, size: int, places: Sequence[OutputRange]) -> None:
        """Write the first bytes of a block to all these places; the block is free afterwards.

        Raises:
            OSError: writing fails, if it is done at once; otherwise the end of the context raises that.
        """
        if self._writers and places:
            with self._written:
                self._last += 1
                self._under_way.add(self._last)
                self._filled.put(_Filled(block, size, places, self._last))
        else:
            self._write(_Filled(block, size, places))
            self._free.put(block)

    def can_be_made_in(self, places: Sequence[OutputRange]) -> bool:
        """Whether a kernel may write a tensor itself: to one place, in one piece, through the page cache."""
        if self._writers or len(places) != 1 or is_listened_to():  # listeners are told of each write
            return False
        (place,) = places
        return place.turned is None and not place.views and self._files[place.output].lock is not None

    def make_in(self, place: OutputRange, size: int, make: Callable[[native.Destination], T]) -> T:
        """Have a kernel make and write `size` bytes; `make` gets the place.

        Raises:
            OSError: writing fails.
        """
        file, block = self._files[place.output], self.block()
        try:
            made = make(native.Destination(file.fd, place.offset, file.lock, block.memory[:_AT_ONCE]))
        finally:
            self._free.put(block)
        file.was_written(place.offset, size)
        self._emit(Progress(size))
        return made

    def settle(self) -> None:
        """Wait until everything put before is written, so that the same places may be written again.

        Several threads write, each as fast as it can: of two blocks for one place, either could be the last otherwise.
        """
        with self._written:
            last = self._last
            self._written.wait_for(lambda: all(number > last for number in self._under_way))

    def fill(self, fd: int, offset: int, size: int, place: OutputRange) -> int:
        """Write as many of these bytes of a file to a place as fit into a block; return how many.

        Raises:
            OSError: the file ends early (`EIO`), or reading fails.
        """
        block = self.block()
        size = min(size, len(block.memory))
        with span("read", offset=offset, bytes=size):
            read = platform.pread_into(fd, block.memory[:size], offset)
        self.put(block, size, [place])
        if read < size:
            raise OSError(errno.EIO, f"the source of a copy ends {size - read} bytes early")
        return size

    def _write_all(self) -> None:
        """Write blocks as they come. After a failure, blocks are only made free, for threads that wait for one."""
        while (filled := self._filled.get()) is not None:
            if not self._stop.is_set():
                try:
                    self._write(filled)
                except Exception as error:  # noqa: BLE001 -- raised when the outputs are left
                    self._failed = self._failed or error
                    self._stop.set()
            with self._written:
                self._under_way.discard(filled.number)
                self._written.notify_all()
            self._free.put(filled.block)

    def _write(self, filled: _Filled) -> None:
        data = filled.block.memory[: filled.size]
        for place in filled.places:
            file = self._files[place.output]
            with span("write", file=file.output.path, offset=place.offset, bytes=len(data)):
                if place.views:
                    file.scatter(data, place)
                else:
                    file.write(data, place.offset)
            self._emit(Progress(len(data)))


class _OpenOutput:
    """An output whose header is written."""

    def __init__(self, output: OutputFile, durable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        output.path.parent.mkdir(parents=True, exist_ok=True)
        self.output = output
        self.fd = os.open(output.path, flags, 0o666)
        self._direct: int | None = None
        self._is_refused = False
        """Whether the file system has refused a direct write."""
        self.lock = native.new_lock()
        """Held by kernels while they write; None if they can't."""
        self._lock = threading.Lock()
        self._durable = durable
        self._cached = (0, 0)
        """The range of bytes that the disk was not yet asked to write."""
        self._mapping: mmap.mmap | None = None
        """All of it in memory, if it has scattered tensors."""
        self._write_known()

    def _write_known(self) -> None:
        """Write what is known before any tensor is made; if that fails, remove the file."""
        output = self.output
        try:
            for offset, content in ((0, output.header), *output.fixed):
                platform.pwrite_all(self.fd, memoryview(content), offset)
        except BaseException:
            self.close()
            output.path.unlink(missing_ok=True)
            raise

    def go_direct(self) -> None:
        """Write whole pages past the page cache from now on, if the file system can."""
        self._direct = platform.open_direct(self.output.path)

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes, which begin on a page of memory."""
        done = self._write_directly(data, offset)
        if done == len(data):
            return
        with self._lock:
            platform.pwrite_all(self.fd, data[done:], offset + done)
        self.was_written(offset + done, len(data) - done)

    def was_written(self, offset: int, size: int) -> None:
        """Have the disk begin writing these bytes, if the build will wait for it."""
        if self._durable:
            with self._lock:
                self._hurry(offset, offset + size)

    def scatter(self, data: memoryview, place: OutputRange) -> None:
        """Write elements of a scattered tensor."""
        with self._lock:
            if self._mapping is None:
                self._mapping = mmap.mmap(self.fd, self.output.size)
        with memoryview(self._mapping) as target:
            scatter(place.views, target, place.width, place.offset // place.width, data)

    def _hurry(self, begin: int, end: int) -> None:
        """Ask the disk to begin writing, once there are many bytes."""
        begin, end = min(begin, self._cached[0] or begin), max(end, self._cached[1])
        if end - begin >= _EARLY:
            platform.start_writeback(self.fd, begin, end - begin)
            begin = end = 0
        self._cached = begin, end

    def _write_directly(self, data: memoryview, offset: int) -> int:
        """Write the whole pages among these bytes directly; return how many bytes that are."""
        size = len(data) // platform.PAGE * platform.PAGE
        if self._direct is None or self._is_refused or offset % platform.PAGE or not size:
            return 0
        try:
            return platform.pwrite(self._direct, data[:size], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._is_refused = True
            return 0

    def close(self) -> None:
        direct, self._direct = self._direct, None
        mapping, self._mapping = self._mapping, None
        try:
            if mapping is not None:
                with suppress(BufferError):  # an error being raised refers to views of it
                    mapping.close()
            os.close(self.fd)
        finally:
            if direct is not None:
                os.close(direct)
