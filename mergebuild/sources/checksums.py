"""The checksums of a source's tensors: its bytes are read once, by several threads."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import xxhash

from mergebuild.digest import file_checksum, scaled_checksum
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.gathering import gather
from mergebuild.formats.header import TensorInfo
from mergebuild.formats.model import Model
from mergebuild.system import platform
from mergebuild.system.spans import span

__all__ = ["checksums_of"]

_GATHERED = 1 << 22
"""Elements of a scattered tensor that are gathered at a time to be hashed."""


def checksums_of(model: Model, tensors: Collection[TensorInfo], threads: int) -> list[bytes]:
    """Return the checksums of tensors, in order, computed by so many threads.

    Raises:
        OSError: a file can't be read, or another process is about to write to it.
    """
    paths = model.files
    if threads == 1:
        return [_checksum_of(paths, info) for info in tensors]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda info: _checksum_of(paths, info), tensors))


def _checksum_of(paths: Sequence[Path], info: TensorInfo) -> bytes:
    with span("checksum", tensor=info.name, bytes=info.nbytes):
        own = _checksum_of_bytes(paths, info)
        return scaled_checksum(own, _checksum_of_bytes(paths, info.scale.info)) if info.scale else own


def _checksum_of_bytes(paths: Sequence[Path], info: TensorInfo) -> bytes:
    """Return the checksum of a tensor's bytes, without its scales.

    A folder may have more files than a process may have open: each is open only while a tensor of it is read.
    """
    with ExitStack() as files:
        needed = {piece.file for piece in info.pieces} or {info.file}
        fds = {each: files.enter_context(paths[each].open("rb")).fileno() for each in needed}
        return _gathered(info, fds) if info.pieces else file_checksum(fds[info.file], info.begin, info.end)


def _gathered(info: TensorInfo, fds: Mapping[int, int]) -> bytes:
    """Return the checksum of a tensor that isn't contiguous in its file."""
    running = xxhash.xxh3_128()
    width = DTYPES_BY_WORD[info.dtype].size
    with ExitStack() as mappings:
        maps = {file: mmap.mmap(fd, 0, access=mmap.ACCESS_READ) for file, fd in fds.items()}
        views = {file: mappings.enter_context(memoryview(each)) for file, each in maps.items()}
        held = [fd for fd in fds.values() if platform.hold_still(fd)]  # a mapped file must not be truncated
        try:
            for start in range(0, info.count, _GATHERED):
                if any(map(platform.is_wanted, held)):
                    raise OSError(errno.EBUSY, "another process is writing to it")
                count = min(_GATHERED, info.count - start)
                running.update(gather(info.pieces, views.__getitem__, width, start, count))
        finally:
            for fd in held:
                platform.let_go(fd)
    return running.digest()
