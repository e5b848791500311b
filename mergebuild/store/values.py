"""What the store's protocols speak of: files that hold artifacts, tensors in them, and what is remembered of builds."""

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
"""The epoch of an artifact that is believed in none."""


class Presence(Enum):
    """What stands at a path where an artifact is wanted."""

    ABSENT = auto()
    OURS = auto()
    FOREIGN = auto()
    """A file that we did not write, or that was changed since."""
    DAMAGED = auto()
    """A file of ours that is not what was written, and that nobody wrote to since."""


class ArtifactRow(NamedTuple):
    """A file that holds an artifact. `kind`: `output`, `history`, `kept` (in the store), `intended` (not yet there)."""

    id: int
    digest: bytes
    header: bytes
    path: Path
    kind: str
    identity: Identity | None
    epoch: str
    """In which `identity` was true, or `DOUBTED`. See `filestate.epoch`; the column is called `boot`."""
    nonfinite: int
    packed: bytes
    made: float
    project: str
    """Whose output it is, as the project's folder relative to the store; empty for what `-o` wrote."""


class Held(NamedTuple):
    """A tensor that lies in a file: an artifact of ours."""

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
    """The rows of the files that were put at their places, and where files lie now that were there and are not ours."""

    rows: Mapping[Path, ArtifactRow]
    aside: Sequence[Path]
    left: Path | None
    """The former folder, where it could not be removed: the next build does."""


class Record(NamedTuple):
    """The last build of a target: its artifact, where it was put, and the manifest to compare the next one with."""

    target: str
    artifact: bytes
    output: Path | None
    manifest: str
    """Empty where it was not asked for."""
    fingerprint: bytes | None = None
    """See `plan/freshness.py`."""
    header: bytes = b""
    """The checksum of everything before the data."""
    tensors: int = 0
    notices: tuple[str, ...] = ()
    """What was to be known of it, a sentence each."""


class PackedKeys(NamedTuple):
    """What the tensors of a target followed from, as `plan/built_keys.py` packs it.

    `inputs` are equal for many targets, such as the members of a family, and kept once.
    """

    lines: bytes
    inputs: bytes


class SourceRow(NamedTuple):
    """What was learnt of a source: the checksum of each tensor in file order, and perhaps hashes of the whole."""

    identity: Identity
    checksums: bytes | None
    content: bytes | None
    sha256: str | None
    autov3: str | None = None
    epoch: str = ""
    """The only one in which it is to be believed; empty: in any. The column is called `boot`."""
