"""The table of an artifact: for each tensor its name, place, digest and checksum, packed for the database.

The *digest* says what the tensor is (see `digest.py`), the *checksum* what its bytes are, so that `verify` can tell
which tensor of a file was hurt. `nonfinite` counts values that are NaN or Inf: such a tensor may only serve a target
that allows them. The packed table begins with its own checksum: a place read from a damaged one would be another
tensor's.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mergebuild.digest import checksum

__all__ = ["FRAME", "Contents", "Entry", "is_whole", "pack", "sealed_table", "unpack"]

_SEAL = 16

FRAME = "(between tensors)"
"""The name of entries for what lies between tensors and behind them, in files where something does."""


class Entry(NamedTuple):
    """One tensor of an artifact, `begin` and `end` in bytes from the start of the file."""

    name: str
    begin: int
    end: int
    digest: bytes
    checksum: bytes
    nonfinite: int


Contents = Sequence[Entry]


def pack(contents: Contents) -> bytes:
    """Return the table as bytes."""
    facts = array("Q", [number for entry in contents for number in (entry.begin, entry.end, entry.nonfinite)])
    names = zlib.compress(json.dumps([entry.name for entry in contents]).encode(), 1)
    hashes = b"".join(entry.digest + entry.checksum for entry in contents)
    return sealed_table(b"".join((len(names).to_bytes(8, "little"), names, facts.tobytes(), hashes)))


def sealed_table(table: bytes) -> bytes:
    """Return a packed table with its checksum before it."""
    return checksum(table) + table


def is_whole(packed: bytes) -> bool:
    """Whether a packed table is what `pack` packed."""
    return packed == sealed_table(packed[_SEAL:])


def unpack(packed: bytes) -> list[Entry]:
    """Return the table that `pack` packed."""
    return list(_entries(packed[_SEAL:]))


def _entries(packed: bytes) -> Iterator[Entry]:
    names_end = 8 + int.from_bytes(packed[:8], "little")
    names = json.loads(zlib.decompress(packed[8:names_end]))
    facts_end = names_end + 24 * len(names)
    facts = array("Q", packed[names_end:facts_end])
    for index, name in enumerate(names):
        at = facts_end + 32 * index
        begin, end, nonfinite = facts[3 * index : 3 * index + 3]
        yield Entry(name, begin, end, packed[at : at + 16], packed[at + 16 : at + 32], nonfinite)
