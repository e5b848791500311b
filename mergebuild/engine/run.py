"""Run a pass: open the files, share the work among threads, leave nothing behind when it fails.

Outputs get their final size at once, so that a full disk is known before the work, and are written in place from any
thread. Copies of ranges need no torch; it is imported only when there is a step to compute. A worker takes clusters
in the order of the files; what a cluster gives does not depend on who computes it or when.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

import xxhash

from mergebuild import portable
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.work import Cluster, Copy, Leaf, OutputFile, Pass, Pending, StepResult, clusters, coalesced
from mergebuild.events import Emit, PassBegun, PassEnded, Progress

if TYPE_CHECKING:
    from mergebuild.engine.compute import Worker

__all__ = ["DEFAULT_CHUNK", "run_pass", "warm_up"]

DEFAULT_CHUNK = 1 << 19
"""Elements computed at a time: 2 MiB of float32 an input, which stays in the processor's cache."""

_PIECE = 1 << 26
"""Bytes copied or hashed between two looks at whether to stop."""

_Job = Copy | Pending | Cluster


def run_pass(
    work: Pass, *, threads: int | None, emit: Emit, targets: tuple[str, ...], chunk: int = DEFAULT_CHUNK
) -> dict[bytes, StepResult]:
    """Write all outputs of a pass; return what came of each step, by its digest.

    When it raises, the files it created are gone.

    Raises:
        OSError: a file cannot be read or written; `ENOSPC` when the disk is full.
    """
    total = sum(output.size for output in work.outputs)
    emit(PassBegun(targets, total))
    if work.steps or work.pending:
        warm_up()
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(_created(output)) for output in work.outputs]
            copies = _cloned(coalesced(work.copies), files, emit)
            for fd, output in zip(files, work.outputs, strict=True):
                portable.preallocate(fd, output.size)
            # Copies need no torch, which may still be on its way.
            jobs: list[_Job] = [*copies, *work.pending, *clusters(work)]
            result = _Crew(files, emit, chunk).run(jobs, threads or portable.cpu_count())
    except BaseException:
        for output in work.outputs:
            output.path.unlink(missing_ok=True)
        raise
    finally:
        emit(PassEnded())
    return result


def warm_up() -> None:
    """Begin to import torch beside whatever else is done: it takes longer than planning does."""
    threading.Thread(target=import_module, args=("mergebuild.engine.compute",)).start()


@contextmanager
def _created(output: OutputFile) -> Iterator[int]:
    """Create an output with its header in place, and yield its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    output.path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(output.path, flags, 0o666)
    try:
        portable.pwrite_all(fd, memoryview(output.header), 0)
        yield fd
    finally:
        os.close(fd)


def _cloned(copies: Sequence[Copy], files: Sequence[int], emit: Emit) -> list[Copy]:
    """Share with each output the whole pages that it takes from another file; return what is left to be copied.

    Before space is allocated, so that what is shared takes none.
    """
    left: list[Copy] = []
    for copy in copies:
        pages = copy.size // portable.PAGE * portable.PAGE
        with copy.path.open("rb") as file:
            if not pages or not portable.clone_range(
                file.fileno(), copy.offset, files[copy.place.output], copy.place.offset, pages
            ):
                left.append(copy)
                continue
        emit(Progress(pages))
        if copy.size > pages:
            place = copy.place._replace(offset=copy.place.offset + pages)
            left.append(Copy(copy.path, copy.offset + pages, copy.size - pages, place))
    return left


class _Crew:
    """Threads that share the jobs of a pass, each job done by one of them."""

    def __init__(self, files: Sequence[int], emit: Emit, chunk: int) -> None:
        self._files = files
        self._emit = emit
        self._chunk = chunk
        self._mappings = Mappings()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._jobs: Iterator[_Job] = iter(())
        self._results: dict[bytes, StepResult] = {}

    def run(self, jobs: Sequence[_Job], threads: int) -> dict[bytes, StepResult]:
        """Do all jobs; return what came of the steps. The first error of a job, or an interrupt, ends the others."""
        self._jobs = iter(jobs)
        count = max(1, min(threads, len(jobs)))
        with ThreadPoolExecutor(count, thread_name_prefix="mergebuild") as pool:
            futures = [pool.submit(self._labour) for _ in range(count)]
            try:
                done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
                if waiting or any(future.exception() for future in done):
                    self._stop.set()
            except BaseException:  # an interrupt of the main thread
                self._stop.set()
                raise
        for future in futures:
            future.result()
        self._mappings.close()
        return self._results

    def _next(self) -> _Job | None:
        with self._lock:
            return None if self._stop.is_set() else next(self._jobs, None)

    def _labour(self) -> None:
        """Do jobs until there are none. torch is imported with the first that needs it."""
        worker: Worker | None = None
        while (job := self._next()) is not None:
            cluster: Cluster | None = None
            if isinstance(job, Copy):
                self._copy(job)
            elif isinstance(job, Pending):
                cluster, copies = job.resolve([self._checksum(leaf) for leaf in job.leaves])
                for copy in copies:
                    self._copy(copy)
                if cluster is None:
                    for leaf in job.leaves:
                        self._mappings.release(leaf.path, leaf.offset, leaf.size)
            else:
                cluster = job
            if cluster is not None:
                if worker is None:
                    from mergebuild.engine.compute import Worker

                    worker = Worker(self._files, self._mappings, self._chunk, self._emit, self._stop)
                self._results.update(worker.run(cluster))

    def _copy(self, copy: Copy) -> None:
        with copy.path.open("rb") as file:
            for start in range(0, copy.size, _PIECE):
                if self._stop.is_set():
                    return
                size = min(_PIECE, copy.size - start)
                place = copy.place.offset + start
                portable.copy_range(file.fileno(), copy.offset + start, self._files[copy.place.output], place, size)
                self._emit(Progress(size))

    def _checksum(self, leaf: Leaf) -> bytes:
        """Return the checksum of a tensor's bytes; they are in the page cache then for whoever computes with them."""
        running = xxhash.xxh3_128()
        with memoryview(self._mappings[leaf.path]) as view:
            for start in range(leaf.offset, leaf.offset + leaf.size, _PIECE):
                if self._stop.is_set():
                    break
                running.update(view[start : min(start + _PIECE, leaf.offset + leaf.size)])
        return running.digest()
