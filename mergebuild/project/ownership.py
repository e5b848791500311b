"""Which target owns a file that, by the store's records, we made.

Mergefiles are edited, so a path may belong to one target today and to another one, or a source, tomorrow. The owner of
a file is the target that makes its path now. If the file there is not that target's last build, the target whose last
build it is (by path and digest) is an owner, too. If no target makes the path now, that one is the only owner.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path

from mergebuild.project.source_places import real_path
from mergebuild.store import ArtifactRow, DiskStore, Record
from mergebuild.system import publishing
from mergebuild.system.filestate import is_gone

__all__ = ["Ownership"]


class Ownership:
    """Finds the owners of files by the records of a store.

    `outputs`: every path that some target makes now, with that target.
    """

    def __init__(self, store: DiskStore, outputs: Mapping[Path, str]) -> None:
        self._store_root = store.root
        self._project = store.project
        self._shelf = store.shelf
        self._ledger = store.ledger
        self._outputs = outputs
        self._others: dict[str, bool] = {}
        """By project, whether it is another one that is there."""

    def knows(self, path: Path) -> bool:
        """Whether anything was built at a path or below it, by the records."""
        return path in self.rows_below or path in self.built_at or bool(self.intended_at(path))

    def is_owned(self, row: ArtifactRow, names: Collection[str]) -> bool:
        """Whether these targets, and no others, own a file."""
        owners = self.of(row)
        return bool(owners) and owners <= set(names)

    def of(self, row: ArtifactRow) -> set[str]:
        """Return the targets that own a file."""
        built = {record.target for record in self.built_at.get(row.path, ()) if record.artifact == row.digest}
        maker = self.maker(row.path)
        if maker is None or not row.project:  # `-o` wrote it: the path alone does not make it a target's
            folders = chain.from_iterable(self.built_at.get(folder, ()) for folder in row.path.parents)
            return built or {record.target for record in folders}
        if self._artifacts.get(maker) == row.digest:
            return {maker}
        return {maker} | (built & set(self._outputs.values()))

    def maker(self, path: Path) -> str | None:
        """Return the target that makes a path now, perhaps as a file of its folder; None if none does."""
        found = next((self._outputs[each] for each in (path, *path.parents) if each in self._outputs), None)
        if found is None:
            real = real_path(path)
            places = self._real_outputs
            found = next((places[each] for each in (real, *real.parents) if each in places), None)
        return found

    def is_elsewhere(self, row: ArtifactRow) -> bool:
        """Whether a file is another project's: that one wrote it, or it is its last build.

        Two projects with one store may name the same path. If a project's mergefile is gone, nothing is known about it,
        and it makes nothing: for example, a project whose mergefile was renamed.
        """
        exact = self._built_elsewhere.get(row.path, ())
        return (
            self._is_other(row.project)
            or any(record.artifact == row.digest for record in exact)
            or any(folder in self._built_elsewhere for folder in row.path.parents)
        )

    def intended_at(self, path: Path) -> set[Path]:
        """Return the paths, an output's or below it, of files that may have been published without their rows."""
        return {place for row in self._intended for place in _meant(row.path, path) if not is_gone(place)}

    def _is_other(self, project: str) -> bool:
        if project not in self._others:
            is_own = project in ("", self._project)
            self._others[project] = not is_own and (self._store_root / project).is_file()
        return self._others[project]

    @cached_property
    def rows_below(self) -> dict[Path, list[ArtifactRow]]:
        """By path and by each folder above it, the outputs of all projects."""
        found: dict[Path, list[ArtifactRow]] = {}
        for row in self._shelf.outputs(None):
            for place in (row.path, *row.path.parents):
                found.setdefault(place, []).append(row)
        return found

    @cached_property
    def records(self) -> list[Record]:
        """The last build of each target."""
        return self._ledger.records()

    @cached_property
    def built_at(self) -> dict[Path, list[Record]]:
        """By output, the last builds there."""
        return _by_output(self.records)

    @cached_property
    def _intended(self) -> list[ArtifactRow]:
        return self._shelf.rows(kind="intended")

    @cached_property
    def _real_outputs(self) -> dict[Path, str]:
        return {real_path(path): name for path, name in self._outputs.items()}

    @cached_property
    def _artifacts(self) -> dict[str, bytes]:
        """By target, the artifact of its last build."""
        return {record.target: record.artifact for record in self.records}

    @cached_property
    def _built_elsewhere(self) -> dict[Path, list[Record]]:
        others = [each for each in self._ledger.projects() if self._is_other(each)]
        return _by_output(chain.from_iterable(map(self._ledger.records, others)))


def _meant(temporary: Path, output: Path) -> Iterator[Path]:
    """Yield the path, an output's or below it, for which a temporary file was written."""
    real = real_path(output)
    homes = {output.parent, output, real.parent, real}  # the stage of a folder that can't be renamed is in it
    for each in (temporary, *temporary.parents):
        if each.parent in homes and (publishing.is_for(each.name, output) or publishing.is_for(each.name, real)):
            yield output / temporary.relative_to(each)


def _by_output(records: Iterable[Record]) -> dict[Path, list[Record]]:
    found: dict[Path, list[Record]] = {}
    for record in records:
        if record.output:
            found.setdefault(record.output, []).append(record)
    return found
