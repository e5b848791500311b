"""Take away what we made: outputs, what the store keeps, and what no target makes any more.

Only files whose bytes are known to be ours go; never a source, never what was changed by hand. And only what was asked
for: of targets that are named, or of orphans, or of what no target needs. What goes is known before anything does, so
that it can be shown.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from mergebuild.filestate import is_gone
from mergebuild.findings import CleanResult
from mergebuild.store import STATE, ArtifactRow, Presence, Record, Store, own_files

__all__ = ["Sweeper"]

_PATIENCE = 30 * 24 * 3600.0
"""Seconds for which a project whose mergefile is gone is still a root: its disk may only be unplugged."""


class Sweeper:
    """Sweeps the store and the outputs of a project.

    `outputs`: every path that some target makes now. `sources`: where its sources lie; what was an output once may be
    a source now, and is nothing to sweep. `may_remove`: whether the project may remove an output from where the store
    says that it is; a store that came with a stranger's files may say anything.
    """

    def __init__(
        self,
        store: Store,
        outputs: set[Path],
        sources: Iterable[Path],
        root: Path,
        may_remove: Callable[[Path], bool] = lambda _: True,
    ) -> None:
        self._store = store
        self._outputs = outputs
        self._sources = {path.resolve() for path in sources}
        self._root = root
        self._may_remove = may_remove
        self._going: list[ArtifactRow] = []
        self._removed: list[str] = []
        self._kept: list[str] = []
        self._freed = 0

    def orphans(self) -> list[ArtifactRow]:
        """Return outputs of this project that no target makes now, and that are still ours."""
        made = {str(path) for path in self._outputs}
        return [
            row
            for row in self._store.state.outputs(self._store.project, besides=made)
            if self._outputs.isdisjoint((row.path, *row.path.parents))
            and row.path.resolve() not in self._sources
            and not is_gone(row.path)
            and self._may_remove(row.path)
            and self._store.is_intact(row)
        ]

    def clean(self, names: Collection[str], *, orphans: bool, dry_run: bool = False) -> CleanResult:
        """Remove the outputs and kept artifacts of these targets, and orphans if they are asked for.

        The history stays: it is what builds superseded, and `collect` has it in hand.
        """
        before = self._size()
        records = [record for record in self._store.records() if record.target in names]
        cleaned = [record for record in records if self._takes(record)]
        emptied = {record.output for record in cleaned if record.output}  # folders among them
        if orphans:
            rows = self.orphans()
            emptied |= {row.path.parent for row in rows}  # they may have been outputs
            self._going += rows
        emptied |= {row.path.parent for row in self._going if not emptied.isdisjoint(row.path.parents)}
        self._going += self._copies(cleaned)
        if dry_run:
            return self._foreseen(before)
        for row in self._going:
            self._remove(row)
        _remove_empty(emptied)
        for record in cleaned:
            self._store.forget_record(record.target)
        return self._result(before)

    def collect(
        self, known: Collection[str], max_size: int | None, older_than: float | None, *, dry_run: bool
    ) -> CleanResult:
        """Free the store of what no record of a known target needs, then of history beyond budget, age or size.

        Every project that ever built into the store is a root, by its records. Those of a project whose mergefile is
        gone count for `older_than` more seconds (None: 30 days) after its last build.
        """
        before = self._size()
        gone = self._gone(_PATIENCE if older_than is None else older_than)
        wanted = self._store.state.wanted(besides=[*gone, self._store.project])
        wanted |= {record.artifact for record in self._store.records() if record.target in known}
        inside = self._store.rows_inside()
        going = [row for row in inside if row.kind == "kept" and row.digest not in wanted]
        history = [row for row in inside if row.kind == "history"]
        if older_than is not None:
            going += [row for row in history if row.made < time.time() - older_than]
        going += self._beyond(self._store.own_history(), self._store.history_budget(), going)
        if max_size is not None:
            stay = sum(_size(row) for row in inside if row.kind == "kept" and row not in going)
            going += self._beyond(history, max_size - stay, going)
        self._going = going
        if dry_run:
            return self._foreseen(before, self._strangers())
        for row in going:
            self._remove(row)
        for path, size in self._strangers():
            self._removed.append(self._shown(path))
            self._freed += size
            path.unlink()
        for project in gone:
            self._store.state.forget_project(project)
        for row in self._store.state.artifacts():
            if is_gone(row.path) and (row.kind != "output" or row.path.parent.is_dir()):
                self._store.state.forget_artifact(row.id)  # but what may lie on a disk that is not plugged in
        return self._result(before)

    def _gone(self, patience: float) -> list[str]:
        """Return the projects that are no roots any more; say of the others whose mergefile is not there."""
        gone = []
        for project, built in self._store.state.projects().items():
            mergefile = self._store.root / project
            if project == self._store.project or mergefile.is_file():
                continue
            if built < time.time() - patience:
                gone.append(project)
            else:
                self._kept.append(f"what {self._shown(mergefile)} needs, though it is not there")
        return gone

    # Inside

    def _takes(self, record: Record) -> bool:
        """Take what a record says was built for a target; return whether nothing of it stays, and say of what does."""
        path = record.output
        if path is None:
            return True
        if not self._may_remove(path / "any" if path.is_dir() else path):
            self._kept.append(f"{self._shown(path)} (outside the project, which is not trusted with its folder)")
            return False
        if path.resolve() in self._sources:
            self._kept.append(f"{self._shown(path)} (a source now)")
            return False
        if path.is_dir():
            return self._takes_folder(path)
        presence, there = self._store.at(path)
        if presence is Presence.FOREIGN:
            self._kept.append(f"{self._shown(path)} (changed by hand)")
            return False
        if there is not None:
            self._going.append(there)
        return True

    def _takes_folder(self, folder: Path) -> bool:
        """Take our files in an output that is a folder; return whether none of them was changed by hand."""
        ours = [row for row in self._store.state.outputs(self._store.project) if folder in row.path.parents]
        ours = [row for row in ours if not is_gone(row.path) and self._may_remove(row.path)]
        changed = [row for row in ours if not self._store.is_intact(row)]
        self._going += [row for row in ours if row not in changed]
        self._kept += [f"{self._shown(row.path)} (changed by hand)" for row in changed]
        return not changed

    def _copies(self, cleaned: Sequence[Record]) -> list[ArtifactRow]:
        """Return what the store itself holds of what goes, but for what some other output or target is as well."""
        going = {row.id for row in self._going}
        gone = {record.target for record in cleaned}
        kept = [record for record in self._store.records() if record.output is None and record.target not in gone]
        wanted = {record.artifact for record in kept}
        wanted |= self._store.state.wanted(besides=[self._store.project])  # none builds meanwhile: we have the lock
        found: list[ArtifactRow] = []
        digests = [row.digest for row in self._going] + [record.artifact for record in cleaned if not record.output]
        for digest in dict.fromkeys(digests):
            rows = [row for row in self._store.state.artifacts(digest=digest) if row.id not in going]
            if digest not in wanted and all(row.kind != "output" for row in rows):
                found += [row for row in rows if row.kind == "kept"]
        return found

    def _remove(self, row: ArtifactRow) -> None:
        self._removed.append(self._shown(row.path))
        self._freed += self._store.remove(row)

    def _beyond(self, rows: Sequence[ArtifactRow], budget: int, going: Sequence[ArtifactRow]) -> list[ArtifactRow]:
        """Return the rows, newest first, that no longer fit into a budget."""
        found = []
        for row in rows:
            if row in going:
                continue
            budget -= _size(row)
            if budget < 0:
                found.append(row)
        return found

    def _strangers(self) -> list[tuple[Path, int]]:
        """Return the store's own files that no row knows, the quarantine's among them, and their sizes.

        A file of another project that lost its row would be made again; what a build is writing now can't be here, for
        the caller holds the lock. What is not called as the store calls its files is somebody else's.
        """
        known = {row.path for row in self._store.state.artifacts()}
        found = [path for path in own_files(self._store.root, STATE) if path not in known and not path.is_dir()]
        return [(path, path.lstat().st_size) for path in found]

    def _size(self) -> int:
        rows = sum(_size(row) for row in self._store.state.artifacts() if row.kind != "intended")
        return rows + sum(size for _, size in self._strangers())

    def _foreseen(self, before: int, strangers: Sequence[tuple[Path, int]] = ()) -> CleanResult:
        """Return what it comes to if what goes now, and these files of nobody, are removed."""
        removed = [self._shown(row.path) for row in self._going] + [self._shown(path) for path, _ in strangers]
        freed = _freed_by(self._going) + sum(size for _, size in strangers)
        after = before - sum(map(_size, self._going)) - sum(size for _, size in strangers)
        return CleanResult(tuple(removed), tuple(self._kept), freed, before, after, dry_run=True)

    def _result(self, before: int) -> CleanResult:
        return CleanResult(tuple(self._removed), tuple(self._kept), self._freed, before, self._size())

    def _shown(self, path: Path) -> str:
        try:
            return path.relative_to(self._root).as_posix()
        except ValueError:
            return path.as_posix()


def _remove_empty(folders: Iterable[Path]) -> None:
    for each in sorted(set(folders), reverse=True):  # the deepest first
        with suppress(OSError):  # something of somebody else is in it
            each.rmdir()


def _size(row: ArtifactRow) -> int:
    return row.identity.size if row.identity else 0


def _freed_by(rows: Iterable[ArtifactRow]) -> int:
    """Return the bytes that the removal of files frees: of those that lose their last name."""
    names: Counter[tuple[int, int]] = Counter()
    freed = 0
    for row in rows:
        with suppress(OSError):
            found = row.path.stat()
            names[found.st_dev, found.st_ino] += 1
            freed += found.st_size if names[found.st_dev, found.st_ino] == found.st_nlink else 0
    return freed
