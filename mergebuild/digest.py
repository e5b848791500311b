"""Identities: what a tensor or an artifact *is*, known before any tensor is read.

A source tensor is its bytes (with dtype and shape, for the same bytes can mean other values). A made tensor is what
makes it: the folded form, written by `write_linear` to a sink. Two sinks read the same lines: one hashes them, one
shows them, so an explanation cannot drift from the decision. Every line is a name and a value with a length, so that
nothing can slide from one line into the next. xxh3-128 is identity, not trust: pins and locks use SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol

import xxhash

from mergebuild import portable

__all__ = [
    "SCHEMA",
    "ExplainSink",
    "HashSink",
    "Sink",
    "Term",
    "artifact_digest",
    "checksum",
    "file_checksum",
    "linear_digest",
    "source_tensor_digest",
    "tagged",
    "untagged",
    "write_linear",
]

SCHEMA = 1
"""Raised when the meaning of digests changes; everything is then built anew."""

_TAG = "xxh3-128:"

_WINDOW = 1 << 20
"""Bytes read at a time: they stay in the processor's cache."""


class Term(NamedTuple):
    """One term of a linear combination: the digest of its tensor (16 bytes) and its exact coefficient."""

    digest: bytes
    coefficient: Fraction


class Sink(Protocol):
    """Where a manifest is written to."""

    def line(self, name: str, value: str) -> None:
        """Take one line."""


class HashSink:
    """Hashes what is written."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def line(self, name: str, value: str) -> None:
        """Take one line, each part behind its length."""
        self._hash.update(f"{len(name)}:{name}{len(value)}:{value}\n".encode())

    def digest(self) -> bytes:
        """Return the 16 bytes."""
        return self._hash.digest()


class ExplainSink:
    """Keeps what is written, for people."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def line(self, name: str, value: str) -> None:
        """Take one line."""
        self.lines.append((name, value))


def tagged(digest: bytes) -> str:
    """Return a digest as text: `xxh3-128:` and 32 hexadecimal digits."""
    return _TAG + digest.hex()


def untagged(text: str) -> bytes:
    """Return the bytes of a tagged digest.

    Raises:
        ValueError: another tag, or not 32 hexadecimal digits.
    """
    if not text.startswith(_TAG) or len(text) != len(_TAG) + 32:
        message = f"not an {_TAG} digest: {text!r}"
        raise ValueError(message)
    return bytes.fromhex(text[len(_TAG) :])


def checksum(data: bytes | memoryview) -> bytes:
    """Return the xxh3-128 of bytes as they lie in a file (16 bytes)."""
    return xxhash.xxh3_128_digest(data)


def file_checksum(fd: int, begin: int, end: int) -> bytes:
    """Return the checksum of a range of a file, as far as the file reaches.

    Read, not mapped: a file that is cut short meanwhile gives another checksum, and ends no process.
    """
    running = xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(_WINDOW, end - begin)))
    for start in range(begin, end, _WINDOW):
        window = buffer[: min(_WINDOW, end - start)]
        running.update(window[: portable.pread_into(fd, window, start)])
    return running.digest()


def source_tensor_digest(dtype: str, shape: Sequence[int], bytes_checksum: bytes) -> bytes:
    """Return the identity of a source's tensor: its dtype, its shape and the checksum of its bytes."""
    shown = ",".join(map(str, shape))
    return xxhash.xxh3_128_digest(b"source %d %s [%s] " % (SCHEMA, dtype.encode(), shown.encode()) + bytes_checksum)


def write_linear(sink: Sink, dtype: str, shape: Sequence[int], terms: Iterable[Term]) -> None:
    """Write the manifest of a linear combination, its terms already gathered and sorted by digest."""
    sink.line("method", f"linear@{SCHEMA}")
    sink.line("dtype", dtype)
    sink.line("shape", ",".join(map(str, shape)))
    for digest, coefficient in terms:
        sink.line(tagged(digest), str(coefficient))


def linear_digest(dtype: str, shape: Sequence[int], terms: Sequence[Term]) -> bytes:
    """Return the identity of a folded linear combination rounded to `dtype`."""
    sink = HashSink()
    write_linear(sink, dtype, shape, terms)
    return sink.digest()


def artifact_digest(tensors: Iterable[tuple[str, str, Sequence[int], bytes]]) -> bytes:
    """Return the identity of a set of tensors given as (name, dtype, shape, digest), in any order."""
    whole = xxhash.xxh3_128()
    for name, dtype, shape, digest in sorted(tensors):
        encoded = name.encode()
        shown = ",".join(map(str, shape))
        whole.update(b"%d:%s %s [%s] " % (len(encoded), encoded, dtype.encode(), shown.encode()))
        whole.update(digest)
    return whole.digest()
