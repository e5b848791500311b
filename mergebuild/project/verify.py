"""Reads artifacts again and compares them with what was written; builds them again and compares the bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.build.builder import Builder
from mergebuild.build.options import BuilderOptions
from mergebuild.errors import CorruptionError, Place, Problem, ResultDiffersError
from mergebuild.events import Emit
from mergebuild.plan.actions import FileAction
from mergebuild.plan.planner import Elsewhere, Planner
from mergebuild.project.gate import Gate
from mergebuild.project.stamp import forget_stamps
from mergebuild.recipe import Recipe
from mergebuild.results.build import Verdict
from mergebuild.results.looks import VerifyResult
from mergebuild.sources.sources import Sources
from mergebuild.store import REBUILDS, SCRATCH, ArtifactRow, DiskStore, Presence, Record, scratch_folders
from mergebuild.system import scratch
from mergebuild.system.filestate import is_gone

if TYPE_CHECKING:
    from mergebuild.project.session import Session

__all__ = ["Verifier", "verify"]

_SHOWN = 20
_MADE = (Verdict.BUILT, Verdict.RESTORED, Verdict.UP_TO_DATE)


def verify(session: Session, names: Sequence[str] | None, *, rebuild: bool) -> VerifyResult:
    """Hash artifacts and outputs again; with `rebuild`, build them again in another folder and compare the bytes.

    Raises:
        TrustError: a rebuild would run code that the user does not trust.
    """
    store = session.store
    store.remove_scratch()
    verifier = Verifier(session.recipe, session.sources, store, session.locked)
    found = verifier.read_again(names)
    if found.problems:
        forget_stamps(store.root)
    if not rebuild or found.problems or not store.root.is_dir():
        return found
    with session.locked(REBUILDS):
        return verifier.rebuild(found, names, session.emit)


class Verifier:
    """Verifies what a project built. Targets are given by name; None: all, and other artifacts in the store."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Sources,
        store: DiskStore,
        locked: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._recipe = recipe
        self._sources = sources
        self._store = store
        self._locked = locked

    def read_again(self, names: Sequence[str] | None) -> VerifyResult:
        """Hash files again. Problems have the code `corrupt`, one for each file, and name the damaged tensors.

        A file that is not as written is checked again under the store's lock, as a build may have put another file
        there meanwhile. If it is damaged, it is no longer believed, and if it is in the store itself, it goes into the
        quarantine.
        """
        checked: list[str] = []
        problems: list[Problem] = []
        read = 0
        for name, row in self._named(names):
            where = self._shown(row.path)
            checked.append(where)
            damage = self._store.shelf.damage(row)
            read += row.identity.size if row.identity else 0
            if damage:
                with suppress(OSError), self._locked():  # a store that isn't writable can't have changed meanwhile
                    damage = self._confirmed(row)
            if damage:
                listed = damage[:_SHOWN] + ([f"and {len(damage) - _SHOWN} more"] if len(damage) > _SHOWN else [])
                message = f"`{where}` of `{name}` is not what was written: {len(damage)} of its tensors differ"
                mend = "`mergebuild build` makes it again, and wants --force where it was changed by hand"
                problems.append(Problem("corrupt", message, Place(where), mend, tuple(listed)))
        return VerifyResult(tuple(checked), read, tuple(problems), CorruptionError.exit_code if problems else 0)

    def _confirmed(self, row: ArtifactRow) -> list[str]:
        """Return the damaged parts of an artifact that is still at its path, and doubt it.

        The caller holds the lock.
        """
        now = self._store.shelf.row(row.id)
        if now is None or (now.path, now.kind) != (row.path, row.kind) or is_gone(row.path):
            return []
        presence, there = self._store.shelf.at(row.path)
        if presence is Presence.OURS and there is not None and there.digest != row.digest:
            return []  # another artifact of ours: its publication was interrupted before its row was updated
        damage = self._store.shelf.damage(now)
        if damage:
            self._store.shelf.doubt(now, damage)
            if now.kind != "output":
                self._store.publisher.quarantine(now)
        return damage

    def rebuild(self, so_far: VerifyResult, names: Sequence[str] | None, emit: Emit) -> VerifyResult:
        """Build targets from their sources alone, in a folder of their own, and compare with their outputs.

        Only one process may do this at a time.

        Problems: `rebuild-differs`; `stale` if the recipe or the sources have changed since the target's build. A
        target that can't be built is a problem of its own, and its exit code counts unless others differ.
        """
        outputs = set(self._recipe.outputs().values())
        records = {each.target: each for each in self._records(names) if each.target in outputs and each.output}
        if not records:
            return so_far
        problems: list[Problem] = []
        for left in scratch_folders(self._store.root):  # left by a killed process
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._store.root) as folder, scratch.noted([folder]):
            store = DiskStore(Path(folder) / "store", project=".", history_bytes=0)
            store.create()
            store.begin((), {})
            planner = Planner(
                self._recipe,
                self._sources,
                store.shelf,
                store.ledger,
                elsewhere=Elsewhere(Path(folder), self._recipe.root),
            )
            plan = planner.plan(list(records), hash_all=True)
            plan = Gate(self._recipe, store.shelf, written=None).ask(plan, planner)  # outputs go to our own folder
            with Builder(self._sources, store, BuilderOptions(keep_going=True), emit, lambda _name: None) as builder:
                results, exit_code = builder.run(plan)
            failed = {result.target for result in results if result.verdict not in _MADE}
            for file in plan.files:
                if file.name in records and file.name not in failed:
                    problems += self._differing(file, store, records[file.name])
            if problems or (exit_code and not plan.refusals):
                exit_code = ResultDiffersError.exit_code
            problems += dict.fromkeys(result.error for result in results if result.error)
            store.close()
        read = so_far.bytes_read + builder.source_bytes_read
        return VerifyResult(so_far.checked, read, tuple(problems), exit_code)

    def _records(self, names: Sequence[str] | None) -> list[Record]:
        return [record for record in self._store.ledger.records() if names is None or record.target in names]

    def _named(self, names: Sequence[str] | None) -> Iterator[tuple[str, ArtifactRow]]:
        """Yield the artifacts to be read, each with the name of its target."""
        rows = {row.path: row for row in self._store.shelf.rows() if row.kind != "intended"}
        for record in self._records(names):
            for row in _built(record, rows):
                del rows[row.path]
                yield record.target, row
        if names is None:
            for row in rows.values():
                if row.kind in ("kept", "history"):
                    yield "the store", row

    def _differing(self, file: FileAction, store: DiskStore, record: Record) -> Iterator[Problem]:
        """Yield a problem if a file built again is not the one at the target's output."""
        made = file.description
        built = store.shelf.rows(path=file.content.path)[0]
        path = self._output_of(file)
        if record.artifact != made.digest:
            message = f"`{self._shown(path)}` is of another recipe or other sources than there are now"
            yield Problem("stale", message, made.blueprint.target.where.place(), "build it, then verify")
        elif (damage := store.shelf.damage(built._replace(path=path))) and damage[0].startswith("unreadable"):
            message = f"`{self._shown(path)}` can't be compared: {damage[0]}"
            yield Problem("unreadable", message, Place(self._shown(path)))
        elif damage:
            message = f"`{self._shown(path)}` is not what a build of `{made.name}` from its sources gives"
            mend = "build it again; if the recipe and the sources did not change, please report a bug"
            yield Problem("rebuild-differs", message, made.blueprint.target.where.place(), mend)

    def _output_of(self, file: FileAction) -> Path:
        """Return the path of a file of the target's output, which a rebuild writes elsewhere."""
        made = file.description
        path = self._recipe.target(file.name).output_path
        assert path is not None
        if made.is_folder:
            assert made.goal.path is not None
            assert file.content.path is not None
            path /= file.content.path.relative_to(made.goal.path)
        return path

    def _shown(self, path: Path) -> str:
        try:
            return path.relative_to(self._recipe.root).as_posix()
        except ValueError:
            return path.as_posix()


def _built(record: Record, rows: Mapping[Path, ArtifactRow]) -> list[ArtifactRow]:
    """Return the artifacts, of some by path, that a target's last build wrote: its kept copy, or the output's files."""
    if record.output is None:
        return [row for row in rows.values() if row.kind == "kept" and row.digest == record.artifact]
    if record.output in rows:
        found = [rows[record.output]]
    else:
        found = [row for row in rows.values() if record.output in row.path.parents]
    return [row for row in found if row.kind == "output" and not is_gone(row.path)]
