"""What a store on disk remembers of one project: what each target was last built from, sources seen, findings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mergebuild.store.state import State
from mergebuild.store.values import ArtifactRow, PackedKeys, Record, SourceRow
from mergebuild.system.portable import Identity

__all__ = ["DiskLedger"]


class DiskLedger:
    """The memory of a store, as one of the projects that build into it has it."""

    def __init__(self, state: State, project: str) -> None:
        self._state = state
        self._project = project

    def record(self, target: str) -> Record | None:
        """Return the last build of a target of this project."""
        return self._state.record(self._project, target)

    def records(self, project: str | None = None) -> list[Record]:
        """Return the last build of every target of a project (None: of this one), without the manifests."""
        return self._state.records(self._project if project is None else project)

    def put_record(self, record: Record, keys: PackedKeys | None = None) -> None:
        """Remember the last build of a target of this project, and what its tensors followed from."""
        if self.record(record.target) != record or self.keys(record.target) != keys:
            self._state.put_record(self._project, record, keys)

    def keys(self, target: str) -> PackedKeys | None:
        """Return what the tensors of a target's last build followed from; None where that is not on record."""
        return self._state.keys(self._project, target)

    def forget_record(self, target: str) -> None:
        """Forget the last build of a target of this project."""
        self._state.forget_record(self._project, target)

    def published(self, targets: Sequence[str]) -> list[tuple[Record, ArtifactRow]]:
        """Return the last builds of these targets of this project whose outputs are on record just so."""
        return self._state.published(self._project, targets)

    def source(self, identity: Identity, epoch: str) -> SourceRow | None:
        """Return what is known of exactly this state of a file, and to be believed in an epoch."""
        return self._state.source(identity, epoch)

    def remember_source(self, row: SourceRow) -> None:
        """Remember a source; what is None in `row`, and known and believed as much for the same state, stays."""
        self._state.remember_source(row)

    def findings(self) -> dict[bytes, str]:
        """Return all findings, by what they follow from."""
        return self._state.findings()

    def keep_findings(self, findings: Mapping[bytes, str]) -> None:
        """Keep findings; of too many, the newest."""
        self._state.keep_findings(findings)

    def wanted(self, *, besides: Collection[str] = ()) -> set[bytes]:
        """Return the artifact of every record of every project but these."""
        return self._state.wanted(besides=besides)

    def projects(self) -> dict[str, float]:
        """Return the projects that ever built into the store, and when each did last (seconds since 1970)."""
        return self._state.projects()

    def forget_project(self, project: str) -> None:
        """Forget the last builds of all targets of a project."""
        self._state.forget_project(project)
