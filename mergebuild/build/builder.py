"""Do what a plan says: restore what is somewhere, compute the rest in waves, publish each target when it is whole.

A *wave* is a set of targets that are written in one pass over their inputs; there is more than one when a process
cannot hold as many files open. What a wave published is found in the store by the next. A target whose values are not
finite, or one of whose sources changed meanwhile, is not published; those that read it are skipped.

Targets whose sources were never hashed are merged while these are (`look`). What they are is known only then: so a plan
of them, made with that knowledge, follows at once, and their files are published (`finish`) before all else is planned
anew: what comes next may fail, or be killed, and costs none of this work.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mergebuild.build import failures
from mergebuild.build.failures import Refusal
from mergebuild.build.first_sight import FirstSight
from mergebuild.build.pass_work import Wave, Whereabouts
from mergebuild.digest import checksum, file_checksum, tagged
from mergebuild.engine.run import DEFAULT_CHUNK, PassResult, check_program, needs_memory, run_pass
from mergebuild.engine.work import Copy, Location, OutputFile, OutputRange, Pass, StepResult
from mergebuild.errors import NoSpaceError, SourceError
from mergebuild.events import Emit, Notice, TargetDone
from mergebuild.formats.sidecars import stale
from mergebuild.methods.method import ProgramError
from mergebuild.plan import manifest
from mergebuild.plan.actions import Action, Description, FileAction, FileContent, FolderAction, Goal, Judgement, Outcome
from mergebuild.plan.built_keys import packed_keys
from mergebuild.plan.judge import whole_artifact
from mergebuild.plan.plan import Plan
from mergebuild.plan.tensors import Made
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.sources.sources import Sources, source_of_part
from mergebuild.store import FRAME, ArtifactRow, Entry, Fresh, Presence, Record, ScatteredEntry, Stage, Store, has_bytes
from mergebuild.system import portable, scratch
from mergebuild.system.filestate import is_gone
from mergebuild.system.publishing import fitting, temporary_path
from mergebuild.system.spans import span

__all__ = ["Builder", "BuilderOptions"]

_WAVE = 200
"""Targets a wave at most: each holds one file open."""
_MUCH = 4 << 30
"""Bytes written by a wave after which it is worth while to publish them: some seconds of work."""
_WELL = (Verdict.UP_TO_DATE, Verdict.RESTORED, Verdict.BUILT)
"""What becomes of a file of which nothing keeps its directory from being published."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True, slots=True)
class BuilderOptions:
    """How to build."""

    keep_going: bool = False
    threads: int | None = None
    force: bool = False
    link: str = "auto"
    durable: bool = False
    chunk: int = DEFAULT_CHUNK
    device: str = "auto"


@dataclass(frozen=True, eq=False, slots=True)
class _WrittenFile:
    """A file that a pass wrote in full at its temporary path, and what the pass found out about it."""

    path: Path
    steps: Mapping[bytes, StepResult]
    """By digest: what became of the tensors that were computed."""
    copied: Mapping[bytes, tuple[bytes, int]]
    """By digest: checksum and count of values not finite, for what was copied."""
    computed: int
    bytes_read: int
    seconds: float
    changed: frozenset[str]
    """Sources that changed while they were read."""
    header_size: int
    """Bytes before the data, as they were left room for."""


class Builder:
    """Does what plans say, against one store. As a context manager it takes its temporary files away at the end."""

    def __init__(
        self,
        sources: Sources,
        store: Store,
        options: BuilderOptions,
        emit: Emit,
        fingerprint_of: Callable[[str], bytes | None],
    ) -> None:
        self._sources = sources
        self._shelf = store.shelf
        self._ledger = store.ledger
        self._publisher = store.publisher
        self._options = options
        self._fingerprint_of = fingerprint_of
        self._emit = emit
        self._plan: Plan
        """The plan that is done now."""
        self._outcomes: dict[Action, Outcome] = {}
        self.performers: dict[type[Action], Callable[[Any], Outcome]] = {FolderAction: self._concluded}
        """By kind of action: does what is left of one that is no single file, once all files are dealt with."""
        self._folders: dict[Judgement, FolderAction] = {}
        self._stack = ExitStack()
        """What is taken away at the end, also when that is an error."""
        self._looked_at: dict[Goal, _WrittenFile] = {}
        """Files that `look` wrote, but for the header."""
        self._earlier: dict[str, tuple[FileAction, Outcome]] = {}
        """By target: what became of it in `look` or `finish`."""
        self._stage_of: dict[Judgement, tuple[Stage, ExitStack]] = {}
        """Where the files of a folder wait for each other; and what has it removed if the process ends before."""
        self._moving: dict[FileAction, ArtifactRow] = {}
        """What of the history has a second name in a stage, and only that one when the stage is published."""
        self._staged: dict[FileAction, Fresh] = {}
        """Files of folders that are written in full."""
        self._counted: set[bytes] = set()
        """Tensors whose arithmetic is some target's, and no other's that needs it too."""
        self.source_bytes_read = 0
        """Bytes of sources read by passes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def look(self, plan: Plan) -> bool:
        """Merge what a plan has of targets whose sources were never hashed, and hash these, in one pass.

        Returns:
            Whether the plan had such targets: then all is to be planned anew, `looked_at` first.
        """
        self._begin(plan)
        ready = [action for action in islice(plan.first_sight, _wave()) if self._is_ready(action)]
        if ready and not self._must_stop():
            with self._failing(ready):
                self._look(ready)
        self._remember()
        return any(not judgement.description.is_known for judgement in plan.judged)

    @property
    def looked_at(self) -> tuple[Goal, ...]:
        """What `look` wrote, in the order of work."""
        return tuple(self._looked_at)

    def finish(self, plan: Plan) -> None:
        """Publish what `look` wrote. `plan`: of just these goals; all of their sources are hashed now.

        What only `look` could foresee wrongly is taken away, and made in the ordinary way.
        """
        self._begin(plan)
        written = {file: self._looked_at[file.goal] for file in plan.files if file.goal in self._looked_at}
        again = _made_before(written)
        for action, each in written.items():
            if self._can_be_finished(action, each):
                with each.path.open("rb+") as file:
                    file.write(action.content.header_bytes)
                self._finish(action, each, is_again=action in again)
        for each in self._looked_at.values():
            each.path.unlink(missing_ok=True)
        self._looked_at.clear()
        self._remember()

    def run(self, plan: Plan) -> tuple[tuple[TargetResult, ...], int]:
        """Do what a plan says; return the targets' results and the exit code.

        Raises:
            NoSpaceError: the disk is full, or is known to be too small before any work.
        """
        self._begin(plan)
        for damaged in self._shelf.damaged_inside():
            self._quarantine(damaged, f"what the store kept of {tagged(damaged.digest)}")
        for action in self._waiting():
            self._settle_at_once(action)
        self._restore(
            [(action, action.stored.row) for action in self._waiting() if action.stored and not self._must_stop()]
        )
        twins = self._twins()
        self._build_all([action for action in self._waiting() if action.name not in twins])
        for action in [] if self._must_stop() else self._waiting():
            if action.verdict is Verdict.RESTORE:
                row = self._whole(action)  # what an earlier action of this build has made
                self._restore([(action, row)] if row is not None else [])
        self._build_all(self._waiting())  # whose twin failed, and what reads twins
        for action in [] if self._must_stop() else self._waiting():  # kept where an earlier one was to be
            row = self._whole(action)
            if row is not None:
                self._restore([(action, row)], awaits=False)
            else:
                self._build_all([action], awaits=False)
        for action in plan.files:
            if action not in self._outcomes:
                self._done(action, Outcome(Verdict.SKIPPED))
        for each in plan.actions:
            if each not in self._outcomes:
                self._done(each, self.performers[type(each)](each))
        for folder in self._folders.values():
            self._tidy(folder)
        self._publisher.trim_history()
        results = self._results()
        return results, self._exit_code(results)

    def _begin(self, plan: Plan) -> None:
        self._plan = plan
        self._outcomes = {}
        self._folders = {each.judgement: each for each in plan.actions if isinstance(each, FolderAction)}

    def _remember(self) -> None:
        """Keep what became of files for the plan that follows, which has actions of its own."""
        dealt_with = (file for file in self._plan.files if file in self._outcomes)
        self._earlier |= {file.name: (file, self._outcomes[file]) for file in dealt_with}

    def _whole(self, action: FileAction) -> ArtifactRow | None:
        """Return a whole artifact that the store has now of what is wanted."""
        if action.content.digest is None:
            return None
        return whole_artifact(action.description, action.content, self._shelf)

    # What was decided before

    def _settle_at_once(self, action: FileAction) -> None:
        """Settle an action for which nothing need or can be done."""
        _, earlier = self._earlier.get(action.name, (None, None))
        is_failed = earlier is not None and earlier.verdict not in _WELL
        if earlier is not None and (is_failed or action.verdict is Verdict.UP_TO_DATE):
            self._outcomes[action] = earlier  # which was said then
        elif action.refused is not None:
            if action.refused.target == action.name:
                error = action.refused.error
                self._fail(action, Refusal(error.problems[0], error.exit_code))
            else:
                self._done(action, Outcome(Verdict.SKIPPED))
        elif action.verdict is Verdict.UP_TO_DATE:
            self._done(action, Outcome(Verdict.UP_TO_DATE))
            self._settle(action, action.standing.row)

    def _can_be_finished(self, action: FileAction, written: _WrittenFile) -> bool:
        """Whether a file that was written at first sight only lacks its header: else it is made in the ordinary way.

        The room left for the header may be too small or too large, where two sources turn out to be the same. What
        reads a target that is made in the ordinary way is made behind it.
        """
        fits = len(action.content.header_bytes) == written.header_size
        return fits and all(self._plan.by_name.get(need) in self._outcomes for need in action.needs)

    def _must_stop(self) -> bool:
        return not self._options.keep_going and any(
            outcome.verdict is Verdict.FAILED for outcome in self._outcomes.values()
        )

    def _twins(self) -> set[str]:
        """Return the targets that an earlier one of the build makes first, and those that read them: they wait."""
        found: set[str] = set()
        for action in self._waiting():
            if action.verdict is Verdict.RESTORE or not found.isdisjoint(action.needs):
                found.add(action.name)
        return found

    def _waiting(self) -> list[FileAction]:
        """Return the files whose outcome is open."""
        return [action for action in self._plan.files if action not in self._outcomes]

    def _is_ready(self, action: FileAction) -> bool:
        """Whether a file can be made now; if not, say why: what it reads failed, or its folder can't be written to."""
        if any(self._failed(need) for need in action.needs):
            self._done(action, Outcome(Verdict.SKIPPED))
            return False
        if self._can_write(action):
            return True
        self._fail(action, failures.unwritable(action))
        return False

    def _can_write(self, action: FileAction) -> bool:
        """Whether a file can be written beside its place."""
        try:
            folder = self._temporary(action).parent
            folder.mkdir(parents=True, exist_ok=True)
            return os.access(folder, os.W_OK)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
            return False

    def _temporary(self, action: FileAction) -> Path:
        """Return where a file is written first: the files of a folder in a stage of their own.

        Raises:
            OSError: there can be none.
        """
        folder = self._folders.get(action.judgement)
        if folder is None:
            return temporary_path(self._path(action))
        known = self._stage_of.get(action.judgement)
        if known is None:
            path = action.goal.path
            assert path is not None
            stage, noted = Stage(path), self._stack.enter_context(ExitStack())
            noted.enter_context(scratch.noted([stage.path]))
            self._stack.callback(stage.remove)
            known = self._stage_of[action.judgement] = (stage, noted)
        return known[0].place(self._path(action))

    def _temporaries(self, actions: Iterable[FileAction]) -> list[Path]:
        """Return what must be removed when something fails; a stage is removed by itself, while it is one."""
        return [temporary_path(self._path(action)) for action in actions if not action.is_part]

    # Restoring

    def _restore(self, wanted: Sequence[tuple[FileAction, ArtifactRow]], *, awaits: bool = True) -> None:
        """Bring whole artifacts to their places without arithmetic.

        All copies are made before any is published: the output of one may be what another is restored from.
        `awaits`: whether what is kept where an earlier action's file is to be waits for that.
        """
        ready = [(action, row) for action, row in wanted if self._is_ready(action)]
        copies: dict[FileAction, tuple[Fresh, int]] = {}
        with self._space(*self._temporaries(action for action, _ in ready)):
            for action, row in ready:
                is_made = (awaits and action.same_place is not None) or self._is_there(action, row)
                if not is_made and not self._can_move(action, row):
                    with span("restore", target=action.name, file=action.content.shown):
                        copies[action] = self._copied(action, row, self._temporary(action))
            for action, row in ready:
                now = self._whole(action) or row if awaits and action.same_place is not None else row
                with span("publish", target=action.name, file=action.content.shown):
                    self._place(action, now, copies.get(action))

    def _is_there(self, action: FileAction, row: ArtifactRow) -> bool:
        """Whether an artifact is where the file goes already: another target is kept at the same place."""
        return row.path == self._path(action) and row.header == action.content.header_checksum

    def _can_move(self, action: FileAction, row: ArtifactRow) -> bool:
        """Whether an artifact of the history can be moved to a file's place as it is."""
        return (
            not action.is_part
            and row.kind == "history"
            and row.header == action.content.header_checksum
            and row.path.stat().st_dev == self._path(action).parent.stat().st_dev
        )

    def _place(self, action: FileAction, wanted: ArtifactRow, copy: tuple[Fresh, int] | None) -> None:
        """Publish a copy of an artifact, or move the artifact itself."""
        began = time.perf_counter()
        path = self._path(action)
        temporary = self._temporary(action)
        row = self._shelf.row(wanted.id) or wanted
        placed: ArtifactRow = row
        if copy is None and not self._is_there(action, row) and not self._can_move(action, row):
            copy = self._copied(action, row, temporary)  # another action was quicker to take it out of the history
        fresh, written = copy or (Fresh(row.digest, row.header, self._shelf.entries(row)), 0)
        if action.is_part:
            seconds = time.perf_counter() - began
            self._stage(action, fresh, Outcome(Verdict.RESTORED, 0, written, written, seconds))
            return
        if not self._may_take_place(action, fresh, temporary if copy else row.path):
            temporary.unlink(missing_ok=True)
            self._fail(action, failures.changed_by_hand(action))
            return
        if copy is not None:
            placed = self._put(action, temporary, fresh)
        elif not self._is_there(action, row):
            keeps_former = not action.description.has_only_its_output
            placed = self._publisher.move(row, path, project=self._owner(action), keeps_former=keeps_former)
        seconds = time.perf_counter() - began
        self._done(action, Outcome(Verdict.RESTORED, bytes_read=written, bytes_written=written, seconds=seconds))
        self._settle(action, placed)

    def _copied(self, action: FileAction, row: ArtifactRow, temporary: Path) -> tuple[Fresh, int]:
        """Write a second file of an artifact, as a link or clone where that is free; return it and the bytes written.

        With other metadata it gets a header of its own; the data are the same, in the same order.
        """
        content = action.content
        entries = self._shelf.entries(row)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        if row.header == content.header_checksum:
            fresh = Fresh(row.digest, row.header, entries)
            is_spare = row.kind == "history" and action.is_part
            if is_spare and row not in self._moving.values() and portable.link_or_none(row.path, temporary):
                self._moving[action] = row
                return fresh, 0
            if self._options.link == "hard" and row.kind == "kept" and portable.link_or_none(row.path, temporary):
                return fresh, 0
            if portable.clone_file(row.path, temporary):
                return fresh, 0
            shutil.copyfile(row.path, temporary)
            return fresh, content.size
        start = min((entry.begin for entry in entries), default=content.header.data_start)
        shift = content.header.data_start - start
        lying = Location(row.path, start, content.size - content.header.data_start)
        work = Pass(
            outputs=[OutputFile(temporary, content.header_bytes, content.size)],
            copies=[Copy(lying, OutputRange(0, content.header.data_start))],
        )
        run_pass(work, threads=1, emit=self._emit, targets=(action.name,))
        moved = [entry._replace(begin=entry.begin + shift, end=entry.end + shift) for entry in entries]
        return Fresh(row.digest, content.header_checksum, moved), content.size

    # Building

    def _build_all(self, actions: Sequence[FileAction], *, awaits: bool = True) -> None:
        """Build files in waves, as far as what they read is there; what the store keeps at one place once."""
        for some in self._waves([each for each in actions if each.same_place is None or not awaits]):
            if self._must_stop():
                return
            ready = [action for action in some if self._is_ready(action) and self._has_programs(action)]
            if ready:
                with self._failing(ready):
                    self._build(ready)

    def _waves(self, actions: Sequence[FileAction]) -> Iterator[list[FileAction]]:
        """Yield files in waves. What a method must know first, it reads from files that an earlier wave published.

        A wave is published when it is over, and a build that is killed keeps the waves before. So one ends where it
        has written much and the next file has no source with it in common, which would be read twice. The files of a
        folder, which are published together, are in one wave where it can hold them; if not, who reads the folder is
        in a later one than all of them.
        """
        some: list[FileAction] = []
        most = _wave()
        size = 0
        sources: set[str] = set()
        earlier: set[str] = set()
        parts = Counter(action.judgement for action in actions if action.is_part)
        for action in actions:
            made = action.description
            together = parts.pop(action.judgement, 1)
            is_full = len(some) + min(together, most) > most or (size >= _MUCH and sources.isdisjoint(made.sources))
            needed = {each.name for each in some}.intersection(made.needs)
            if some and (is_full or (needed and (made.waits_for_files or not needed.isdisjoint(earlier)))):
                yield some
                earlier |= {each.name for each in some}
                some, size, sources = [], 0, set()
            some.append(action)
            size += action.content.size
            sources |= made.sources
        if some:
            yield some

    @contextmanager
    def _failing(self, actions: Sequence[FileAction]) -> Iterator[None]:
        """With `keep_going`, have only these files fail when their sources do not let a pass come to its end."""
        try:
            yield
        except SourceError as error:
            if not self._options.keep_going:
                raise
            for action in actions:
                if action not in self._outcomes:
                    self._fail(action, Refusal(error.problems[0], error.exit_code))

    def _has_programs(self, action: FileAction) -> bool:
        """Whether the programs of the user's own methods that a file needs can be loaded; if not, say why."""
        try:
            for method in action.description.programs:
                check_program(method)
        except ProgramError as error:
            self._fail(action, failures.program_failed(action, error))
            return False
        return True

    def _look(self, actions: Sequence[FileAction]) -> None:
        """Run one wave whose sources are hashed in it; remember these, and what was written."""
        began = time.perf_counter()
        wave = Wave(Whereabouts(self._sources, self._shelf, self._plan.origins))
        first = FirstSight(wave, self._sources)
        for action in actions:
            first.add(action, temporary_path(self._path(action)))
        with ExitStack() as until_finished:
            until_finished.enter_context(self._space(*(output.path for output in wave.outputs)))
            done = self._pass(first.work(), _names(actions))
            learnt = first.settle(done.unseen)
            self.source_bytes_read += first.source_bytes
            changed = frozenset(self._sources.changed(self._sources.opened()))
            for source in learnt:
                if source.name not in changed:
                    self._sources.learn(source)
            self._stack.push(until_finished.pop_all())
        seconds = time.perf_counter() - began - done.waited
        written = self._written(wave, done, changed, seconds)
        self._looked_at = {action.goal: each for action, each in zip(actions, written, strict=True)}

    def _written(self, wave: Wave, done: PassResult, changed: frozenset[str], seconds: float) -> Iterator[_WrittenFile]:
        """Yield what a wave that was run wrote, file by file."""
        for file in wave.files:
            yield _WrittenFile(
                file.output.path,
                done.steps,
                wave.copied,
                file.computed,
                file.bytes_read,
                seconds / len(wave.files),
                changed,
                len(file.output.header),
            )

    def _pass(self, work: Pass, names: Sequence[str]) -> PassResult:
        if work.operates:
            work = replace(work, known=self._ledger.findings())
        try:
            done = run_pass(
                work,
                threads=self._options.threads,
                emit=self._emit,
                targets=tuple(names),
                chunk=self._options.chunk,
                durable=self._options.durable,
                device=self._options.device,
            )
        except Exception as error:
            changed = {source_of_part(name) for name in self._sources.changed(self._sources.opened())}
            if not changed or (isinstance(error, OSError) and error.errno in _NO_SPACE):
                raise
            raise failures.sources_changed(sorted(changed)) from error  # a file that is cut short fails in many ways
        if done.learnt:
            self._ledger.keep_findings(done.learnt)
        return done

    def _build(self, actions: Sequence[FileAction]) -> None:
        """Run one wave and publish what came whole out of it."""
        began = time.perf_counter()
        wave = Wave(Whereabouts(self._sources, self._shelf, self._plan.origins), counted=self._counted)
        for action in actions:
            wave.add(action, self._temporary(action))
        names = _names(actions)
        with self._space(*self._temporaries(actions)):
            known = self._ledger.findings() if wave.operated else {}
            *before, work = wave.passes(known, lambda depth: self._publisher.scratch_path(str(depth)))
            if not self._fits(work, actions):
                return
            with self._laid_out(before, names):
                done = self._pass(work, names)
            self.source_bytes_read += wave.source_bytes()
            changed = frozenset(self._sources.changed(sorted(self._sources.opened())))
            lost = {path for path in wave.artifacts() if self._shelf.look_again(path) is not Presence.OURS}
            seconds = time.perf_counter() - began - done.waited
            again = _made_before(actions)
            for action, written in zip(actions, self._written(wave, done, changed, seconds), strict=True):
                if lost:
                    written.path.unlink(missing_ok=True)
                    is_own = self._path(action) in lost
                    others = sorted(path.name for path in lost)
                    why = failures.changed_by_hand(action) if is_own else failures.artifact_changed(action, others)
                    self._fail(action, why)
                else:
                    self._finish(action, written, is_again=action in again)

    def _fits(self, work: Pass, actions: Sequence[FileAction]) -> bool:
        """Whether there is memory for what a pass needs whole; if not, or a program can't say, say why of all files."""
        try:
            short = self._short_of_memory(work)
        except ProgramError as error:
            for action in actions:
                self._fail(action, failures.program_failed(action, error))
            return False
        if short is None:
            return True
        for action in actions:
            self._fail(action, failures.too_large(action, *short))
        return False

    @contextmanager
    def _laid_out(self, passes: Sequence[Pass], names: Sequence[str]) -> Iterator[None]:
        """Have intermediate tensors in files for the time: those that these passes write."""
        paths = [output.path for work in passes for output in work.outputs]
        try:
            with self._space(*paths):
                for work in passes:
                    self._pass(work, names)
                yield
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def _short_of_memory(self, work: Pass) -> tuple[str, str, int, int] | None:
        """Return a method, a tensor that it needs whole, and the bytes that this takes, if there is less memory."""
        available = portable.memory_bytes()
        for digest, needed in needs_memory(work) if available else ():
            operation = work.steps[digest].operation
            if needed > available and operation is not None:
                return operation.method.name, operation.tensor, needed, available
        return None

    def _finish(self, action: FileAction, written: _WrittenFile, *, is_again: bool) -> None:
        """Publish a file that a pass wrote, or say why not. `is_again`: the pass wrote an equal one before it."""
        with span("publish", target=action.name, file=action.content.shown):
            self._finish_one(action, written, is_again=is_again)

    def _finish_one(self, action: FileAction, written: _WrittenFile, *, is_again: bool) -> None:
        content = action.content
        stale = sorted({own for each in written.changed if (own := source_of_part(each))} & action.description.sources)
        if any(self._failed(need) for need in action.needs):
            self._done(action, Outcome(Verdict.SKIPPED))
        elif stale:
            self._fail(action, failures.source_changed(action, stale))
        elif lacking := self._undefined(action, written.steps):
            self._fail(action, failures.undefined(action, lacking))
        elif bad := self._nonfinite(action, written.steps):
            self._fail(action, failures.nonfinite(action, bad, self._name_of))
        else:
            assert content.digest is not None
            fresh = Fresh(content.digest, content.header_checksum, self._entries(content, written))
            verdict = Verdict.RESTORED if is_again and not written.computed else Verdict.BUILT
            outcome = Outcome(verdict, written.computed, written.bytes_read, content.size, written.seconds)
            if action.is_part:
                self._stage(action, fresh, outcome)
                return
            if self._publish(action, written.path, fresh):
                self._done(action, outcome)
                return
            self._fail(action, failures.changed_by_hand(action))
        written.path.unlink(missing_ok=True)

    def _entries(self, content: FileContent, written: _WrittenFile) -> list[Entry]:
        """Return the table of a file that was written; what follows from its bytes is added to it first."""
        entries = []
        for each in content.made:
            info = content.header.tensors[each.name]
            made = written.steps.get(each.digest)
            found, nonfinite = (made.checksum, made.nonfinite) if made else written.copied[each.digest]
            scattered = None
            if pieces := content.pieces(each.name):
                scattered = ScatteredEntry(pieces, found)
                with written.path.open("rb") as file:
                    found = file_checksum(file.fileno(), info.begin, info.end)
            entries.append(Entry(each.name, info.begin, info.end, each.digest, found, nonfinite, scattered))
        return [*entries, *_framed(content, written.path)]

    def _publish(self, action: FileAction, temporary: Path, fresh: Fresh) -> bool:
        """Publish a file, unless another one that is not ours stands there and may not go."""
        assert not action.is_part  # the files of a folder are published together
        if not self._may_take_place(action, fresh, temporary):
            return False
        path = self._path(action)
        row = self._shelf.at(path)[1] if action.content.path is None else None
        if row is not None:  # the store keeps it already: another target of this wave came to the same
            temporary.unlink()
        else:
            row = self._put(action, temporary, fresh)
        self._settle(action, row)
        return True

    def _put(self, action: FileAction, temporary: Path, fresh: Fresh) -> ArtifactRow:
        """Have the publisher put a file at its place."""
        return self._publisher.publish(
            temporary,
            self._path(action),
            fresh,
            kind="output" if action.content.path else "kept",
            project=self._owner(action),
            keeps_former=not action.description.has_only_its_output,
        )

    def _stage(self, action: FileAction, fresh: Fresh, outcome: Outcome) -> None:
        """Keep a file of a folder that is written in full; with the last one the folder is published."""
        folder = self._folders[action.judgement]
        self._staged[action] = fresh
        self._done(action, outcome)
        if all(self._outcomes[part].verdict in _WELL if part in self._outcomes else False for part in folder.files):
            self._publish_folder(folder)

    def _publish_folder(self, folder: FolderAction) -> None:
        """Publish all files of a folder that are new, unless one of them may not take its place: then none."""
        stage, noted = self._stage_of[folder.judgement]
        shown = folder.judgement.description.shown
        staged = {part: self._staged.pop(part) for part in folder.files if part in self._staged}
        refused: list[FileAction] = []
        foreign: list[Path] = []
        for part, fresh in staged.items():
            presence = self._shelf.look_again(self._path(part))
            if not self._may_take_place(part, fresh, stage.place(self._path(part))):
                refused.append(part)
            elif presence is Presence.FOREIGN and self._options.force:
                foreign.append(self._path(part))
        for part in refused:
            self._fail(part, failures.changed_by_hand(part))
        if refused:
            return
        reused = {self._path(part): self._moving[part] for part in staged if part in self._moving}
        noted.close()  # from here on it may hold what is not ours
        published = self._publisher.publish_folder(
            stage,
            {self._path(part): fresh for part, fresh in staged.items()},
            reused=reused,
            foreign=foreign,
            superfluous=self._superfluous(folder),
            project=self._owner(folder),
            keeps_former=not folder.judgement.description.has_only_its_output,
        )
        for place in published.aside:
            self._emit(Notice(f"what was in {shown} and is not ours is kept as {place}"))
        if published.left is not None:
            self._emit(Notice(f"{published.left} is what {shown} was before; the next build removes it"))
        for part in staged:
            self._settle(part, published.rows[self._path(part)])

    def _may_take_place(self, action: FileAction, fresh: Fresh, at: Path) -> bool:
        """Whether a file may go to its place: what stands there is ours, or the same, or may be put aside by force.

        Asked right before: while a pass runs, a user may change an output, or put a file where there was none. `at`:
        where the new file is now.
        """
        path, shown = self._path(action), action.content.shown
        presence = Presence.OURS if action.content.path is None else self._shelf.look_again(path)
        if presence is Presence.DAMAGED:
            for row in self._shelf.rows(path=path):
                self._quarantine(row, shown or action.name)
        if presence is not Presence.FOREIGN:
            return True
        if self._options.force:
            if not action.is_part:
                self._put_aside(action)
            return True
        if has_bytes(path, fresh):
            self._emit(Notice(f"{shown} was not in the records, and is what this target makes"))
            return True
        if self._shelf.is_unfinished(path, at):
            self._emit(Notice(f"{shown} did not reach the disk in full, and is made again"))
            return True
        return False

    def _quarantine(self, row: ArtifactRow, what: str) -> None:
        """Take a damaged file out of the way, and say so."""
        place = self._publisher.quarantine(row)
        self._emit(Notice(f"{what} was damaged, and is made again; the damaged file is {place}"))

    def _undefined(self, action: FileAction, steps: Mapping[bytes, StepResult]) -> list[tuple[Made, StepResult]]:
        """Return the tensors that a method has no value for."""
        made = ((each, steps[each.digest]) for each in action.content.made if each.digest in steps)
        return [(each, result) for each, result in made if result.problem]

    def _nonfinite(self, action: FileAction, steps: Mapping[bytes, StepResult]) -> list[tuple[Made, StepResult]]:
        if action.description.allows_nonfinite:
            return []
        made = ((each, steps[each.digest]) for each in action.content.made if each.digest in steps)
        return [(each, result) for each, result in made if result.nonfinite and self._is_made(each)]

    def _is_made(self, made: Made) -> bool:
        """Whether arithmetic made a tensor: a copy may be of what a virtual target is."""
        return not made.is_copy or self._plan.origins.unrounded(made.digest) is not None

    def _name_of(self, digest: bytes, made: str) -> str:
        """Return whose tensor a digest is, for people; by its own name too where what is `made` of it has another."""
        source = self._plan.origins.source_of(digest)
        if source is None:
            return "an input"
        owner, tensor = source
        return f"`{owner}`" if tensor == made else f"`{tensor}` of `{owner}`"

    # Outcomes

    def _owner(self, action: Action) -> str:
        return "" if action.judgement.description.goal.is_extra else self._publisher.project

    def _path(self, action: FileAction) -> Path:
        return action.place(self._shelf)

    def _put_aside(self, action: FileAction) -> None:
        """Keep what a user changed by hand, before an output takes its place by force."""
        path = self._path(action)
        places = (path.with_name(fitting(path.stem, f".by-hand-{number}{path.suffix}")) for number in count(1))
        aside = next(place for place in places if is_gone(place))
        path.rename(aside)
        self._emit(Notice(f"what was at {action.content.shown} is kept as {aside.name}"))

    def _settle(self, action: FileAction, row: ArtifactRow | None) -> None:
        """Record what a target was built from, and keep a second name of its output where the project wants one."""
        is_extra = action.goal.is_extra
        is_output = action.content.path is not None and not is_extra
        if row is not None and is_output and not action.description.has_only_its_output:
            self._publisher.keep(row, self._options.link)
        if not is_extra and not action.is_part:
            self._record(action.judgement.description)

    def _concluded(self, folder: FolderAction) -> Outcome:
        """Return what became of a folder, all of whose files were dealt with."""
        files = [self._outcomes[part] for part in folder.files]
        failed = next((each for each in files if each.verdict is Verdict.FAILED), None)
        verdicts = {each.verdict for each in files}
        order = (Verdict.SKIPPED, Verdict.BUILT, Verdict.RESTORED, Verdict.UP_TO_DATE)
        return failed or Outcome(
            next(each for each in order if each in verdicts),
            sum(each.computed for each in files),
            sum(each.bytes_read for each in files),
            sum(each.bytes_written for each in files),
            sum(each.seconds for each in files),
        )

    def _tidy(self, folder: FolderAction) -> None:
        """Take away what a folder that was made had before, and record it."""
        if self._outcomes[folder].verdict not in (Verdict.FAILED, Verdict.SKIPPED):
            self._remove_leftovers(folder)
            made = folder.judgement.description
            if not made.goal.is_extra:
                self._record(made)

    def _remove_leftovers(self, folder: FolderAction) -> None:
        """Remove files of ours that a folder has no more: clients may load an old shard for a new one.

        Of what `-o` wrote only these: who names a folder there may have named others, and files, in it before.
        """
        made = folder.judgement.description
        assert made.goal.path is not None
        for row in self._superfluous(folder):
            self._publisher.remove(row)
        for path in self._stale_names(folder):
            name = f"{made.shown}{path.relative_to(made.goal.path).as_posix()}"
            self._emit(Notice(f"{name} is not ours, and clients may load it instead"))

    def _superfluous(self, folder: FolderAction) -> list[ArtifactRow]:
        """Return the files of ours in a folder that are no part of it now."""
        wanted = {str(part.content.path) for part in folder.files}
        goal, old = folder.judgement.description.goal, self._stale_names(folder)
        return [
            row
            for row in self._shelf.outputs(self._owner(folder), besides=wanted)
            if (row.path in old if goal.is_extra else goal.path in row.path.parents) and self._shelf.is_intact(row)
        ]

    def _stale_names(self, folder: FolderAction) -> list[Path]:
        """Return what is in a folder, is no part of it, and has a name by which clients look for weights."""
        wanted = {path for part in folder.files if (path := part.content.path)}
        folders = {path.parent for path in wanted if path.parent.is_dir()}
        beside = (path for each in folders for path in each.iterdir())
        return sorted(path for path in beside if path not in wanted and stale([path.name], ()))

    def _record(self, made: Description) -> None:
        """Record what a target was built from."""
        assert made.digest is not None
        assert made.tensors is not None
        header = b"" if made.is_folder else made.files[0].header_checksum
        with span("record", target=made.name):
            self._ledger.put_record(
                Record(
                    made.name,
                    made.digest,
                    made.goal.path,
                    manifest.encode(made.lines),
                    self._fingerprint_of(made.name),
                    header,
                    len(made.blueprint.specs),
                    made.notes,
                ),
                packed_keys(made.tensors, made.intermediates),
            )

    def _failed(self, need: str) -> bool:
        """Whether a target that another reads was not made."""
        action = self._plan.by_name.get(need)
        if action is None:
            return False
        found = (self._outcomes.get(each) for each in (action, *action.files))
        return any(each is not None and each.verdict in (Verdict.FAILED, Verdict.SKIPPED) for each in found)

    def _fail(self, action: FileAction, refusal: Refusal) -> None:
        if self._counted:  # whoever needs them now has them made anew
            self._counted.difference_update(made.digest for made in action.content.made)
        self._done(action, Outcome(Verdict.FAILED, problem=refusal.problem, exit_code=refusal.exit_code))

    def _done(self, action: Action, outcome: Outcome) -> None:
        self._outcomes[action] = outcome
        made = action.judgement.description
        if not (isinstance(action, FileAction) and action.is_part):
            self._emit(TargetDone(made.name, str(outcome.verdict), made.shown or ""))

    def _results(self) -> tuple[TargetResult, ...]:
        found = {action.name: action.result(self._outcomes[action]) for action in self._plan.actions}
        for name, (action, outcome) in self._earlier.items():
            now = self._plan.by_name.get(name)
            if now is not None and self._outcomes[now] is outcome and outcome.verdict in _WELL:
                found[name] = action.result(outcome)  # with the reasons that there were then
        return self._plan.in_order(found)

    def _exit_code(self, results: Sequence[TargetResult]) -> int:
        """Return that of the first target that failed."""
        plan = self._plan
        codes = {each.target: error.exit_code for each, error in zip(plan.blocked, plan.errors, strict=True)}
        codes |= {action.name: self._outcomes[action].exit_code for action in plan.actions}
        return next((code for each in results if (code := codes.get(each.target))), 0)

    @contextmanager
    def _space(self, *temporary: Path) -> Iterator[None]:
        with scratch.noted(temporary), _Space(temporary):
            yield


class _Space:
    """Turns a full disk into an error of ours, and takes temporary files away when anything goes wrong."""

    def __init__(self, temporary: Sequence[Path]) -> None:
        self._temporary = temporary

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        for path in self._temporary:
            with suppress(OSError):  # of one that can't be removed, the next build is told by its name
                path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise NoSpaceError.one(
                "no-space",
                f"no space: {error.strerror}",
                help="free some space (`mergebuild gc`), then build again: what was published stays",
            ) from error


def _wave() -> int:
    """Return how many targets a wave has at most."""
    return min(_WAVE, portable.files_at_once())


def _names(actions: Iterable[FileAction]) -> list[str]:
    """Return the targets of files, each once."""
    return list(dict.fromkeys(action.name for action in actions))


def _made_before(actions: Iterable[FileAction]) -> set[FileAction]:
    """Return the files that are equal to one before them."""
    first: dict[tuple[bytes | None, str], FileAction] = {}
    return {each for each in actions if first.setdefault(each.content.data, each) is not each}


def _framed(content: FileContent, temporary: Path) -> Iterator[Entry]:
    """Yield what lies between the tensors of a file and behind them, once the rest of it was written."""
    if not content.packing.fixed:
        return
    with temporary.open("rb+") as file:
        between = content.packing.finish(file.fileno())
    for offset, some in between:
        known = checksum(some)
        yield Entry(FRAME, offset, offset + len(some), known, known, 0)
