"""The table of an artifact: for each tensor its name, offsets, digest and checksum, packed for the database.

The *digest* says what the tensor is (see `digest.py`), the *checksum* what its bytes are, so that `verify` can tell
which tensor of a file is damaged. `nonfinite` counts values that are NaN or Inf: such a tensor may only be used for a
target that allows them.

The packed table begins with its own checksum, since a damaged offset would be that of another tensor. Then come the
version of the format (a byte), the length of the names, the names as compressed JSON, three numbers for each entry, and
the hashes; numbers have 8 bytes, little-endian. Older tables have no version: they are recognized by their checksum,
which was made differently.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mergebuild.digest import checksum
from mergebuild.formats.header import Piece

__all__ = ["FRAME", "Contents", "Entry", "ScatteredEntry", "is_whole", "pack", "sealed_table", "unpack"]

_SEAL = 16
_VERSION = b"\1"
"""The version of the format of a packed table. Bytes with another one are not read."""

FRAME = "(between tensors)"
"""The name of entries for the bytes between tensors and after the last one, in files that have such bytes."""


class ScatteredEntry(NamedTuple):
    """Where the elements of a tensor are that isn't contiguous in its file, and their checksum in its own order."""

    pieces: tuple[Piece, ...]
    """In order; offsets in bytes from the beginning of the entry, which may be negative."""
    checksum: bytes


class Entry(NamedTuple):
    """One tensor of an artifact.

    `begin` and `end` are bytes from the start of the file; the checksum is of these bytes.
    """

    name: str
    begin: int
    end: int
    digest: bytes
    checksum: bytes
    nonfinite: int
    scattered: ScatteredEntry | None = None
    """Set if the tensor isn't contiguous in the file: the bytes from `begin` to `end` are not its elements then."""


Contents = Sequence[Entry]


def pack(contents: Contents) -> bytes:
    """Return the table as bytes."""
    facts = [number for entry in contents for number in (entry.begin, entry.end, entry.nonfinite)]
    names = zlib.compress(json.dumps([_named(entry) for entry in contents]).encode(), 1)
    hashes = b"".join(entry.digest + entry.checksum for entry in contents)
    table = b"".join((_VERSION, struct.pack("<Q", len(names)), names, struct.pack(f"<{len(facts)}Q", *facts), hashes))
    return _seal(table) + table


def sealed_table(table: bytes) -> bytes:
    """Return a table of the format without a version, packed: its checksum first."""
    return checksum(table) + table


def is_whole(packed: bytes) -> bool:
    """Whether a packed table is undamaged, in this format or the older one."""
    return _is_numbered(packed) or packed == sealed_table(packed[_SEAL:])


def unpack(packed: bytes) -> list[Entry]:
    """Return the table that was packed."""
    begin = _SEAL + len(_VERSION) if _is_numbered(packed) else _SEAL
    return list(_entries(packed[begin:]))


def _named(entry: Entry) -> object:
    """Return the name of an entry, together with its pieces if it is scattered."""
    if entry.scattered is None:
        return entry.name
    return [entry.name, entry.scattered.pieces, entry.scattered.checksum.hex()]


def _is_numbered(packed: bytes) -> bool:
    table = packed[_SEAL:]
    return table[: len(_VERSION)] == _VERSION and packed[:_SEAL] == _seal(table)


def _seal(table: bytes) -> bytes:
    return checksum(b"table" + table)


def _entries(table: bytes) -> Iterator[Entry]:
    (length,) = struct.unpack_from("<Q", table)
    names_end = 8 + length
    names = json.loads(zlib.decompress(table[8:names_end]))
    facts = struct.unpack_from(f"<{3 * len(names)}Q", table, names_end)
    facts_end = names_end + 8 * len(facts)
    for index, named in enumerate(names):
        at = facts_end + 32 * index
        begin, end, nonfinite = facts[3 * index : 3 * index + 3]
        name, scattered = (named, None) if isinstance(named, str) else (named[0], _scattered(*named[1:]))
        yield Entry(name, begin, end, table[at : at + 16], table[at + 16 : at + 32], nonfinite, scattered)


def _scattered(pieces: Sequence[tuple[int, int, Sequence[int], Sequence[int]]], hexed: str) -> ScatteredEntry:
    read = (Piece(file, begin, tuple(shape), tuple(strides)) for file, begin, shape, strides in pieces)
    return ScatteredEntry(tuple(read), bytes.fromhex(hexed))
