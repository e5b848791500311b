"""The values that the store's protocols use: files with artifacts, their tensors, and what is remembered of builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from mergebuild.store.contents import Contents, Entry
from mergebuild.system.filestate import Identity

__all__ = [
    "DOUBTED",
    "ArtifactRow",
    "Fresh",
    "Held",
    "PackedKeys",
    "Presence",
    "PublishedFolder",
    "Record",
    "SourceRow",
]

DOUBTED = "?"
"""The epoch of an artifact that is not believed in any epoch."""


class Presence(Enum):
    """What is at a path where an artifact is wanted."""

    ABSENT = auto()
    OURS = auto()
    FOREIGN = auto()
    """A file that we did not write, or that was changed since."""
    DAMAGED = auto()
    """A file of ours that is not what was written, though nothing wrote to it since."""


class ArtifactRow(NamedTuple):
    """A file with an artifact. `kind`: `output`, `history`, `kept` (in the store), `intended` (not yet published)."""

    id: int
    digest: bytes
    header: bytes
    path: Path
    kind: str
    identity: Identity | None
    epoch: str
    """The epoch in which `identity` was recorded (see `filestate.epoch`), or `DOUBTED`. The column is called `boot`."""
    nonfinite: int
    packed: bytes
    made: float
    project: str
    """The project whose output it is, as its folder relative to the store; empty for outputs written with `-o`."""


class Held(NamedTuple):
    """A tensor in the file of an artifact."""

    path: Path
    entry: Entry


@dataclass(frozen=True, slots=True)
class Fresh:
    """A file just written, not yet published. `header`: the checksum of everything before the data."""

    digest: bytes
    header: bytes
    contents: Contents

    @property
    def nonfinite(self) -> int:
        """The number of values that are NaN or Inf."""
        return sum(entry.nonfinite for entry in self.contents)


class PublishedFolder(NamedTuple):
    """The rows of files that were published, and where files are now that were in the folder and aren't ours."""

    rows: Mapping[Path, ArtifactRow]
    aside: Sequence[Path]
    left: Path | None
    """The former folder if it could not be removed: the next build removes it."""


class Record(NamedTuple):
    """The last build of a target: its artifact, its output, and its manifest to compare the next build with."""

    target: str
    artifact: bytes
    output: Path | None
    manifest: str
    """Empty if it was not read: `records` and `published` of the ledger leave it out."""
    fingerprint: bytes | None = None
    """See `plan/freshness.py`."""
    header: bytes = b""
    """The checksum of everything before the data."""
    tensors: int = 0
    notices: tuple[str, ...] = ()
    """What users should know of it, a sentence each."""


class PackedKeys(NamedTuple):
    """What the tensors of a target followed from, packed by `plan/built_keys.py`.

    `inputs` are equal for many targets, such as the members of a family, and stored once.
    """

    lines: bytes
    inputs: bytes


class SourceRow(NamedTuple):
    """What was learnt of a source: the checksum of each tensor in file order, and hashes of the whole file if known."""

    identity: Identity
    checksums: bytes | None
    content: bytes | None
    sha256: str | None
    autov3: str | None = None
    epoch: str = ""
    """The only epoch in which it may be believed; empty: any. The column is called `boot`."""
