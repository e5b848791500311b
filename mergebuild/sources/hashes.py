"""The hashes by which model sites and web UIs name files, all from one reading; and whether a file meets its pins.

`sha256` is of the whole file. `autov2` is its first 10 digits. `autov1` is of 64 KiB at 1 MiB only (merges of the same
models often share it). `autov3` is of a safetensors file's data without its header, so that metadata can't change it. A
folder has only `sha256`, of a line for each of its files, sorted: what `sha256sum FILES | LC_ALL=C sort | sha256sum`
prints in that folder. Which files these are, `Model.own_files` says: the weights, the files that say what these hold,
and the small files without which a program makes another model of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from mergebuild.system.spans import span

__all__ = ["EVERY", "Difference", "differs", "of_file", "of_files", "of_listing", "path_in", "sha256"]

EVERY: Final = ("sha256", "autov1", "autov2", "autov3")
"""All hashes, in the order of display."""

_CHUNK = 4 << 20
_WINDOW = range(0x100000, 0x110000)
"""The bytes that AutoV1 is the hash of."""


class Difference(NamedTuple):
    """A pin that a file does not meet; `found` is None if the file has no such hash."""

    name: str
    pinned: str
    found: str | None


def differs(pins: Mapping[str, str], found: Mapping[str, str | None]) -> Difference | None:
    """Return the first pin that the hashes found do not meet; None if all are met.

    Args:
        pins: By name (`sha256`, `autov2`, `autov3`), in lower-case hexadecimal digits; a shorter pin is the beginning
            of a hash.
        found: The hashes of a file, as `of_file` returns them.
    """
    for name, pinned in pins.items():
        hash_found = found.get(name)
        if hash_found is None or not hash_found.startswith(pinned):
            return Difference(name, pinned, hash_found)
    return None


def of_file(path: Path, *, has_length: bool, wanted: Collection[str] = EVERY) -> dict[str, str | None]:
    """Return hashes of a file by name, reading it once.

    Args:
        path: The file.
        has_length: Whether it begins with the length of its header, as safetensors does, and so has an `autov3`; else
            that is None.
        wanted: Which hashes; a hash that none of them needs is not computed.

    Raises:
        OSError: it can't be read.
    """
    whole, window, data = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    parts: list[_HashedRange] = []
    if not {"sha256", "autov2"}.isdisjoint(wanted):
        parts.append(_HashedRange(whole.update))
    if "autov1" in wanted:
        parts.append(_HashedRange(window.update, _WINDOW.start, _WINDOW.stop))
    with path.open("rb", buffering=0) as file:
        if "autov3" in wanted and has_length:
            parts.append(_HashedRange(data.update, 8 + int.from_bytes(file.read(8), "little")))
            file.seek(0)
        if parts:
            with span("checksum", file=path):
                _read(file.readinto, parts)
    found = {
        "sha256": whole.hexdigest(),
        "autov1": window.hexdigest()[:8],
        "autov2": whole.hexdigest()[:10],
        "autov3": data.hexdigest() if has_length else None,
    }
    return {name: found[name] for name in EVERY if name in wanted}


def of_files(folder: Path, files: Iterable[Path]) -> dict[str, str | None]:
    """Return the hashes of a folder by its files: only `sha256`, the others are None.

    Args:
        folder: What the paths in the lines are relative to.
        files: The files below it to hash.

    Raises:
        OSError: one can't be read.
    """
    return {**dict.fromkeys(EVERY), "sha256": of_listing({path_in(folder, path): sha256(path) for path in files})}


def of_listing(listing: Mapping[str, str]) -> str:
    """Return the SHA-256 of lines `SHA256  PATH`, sorted, given the SHA-256 of each file by its path in a folder."""
    text = "".join(sorted(f"{digits}  {path}\n" for path, digits in listing.items()))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def path_in(folder: Path, path: Path) -> str:
    """Return a file's path relative to a folder, with `/` between the parts on every system."""
    return path.relative_to(folder).as_posix()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: it can't be read.
    """
    return str(of_file(path, has_length=False, wanted=("sha256",))["sha256"])


class _HashedRange(NamedTuple):
    """A hash, and the range of bytes of the file that it is of."""

    update: Callable[[memoryview], None]
    start: int = 0
    stop: int | None = None

    def take(self, chunk: memoryview, offset: int) -> None:
        """Hash the bytes of its range in a chunk that begins at `offset` of the file."""
        stop = len(chunk) if self.stop is None else max(0, min(len(chunk), self.stop - offset))
        self.update(chunk[max(0, self.start - offset) : stop])


def _read(readinto: Callable[[memoryview], int | None], parts: Iterable[_HashedRange]) -> None:
    """Read a file to its end. All parts hash each chunk, in a thread each, while the next chunk is read."""
    from concurrent.futures import Future, ThreadPoolExecutor

    parts = tuple(parts)
    buffers = memoryview(bytearray(_CHUNK)), memoryview(bytearray(_CHUNK))
    with ExitStack() as stack:
        pool: ThreadPoolExecutor | None = None
        hashing: list[Future[None]] = []
        offset = 0
        turn = 0
        while count := readinto(buffers[turn]):
            chunk = buffers[turn][:count]
            for each in hashing:
                each.result()
            if pool is None and count < _CHUNK:  # a small file is not worth a thread
                for part in parts:
                    part.take(chunk, offset)
            else:
                pool = pool or stack.enter_context(ThreadPoolExecutor(len(parts)))
                hashing = [pool.submit(part.take, chunk, offset) for part in parts]
            offset += count
            turn = 1 - turn
        for each in hashing:
            each.result()
