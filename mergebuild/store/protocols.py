"""What the rest of the program asks of a store, in three parts. `mergebuild.testing` has the tests that each must pass.

The *shelf* finds whole artifacts, tensors in them, and what is at a path. The *ledger* remembers builds of targets,
sources and findings. The *publisher* puts files at their places and removes them. The planner gets a shelf and a
ledger, the builder gets all three, and what reads sources gets the part of the ledger that remembers them
(`SourceMemory`). None of them mentions a database, so a shelf may offer artifacts from elsewhere.
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
    """Finds artifacts and tensors. `at`, `intact` and `find` check the files; other methods return what is recorded."""

    def kept_path(self, digest: bytes, header: bytes = b"") -> Path:
        """Return where the store keeps an artifact of its own.

        No header: it isn't made yet, only its digest is known.
        """

    def at(self, path: Path) -> tuple[Presence, ArtifactRow | None]:
        """Return what is at a path, with its row if that is ours or damaged."""

    def look_again(self, path: Path) -> Presence:
        """Return what is at a path now, without relying on an earlier check."""

    def intact(self, digest: bytes, *, header: bytes) -> Iterator[ArtifactRow]:
        """Yield the undamaged artifacts with this digest: first those with this header, then the newest."""

    def is_intact(self, row: ArtifactRow) -> bool:
        """Return whether an artifact's file is still what was written."""

    def find(
        self, digests: Iterable[bytes], *, allow_nonfinite: bool = False, besides: Collection[int] = ()
    ) -> dict[bytes, Held]:
        """Return where tensors are, for those that an intact artifact holds; those with NaN or Inf only if allowed.

        `besides`: row numbers of artifacts to leave out.
        """

    def entries(self, row: ArtifactRow) -> list[Entry]:
        """Return the table of an artifact."""

    def row(self, number: int) -> ArtifactRow | None:
        """Return the artifact with this row number as it is recorded now."""

    def rows(self, *, path: Path) -> list[ArtifactRow]:
        """Return the artifacts that are recorded for a path, the newest first."""

    def outputs(self, project: str | None, *, besides: Collection[str] = ()) -> list[ArtifactRow]:
        """Return the outputs of a project (None: of all) except those at these paths.

        Their tables (`packed`) are empty.
        """

    def damaged_inside(self) -> list[ArtifactRow]:
        """Return those of the artifacts found to be damaged so far that are in the store itself."""

    def may_be(self, path: Path, beginning: bytes, size: int) -> bool:
        """Whether a file that isn't recorded may be one with this beginning and size, or what a crash left of it."""

    def is_unfinished(self, path: Path, whole: Path) -> bool:
        """Whether a file is what a crash left of another: some pages are zeros, or its end is missing."""


class SourceMemory(Protocol):
    """What is remembered of source files, each by the stat data that it had when it was read."""

    def source(self, identity: Identity, epoch: str) -> SourceRow | None:
        """Return what is known of a file with exactly these stat data, if it may be believed in this epoch.

        Else None.
        """

    def remember_source(self, row: SourceRow) -> None:
        """Remember a source. What is None in `row` is taken over from an existing row that may be believed as much."""


class Ledger(SourceMemory, Protocol):
    """Remembers the builds of one project."""

    def record(self, target: str) -> Record | None:
        """Return the last build of a target."""

    def records(self) -> list[Record]:
        """Return the last build of every target, by name and without the manifests."""

    def published(self, targets: Sequence[str]) -> list[tuple[Record, ArtifactRow]]:
        """Return the last builds of these targets that have a fingerprint, each with the row of its own output."""

    def put_record(self, record: Record, keys: PackedKeys | None = None) -> None:
        """Remember the last build of a target, and what its tensors followed from."""

    def keys(self, target: str) -> PackedKeys | None:
        """Return what the tensors of a target's last build followed from; None if that isn't recorded."""

    def forget_record(self, target: str) -> None:
        """Forget the last build of a target."""

    def findings(self) -> Mapping[bytes, str]:
        """Return all findings, by key."""

    def keep_findings(self, findings: Mapping[bytes, str]) -> None:
        """Keep findings; if there are too many, the newest."""


class Publisher(Protocol):
    """Puts files at their places; the files that they supersede go into a history, as far as its budget allows.

    Without `keeps_former`, the former file is removed once the new one is in its place.
    """

    @property
    def project(self) -> str:
        """The project whose outputs are published."""

    def scratch_path(self, name: str) -> Path:
        """Return a path, in an existing folder, for a file that is needed during one build only."""

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
        """Put a finished file at its place; the file that was there, if ours, goes into the history.

        `temporary` has a name made by `publishing.temporary_path`, and is on the file system of the place.
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
        """Put all files of a stage at their places at once; the files that were there, if ours, go into the history.

        `superfluous` are files of ours in the folder that are not in the new one. If the folder can't be replaced as a
        whole they stay, and the caller removes them.

        Raises:
            OSError: the folder is what it was, or, if it can't be replaced as a whole, some of its files are new.
        """

    def move(self, row: ArtifactRow, path: Path, *, project: str = "", keeps_former: bool = True) -> ArtifactRow:
        """Put an artifact of the history back at an output's path, superseding the file that is there."""

    def keep(self, row: ArtifactRow, link: str) -> None:
        """Give an output a second name or copy in the store: with `auto` only if that costs nothing."""

    def remove(self, row: ArtifactRow) -> int:
        """Remove an artifact's file and forget it; return the bytes that this freed."""

    def quarantine(self, row: ArtifactRow) -> Path:
        """Move a damaged file into the quarantine, and forget it; return where it is now."""

    def trim_history(self) -> None:
        """Remove the oldest files of this project's history until the rest fits the budget."""


class Store(Protocol):
    """The three together."""

    @property
    def shelf(self) -> Shelf:
        """Finds artifacts and tensors."""

    @property
    def ledger(self) -> Ledger:
        """Remembers builds, sources and findings."""

    @property
    def publisher(self) -> Publisher:
        """Puts files at their places."""
