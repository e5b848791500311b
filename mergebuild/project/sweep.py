"""Removes what we made: outputs, artifacts in the store, and outputs that no target makes any more.

Only files whose bytes are known to be ours are removed; never a source, never a file changed by hand. And only what was
asked for: outputs of targets that are named, orphans, or what no target needs. All of it is known before anything is
removed, so that it can be shown.

A file is removed with the targets that own it (`ownership`), and only if all of them are asked for. A former output, at
a path that no target makes now, is an orphan as well: it is removed if its target is named or orphans are asked for,
but not with all targets.

**What is spared.** A file is never removed if it is a source, is inside one or contains one. A source that is missing
may be anywhere (its folder may be in a `MERGEBUILD_MODELS` that is not set now): files with its name count as it, and
no orphan is removed while a source is missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mergebuild.project.ownership import Ownership
from mergebuild.project.source_places import SourcePlaces
from mergebuild.results.looks import CleanResult
from mergebuild.store import STATE, ArtifactRow, DiskStore, Presence, Record, own_files
from mergebuild.system import publishing
from mergebuild.system.filestate import is_gone

__all__ = ["Sweeper"]

_PATIENCE = 30 * 24 * 3600.0
"""Seconds for which records of a project without a mergefile still count: its disk may only be detached."""


class Sweeper:
    """Sweeps the store and the outputs of a project.

    `outputs`: every path that some target makes now, with that target. `sources`: where its sources are. `may_remove`:
    whether the project may remove an output from a path that the store names; a store that came with an untrusted
    project may name any path.
    """

    def __init__(
        self,
        store: DiskStore,
        outputs: Mapping[Path, str],
        sources: SourcePlaces,
        root: Path,
        may_remove: Callable[[Path], bool] = lambda _: True,
    ) -> None:
        self._store_root = store.root
        self._project = store.project
        self._shelf = store.shelf
        self._ledger = store.ledger
        self._publisher = store.publisher
        self._outputs = outputs
        self._sources = sources
        self._root = root
        self._may_remove = may_remove
        self._going: list[ArtifactRow] = []
        self._removed: list[str] = []
        self._kept: list[str] = []
        self._freed = 0
        self._owning = Ownership(store, outputs)

    def orphans(self) -> list[ArtifactRow]:
        """Return outputs of this project that no target makes now, and that are still as we wrote them."""
        made = {str(path) for path in self._outputs}
        return [
            row
            for row in self._shelf.outputs(self._project, besides=made)
            if self._owning.maker(row.path) is None
            and not _is_in_writing(row.path)
            and not is_gone(row.path)
            and not self._sources.touch(row.path)
            and not self._sources.may_touch(row.path)
            and not self._owning.is_elsewhere(row)
            and self._may_remove(row.path)
            and self._shelf.is_intact(row)
        ]

    def clean(
        self,
        names: Collection[str],
        *,
        former: bool,
        orphans: bool,
        dry_run: bool = False,
        foreseen: CleanResult | None = None,
    ) -> CleanResult:
        """Remove the outputs and kept artifacts of these targets, and orphans if they are asked for.

        `former`: also the outputs of their last builds, if no target makes these paths now. `foreseen`: the result of a
        dry run, if no more than that may be removed. The history stays: it is what builds superseded, and `collect`
        takes care of it.
        """
        before = self._size()
        places = {path for path, name in self._outputs.items() if name in names}
        records = [record for record in self._owning.records if record.target in names]
        if former:
            places |= {record.output for record in records if record.output}
        for path in sorted(places):
            self._take(path, names)
        emptied = places
        if orphans:
            rows = self._orphans_to_go()
            emptied = emptied | {row.path.parent for row in rows}  # these folders may have been outputs
            self._going += rows
        self._going = list({row.id: row for row in self._going}.values())
        emptied = emptied | {row.path.parent for row in self._going if not emptied.isdisjoint(row.path.parents)}
        if foreseen is not None:
            self._hold_to(foreseen)
        going = {row.path for row in self._going}
        cleaned = [record for record in records if not self._stays(record, going)]
        copies = self._copies(cleaned)
        self._going += copies if foreseen is None else [row for row in copies if _mark(row) in foreseen.files]
        if dry_run:
            return self._foreseen(before)
        for row in self._going:
            self._remove(row)
        _remove_empty(emptied)
        for record in cleaned:
            self._ledger.forget_record(record.target)
        return self._result(before)

    def collect(
        self, needing: Collection[str], max_size: int | None, older_than: float | None, *, dry_run: bool
    ) -> CleanResult:
        """Remove artifacts in the store that no record of these targets needs, then history beyond budget, age or size.

        Every project that ever built into the store counts, by its records. Records of a project whose mergefile is
        gone count for `older_than` seconds (None: 30 days) after its last build.
        """
        before = self._size()
        gone = self._gone(_PATIENCE if older_than is None else older_than)
        self._going = self._unneeded(self._wanted(needing, gone), max_size, older_than)
        if dry_run:
            return self._foreseen(before, self._strangers())
        self._remove_collected(gone)
        return self._result(before)

    def _gone(self, patience: float) -> list[str]:
        """Return the projects whose records no longer count.

        List others whose mergefile is missing as a reason to keep files.
        """
        gone = []
        for project, built in self._ledger.projects().items():
            mergefile = self._store_root / project
            if project == self._project or mergefile.is_file():
                continue
            if built < time.time() - patience:
                gone.append(project)
            else:
                self._kept.append(f"what {self._shown(mergefile)} needs, though it is not there")
        return gone

    # Inside

    def _wanted(self, needing: Collection[str], gone: Sequence[str]) -> set[bytes]:
        """Return the artifacts that are on record for these targets, or for a project that is not `gone`."""
        wanted = self._ledger.wanted(besides=[*gone, self._project])
        return wanted | {record.artifact for record in self._ledger.records() if record.target in needing}

    def _unneeded(self, wanted: set[bytes], max_size: int | None, older_than: float | None) -> list[ArtifactRow]:
        """Return the kept artifacts that are not wanted, and the history beyond budget, age or size."""
        inside = [
            row for row in self._shelf.rows() if row.kind in ("history", "kept") and not self._sources.touch(row.path)
        ]
        going = [row for row in inside if row.kind == "kept" and row.digest not in wanted]
        history = [row for row in inside if row.kind == "history"]
        going += self._superseded(history, older_than)
        if max_size is not None:
            stay = sum(_size(row) for row in inside if row.kind == "kept" and row not in going)
            going += self._beyond(history, max_size - stay, going)
        return going

    def _superseded(self, history: Sequence[ArtifactRow], older_than: float | None) -> list[ArtifactRow]:
        """Return the history that is older than so many seconds, and this project's own beyond its budget."""
        going = [] if older_than is None else [row for row in history if row.made < time.time() - older_than]
        own = [row for row in history if row.project in ("", self._project)]
        return going + self._beyond(own, self._publisher.history_budget(), going)

    def _remove_collected(self, gone: Iterable[str]) -> None:
        """Remove what is to go, and files of the store without a row; forget gone projects, and what is not there."""
        for row in self._going:
            self._remove(row)
        for path, size in self._strangers():
            self._removed.append(self._shown(path))
            self._freed += size
            path.unlink()
        for project in gone:
            self._ledger.forget_project(project)
        for row in self._shelf.rows():
            if is_gone(row.path) and (row.kind != "output" or row.path.parent.is_dir()):
                self._publisher.forget(row)  # not outputs whose folder is gone: their disk may be detached

    def _orphans_to_go(self) -> list[ArtifactRow]:
        if self._sources.missing:
            names = ", ".join(f"`{name}`" for name in self._sources.missing)
            self._kept.append(f"orphans, for a source that is missing may be one of them: {names}")
            return []
        return self.orphans()

    def _take(self, path: Path, names: Collection[str]) -> None:
        """Take what these targets own of what was built at an output's path, now or formerly; list what is kept."""
        if not self._owning.knows(path) or is_gone(path):
            return
        if not self._may_remove(path / "any" if path.is_dir() else path):
            self._keep(path, "outside the project, which is not trusted with its folder")
            return
        for row in self._rows_at(path):
            self._take_row(row, names, is_all=row.path == path)

    def _rows_at(self, path: Path) -> list[ArtifactRow]:
        """Return what was built at a path, or below it if it is a folder: by the records, or else by the bytes."""
        below = self._owning.rows_below.get(path, ())
        rows = [row for row in below if not _is_in_writing(row.path) and not is_gone(row.path)]
        for place in sorted(self._unrecorded_at(path, rows)):
            presence, there = self._shelf.at(place)
            if there is not None:
                rows.append(there)
            elif presence is Presence.FOREIGN and place == path:
                self._keep(path, "changed by hand")
        return rows

    def _unrecorded_at(self, path: Path, rows: Sequence[ArtifactRow]) -> set[Path]:
        """Return where a build that was killed may have published a file without recording it, beside these rows."""
        unknown = self._owning.intended_at(path) - {row.path for row in rows}
        if path in self._owning.built_at and not path.is_dir() and not rows:
            unknown.add(path)
        return unknown

    def _take_row(self, row: ArtifactRow, names: Collection[str], *, is_all: bool) -> None:
        """Take a file that these targets, and no others, own. `is_all`: it is the output, not a file of a folder."""
        if why := self._why_source(row):
            self._keep(row.path, why)
        elif self._owning.is_elsewhere(row):
            if is_all:
                self._keep(row.path, "what another project made")
        elif not self._owning.is_owned(row, names):
            if is_all:
                self._keep(row.path, self._made_by(row))
        elif not self._may_remove(row.path):
            self._keep(row.path, "outside the project, which is not trusted with its folder")
        else:
            self._take_unchanged(row, names)

    def _why_source(self, row: ArtifactRow) -> str:
        """Return why a file is kept as a source; empty if it is none."""
        if self._sources.touch(row.path):
            return "a source now"
        if self._owning.maker(row.path) is None and self._sources.may_touch(row.path):
            return "perhaps a source, for one is missing"
        return ""

    def _take_unchanged(self, row: ArtifactRow, names: Collection[str]) -> None:
        """Take a file that may be removed, if it is still one that these targets made."""
        presence, there = self._shelf.at(row.path)
        if presence is Presence.FOREIGN:
            self._keep(row.path, "changed by hand")
        elif there is not None and self._owning.is_owned(there, names):
            self._going.append(there)

    def _keep(self, path: Path, why: str) -> None:
        self._kept.append(f"{self._shown(path)} ({why})")

    def _made_by(self, row: ArtifactRow) -> str:
        owners = ", ".join(f"`{name}`" for name in sorted(self._owning.of(row)))
        return f"what {owners} made" if owners else "not what was built last"

    def _hold_to(self, foreseen: CleanResult) -> None:
        """Keep everything that a dry run did not name."""
        stay = [row for row in self._going if _mark(row) not in foreseen.files]
        self._going = [row for row in self._going if row not in stay]
        for row in stay:
            self._keep(row.path, "made after it was asked")

    def _stays(self, record: Record, going: Collection[Path]) -> bool:
        """Whether something of a target's last build stays, so that the record of it must."""
        output = record.output
        if output is None or is_gone(output):
            return False
        if output.is_dir():
            rows = [row for row in self._owning.rows_below.get(output, ()) if not is_gone(row.path)]
            return any(row.path not in going and record.target in self._owning.of(row) for row in rows)
        return output not in going and self._owning.maker(output) in (None, record.target)

    def _copies(self, cleaned: Sequence[Record]) -> list[ArtifactRow]:
        """Return the store's copies of the artifacts that are removed.

        Left out are artifacts that another output has as well, or that are recorded for a virtual target that stays or
        for a target of another project.
        """
        going = {row.id for row in self._going}
        gone = {record.target for record in cleaned}
        kept = [record for record in self._ledger.records() if record.output is None and record.target not in gone]
        wanted = {record.artifact for record in kept}
        wanted |= self._ledger.wanted(besides=[self._project])  # no process builds meanwhile: we hold the lock
        found: list[ArtifactRow] = []
        digests = [row.digest for row in self._going] + [record.artifact for record in cleaned if not record.output]
        for digest in dict.fromkeys(digests):
            rows = [row for row in self._shelf.rows(digest=digest) if row.id not in going]
            if digest not in wanted and all(row.kind != "output" for row in rows):
                found += [row for row in rows if row.kind == "kept"]
        return found

    def _remove(self, row: ArtifactRow) -> None:
        self._removed.append(self._shown(row.path))
        self._freed += self._publisher.remove(row)

    def _beyond(self, rows: Sequence[ArtifactRow], budget: int, going: Sequence[ArtifactRow]) -> list[ArtifactRow]:
        """Return the rows, of those sorted from the newest on, that do not fit into a budget."""
        found = []
        for row in rows:
            if row in going:
                continue
            budget -= _size(row)
            if budget < 0:
                found.append(row)
        return found

    def _strangers(self) -> list[tuple[Path, int]]:
        """Return the store's own files without a row, such as those in the quarantine, with their sizes.

        A file of another project that lost its row would be made again. No build can be writing one now, as the caller
        holds the lock. Files with other names than the store gives are not the store's.
        """
        known = {row.path for row in self._shelf.rows()}
        found = [path for path in own_files(self._store_root, STATE) if path not in known and not path.is_dir()]
        return [(path, path.lstat().st_size) for path in found if not self._sources.touch(path)]

    def _size(self) -> int:
        rows = sum(_size(row) for row in self._shelf.rows() if row.kind != "intended")
        return rows + sum(size for _, size in self._strangers())

    def _foreseen(self, before: int, strangers: Sequence[tuple[Path, int]] = ()) -> CleanResult:
        """Return the result if what was taken, and these files without a row, were removed."""
        removed = [self._shown(row.path) for row in self._going] + [self._shown(path) for path, _ in strangers]
        freed = _freed_by(self._going) + sum(size for _, size in strangers)
        after = before - sum(map(_size, self._going)) - sum(size for _, size in strangers)
        files = frozenset(map(_mark, self._going))
        return CleanResult(tuple(removed), tuple(self._kept), freed, before, after, dry_run=True, files=files)

    def _result(self, before: int) -> CleanResult:
        return CleanResult(tuple(self._removed), tuple(self._kept), self._freed, before, self._size())

    def _shown(self, path: Path) -> str:
        try:
            return path.relative_to(self._root).as_posix()
        except ValueError:
            return path.as_posix()


def _is_in_writing(path: Path) -> bool:
    """Whether a path is a temporary file of a build, or inside a temporary folder."""
    return any(map(publishing.is_temporary, path.parts))


def _mark(row: ArtifactRow) -> tuple[int, str]:
    """Return a mark of a file that no other file ever has: row numbers are never used twice."""
    return row.id, str(row.path)


def _remove_empty(folders: Iterable[Path]) -> None:
    for each in sorted(set(folders), reverse=True):  # the deepest first
        with suppress(OSError):  # it isn't empty: it has files that are not ours
            each.rmdir()


def _size(row: ArtifactRow) -> int:
    return row.identity.size if row.identity else 0


def _freed_by(rows: Iterable[ArtifactRow]) -> int:
    """Return the bytes that removing files frees: the sizes of those that lose their last name."""
    names: Counter[tuple[int, int]] = Counter()
    freed = 0
    for row in rows:
        with suppress(OSError):
            found = row.path.stat()
            names[found.st_dev, found.st_ino] += 1
            freed += found.st_size if names[found.st_dev, found.st_ino] == found.st_nlink else 0
    return freed
