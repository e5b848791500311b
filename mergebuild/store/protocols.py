"""What the rest of the program asks of a store, in three parts; `mergebuild.testing` has the tests that each must pass.

The *shelf* is what is offered: whole artifacts, tensors in them, what is at a path. The *ledger* is what is remembered:
builds of targets, sources, findings. The *publisher* puts files at their places and takes them away. The planner gets
a shelf and a ledger, sources get the memory of sources, the builder gets all three. None speaks of a database, so an
artifact may be offered that lies on no disk of ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mergebuild.store.contents import Entry
from mergebuild.store.stages import Stage
from mergebuild.store.values import ArtifactRow, Fresh, Held, PackedKeys, Presence, PublishedFolder, Record, SourceRow
from mergebuild.system.filestate import Identity

__all__ = ["Ledger", "Publisher", "Shelf", "SourceMemory", "Store"]


class Shelf(Protocol):
    """What a store offers. The files of `at`, `intact` and `find` were looked at; other rows are what is on record."""

    def kept_path(self, digest: bytes, header: bytes = b"") -> Path:
        """Return where the store keeps an artifact of its own. Without a header: of which nothing else is known yet."""

    def at(self, path: Path) -> tuple[Presence, ArtifactRow | None]:
        """Say what stands at a path; the row is there where it is ours or damaged."""

    def look_again(self, path: Path) -> Presence:
        """Say what stands at a path now, whatever was found there before."""

    def intact(self, digest: bytes, *, header: bytes) -> Iterator[ArtifactRow]:
        """Yield the whole artifacts with this digest that are there: those with this header, then the newest first."""

    def is_intact(self, row: ArtifactRow) -> bool:
        """Say whether an artifact's file is still what was written."""

    def find(
        self, digests: Iterable[bytes], *, allow_nonfinite: bool = False, besides: Collection[int] = ()
    ) -> dict[bytes, Held]:
        """Return where tensors lie, for those that an intact artifact holds; none with NaN or Inf but if allowed.

        `besides`: row numbers of artifacts that are left out.
        """

    def entries(self, row: ArtifactRow) -> list[Entry]:
        """Return the table of an artifact."""

    def row(self, number: int) -> ArtifactRow | None:
        """Return the artifact with this row number as it is on record now."""

    def rows(self, *, path: Path) -> list[ArtifactRow]:
        """Return the artifacts on record at a path, the newest first."""

    def outputs(self, project: str | None, *, besides: Collection[str] = ()) -> list[ArtifactRow]:
        """Return the outputs of a project (None: of all) but those at some paths, without tables: `packed` is empty."""

    def damaged_inside(self) -> list[ArtifactRow]:
        """Return what the store itself holds of the artifacts that were found to be damaged so far."""

    def may_be(self, path: Path, beginning: bytes, size: int) -> bool:
        """Whether a file that is not on record may be one that begins so and has this size, or what is left of it."""

    def is_unfinished(self, path: Path, whole: Path) -> bool:
        """Whether a file is what a crash left of another: some pages are zeros, or its end is missing."""


class SourceMemory(Protocol):
    """What is remembered of source files, each by the stat identity that it had when it was read."""

    def source(self, identity: Identity, epoch: str) -> SourceRow | None:
        """Return what is known of exactly this state of a file, and to be believed in an epoch."""

    def remember_source(self, row: SourceRow) -> None:
        """Remember a source; what is None in `row`, and known and believed as much for the same state, stays."""


class Ledger(SourceMemory, Protocol):
    """What is remembered of the builds of one project."""

    def record(self, target: str) -> Record | None:
        """Return the last build of a target."""

    def records(self) -> list[Record]:
        """Return the last build of every target, by name and without the manifests."""

    def published(self, targets: Sequence[str]) -> list[tuple[Record, ArtifactRow]]:
        """Return the last builds of these targets that have a fingerprint, each with the row of its very output."""

    def put_record(self, record: Record, keys: PackedKeys | None = None) -> None:
        """Remember the last build of a target, and what its tensors followed from."""

    def keys(self, target: str) -> PackedKeys | None:
        """Return what the tensors of a target's last build followed from; None where that is not on record."""

    def forget_record(self, target: str) -> None:
        """Forget the last build of a target."""

    def findings(self) -> Mapping[bytes, str]:
        """Return what was found out about whole tensors, by what it follows from."""

    def keep_findings(self, findings: Mapping[bytes, str]) -> None:
        """Keep findings; of too many, the newest."""


class Publisher(Protocol):
    """Puts files at their places; what they supersede goes into a history, as far as its budget reaches.

    Without `keeps_former` it goes nowhere: the file that stood at the place is gone once the new one is there.
    """

    @property
    def project(self) -> str:
        """Whose outputs are published."""

    def scratch_path(self, name: str) -> Path:
        """Return where a file lies, in a folder that is there, that is wanted for the time of a pass alone."""

    def publish(
        self,
        temporary: Path,
        path: Path,
        fresh: Fresh,
        *,
        kind: str = "output",
        project: str = "",
        keeps_former: bool = True,
    ) -> ArtifactRow:
        """Put a file that is written in full at its place; what stood there, if ours, goes into the history.

        `temporary` has a name that `publishing.temporary_path` gives, on the file system of the place.
        """

    def publish_folder(
        self,
        stage: Stage,
        files: Mapping[Path, Fresh],
        *,
        reused: Mapping[Path, ArtifactRow],
        foreign: Collection[Path],
        superfluous: Sequence[ArtifactRow],
        project: str = "",
        keeps_former: bool = True,
    ) -> PublishedFolder:
        """Put all files of a stage at their places at once; what stood there goes into the history where it is ours.

        `superfluous` are files of ours in the folder that the new one has no more. Where the folder can't be replaced
        as a whole they stay, and the caller removes them.

        Raises:
            OSError: the folder is what it was, or, where it can't be replaced as a whole, some of its files are new.
        """

    def move(self, row: ArtifactRow, path: Path, *, project: str = "", keeps_former: bool = True) -> ArtifactRow:
        """Put an artifact of the history at an output's path again, superseding what stands there."""

    def keep(self, row: ArtifactRow, link: str) -> None:
        """Give an output a second name or copy in the store: `auto` only where that costs nothing."""

    def remove(self, row: ArtifactRow) -> int:
        """Remove an artifact's file and forget it; return the bytes that this freed."""

    def quarantine(self, row: ArtifactRow) -> Path:
        """Take a damaged file out of the way, and forget it; return where it lies now."""

    def trim_history(self) -> None:
        """Remove the oldest of this project's history until the rest fits the budget."""


class Store(Protocol):
    """The three together."""

    @property
    def shelf(self) -> Shelf:
        """What is offered."""

    @property
    def ledger(self) -> Ledger:
        """What is remembered."""

    @property
    def publisher(self) -> Publisher:
        """What puts files at their places."""
