"""Run a plan: restore what is somewhere, compute the rest in waves, publish each target when it is whole.

A *wave* is a set of targets that are written in one pass over their inputs; there is more than one when a process
cannot hold as many files open. What a wave published is found in the store by the next. A target whose values are not
finite, or one of whose sources changed meanwhile, is not published; those that read it are skipped.
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
from zlib import crc32

from mergebuild.build import failures
from mergebuild.build.failures import Refusal
from mergebuild.build.first_sight import FirstSight
from mergebuild.build.pass_work import Wave, Whereabouts
from mergebuild.digest import checksum, file_checksum, tagged
from mergebuild.engine.run import DEFAULT_CHUNK, PassResult, check_program, needs_memory, run_pass
from mergebuild.engine.work import Copy, Location, OutputFile, OutputRange, Pass, StepResult
from mergebuild.errors import NoSpaceError, Problem, SourceError
from mergebuild.events import Emit, Notice, TargetDone
from mergebuild.formats.sidecars import stale
from mergebuild.methods.method import ProgramError
from mergebuild.plan import manifest, output_files
from mergebuild.plan.built_keys import packed_keys
from mergebuild.plan.plan import Item, Made, Plan
from mergebuild.plan.planner import Planner
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.sources.sources import Sources, source_of_part
from mergebuild.store import FRAME, ArtifactRow, Entry, Fresh, Presence, Record, Stage, Store, has_bytes
from mergebuild.system import portable, scratch
from mergebuild.system.filestate import is_gone
from mergebuild.system.publishing import fitting, temporary_path

__all__ = ["BuildOptions", "Builder"]

_WAVE = 200
"""Targets a wave at most: each holds one file open."""
_MUCH = 4 << 30
"""Bytes written by a wave after which it is worth while to publish them: some seconds of work."""
_CRC_PIECE = 1 << 22
"""Bytes read at a time for the checksums of a zip file."""

_WELL = (Verdict.UP_TO_DATE, Verdict.RESTORED, Verdict.BUILT)
"""What becomes of a file of which nothing keeps its directory from being published."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build."""

    keep_going: bool = False
    threads: int | None = None
    force: bool = False
    link: str = "auto"
    durable: bool = False
    chunk: int = DEFAULT_CHUNK
    device: str = "auto"


@dataclass
class _Outcome:
    """What became of an item."""

    verdict: Verdict
    computed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    problem: Problem | None = None
    exit_code: int = 0


class Builder:
    """Runs plans of one planner against one store."""

    def __init__(
        self,
        sources: Sources,
        store: Store,
        planner: Planner,
        options: BuildOptions,
        emit: Emit,
        fingerprint_of: Callable[[str], bytes | None],
    ) -> None:
        self._sources = sources
        self._shelf = store.shelf
        self._ledger = store.ledger
        self._publisher = store.publisher
        self.planner = planner
        self._options = options
        self._fingerprint_of = fingerprint_of
        self._emit = emit
        self._outcomes: dict[Item, _Outcome] = {}
        self._unseen: dict[str, _Outcome] = {}
        """What became of targets in `run_unseen`."""
        self._stages = ExitStack()
        self._stage_of: dict[Item, tuple[Stage, ExitStack]] = {}
        """Where the files of a directory wait for each other; and what has it removed if the process ends before."""
        self._moving: dict[Item, ArtifactRow] = {}
        """What of the history has a second name in a stage, and only that one when the stage is published."""
        self._staged: dict[Item, Fresh] = {}
        """Files of directories that are written in full."""
        self._counted: set[bytes] = set()
        """Tensors whose arithmetic is some target's, and no other's that needs it too."""
        self.source_bytes_read = 0
        """Bytes of sources read by passes."""

    def run_unseen(self, plan: Plan) -> bool:
        """Build what a plan has of targets whose sources were never seen, as far as that can be done in one pass.

        Returns:
            Whether the plan had such targets: then sources are known that were not, and all must be planned anew.
        """
        unseen = [item for item in plan.items if not item.is_known]
        absent = (item for item in unseen if item.presence is Presence.ABSENT and item.refusal is None)
        ready = [item for item in islice(_distinct(absent), _wave()) if self._is_ready(item)]
        if ready and not self._must_stop():
            with self._failing(ready):
                self._build_unseen(ready)
        self._unseen = {item.name: outcome for item, outcome in self._outcomes.items()}
        self._outcomes.clear()  # the plan that follows has items of its own
        return bool(unseen)

    def run(self, plan: Plan) -> tuple[tuple[TargetResult, ...], int]:
        """Do what a plan says; return the targets' results and the exit code.

        Raises:
            NoSpaceError: the disk is full, or is known to be too small before any work.
        """
        with self._stages:
            return self._run(plan)

    def _run(self, plan: Plan) -> tuple[tuple[TargetResult, ...], int]:
        for row in self._shelf.damaged_inside():
            self._quarantine(row, f"what the store kept of {tagged(row.digest)}")
        for item in self._waiting(plan):
            self._look_at(item)
        self._restore([item for item in self._waiting(plan) if item.restore is not None and not self._must_stop()])
        twins = self._twins(plan)
        self._build_all([item for item in self._waiting(plan) if item.name not in twins])
        for item in [] if self._must_stop() else self._waiting(plan):
            if item.verdict is Verdict.RESTORE:
                item.restore = self.planner.whole(item)  # what an earlier item of this build is now
                self._restore([item] if item.restore is not None else [])
        self._build_all(self._waiting(plan))  # whose twin failed, and what reads twins
        for item in [] if self._must_stop() else self._waiting(plan):  # kept where an earlier one was to be
            item.restore, item.is_kept_once = self.planner.whole(item), False
            if item.restore is not None:
                self._restore([item])
            else:
                self._build_all([item])
        for item in plan.items:
            if item not in self._outcomes and not item.parts:
                self._done(item, _Outcome(Verdict.SKIPPED))
        for item in plan.items:
            if item.parts:
                self._conclude(item)
        self._publisher.trim_history()
        results = self._results(plan)
        return results, self._exit_code(plan, results)

    # What was decided before

    def _look_at(self, item: Item) -> None:
        """Settle an item for which nothing need or can be done."""
        earlier = self._unseen.get(item.name)
        if earlier is not None and (
            item.verdict is Verdict.UP_TO_DATE or earlier.verdict in (Verdict.FAILED, Verdict.SKIPPED)
        ):
            self._outcomes[item] = earlier  # which was said then
        elif item.refusal is not None:
            if item.refused_for == item.name:
                self._fail(item, Refusal(item.refusal.problems[0], item.refusal.exit_code))
            else:
                self._done(item, _Outcome(Verdict.SKIPPED))
        elif item.verdict is Verdict.UP_TO_DATE:
            self._done(item, _Outcome(Verdict.UP_TO_DATE))
            self._settle(item, item.row)

    def _must_stop(self) -> bool:
        return not self._options.keep_going and any(
            outcome.verdict is Verdict.FAILED for outcome in self._outcomes.values()
        )

    def _twins(self, plan: Plan) -> set[str]:
        """Return the targets that an earlier one of the build will be equal to, and those that read them."""
        found: set[str] = set()
        for item in self._waiting(plan):
            if item.verdict is Verdict.RESTORE or not found.isdisjoint(item.needs):
                found.add(item.name)
        return found

    def _waiting(self, plan: Plan) -> list[Item]:
        """Return the items whose outcome is open."""
        return [item for item in plan.items if item not in self._outcomes and not item.parts]

    def _is_ready(self, item: Item) -> bool:
        """Whether an item can be made now; if not, say why: what it reads failed, or its folder can't be written to."""
        if any(self._failed(need) for need in item.needs):
            self._done(item, _Outcome(Verdict.SKIPPED))
            return False
        try:
            folder = self._temporary(item).parent
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
            writable = False
        if not writable:
            self._fail(item, failures.unwritable(item))
        return writable

    def _temporary(self, item: Item) -> Path:
        """Return where an item's file is written first: the files of a directory in a stage of their own.

        Raises:
            OSError: there can be none.
        """
        if item.whole is None:
            return temporary_path(self._path(item))
        known = self._stage_of.get(item.whole)
        if known is None:
            stage, noted = Stage(self._path(item.whole)), self._stages.enter_context(ExitStack())
            noted.enter_context(scratch.noted([stage.path]))
            self._stages.callback(stage.remove)
            known = self._stage_of[item.whole] = (stage, noted)
        return known[0].place(self._path(item))

    def _temporaries(self, items: Iterable[Item]) -> list[Path]:
        """Return what must be removed of items when something fails; a stage is removed by itself, while it is one."""
        return [temporary_path(self._path(item)) for item in items if item.whole is None]

    # Restoring

    def _restore(self, items: Sequence[Item]) -> None:
        """Bring whole artifacts to their places without arithmetic.

        All copies are made before any is published: the output of one may be what another is restored from.
        """
        ready = [item for item in items if self._is_ready(item)]
        copies: dict[int, tuple[Fresh, int]] = {}
        with self._space(*self._temporaries(ready)):
            for item in ready:
                assert item.restore is not None
                is_made = item.is_kept_once or self._is_there(item, item.restore)
                if not is_made and not self._can_move(item, item.restore):
                    copies[id(item)] = self._copied(item, item.restore, self._temporary(item))
            for item in ready:
                if item.is_kept_once:
                    item.restore = self.planner.whole(item) or item.restore  # what an earlier one has put there
                self._place(item, copies.get(id(item)))

    def _is_there(self, item: Item, row: ArtifactRow) -> bool:
        """Whether an artifact is where the item goes already: another target is kept at the same place."""
        return row.path == self._path(item) and row.header == item.header_checksum

    def _can_move(self, item: Item, row: ArtifactRow) -> bool:
        """Whether an artifact of the history can be moved to an item's place as it is."""
        return (
            item.whole is None
            and row.kind == "history"
            and row.header == item.header_checksum
            and row.path.stat().st_dev == self._path(item).parent.stat().st_dev
        )

    def _place(self, item: Item, copy: tuple[Fresh, int] | None) -> None:
        """Publish an item's copy of an artifact, or move the artifact itself."""
        began = time.perf_counter()
        assert item.restore is not None
        path = self._path(item)
        temporary = self._temporary(item)
        row = self._shelf.row(item.restore.id) or item.restore
        placed: ArtifactRow = row
        if copy is None and not self._is_there(item, row) and not self._can_move(item, row):
            copy = self._copied(item, row, temporary)  # another item was quicker to take it out of the history
        fresh, written = copy or (Fresh(row.digest, row.header, self._shelf.entries(row)), 0)
        if item.whole is not None:
            seconds = time.perf_counter() - began
            self._stage(item, fresh, _Outcome(Verdict.RESTORED, 0, written, written, seconds))
            return
        if not self._may_take_place(item, fresh, temporary if copy else row.path):
            temporary.unlink(missing_ok=True)
            self._fail(item, failures.changed_by_hand(item))
            return
        if copy is not None:
            placed = self._publisher.publish(temporary, path, fresh, kind=self._kind(item), project=self._owner(item))
        elif not self._is_there(item, row):
            placed = self._publisher.move(row, path, project=self._owner(item))
        seconds = time.perf_counter() - began
        self._done(item, _Outcome(Verdict.RESTORED, bytes_read=written, bytes_written=written, seconds=seconds))
        self._settle(item, placed)

    def _copied(self, item: Item, row: ArtifactRow, temporary: Path) -> tuple[Fresh, int]:
        """Write a second file of an artifact, as a link or clone where that is free; return it and the bytes written.

        With other metadata it gets a header of its own; the data are the same, in the same order.
        """
        assert item.header is not None
        entries = self._shelf.entries(row)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        if row.header == item.header_checksum:
            fresh = Fresh(row.digest, row.header, entries)
            is_spare = row.kind == "history" and item.whole is not None
            if is_spare and row not in self._moving.values() and portable.link_or_none(row.path, temporary):
                self._moving[item] = row
                return fresh, 0
            if self._options.link == "hard" and row.kind == "kept" and portable.link_or_none(row.path, temporary):
                return fresh, 0
            if portable.clone_file(row.path, temporary):
                return fresh, 0
            shutil.copyfile(row.path, temporary)
            return fresh, item.size
        start = min((entry.begin for entry in entries), default=item.header.data_start)
        shift = item.header.data_start - start
        lying = Location(row.path, start, item.size - item.header.data_start)
        work = Pass(
            outputs=[OutputFile(temporary, item.header_bytes, item.size)],
            copies=[Copy(lying, OutputRange(0, item.header.data_start))],
        )
        run_pass(work, threads=1, emit=self._emit, targets=(item.name,))
        moved = [entry._replace(begin=entry.begin + shift, end=entry.end + shift) for entry in entries]
        return Fresh(row.digest, item.header_checksum, moved), item.size

    # Building

    def _build_all(self, items: Sequence[Item]) -> None:
        """Build items in waves, as far as what they read is there; what the store keeps at one place once."""
        for some in self._waves([item for item in items if not item.is_kept_once]):
            if self._must_stop():
                return
            ready = [item for item in some if self._is_ready(item) and self._has_programs(item)]
            if ready:
                with self._failing(ready):
                    self._build(ready)

    def _waves(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Yield items in waves. What a method must know first, it reads from files that an earlier wave published.

        A wave is published when it is over, and a build that is killed keeps the waves before. So one ends where it
        has written much and the next item has no source with it in common, which would be read twice. The files of a
        directory, which are published together, are in one wave where it can hold them; if not, who reads the
        directory is in a later one than all of them.
        """
        some: list[Item] = []
        most = _wave()
        size = 0
        sources: set[str] = set()
        earlier: set[str] = set()
        files = Counter(item.whole for item in items if item.whole is not None)
        for item in items:
            reads = self.planner.leaves(item.name)
            together = files.pop(item.whole, 1) if item.whole is not None else 1
            is_full = len(some) + min(together, most) > most or (size >= _MUCH and sources.isdisjoint(reads))
            needed = {each.name for each in some}.intersection(item.needs)
            if some and (is_full or (needed and (self.planner.surveys(item) or not needed.isdisjoint(earlier)))):
                yield some
                earlier |= {each.name for each in some}
                some, size, sources = [], 0, set()
            some.append(item)
            size += item.size
            sources |= reads
        if some:
            yield some

    @contextmanager
    def _failing(self, items: Sequence[Item]) -> Iterator[None]:
        """With `keep_going`, have only these items fail when their sources do not let a pass come to its end."""
        try:
            yield
        except SourceError as error:
            if not self._options.keep_going:
                raise
            for item in items:
                if item not in self._outcomes:
                    self._fail(item, Refusal(error.problems[0], error.exit_code))

    def _has_programs(self, item: Item) -> bool:
        """Whether the programs of the user's own methods that an item needs can be loaded; if not, say why."""
        try:
            for method in self.planner.folder.programs(item.name):
                check_program(method)
        except ProgramError as error:
            self._fail(item, failures.program_failed(item, error))
            return False
        return True

    def _build_unseen(self, items: Sequence[Item]) -> None:
        """Run one wave whose sources are hashed in it, and publish what came whole out of it."""
        began = time.perf_counter()
        wave = Wave(Whereabouts(self._sources, self._shelf, self.planner))
        first = FirstSight(wave, self._sources)
        for item in items:
            first.add(item, temporary_path(self._path(item)))
        foreseen = [len(item.header_bytes) for item in items]
        with self._space(*(output.path for output in wave.outputs)):
            done = self._pass(first.work(), _names(items))
            learnt = first.settle(done.unseen)
            self.source_bytes_read += first.source_bytes
            changed = set(self._sources.changed(self._sources.opened()))
            for source in learnt:
                if source.name not in changed:
                    self._sources.learn(source)
            seconds = time.perf_counter() - began - done.waited
            left: set[str] = set()
            for index, item in enumerate(items):
                self.planner.identify(item)
                temporary = wave.outputs[index].path
                if len(item.header_bytes) != foreseen[index] or not left.isdisjoint(item.needs):
                    temporary.unlink()
                    left.add(item.name)
                    continue
                with temporary.open("rb+") as file:
                    file.write(item.header_bytes)
                self._finish(wave, index, item, done.steps, changed, seconds / len(items))

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

    def _build(self, items: Sequence[Item]) -> None:
        """Run one wave and publish what came whole out of it."""
        began = time.perf_counter()
        wave = Wave(Whereabouts(self._sources, self._shelf, self.planner), counted=self._counted)
        for item in items:
            wave.add(item, self._temporary(item))
        names = _names(wave.items)
        with self._space(*self._temporaries(items)):
            known = self._ledger.findings() if wave.operated else {}
            *before, work = wave.passes(known, lambda depth: self._publisher.scratch_path(str(depth)))
            if not self._fits(work, items):
                return
            with self._laid_out(before, names):
                done = self._pass(work, names)
            self.source_bytes_read += wave.source_bytes()
            changed = set(self._sources.changed(sorted(self._sources.opened())))
            lost = {path for path in wave.artifacts() if self._shelf.look_again(path) is not Presence.OURS}
            seconds = time.perf_counter() - began - done.waited
            for index, item in enumerate(wave.items):
                if lost:
                    wave.outputs[index].path.unlink(missing_ok=True)
                    is_own = self._path(item) in lost
                    others = sorted(path.name for path in lost)
                    self._fail(
                        item, failures.changed_by_hand(item) if is_own else failures.artifact_changed(item, others)
                    )
                else:
                    self._finish(wave, index, item, done.steps, changed, seconds / len(wave.items))

    def _fits(self, work: Pass, items: Sequence[Item]) -> bool:
        """Whether there is memory for what a pass needs whole; if not, or a program can't say, say why of all items."""
        try:
            short = self._short_of_memory(work)
        except ProgramError as error:
            for item in items:
                self._fail(item, failures.program_failed(item, error))
            return False
        if short is None:
            return True
        for item in items:
            self._fail(item, failures.too_large(item, *short))
        return False

    @contextmanager
    def _laid_out(self, passes: Sequence[Pass], names: Sequence[str]) -> Iterator[None]:
        """Have intermediate tensors lie in files for the time: those that these passes write."""
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

    def _finish(
        self,
        wave: Wave,
        index: int,
        item: Item,
        steps: Mapping[bytes, StepResult],
        changed: set[str],
        seconds: float,
    ) -> None:
        """Publish an item of a wave that was run, or say why not."""
        temporary = wave.outputs[index].path
        stale = sorted({source_of_part(each) for each in changed} & self.planner.leaves(item.name))
        if any(self._failed(need) for need in item.needs):
            self._done(item, _Outcome(Verdict.SKIPPED))
        elif stale:
            self._fail(item, failures.source_changed(item, stale))
        elif lacking := self._undefined(item, steps):
            self._fail(item, failures.undefined(item, lacking))
        elif bad := self._nonfinite(item, steps):
            self._fail(item, failures.nonfinite(item, bad, self._name_of))
        else:
            entries = self._entries(wave, item, steps, temporary)
            assert item.digest is not None
            fresh = Fresh(item.digest, item.header_checksum, entries)
            is_twin = not wave.computed[index] and any(
                item.digest == other.digest
                and output_files.is_checkpoint(item.goal.path) == output_files.is_checkpoint(other.goal.path)
                for other in wave.items[:index]
            )
            verdict = Verdict.RESTORED if is_twin else Verdict.BUILT
            outcome = _Outcome(verdict, wave.computed[index], wave.bytes_read[index], item.size, seconds)
            if item.whole is not None:
                self._stage(item, fresh, outcome)
                return
            if self._publish(item, temporary, fresh):
                self._done(item, outcome)
                return
            self._fail(item, failures.changed_by_hand(item))
        temporary.unlink(missing_ok=True)

    def _entries(self, wave: Wave, item: Item, steps: Mapping[bytes, StepResult], temporary: Path) -> list[Entry]:
        """Return the table of a file that was written; what follows from its bytes is added to it first."""
        assert item.header is not None
        assert item.packing is not None
        entries = []
        for each in item.made or ():
            info = item.header.tensors[each.name]
            made = steps.get(each.digest)
            found, nonfinite = (made.checksum, made.nonfinite) if made else wave.copied[each.digest]
            digest = each.digest
            if each.name in item.packing.turned:  # other bytes, which nobody is to take for the tensor
                digest = checksum(b"turned" + digest)
                with temporary.open("rb") as file:
                    found = file_checksum(file.fileno(), info.begin, info.end)
            entries.append(Entry(each.name, info.begin, info.end, digest, found, nonfinite))
        return [*entries, *_framed(item, temporary)]

    def _publish(self, item: Item, temporary: Path, fresh: Fresh) -> bool:
        """Publish a file, unless another one that is not ours stands there and may not go."""
        assert item.whole is None  # the files of a directory are published together
        if not self._may_take_place(item, fresh, temporary):
            return False
        path = self._path(item)
        row = self._shelf.at(path)[1] if item.goal.path is None else None
        if row is not None:  # the store keeps it already: another target of this wave came to the same
            temporary.unlink()
        else:
            row = self._publisher.publish(temporary, path, fresh, kind=self._kind(item), project=self._owner(item))
        self._settle(item, row)
        return True

    def _stage(self, item: Item, fresh: Fresh, outcome: _Outcome) -> None:
        """Keep a file of a directory that is written in full; with the last one the directory is published."""
        assert item.whole is not None
        self._staged[item] = fresh
        self._done(item, outcome)
        parts = item.whole.parts
        if all(self._outcomes[part].verdict in _WELL if part in self._outcomes else False for part in parts):
            self._publish_folder(item.whole)

    def _publish_folder(self, item: Item) -> None:
        """Publish all files of a directory that are new, unless one of them may not take its place: then none."""
        stage, noted = self._stage_of[item]
        staged = {part: self._staged.pop(part) for part in item.parts if part in self._staged}
        refused: list[Item] = []
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
            superfluous=self._superfluous(item),
            project=self._owner(item),
        )
        for place in published.aside:
            self._emit(Notice(f"what was in {item.shown} and is not ours is kept as {place}"))
        if published.left is not None:
            self._emit(Notice(f"{published.left} is what {item.shown} was before; the next build removes it"))
        for part in staged:
            self._settle(part, published.rows[self._path(part)])

    def _may_take_place(self, item: Item, fresh: Fresh, lies: Path) -> bool:
        """Whether a file may go to its place: what stands there is ours, or the same, or may be put aside by force.

        Asked right before: while a pass runs, a user may change an output, or put a file where there was none. `lies`:
        where the new file is now.
        """
        path = self._path(item)
        presence = Presence.OURS if item.goal.path is None else self._shelf.look_again(path)
        if presence is Presence.DAMAGED:
            for row in self._shelf.rows(path=path):
                self._quarantine(row, item.shown or item.name)
        if presence is not Presence.FOREIGN:
            return True
        if self._options.force:
            if item.whole is None:
                self._put_aside(item)
            return True
        if has_bytes(path, fresh):
            self._emit(Notice(f"{item.shown} was not in the records, and is what this target makes"))
            return True
        if self._shelf.is_unfinished(path, lies):
            self._emit(Notice(f"{item.shown} did not reach the disk in full, and is made again"))
            return True
        return False

    def _quarantine(self, row: ArtifactRow, what: str) -> None:
        """Take a damaged file out of the way, and say so."""
        place = self._publisher.quarantine(row)
        self._emit(Notice(f"{what} was damaged, and is made again; the damaged file is {place}"))

    def _undefined(self, item: Item, steps: Mapping[bytes, StepResult]) -> list[tuple[Made, StepResult]]:
        """Return the tensors that a method has no value for."""
        return [
            (each, steps[each.digest])
            for each in item.made or ()
            if each.digest in steps and steps[each.digest].problem
        ]

    def _nonfinite(self, item: Item, steps: Mapping[bytes, StepResult]) -> list[tuple[Made, StepResult]]:
        if item.allows_nonfinite:
            return []
        return [
            (each, steps[each.digest])
            for each in item.made or ()
            if each.digest in steps and steps[each.digest].nonfinite and self._is_made(each)
        ]

    def _is_made(self, made: Made) -> bool:
        """Whether arithmetic made a tensor: a copy may be of what a virtual target is."""
        return not made.is_copy or self.planner.unrounded(made.digest) is not None

    def _name_of(self, digest: bytes, made: str) -> str:
        """Return whose tensor a digest is, for people; by its own name too where what is `made` of it has another."""
        source = self.planner.source_of(digest)
        if source is None:
            return "an input"
        owner, tensor = source
        return f"`{owner}`" if tensor == made else f"`{tensor}` of `{owner}`"

    # Outcomes

    def _kind(self, item: Item) -> str:
        return "output" if item.goal.path else "kept"

    def _owner(self, item: Item) -> str:
        return "" if item.goal.is_extra else self._publisher.project

    def _path(self, item: Item) -> Path:
        return item.place(self._shelf)

    def _put_aside(self, item: Item) -> None:
        """Keep what a user changed by hand, before an output takes its place by force."""
        path = self._path(item)
        places = (path.with_name(fitting(path.stem, f".by-hand-{number}{path.suffix}")) for number in count(1))
        aside = next(place for place in places if is_gone(place))
        path.rename(aside)
        self._emit(Notice(f"what was at {item.shown} is kept as {aside.name}"))

    def _settle(self, item: Item, row: ArtifactRow | None) -> None:
        """Record what a target was built from, and keep a second name of its output where the project wants one."""
        if row is not None and item.goal.path is not None and not item.goal.is_extra:
            self._publisher.keep(row, self._options.link)
        if not item.goal.is_extra and item.whole is None:
            self._record(item)

    def _conclude(self, item: Item) -> None:
        """Say what became of a directory, all of whose files were dealt with; take away what it had before."""
        files = [self._outcomes[part] for part in item.parts]
        failed = next((each for each in files if each.verdict is Verdict.FAILED), None)
        verdicts = {each.verdict for each in files}
        order = (Verdict.SKIPPED, Verdict.BUILT, Verdict.RESTORED, Verdict.UP_TO_DATE)
        outcome = failed or _Outcome(
            next(each for each in order if each in verdicts),
            sum(each.computed for each in files),
            sum(each.bytes_read for each in files),
            sum(each.bytes_written for each in files),
            sum(each.seconds for each in files),
        )
        self._done(item, outcome)
        if outcome.verdict not in (Verdict.FAILED, Verdict.SKIPPED):
            self._remove_leftovers(item)
            if not item.goal.is_extra:
                self._record(item)

    def _remove_leftovers(self, item: Item) -> None:
        """Remove files of ours that a directory has no more: clients may load an old shard for a new one.

        Of what `-o` wrote only these: who names a folder there may have named others, and files, in it before.
        """
        for row in self._superfluous(item):
            self._publisher.remove(row)
        for path in self._stale_names(item):
            name = f"{item.shown}{path.relative_to(self._path(item)).as_posix()}"
            self._emit(Notice(f"{name} is not ours, and clients may load it instead"))

    def _superfluous(self, item: Item) -> list[ArtifactRow]:
        """Return the files of ours in a directory that are no part of it now."""
        wanted = {str(part.goal.path) for part in item.parts}
        folder, old = self._path(item), self._stale_names(item)
        return [
            row
            for row in self._shelf.outputs(self._owner(item), besides=wanted)
            if (row.path in old if item.goal.is_extra else folder in row.path.parents) and self._shelf.is_intact(row)
        ]

    def _stale_names(self, item: Item) -> list[Path]:
        """Return what is in a directory, is no part of it, and has a name by which clients look for weights."""
        wanted = {path for part in item.parts if (path := part.goal.path)}
        folders = {path.parent for path in wanted if path.parent.is_dir()}
        beside = (path for folder in folders for path in folder.iterdir())
        return sorted(path for path in beside if path not in wanted and stale([path.name], ()))

    def _record(self, item: Item) -> None:
        """Record what a target was built from."""
        assert item.digest is not None
        assert item.tensors is not None
        self._ledger.put_record(
            Record(
                item.name,
                item.digest,
                item.goal.path,
                manifest.encode(item.lines),
                self._fingerprint_of(item.name),
                item.header_checksum,
                len(item.blueprint.specs),
            ),
            packed_keys(item.tensors, item.between),
        )

    def _failed(self, need: str) -> bool:
        return any(
            outcome.verdict in (Verdict.FAILED, Verdict.SKIPPED)
            for item in self.planner.items_named(need)
            if (outcome := self._outcomes.get(item))
        )

    def _fail(self, item: Item, refusal: Refusal) -> None:
        if self._counted:  # whoever needs them now has them made anew
            self._counted.difference_update(made.digest for made in item.made or ())
        self._done(item, _Outcome(Verdict.FAILED, problem=refusal.problem, exit_code=refusal.exit_code))

    def _done(self, item: Item, outcome: _Outcome) -> None:
        self._outcomes[item] = outcome
        if item.whole is None:
            self._emit(TargetDone(item.name, str(outcome.verdict), item.shown or ""))

    def _results(self, plan: Plan) -> tuple[TargetResult, ...]:
        found: dict[str, TargetResult] = {}
        for item in (each for each in plan.items if each.whole is None):
            outcome = self._outcomes[item]
            total = len(item.blueprint.specs)
            found[item.name] = TargetResult(
                target=item.name,
                verdict=outcome.verdict,
                output=item.shown,
                artifact=tagged(item.digest) if item.digest else None,
                seconds=outcome.seconds,
                tensors_computed=outcome.computed,
                tensors_reused=total - outcome.computed,
                bytes_read=outcome.bytes_read,
                bytes_written=outcome.bytes_written,
                error=outcome.problem,
                reasons=item.reasons,
                notes=item.notes,
            )
        return plan.in_order(found)

    def _exit_code(self, plan: Plan, results: Sequence[TargetResult]) -> int:
        """Return that of the first target that failed."""
        codes = {each.target: error.exit_code for each, error in zip(plan.blocked, plan.errors, strict=True)}
        codes |= {item.name: self._outcomes[item].exit_code for item in plan.items if item.whole is None}
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


def _names(items: Iterable[Item]) -> list[str]:
    """Return the targets of items, each once."""
    return list(dict.fromkeys(item.name for item in items))


def _distinct(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items that are made of different forms, and of which all that they read is among them."""
    found: list[Item] = []
    names: set[str] = set()
    for item in items:
        same = (each.blueprint for each in found if each.goal.dtype == item.goal.dtype)
        if names.issuperset(item.needs) and not any(
            each.forms == item.blueprint.forms and each.specs == item.blueprint.specs for each in same
        ):
            found.append(item)
            names.add(item.name)
            yield item


def _framed(item: Item, temporary: Path) -> Iterator[Entry]:
    """Yield what lies between the tensors of a file and behind them, once the rest of it was written."""
    assert item.header is not None
    packed, header = item.packing, item.header
    if packed is None or not packed.fixed:
        return
    with temporary.open("rb+") as file:
        found = {name: _crc32(file.fileno(), info.begin, info.end) for name, info in header.tensors.items()}
        late = packed.late(found.__getitem__)
        for offset, content in late:
            portable.pwrite_all(file.fileno(), memoryview(content), offset)
    for offset, content in sorted([*packed.fixed, *late]):
        if offset >= header.data_start:
            known = checksum(content)
            yield Entry(FRAME, offset, offset + len(content), known, known, 0)


def _crc32(fd: int, begin: int, end: int) -> int:
    """Return what a zip file says of a range of bytes. Read, not mapped: the file may exceed the address space."""
    found, buffer = 0, memoryview(bytearray(min(end - begin, _CRC_PIECE)))
    for start in range(begin, end, _CRC_PIECE):
        piece = buffer[: min(end - start, _CRC_PIECE)]
        portable.pread_into(fd, piece, start)
        found = crc32(piece, found)
    return found
