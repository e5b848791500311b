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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from mergebuild import manifest, portable
from mergebuild.digest import tagged
from mergebuild.engine import Copy, Leaf, OutputFile, Pass, Place, Step, StepResult, run_pass
from mergebuild.errors import NoSpaceError, Problem, SourceError, TargetError
from mergebuild.events import Emit, Notice, TargetDone
from mergebuild.formats import DTYPES_BY_WORD
from mergebuild.plan import Item, Made, Plan, Planner
from mergebuild.results import TargetResult, Verdict
from mergebuild.sources import Sources
from mergebuild.store import ArtifactRow, Entry, Fresh, Held, Presence, Record, Store, temporary_path

__all__ = ["Builder", "Options"]

_WAVE = 200
"""Targets a wave: each holds one file open."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True, slots=True)
class Options:
    """How to build."""

    keep_going: bool = False
    threads: int | None = None
    force: bool = False
    link: str = "auto"
    chunk: int | None = None


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


@dataclass
class _Wave:
    """A pass in the making, and what each of its items takes from it."""

    items: list[Item]
    work: Pass = field(default_factory=Pass)
    known: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    """By digest: checksum and count of values not finite, for what is copied."""
    held: set[Path] = field(default_factory=set)
    """The artifacts that it reads."""
    bytes_read: dict[int, int] = field(default_factory=dict)
    computed: dict[int, int] = field(default_factory=dict)


class Builder:
    """Runs plans of one planner against one store."""

    def __init__(self, sources: Sources, store: Store, planner: Planner, options: Options, emit: Emit) -> None:
        self._sources = sources
        self._store = store
        self._planner = planner
        self._options = options
        self._emit = emit
        self._outcomes: dict[int, _Outcome] = {}
        self.source_bytes_read = 0
        """Bytes of sources read by passes."""

    def run(self, plan: Plan) -> tuple[tuple[TargetResult, ...], int]:
        """Do what a plan says; return the targets' results and the exit code.

        Raises:
            NoSpaceError: the disk is full, or is known to be too small before any work.
        """
        self._store.sweep_temporary(item.goal.path for item in plan.items if item.goal.path)
        self._check_space(plan.items)
        for item in plan.items:
            if item.verdict is Verdict.UP_TO_DATE:
                self._done(item, _Outcome(Verdict.UP_TO_DATE))
                self._settle(item, item.row)
            elif item.presence is Presence.FOREIGN and not self._may_replace(item):
                self._fail(item, *_changed_by_hand(item))
        self._restore([item for item in self._waiting(plan) if item.restore is not None])
        twins = self._twins(plan)
        self._build_all([item for item in self._waiting(plan) if item.name not in twins])
        for item in [] if self._must_stop() else self._waiting(plan):
            if item.verdict is Verdict.RESTORE:
                item.restore = self._planner.whole(item)  # what an earlier item of this build is now
                self._restore([item] if item.restore is not None else [])
        self._build_all(self._waiting(plan))  # whose twin failed, and what reads twins
        for item in plan.items:
            if id(item) not in self._outcomes:
                self._done(item, _Outcome(Verdict.SKIPPED))
        self._store.trim_history()
        return self._results(plan), self._exit_code(plan)

    # What was decided before

    def _check_space(self, items: Iterable[Item]) -> None:
        """Refuse before any work what cannot fit."""
        needed: dict[int, tuple[Path, int]] = {}
        for item in items:
            folder = _existing(self._path(item).parent)
            device = folder.stat().st_dev
            first, so_far = needed.get(device, (folder, 0))
            needed[device] = (first, so_far + item.result().bytes_written)
        for folder, size in needed.values():
            free = portable.free_space(folder)
            if size > free:
                raise NoSpaceError.one(
                    "no-space",
                    f"the build needs {size:,} bytes and {free:,} are free",
                    help="free some space (`mergebuild gc`), or build fewer targets",
                )

    def _may_replace(self, item: Item) -> bool:
        """Whether what stands at an output's path and is not ours may go: by force, or because it may be the result."""
        return self._options.force or (
            item.restore is None and item.size == _size_at(self._path(item)) and item.header is not None
        )

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
        return [item for item in plan.items if id(item) not in self._outcomes]

    def _is_ready(self, item: Item) -> bool:
        """Whether an item can be made now; if not, say why: what it reads failed, or its folder can't be written to."""
        if any(self._failed(need) for need in item.needs):
            self._done(item, _Outcome(Verdict.SKIPPED))
            return False
        folder = self._path(item).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
            writable = False
        if not writable:
            self._fail(item, *_unwritable(item))
        return writable

    # Restoring

    def _restore(self, items: Sequence[Item]) -> None:
        """Bring whole artifacts to their places without arithmetic.

        All copies are made before any is published: the output of one may be what another is restored from.
        """
        ready = [item for item in items if self._is_ready(item)]
        copies: dict[int, tuple[Fresh, int]] = {}
        with self._space(*(temporary_path(self._path(item)) for item in ready)):
            for item in ready:
                assert item.restore is not None
                if not self._is_there(item, item.restore) and not self._can_move(item, item.restore):
                    copies[id(item)] = self._copied(item, item.restore, temporary_path(self._path(item)))
            for item in ready:
                self._place(item, copies.get(id(item)))

    def _is_there(self, item: Item, row: ArtifactRow) -> bool:
        """Whether an artifact is where the item goes already: another target is kept at the same place."""
        return row.path == self._path(item) and row.header == item.header_checksum

    def _can_move(self, item: Item, row: ArtifactRow) -> bool:
        """Whether an artifact of the history can be moved to an item's place as it is."""
        return (
            row.kind == "history"
            and row.header == item.header_checksum
            and row.path.stat().st_dev == self._path(item).parent.stat().st_dev
        )

    def _place(self, item: Item, copy: tuple[Fresh, int] | None) -> None:
        """Publish an item's copy of an artifact, or move the artifact itself."""
        began = time.perf_counter()
        assert item.restore is not None
        path = self._path(item)
        temporary = temporary_path(path)
        row = self._store.state.artifact(item.restore.id) or item.restore
        placed: ArtifactRow = row
        if copy is None and not self._is_there(item, row) and not self._can_move(item, row):
            copy = self._copied(item, row, temporary)  # another item was quicker to take it out of the history
        fresh, written = copy or (Fresh(row.digest, row.header, self._store.entries(row)), 0)
        if not self._may_take_place(item, fresh):
            temporary.unlink(missing_ok=True)
            self._fail(item, *_changed_by_hand(item))
            return
        if copy is not None:
            placed = self._store.publish(temporary, path, fresh, kind=self._kind(item), project=self._owner(item))
        elif not self._is_there(item, row):
            placed = self._store.move(row, path, project=self._owner(item))
        seconds = time.perf_counter() - began
        self._done(item, _Outcome(Verdict.RESTORED, bytes_read=written, bytes_written=written, seconds=seconds))
        self._settle(item, placed)

    def _copied(self, item: Item, row: ArtifactRow, temporary: Path) -> tuple[Fresh, int]:
        """Write a second file of an artifact, as a link or clone where that is free; return it and the bytes written.

        With other metadata it gets a header of its own; the data are the same, in the same order.
        """
        assert item.header is not None
        entries = self._store.entries(row)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        if row.header == item.header_checksum:
            fresh = Fresh(row.digest, row.header, entries)
            if self._options.link == "hard" and row.kind == "kept" and portable.link_or_none(row.path, temporary):
                return fresh, 0
            if portable.clone_file(row.path, temporary):
                return fresh, 0
            shutil.copyfile(row.path, temporary)
            return fresh, item.size
        start = min((entry.begin for entry in entries), default=item.header.data_start)
        shift = item.header.data_start - start
        work = Pass([OutputFile(temporary, item.header_bytes, item.size)])
        size = item.size - item.header.data_start
        work.copies.append(Copy(row.path, start, size, Place(0, item.header.data_start)))
        run_pass(work, threads=1, emit=self._emit, targets=(item.name,))
        moved = [entry._replace(begin=entry.begin + shift, end=entry.end + shift) for entry in entries]
        return Fresh(row.digest, item.header_checksum, moved), item.size

    # Building

    def _build_all(self, items: Sequence[Item]) -> None:
        """Build items in waves, as far as what they read is there."""
        for some in _waves(items, _WAVE):
            if self._must_stop():
                return
            ready = [item for item in some if self._is_ready(item)]
            if ready:
                self._build(ready)

    def _build(self, items: Sequence[Item]) -> None:
        """Run one wave and publish what came whole out of it."""
        began = time.perf_counter()
        wave = _Wave(list(items))
        for index, item in enumerate(wave.items):
            self._add(wave, index, item)
        with self._space(*(output.path for output in wave.work.outputs)):
            names = tuple(item.name for item in wave.items)
            chunk = {"chunk": self._options.chunk} if self._options.chunk else {}
            steps = run_pass(wave.work, threads=self._options.threads, emit=self._emit, targets=names, **chunk)
            self._count_reading(wave)
            changed = set(self._sources.changed(sorted(self._sources.opened())))
            lost = self._store.lost(wave.held)
            seconds = time.perf_counter() - began
            for index, item in enumerate(wave.items):
                if lost:
                    wave.work.outputs[index].path.unlink(missing_ok=True)
                    self._fail(item, *_artifact_changed(item, sorted(path.name for path in lost)))
                else:
                    self._finish(wave, index, item, steps, changed, seconds / len(wave.items))

    def _add(self, wave: _Wave, index: int, item: Item) -> None:
        """Add an item's tensors to a wave: each as a step, one more place of a step, or a copy."""
        assert item.header is not None
        assert item.made is not None
        path = self._path(item)
        wave.work.outputs.append(OutputFile(temporary_path(path), item.header_bytes, item.size))
        steps = wave.work.steps
        held = self._lying(item, steps)
        read: dict[bytes, int] = {}
        computed = 0
        for each in item.made:
            place = Place(index, item.header.tensors[each.name].begin)
            step = steps.get(each.digest)
            if step is not None:
                step.places.append(place)
            elif each.digest in held:
                copy, checksum, nonfinite = held[each.digest]
                wave.work.copies.append(Copy(copy.path, copy.offset, each.nbytes, place))
                wave.known[each.digest] = (checksum, nonfinite)
                read[each.digest] = each.nbytes
            else:
                computed += 1
                terms = [(term.digest, term.coefficient) for term in each.terms]
                steps[each.digest] = Step(each.digest, each.spec.dtype, each.count, terms, [place])
                read |= self._add_leaves(wave.work, each)
        wave.held |= self._artifacts(wave.work)
        wave.bytes_read[index] = sum(read.values())
        wave.computed[index] = computed

    def _artifacts(self, work: Pass) -> set[Path]:
        """Return the files that a pass reads and that are no sources."""
        read = {leaf.path for leaf in work.leaves.values()} | {copy.path for copy in work.copies}
        return read - {self._sources.file(name).path for name in self._sources.opened()}

    def _lying(self, item: Item, steps: Mapping[bytes, Step]) -> dict[bytes, tuple[Leaf, bytes, int]]:
        """Return where the item's tensors lie as they are, with checksum and count of values not finite."""
        assert item.made is not None
        found: dict[bytes, tuple[Leaf, bytes, int]] = {}
        copies: list[bytes] = []
        made: list[bytes] = []
        for each in item.made:
            if each.digest in steps:
                continue
            source = self._planner.source_of(each.digest) if each.is_copy else None
            if source:
                leaf, checksum = self._source_leaf(each.digest, *source)
                found[each.digest] = (leaf, checksum, 0)
            else:
                (copies if each.is_copy else made).append(each.digest)
        lying = self._store.find(copies, allow_nonfinite=True)
        lying |= self._store.find(made, allow_nonfinite=item.allows_nonfinite)
        for digest, held in lying.items():
            found[digest] = (self._held_leaf(digest, held), held.entry.checksum, held.entry.nonfinite)
        return found

    def _add_leaves(self, work: Pass, made: Made) -> dict[bytes, int]:
        """Add the leaves of a step, unless they are steps themselves; return their sizes."""
        missing = [
            term.digest for term in made.terms if term.digest not in work.leaves and term.digest not in work.steps
        ]
        for digest in missing:
            source = self._planner.source_of(digest)
            if source:
                work.leaves[digest], _ = self._source_leaf(digest, *source)
            else:
                held = self._store.find([digest], allow_nonfinite=True)[digest]
                work.leaves[digest] = self._held_leaf(digest, held)
        leaves = (work.leaves.get(term.digest) for term in made.terms)
        return {leaf.digest: leaf.size for leaf in leaves if leaf is not None}

    def _source_leaf(self, digest: bytes, owner: str, tensor: str) -> tuple[Leaf, bytes]:
        source = self._sources.file(owner)
        info = source.header.tensors[tensor]
        assert source.checksums is not None
        leaf = Leaf(digest, source.path, info.begin, info.dtype, info.count, info.nbytes)
        return leaf, source.checksums[tensor]

    def _held_leaf(self, digest: bytes, held: Held) -> Leaf:
        dtype = self._planner.leaf_dtype.get(digest, "uint8")
        size = held.entry.end - held.entry.begin
        return Leaf(digest, held.path, held.entry.begin, dtype, size // DTYPES_BY_WORD[dtype].size, size)

    def _count_reading(self, wave: _Wave) -> None:
        paths = {self._sources.file(name).path for name in self._sources.opened()}
        regions = {(leaf.path, leaf.offset): leaf.size for leaf in wave.work.leaves.values() if leaf.size}
        regions |= {(copy.path, copy.offset): copy.size for copy in wave.work.copies if copy.size}
        self.source_bytes_read += sum(size for (path, _), size in regions.items() if path in paths)

    def _finish(
        self,
        wave: _Wave,
        index: int,
        item: Item,
        steps: Mapping[bytes, StepResult],
        changed: set[str],
        seconds: float,
    ) -> None:
        """Publish an item of a wave that was run, or say why not."""
        assert item.header is not None
        assert item.made is not None
        temporary = wave.work.outputs[index].path
        stale = sorted(changed & self._planner.leaves(item.name))
        if any(self._failed(need) for need in item.needs):
            self._done(item, _Outcome(Verdict.SKIPPED))
        elif stale:
            self._fail(item, *_source_changed(item, stale))
        elif bad := self._nonfinite(item, steps):
            self._fail(item, _nonfinite_problem(item, bad, self._name_of), TargetError.exit_code)
        else:
            entries = []
            for each in item.made:
                info = item.header.tensors[each.name]
                made = steps.get(each.digest)
                checksum, nonfinite = (made.checksum, made.nonfinite) if made else wave.known[each.digest]
                entries.append(Entry(each.name, info.begin, info.end, each.digest, checksum, nonfinite))
            assert item.digest is not None
            fresh = Fresh(item.digest, item.header_checksum, entries)
            if not self._publish(item, temporary, fresh):
                self._fail(item, *_changed_by_hand(item))
            else:
                outcome = _Outcome(Verdict.BUILT, wave.computed[index], wave.bytes_read[index], item.size, seconds)
                self._done(item, outcome)
                return
        temporary.unlink(missing_ok=True)

    def _publish(self, item: Item, temporary: Path, fresh: Fresh) -> bool:
        """Publish a file, unless another one that is not ours stands there and may not go."""
        if not self._may_take_place(item, fresh):
            return False
        path = self._path(item)
        row = self._store.publish(temporary, path, fresh, kind=self._kind(item), project=self._owner(item))
        self._settle(item, row)
        return True

    def _may_take_place(self, item: Item, fresh: Fresh) -> bool:
        """Whether a file may go to its place: what stands there is ours, or the same, or may be put aside by force.

        Asked right before: while a pass runs, a user may change an output, or put a file where there was none.
        """
        path = self._path(item)
        if item.goal.path is None or self._store.look_again(path) is not Presence.FOREIGN:
            return True
        if self._options.force:
            self._put_aside(item)
            return True
        if self._store.matches(path, fresh):
            self._emit(Notice(f"{item.shown} was not in the records, and is what this target makes"))
            return True
        return False

    def _nonfinite(self, item: Item, steps: Mapping[bytes, StepResult]) -> list[tuple[Made, StepResult]]:
        if item.allows_nonfinite:
            return []
        return [
            (each, steps[each.digest])
            for each in item.made or ()
            if each.digest in steps and steps[each.digest].nonfinite and not each.is_copy
        ]

    def _name_of(self, digest: bytes) -> str:
        """Return whose tensor a digest is, for people."""
        source = self._planner.source_of(digest)
        return f"`{source[0]}`" if source else "an input"

    # Outcomes

    def _kind(self, item: Item) -> str:
        return "output" if item.goal.path else "kept"

    def _owner(self, item: Item) -> str:
        return "" if item.goal.is_extra else self._store.project

    def _path(self, item: Item) -> Path:
        if item.goal.path is not None:
            return item.goal.path
        if item.digest is None:
            return self._store.root / "kept" / "unknown"
        return self._store.kept_path(item.digest, item.header_checksum)

    def _put_aside(self, item: Item) -> None:
        """Keep what a user changed by hand, before an output takes its place by force."""
        path = self._path(item)
        places = (path.with_name(f"{path.stem}.by-hand-{number}{path.suffix}") for number in count(1))
        aside = next(place for place in places if not os.path.lexists(place))
        path.rename(aside)
        self._emit(Notice(f"what was at {item.shown} is kept as {aside.name}"))

    def _settle(self, item: Item, row: ArtifactRow | None) -> None:
        """Record what a target was built from, and keep a second name of its output where the project wants one."""
        if row is not None and item.goal.path is not None and not item.goal.is_extra:
            self._store.keep(row, self._options.link)
        if item.goal.is_extra:
            return
        assert item.digest is not None
        self._store.put_record(Record(item.name, item.digest, item.goal.path, manifest.encode(item.lines)))

    def _failed(self, need: str) -> bool:
        return any(
            outcome.verdict in (Verdict.FAILED, Verdict.SKIPPED)
            for item in self._planner.items_named(need)
            if (outcome := self._outcomes.get(id(item)))
        )

    def _fail(self, item: Item, problem: Problem, exit_code: int) -> None:
        self._done(item, _Outcome(Verdict.FAILED, problem=problem, exit_code=exit_code))

    def _done(self, item: Item, outcome: _Outcome) -> None:
        self._outcomes[id(item)] = outcome
        self._emit(TargetDone(item.name, str(outcome.verdict), item.shown or ""))

    def _results(self, plan: Plan) -> tuple[TargetResult, ...]:
        found: dict[str, TargetResult] = {}
        for item in plan.items:
            outcome = self._outcomes[id(item)]
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
                notes=tuple(item.blueprint.notes()),
            )
        return plan.in_order(found)

    def _exit_code(self, plan: Plan) -> int:
        codes = [outcome.exit_code for item in plan.items if (outcome := self._outcomes[id(item)]).exit_code]
        codes += [error.exit_code for error in plan.errors]
        return codes[0] if codes else 0

    def _space(self, *temporary: Path) -> _Space:
        return _Space(temporary)


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
            path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise NoSpaceError.one(
                "no-space",
                f"no space: {error.strerror}",
                help="free some space (`mergebuild gc`), then build again: what was published stays",
            ) from error


def _waves(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _size_at(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _changed_by_hand(item: Item) -> tuple[Problem, int]:
    problem = Problem(
        "changed-by-hand",
        f"output `{item.shown}` of `{item.name}` was changed by hand, or is not ours",
        item.blueprint.target.where.place("output"),
        "move it away, or `build --force`: it is kept aside first",
    )
    return problem, TargetError.exit_code


def _source_changed(item: Item, names: Sequence[str]) -> tuple[Problem, int]:
    listed = ", ".join(f"`{name}`" for name in names)
    problem = Problem(
        "source-changed",
        f"target `{item.name}` was not built: {listed} changed while it was read",
        item.blueprint.target.where.place(),
        "let whatever writes it finish, then build again",
    )
    return problem, SourceError.exit_code


def _artifact_changed(item: Item, names: Sequence[str]) -> tuple[Problem, int]:
    listed = ", ".join(f"`{name}`" for name in names)
    problem = Problem(
        "artifact-changed",
        f"target `{item.name}` was not built: {listed}, which it was to share tensors with, changed while it was read",
        item.blueprint.target.where.place(),
        "let whatever writes it finish, then build again",
    )
    return problem, TargetError.exit_code


def _unwritable(item: Item) -> tuple[Problem, int]:
    problem = Problem(
        "output-unwritable",
        f"`{item.shown}` of `{item.name}` cannot be written: its folder is no folder, or not writable",
        item.blueprint.target.where.place("output"),
        "mend `output`, or the permissions of the folder",
    )
    return problem, TargetError.exit_code


def _bad_values(made: Made, result: StepResult) -> str:
    """Say what is wrong with the values of a tensor, and how many of them."""
    others = result.nonfinite - result.overflowed
    parts = [f"{result.overflowed} values overflow {made.spec.dtype}"] if result.overflowed else []
    parts += [f"{others} values are NaN or Inf"] if others else []
    return ", ".join(parts)


def _nonfinite_problem(item: Item, bad: Sequence[tuple[Made, StepResult]], name_of: Callable[[bytes], str]) -> Problem:
    rows = []
    for made, result in bad[:20]:
        inputs = ", ".join(f"{count} in {name_of(digest)}" for digest, count in result.bad_inputs.items())
        what = _bad_values(made, result)
        rows.append(f"{made.name}: {what}{f' ({inputs})' if inputs else ''}")
    if len(bad) > 20:
        rows.append(f"and {len(bad) - 20} more tensors")
    return Problem(
        "nonfinite",
        f"{len(bad)} {'tensor' if len(bad) == 1 else 'tensors'} of `{item.name}` would hold values that are not finite",
        item.blueprint.target.where.place(),
        'mend the input or the numbers, take a wider `dtype`, or say `nonfinite = "allow"`',
        tuple(rows),
    )
