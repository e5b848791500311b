"""Take away what we made: outputs, what the store keeps, and what no target makes any more.

Only files whose bytes are known to be ours go; never a source, never what was changed by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from mergebuild.filestate import is_gone
from mergebuild.findings import CleanResult
from mergebuild.store import UNREADABLE, ArtifactRow, Presence, Record, Store

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

    def clean(self, names: Collection[str] | None, *, orphans: bool) -> CleanResult:
        """Remove the outputs and kept artifacts of these targets; of orphans; with neither, of everything."""
        before = self._size()
        everything = names is None and not orphans
        for record in self._store.records():
            if everything or (names is not None and record.target in names):
                self._clean_record(record)
        if orphans or everything:
            self._clean_orphans()
        if everything:
            for row in self._store.rows_inside():
                if row.digest not in self._needed_elsewhere and row.project in ("", self._store.project):
                    self._remove(row)
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
        for row in going:
            if dry_run:
                self._removed.append(self._shown(row.path))
                self._freed += _size(row) if _is_last_name(row) else 0
            else:
                self._remove(row)
        for path, size in self._strangers():
            self._removed.append(self._shown(path))
            self._freed += size
            if not dry_run:
                path.unlink()
        if dry_run:
            after = before - self._freed
            return CleanResult(tuple(self._removed), tuple(self._kept), self._freed, before, after, dry_run=True)
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

    def _clean_record(self, record: Record) -> None:
        if record.output is None:
            self._remove_kept(record.artifact)
        elif not self._may_remove(record.output):
            self._kept.append(
                f"{self._shown(record.output)} (outside the project, which is not trusted with its folder)"
            )
            return
        elif record.output.resolve() in self._sources:
            self._kept.append(f"{self._shown(record.output)} (a source now)")
            return
        elif record.output.is_dir():
            if not self._clean_folder(record.output):
                return
        else:
            presence, there = self._store.at(record.output)
            if presence is Presence.FOREIGN:
                self._kept.append(f"{self._shown(record.output)} (changed by hand)")
                return
            if there is not None:
                self._remove_with_copies(there)
        self._store.forget_record(record.target)

    def _clean_folder(self, folder: Path) -> bool:
        """Remove our files in an output that is a folder; return whether none of them was changed by hand."""
        ours = [row for row in self._store.state.outputs(self._store.project) if folder in row.path.parents]
        ours = [row for row in ours if not is_gone(row.path) and self._may_remove(row.path)]
        changed = [row for row in ours if not self._store.is_intact(row)]
        for row in ours:
            if row not in changed:
                self._remove_with_copies(row)
        self._kept += [f"{self._shown(row.path)} (changed by hand)" for row in changed]
        _remove_empty({folder, *(row.path.parent for row in ours)})
        return not changed

    def _clean_orphans(self) -> None:
        """Remove orphans, and the folders that are empty then: they may have been outputs."""
        rows = self.orphans()
        for row in rows:
            self._remove_with_copies(row)
        _remove_empty(row.path.parent for row in rows)

    def _remove_with_copies(self, row: ArtifactRow) -> None:
        shared = any(
            other.id != row.id and other.kind == "output" for other in self._store.state.artifacts(digest=row.digest)
        )
        self._remove(row)
        if not shared:
            self._remove_kept(row.digest)

    @cached_property
    def _needed_elsewhere(self) -> set[bytes]:
        """The artifacts that other projects need; the caller's lock keeps them from building meanwhile."""
        return self._store.state.wanted(besides=[self._store.project])

    def _remove_kept(self, digest: bytes) -> None:
        """Remove what the store itself holds of an artifact, unless another project needs it."""
        if digest not in self._needed_elsewhere:
            for row in self._store.state.artifacts(digest=digest, kind="kept"):
                self._remove(row)

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
        """Return the files in the store's own folders that no row knows, the quarantine's among them, and their sizes.

        A file of another project that lost its row would be made again; what a build is writing now can't be here, for
        the caller holds the lock.
        """
        known = {row.path for row in self._store.state.artifacts()}
        folders = [self._store.root / name for name in ("kept", "history", "quarantine")]
        found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
        found += self._store.root.glob(f"*{UNREADABLE}*")
        return [(path, path.lstat().st_size) for path in found if path not in known and not path.is_dir()]

    def _size(self) -> int:
        rows = sum(_size(row) for row in self._store.state.artifacts() if row.kind != "intended")
        return rows + sum(size for _, size in self._strangers())

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


def _is_last_name(row: ArtifactRow) -> bool:
    try:
        return row.path.stat().st_nlink == 1
    except OSError:
        return False
