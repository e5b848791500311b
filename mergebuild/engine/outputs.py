"""Files being written, by whoever computes, in any order.

Blocks are anonymous memory maps: page-aligned, seen by torch and by the system alike without a copy, and taken in
turn, so that memory is bounded.

Small outputs go through the page cache. To write there is a copy in memory, and done at once by whoever filled the
block. Large ones would fill the cache and then wait for the disk at its slowest: whole pages of these go directly to
it, written by threads of their own while the others compute on. A file system lets one writer into a file at a time,
and has others wait without sleep: so one lock, or one thread, a file.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType

from mergebuild import portable
from mergebuild.engine.work import OutputFile, Place
from mergebuild.events import Emit, Progress

__all__ = ["DIRECT_SHARE", "Block", "Outputs"]

DIRECT_SHARE = 10
"""Outputs that together exceed one part in so many of the machine's memory are written past the page cache."""

_EARLY = 1 << 26
"""Bytes written to the page cache before the disk is asked to begin with them, if somebody will wait for it."""


class Block:
    """Page-aligned memory of a fixed size in bytes."""

    def __init__(self, size: int) -> None:
        self.memory = memoryview(mmap.mmap(-1, max(size, mmap.PAGESIZE)))


@dataclass(frozen=True, slots=True)
class _Filled:
    """The first bytes of a block, to be written to places of the outputs that one thread writes."""

    block: _Shared
    data: memoryview
    places: Sequence[Place]


@dataclass(slots=True)
class _Shared:
    """A block, and how many threads have still to write it."""

    block: Block
    left: int


class Outputs:
    """Creates the files of a pass, writes to them in the background, and closes them.

    A context: leaving it waits until all is written and raises what went wrong with that. When it raises, or is left
    by an error, the files that it created are gone.
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
        self._files: list[_File] = []
        self._queues: list[SimpleQueue[_Filled | None]] = []
        self._writers: list[threading.Thread] = []
        self._free: SimpleQueue[Block] = SimpleQueue()
        self._lock = threading.Lock()
        self._failed: Exception | None = None
        self.is_direct = False

    def __enter__(self) -> Outputs:
        try:
            for output in self._outputs:
                self._files.append(_File(output, self._durable))
        except BaseException:
            self._close(is_whole=False)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._stop.set()
        for queue in self._queues:
            queue.put(None)
        for writer in self._writers:
            writer.join()
        self._close(is_whole=error is None and self._failed is None)
        if self._failed is not None and error is None:
            raise self._failed

    def _close(self, *, is_whole: bool) -> None:
        for file in self._files:
            file.close()
            if not is_whole:
                file.output.path.unlink(missing_ok=True)

    def descriptor(self, index: int) -> int:
        """Return the descriptor of an output."""
        return self._files[index].fd

    def allocate(self, shared: int) -> None:
        """Give the files their sizes, so that a full disk is known before the work.

        `shared`: how many bytes they have from other files already.
        """
        size = 0
        for file in self._files:
            portable.preallocate(file.fd, file.output.size)
            size += file.output.size
        self.is_direct = size - shared > portable.memory_bytes() // DIRECT_SHARE > 0
        if self.is_direct:
            for file in self._files:
                file.go_direct()

    def start(self, block: int) -> None:
        """Begin to take blocks, of so many bytes each."""
        for _ in range(2 * self._threads + 2):
            self._free.put(Block(block))
        for _ in range(min(len(self._files), max(1, self._threads // 2)) if self.is_direct else 0):
            queue: SimpleQueue[_Filled | None] = SimpleQueue()
            self._queues.append(queue)
            self._writers.append(threading.Thread(target=self._write_all, args=(queue,), name="mergebuild-write"))
            self._writers[-1].start()

    def block(self) -> Block:
        """Return a block to fill, when there is one."""
        return self._free.get()

    def put(self, block: Block, size: int, places: Sequence[Place]) -> None:
        """Have the first bytes of a block written to all these places, and the block taken back then.

        Raises:
            OSError: writing fails, if it is done at once; else leaving the context raises that.
        """
        data = block.memory[:size]
        count = len(self._queues)
        if not count or not places:
            self._write(data, places)
            self._free.put(block)
            return
        writers = sorted({place.output % count for place in places})
        shared = _Shared(block, len(writers))
        for writer in writers:
            mine = places if len(writers) == 1 else [place for place in places if place.output % count == writer]
            self._queues[writer].put(_Filled(shared, data, mine))

    def fill(self, fd: int, offset: int, size: int, place: Place) -> int:
        """Have as many of these bytes of a file written to a place as a block holds; return how many.

        Raises:
            OSError: the file ends early (`EIO`), or reading fails.
        """
        block = self.block()
        size = min(size, len(block.memory))
        read = portable.pread_into(fd, block.memory[:size], offset)
        self.put(block, size, [place])
        if read < size:
            raise OSError(errno.EIO, f"the source of a copy ends {size - read} bytes early")
        return size

    def _write_all(self, queue: SimpleQueue[_Filled | None]) -> None:
        """Write what comes. After a failure blocks are only taken back, for whoever waits for one."""
        while (filled := queue.get()) is not None:
            if not self._stop.is_set():
                try:
                    self._write(filled.data, filled.places)
                except Exception as error:  # noqa: BLE001 -- raised when the outputs are left
                    self._failed = self._failed or error
                    self._stop.set()
            with self._lock:
                filled.block.left -= 1
                is_free = filled.block.left == 0
            if is_free:
                self._free.put(filled.block.block)

    def _write(self, data: memoryview, places: Sequence[Place]) -> None:
        for place in places:
            self._files[place.output].write(data, place.offset)
            self._emit(Progress(len(data)))


class _File:
    """An output with its header in place."""

    def __init__(self, output: OutputFile, durable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        output.path.parent.mkdir(parents=True, exist_ok=True)
        self.output = output
        self.fd = os.open(output.path, flags, 0o666)
        self._direct: int | None = None
        self._lock = threading.Lock()
        self._durable = durable
        self._cached = (0, 0)
        """The range of bytes that the disk was not asked for yet."""
        try:
            for offset, content in ((0, output.header), *output.fixed):
                portable.pwrite_all(self.fd, memoryview(content), offset)
        except BaseException:
            self.close()
            output.path.unlink(missing_ok=True)
            raise

    def go_direct(self) -> None:
        """Write whole pages past the page cache from now on, where the file system can."""
        self._direct = portable.open_direct(self.output.path)

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes that begin on a page of memory."""
        with self._lock:
            done = self._write_directly(data, offset) if self._direct is not None else 0
            if done < len(data):
                portable.pwrite_all(self.fd, data[done:], offset + done)
                if self._durable:
                    self._hurry(offset + done, offset + len(data))

    def _hurry(self, begin: int, end: int) -> None:
        """Ask the disk to begin with what was written, once it is much."""
        begin, end = min(begin, self._cached[0] or begin), max(end, self._cached[1])
        if end - begin >= _EARLY:
            portable.start_writeback(self.fd, begin, end - begin)
            begin = end = 0
        self._cached = begin, end

    def _write_directly(self, data: memoryview, offset: int) -> int:
        """Return how many bytes of the whole pages among these are on the disk."""
        size = len(data) // portable.PAGE * portable.PAGE
        if offset % portable.PAGE or not size:
            return 0
        assert self._direct is not None
        try:
            return os.pwrite(self._direct, data[:size], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            os.close(self._direct)
            self._direct = None
            return 0

    def close(self) -> None:
        os.close(self.fd)
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
