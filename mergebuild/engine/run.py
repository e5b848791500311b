"""Run a pass: open the files, share the work among threads, leave nothing behind when it fails.

Outputs get their final size at once, so that a full disk is known before the work, and are written in place from any
thread. Copies of ranges need no torch; it is imported only when there is a step to compute. A worker takes clusters
in the order of the files; what a cluster gives does not depend on who computes it or when.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from importlib import import_module

from mergebuild import portable
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.work import Cluster, Copy, OutputFile, Pass, StepResult, clusters, coalesced
from mergebuild.events import Emit, PassBegun, PassEnded, Progress

__all__ = ["DEFAULT_CHUNK", "run_pass", "warm_up"]

DEFAULT_CHUNK = 1 << 19
"""Elements computed at a time: 2 MiB of float32 an input, which stays in the processor's cache."""

_COPY_PIECE = 1 << 26


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
    if work.steps:
        warm_up()
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(_created(output)) for output in work.outputs]
            copies = _cloned(coalesced(work.copies), files, emit)
            for fd, output in zip(files, work.outputs, strict=True):
                portable.preallocate(fd, output.size)
            mappings = Mappings()
            stack.callback(mappings.close)
            result = _run(clusters(work), copies, files, mappings, threads or portable.cpu_count(), emit, chunk)
    except BaseException:
        for output in work.outputs:
            output.path.unlink(missing_ok=True)
        raise
    finally:
        emit(PassEnded())
    return result


def warm_up() -> None:
    """Begin to import torch beside whatever else is done: it takes longer than planning does."""
    threading.Thread(target=import_module, args=("mergebuild.engine.compute",), daemon=True).start()


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


def _run(  # noqa: PLR0913 -- the whole of a pass, taken apart
    groups: Sequence[Cluster],
    copies: Sequence[Copy],
    files: Sequence[int],
    mappings: Mappings,
    threads: int,
    emit: Emit,
    chunk: int,
) -> dict[bytes, StepResult]:
    stop = threading.Event()
    jobs: Iterator[Cluster | Copy] = iter([*copies, *groups])  # copies need no torch, which may still be on its way
    lock = threading.Lock()
    results: dict[bytes, StepResult] = {}

    def next_job() -> Cluster | Copy | None:
        with lock:
            return None if stop.is_set() else next(jobs, None)

    def labour() -> None:
        compute: Callable[[Cluster], dict[bytes, StepResult]] | None = None
        while (job := next_job()) is not None:
            if isinstance(job, Copy):
                _copy(job, files[job.place.output], emit, stop)
                continue
            if compute is None:
                from mergebuild.engine.compute import Worker

                compute = Worker(files, mappings, chunk, emit, stop).run
            results.update(compute(job))

    count = max(1, min(threads, len(groups) + len(copies)))
    with ThreadPoolExecutor(count, thread_name_prefix="mergebuild") as pool:
        futures = [pool.submit(labour) for _ in range(count)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # an interrupt of the main thread, or a worker's error: the others stop at their next chunk
            if any(future.done() and future.exception() for future in futures) or not all(
                future.done() for future in futures
            ):
                stop.set()
    for future in futures:
        future.result()
    return results


def _copy(copy: Copy, output: int, emit: Emit, stop: threading.Event) -> None:
    with copy.path.open("rb") as file:
        source = file.fileno()
        for start in range(0, copy.size, _COPY_PIECE):
            if stop.is_set():
                return
            size = min(_COPY_PIECE, copy.size - start)
            portable.copy_range(source, copy.offset + start, output, copy.place.offset + start, size)
            emit(Progress(size))
