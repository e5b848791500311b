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

from mergebuild.system import portable

__all__ = [
    "SCHEMA",
    "ArtifactDigests",
    "ExplainSink",
    "HashSink",
    "LinearDigests",
    "Sink",
    "Term",
    "artifact_digest",
    "checksum",
    "file_checksum",
    "linear_digest",
    "narrows",
    "operation_digest",
    "source_tensor_digest",
    "tagged",
    "write_linear",
]

SCHEMA = 1
"""Raised when the meaning of digests changes; everything is then built anew."""

_TAG = "xxh3-128:"

_NARROWED = ("rounded", "once, from float64")
"""The line of what `narrows`."""

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
        self._hash.update(_named(name) + _valued(value))

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


def narrows(source: str, dtype: str) -> bool:
    """Whether a lone tensor in the dtype `source` is rounded to another dtype past float32, which is between them."""
    return source == "float64" and dtype not in ("float64", "float32")


def write_linear(
    sink: Sink, dtype: str, shape: Sequence[int], terms: Iterable[Term], *, narrowed: bool = False
) -> None:
    """Write the manifest of a linear combination, its terms already gathered and sorted by digest.

    `narrowed`: it is a lone tensor that `narrows`. (These were rounded by way of float32 once, under the other digest.)
    """
    sink.line("method", f"linear@{SCHEMA}")
    sink.line("dtype", dtype)
    sink.line("shape", ",".join(map(str, shape)))
    for digest, coefficient in terms:
        sink.line(tagged(digest), str(coefficient))
    if narrowed:
        sink.line(*_NARROWED)


def linear_digest(dtype: str, shape: Sequence[int], terms: Sequence[Term], *, narrowed: bool = False) -> bytes:
    """Return the identity of a folded linear combination rounded to `dtype`; see `write_linear`."""
    sink = HashSink()
    write_linear(sink, dtype, shape, terms, narrowed=narrowed)
    return sink.digest()


class LinearDigests:
    """The digests of combinations of one form: tensors that differ in what is combined, with coefficients in common.

    What is hashed of each is `write_linear`'s text, kept but for the coefficients: a thousand members of a family
    put in theirs, and hash.
    """

    def __init__(self, terms: int) -> None:
        self._heads: list[bytes] = []
        self._names: tuple[list[bytes], ...] = tuple([] for _ in range(terms))

    def add(self, dtype: str, shape: Sequence[int], inputs: Sequence[bytes]) -> None:
        """Add a tensor with the digests of what it may be made of, in order."""
        head = _BytesSink()
        write_linear(head, dtype, shape, ())
        self._heads.append(b"".join(head.parts))
        for names, digest in zip(self._names, inputs, strict=True):
            names.append(_named(tagged(digest)))

    def of(self, terms: Iterable[tuple[int, Fraction]], *, narrowed: bool = False) -> list[bytes]:
        """Return the digest of each tensor added, given which inputs are combined, and how; see `linear_digest`."""
        texts = self._heads
        for index, coefficient in terms:
            value = _valued(str(coefficient))
            texts = [text + name + value for text, name in zip(texts, self._names[index], strict=True)]
        if narrowed:
            end = _named(_NARROWED[0]) + _valued(_NARROWED[1])
            texts = [text + end for text in texts]
        return list(map(xxhash.xxh3_128_digest, texts))


def operation_digest(
    dtype: str, shape: Sequence[int], facts: Iterable[tuple[str, str]], inputs: Iterable[bytes]
) -> bytes:
    """Return the identity of what an operation makes, rounded to `dtype`.

    `facts`: names and values of all that decides besides the inputs (method, its version, arguments, the tensor's name
    where that matters), in a fixed order.
    """
    sink = HashSink()
    sink.line("operation", str(SCHEMA))
    sink.line("dtype", dtype)
    sink.line("shape", ",".join(map(str, shape)))
    for name, value in facts:
        sink.line(name, value)
    for digest in inputs:
        sink.line("input", tagged(digest))
    return sink.digest()


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


class _BytesSink:
    """Keeps what is hashed."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def line(self, name: str, value: str) -> None:
        self.parts.append(_named(name) + _valued(value))


def _named(name: str) -> bytes:
    return f"{len(name)}:{name}".encode()


def _valued(value: str) -> bytes:
    return f"{len(value)}:{value}\n".encode()
