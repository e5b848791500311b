"""Identities of bytes: of a tensor in a file, and of a set of tensors, known before any tensor is read.

A source tensor is its bytes (with dtype and shape, for the same bytes can mean other values). A made tensor is what
makes it: see `key.py`. An artifact is its tensors by name. xxh3-128 is identity, not trust: pins and locks use SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import xxhash

from mergebuild import native
from mergebuild.system import portable

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "SCHEMA",
    "ArtifactDigests",
    "RunningChecksum",
    "artifact_digest",
    "checksum",
    "file_checksum",
    "is_scaled",
    "new_checksum",
    "scaled_as",
    "scaled_checksum",
    "source_tensor_digest",
    "tagged",
]

SCHEMA = 1
"""Raised when the meaning of digests changes; everything is then built anew."""

_TAG = "xxh3-128:"

_SCALED = " scaled by "

_WINDOW = 1 << 20
"""Bytes read at a time: they stay in the processor's cache."""


class RunningChecksum(Protocol):
    """The xxh3-128 of bytes that come one after another."""

    def update(self, data: Buffer, /) -> None:
        """Add bytes."""

    def digest(self) -> bytes:
        """Return the checksum of the bytes so far."""


def tagged(digest: bytes) -> str:
    """Return a digest as text: `xxh3-128:` and 32 hexadecimal digits."""
    return _TAG + digest.hex()


def checksum(data: bytes | memoryview) -> bytes:
    """Return the xxh3-128 of bytes as they lie in a file (16 bytes)."""
    return xxhash.xxh3_128_digest(data)


def new_checksum() -> RunningChecksum:
    """Return a checksum of nothing so far."""
    return native.Hash() if native.variant else xxhash.xxh3_128()


def file_checksum(fd: int, begin: int, end: int) -> bytes:
    """Return the checksum of a range of a file, as far as the file reaches.

    Read, not mapped: a file that is cut short meanwhile gives another checksum, and ends no process.
    """
    running = new_checksum()
    buffer = memoryview(bytearray(min(_WINDOW, end - begin)))
    for start in range(begin, end, _WINDOW):
        window = buffer[: min(_WINDOW, end - start)]
        running.update(window[: portable.pread_into(fd, window, start)])
    return running.digest()


def scaled_as(numbers: str, scales: str, over: str) -> str:
    """Return what the bytes of a tensor are that is a product, given the dtypes of both factors: no dtype of a file.

    `over`: how the scales lie over the numbers, exactly.
    """
    return f"{numbers}{_SCALED}{scales} over {over}"


def is_scaled(stored: str) -> bool:
    """Whether what a tensor's bytes are is of `scaled_as`."""
    return _SCALED in stored


def scaled_checksum(numbers: bytes, scales: bytes) -> bytes:
    """Return the checksum of a tensor that is a product, given those of both factors' bytes."""
    return checksum(numbers + scales)


def source_tensor_digest(stored: str, shape: Sequence[int], bytes_checksum: bytes) -> bytes:
    """Return the identity of a source's tensor: what its bytes are (a dtype), its shape and their checksum."""
    shown = ",".join(map(str, shape))
    return xxhash.xxh3_128_digest(b"source %d %s [%s] " % (SCHEMA, stored.encode(), shown.encode()) + bytes_checksum)


class ArtifactDigests:
    """The identities of sets of tensors that have names, dtypes and shapes in common; see `artifact_digest`."""

    def __init__(self, tensors: Sequence[tuple[str, str, Sequence[int]]]) -> None:
        self._order = sorted(range(len(tensors)), key=tensors.__getitem__)
        self._parts = [part for index in self._order for part in (_entry(*tensors[index]), b"")]

    def of(self, digests: Sequence[bytes]) -> bytes:
        """Return the identity of one set, given the tensors' digests in the order of the tensors."""
        parts = self._parts.copy()
        parts[1::2] = [digests[index] for index in self._order]
        return xxhash.xxh3_128_digest(b"".join(parts))


def artifact_digest(tensors: Iterable[tuple[str, str, Sequence[int], bytes]]) -> bytes:
    """Return the identity of a set of tensors given as (name, dtype, shape, digest), in any order."""
    found = list(tensors)
    return ArtifactDigests([each[:3] for each in found]).of([each[3] for each in found])


def _entry(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    encoded = name.encode()
    shown = ",".join(map(str, shape))
    return b"%d:%s %s [%s] " % (len(encoded), encoded, dtype.encode(), shown.encode())
