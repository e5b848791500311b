"""Digests of tensors and artifacts: 16 bytes (xxh3-128) that say what a tensor is, known before it is read.

A source tensor's digest follows from its bytes, dtype and shape: the same bytes in another dtype are other values. The
digest of a made tensor follows from how it is made; see `key.py`. An artifact's follows from its tensors by name.
xxh3-128 identifies bytes but does not protect against forgery: pins and the lock file use SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import xxhash

from mergebuild import native
from mergebuild.system import platform

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
"""Raised when the meaning of digests changes: everything is then built anew."""

_TAG = "xxh3-128:"

_SCALED = " scaled by "

_WINDOW = 1 << 20
"""Bytes read at a time, few enough to stay in the processor's cache."""


class RunningChecksum(Protocol):
    """The xxh3-128 of bytes that arrive in pieces."""

    def update(self, data: Buffer, /) -> None:
        """Add the next bytes."""

    def digest(self) -> bytes:
        """Return the checksum of all bytes added so far (16 bytes)."""


def tagged(digest: bytes) -> str:
    """Return a digest as text: `xxh3-128:` and 32 hexadecimal digits."""
    return _TAG + digest.hex()


def checksum(data: bytes | memoryview) -> bytes:
    """Return the xxh3-128 of some bytes (16 bytes)."""
    return xxhash.xxh3_128_digest(data)


def new_checksum() -> RunningChecksum:
    """Return a running checksum of no bytes yet."""
    return native.Hash() if native.variant else xxhash.xxh3_128()


def file_checksum(fd: int, begin: int, end: int) -> bytes:
    """Return the checksum of a file's bytes from `begin` to `end`, or to the end of the file if that comes first.

    The file is read, not mapped: if it is truncated meanwhile, the checksum differs, while a mapping would end the
    process.
    """
    running = new_checksum()
    buffer = memoryview(bytearray(min(_WINDOW, end - begin)))
    for start in range(begin, end, _WINDOW):
        window = buffer[: min(_WINDOW, end - start)]
        running.update(window[: platform.pread_into(fd, window, start)])
    return running.digest()


def scaled_as(numbers: str, scales: str, over: str) -> str:
    """Return how a tensor is stored that is the product of numbers and scales, as text that no dtype of a file equals.

    Args:
        numbers: The dtype of the numbers.
        scales: The dtype of the scales.
        over: Which blocks of numbers each scale applies to, exactly.
    """
    return f"{numbers}{_SCALED}{scales} over {over}"


def is_scaled(stored: str) -> bool:
    """Whether a stored form is one that `scaled_as` gives."""
    return _SCALED in stored


def scaled_checksum(numbers: bytes, scales: bytes) -> bytes:
    """Return the checksum of a tensor that is a product, given the checksums of its numbers and of its scales."""
    return checksum(numbers + scales)


def source_tensor_digest(stored: str, shape: Sequence[int], bytes_checksum: bytes) -> bytes:
    """Return the digest of a source's tensor, from its stored form (a dtype), its shape and its bytes' checksum."""
    shown = ",".join(map(str, shape))
    return xxhash.xxh3_128_digest(b"source %d %s [%s] " % (SCHEMA, stored.encode(), shown.encode()) + bytes_checksum)


class ArtifactDigests:
    """Digests of artifacts whose tensors have the same names, dtypes and shapes; see `artifact_digest`."""

    def __init__(self, tensors: Sequence[tuple[str, str, Sequence[int]]]) -> None:
        self._order = sorted(range(len(tensors)), key=tensors.__getitem__)
        self._parts = [part for index in self._order for part in (_entry(*tensors[index]), b"")]

    def of(self, digests: Sequence[bytes]) -> bytes:
        """Return the digest of one artifact, given its tensors' digests in the order given to the constructor."""
        parts = self._parts.copy()
        parts[1::2] = [digests[index] for index in self._order]
        return xxhash.xxh3_128_digest(b"".join(parts))


def artifact_digest(tensors: Iterable[tuple[str, str, Sequence[int], bytes]]) -> bytes:
    """Return the digest of an artifact, given its tensors as (name, dtype, shape, digest) in any order."""
    found = list(tensors)
    return ArtifactDigests([each[:3] for each in found]).of([each[3] for each in found])


def _entry(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    encoded = name.encode()
    shown = ",".join(map(str, shape))
    return b"%d:%s %s [%s] " % (len(encoded), encoded, dtype.encode(), shown.encode())
