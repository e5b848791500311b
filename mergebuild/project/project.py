"""The verbs of the program over one mergefile: what the command line calls, and what Python users call.

    import mergebuild

    project = mergebuild.load("mergefile.toml")
    result = project.build(["orange"])

A `Project` holds the recipe. Each verb opens sources and store for itself and closes them again; verbs that only look
leave no trace on disk.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from mergebuild.digest import tagged
from mergebuild.engine.bounds import memory_bounds
from mergebuild.errors import (
    CorruptionError,
    MergeBuildError,
    Problem,
    ResultDiffersError,
    SourceError,
    TargetError,
    UsageError,
    bounded,
)
from mergebuild.events import Emit, Event, Hashing, Notice, silent
from mergebuild.fold import lineage as lineages
from mergebuild.formats import registry
from mergebuild.layouts import declared_for
from mergebuild.plan.actions import Action, Description, Goal
from mergebuild.plan.freshness import Freshness
from mergebuild.plan.plan import Plan
from mergebuild.plan.planner import Planner
from mergebuild.project import lockfile, trust
from mergebuild.project.gate import Gate, Hold
from mergebuild.project.stamp import Stamp, forget_stamps
from mergebuild.project.sweep import SourcePlaces, Sweeper
from mergebuild.recipe import Input, Recipe, load_recipe
from mergebuild.results.build import BuildResult, PlanResult, TargetResult, Verdict
from mergebuild.results.looks import (
    CleanResult,
    Lineage,
    OutputState,
    StatusResult,
    TargetState,
    Trusted,
    VerifyResult,
    WhyResult,
)
from mergebuild.sources.sources import SourceFile, Sources, locate
from mergebuild.store import (
    LOCK_FILES,
    REBUILDS,
    STATE,
    DatabaseDamagedError,
    DiskStore,
    Presence,
    begin_afresh,
    locked,
)
from mergebuild.system import publishing
from mergebuild.system.filestate import Moment
from mergebuild.system.portable import free_space

if TYPE_CHECKING:
    from mergebuild.methods.method import Method

__all__ = ["Project", "load"]

_LARGE = 1 << 27
"""Bytes of a source that take longer to hash than the engine to load."""


def load(
    path: Path | str = "mergefile.toml",
    *,
    overrides: Sequence[str] = (),
    variables: Mapping[str, object] | None = None,
) -> Project:
    """Read a mergefile.

    `overrides` are what `--set` takes (`m=0.4`, `orange.alpha.IN04=0.4`); `variables` replace `[vars]`.

    Raises:
        RecipeError: the mergefile is wrong; all of its problems at once.
        UsageError: an override names what is not there.
    """
    began = Moment.now()
    recipe = load_recipe(Path(path), overrides=overrides, variables=variables)
    return Project(recipe, lambda targets: Stamp(Path(path), overrides, variables, targets), began)


class _Session:
    """Sources, store and planner of one verb."""

    def __init__(self, recipe: Recipe, store: DiskStore, emit: Emit, device: str) -> None:
        self._recipe = recipe
        self._device = device
        self.store = store
        keeps_names = partial(declared_for, user=recipe.layouts)
        self.sources = Sources(recipe.sources, store.ledger, folder=recipe.root, emit=emit, keeps_names=keeps_names)
        self.planner = self.plan_anew()
        self.freshness = Freshness(recipe, self.sources, store.shelf, store.ledger)

    def plan_anew(self) -> Planner:
        """Return a planner that knows of nothing planned before."""
        self.sources.look_again()
        self.planner = Planner(
            self._recipe,
            self.sources,
            self.store.shelf,
            self.store.ledger,
            device=self._device,
        )
        return self.planner


Words = ParamSpec("Words")
Answer = TypeVar("Answer")


def _resilient(
    verb: Callable[Concatenate[Project, Words], Answer],
) -> Callable[Concatenate[Project, Words], Answer]:
    """Have a verb begin again where the store's state can't be read.

    It may have been a read that failed once; what is damaged, or fails again, is begun afresh.
    """

    @wraps(verb)
    def run(self: Project, /, *args: Words.args, **words: Words.kwargs) -> Answer:
        try:
            for is_first in (True, False):
                try:
                    return verb(self, *args, **words)
                except DatabaseDamagedError:
                    emit = words.get("emit")
                    self._begin_afresh(emit if callable(emit) else silent, look_again=is_first)
            return verb(self, *args, **words)
        except DatabaseDamagedError as error:
            raise CorruptionError.one(
                "state-damaged",
                f"the store's state is damaged as soon as it is written: {error}",
                help="check the disk that the store is on",
            ) from error

    return run


class Project:
    """A mergefile that was read, and the verbs over it."""

    def __init__(
        self, recipe: Recipe, stamp_of: Callable[[Sequence[str]], Stamp] | None = None, began: Moment | None = None
    ) -> None:
        """`stamp_of` gives the stamp of targets; `began`: from before the recipe was read."""
        self.recipe = recipe
        self._stamp_of = stamp_of
        self._began = began or Moment.now()
        self._state_seen = 0
        """Which file the state was when it was opened last."""

    # What there is, from the text alone

    def source_names(self) -> list[str]:
        """Return the declared sources."""
        return list(self.recipe.sources)

    def target_names(self) -> list[str]:
        """Return the declared targets, families by their members."""
        return self.recipe.target_names()

    def default_targets(self) -> list[str]:
        """Return what a bare build builds."""
        return list(self.recipe.resolve(()))

    # Looking

    @_resilient
    def plan(
        self, targets: Sequence[str] = (), *, device: str = "auto", force: bool = False, locked: bool = False
    ) -> PlanResult:
        """Say what a build of these targets (none: the default ones) would do, and why.

        What a build would refuse (with `force`, `locked`, or without) is `blocked`, and `exit_code` is that of the
        first such target. Sources of targets never built are not read, unless they are held to a lock:
        `bytes_to_hash` says how much more would have to be. Whether there is such a device is not looked at.

        Raises:
            RecipeError: with `locked`, there is no lock.
        """
        began = time.perf_counter()
        lock = lockfile.read(self._lock_path()) if locked else None
        with self._session(silent, device=device) as session:
            plan = self._planned(session, self.recipe.resolve(targets), hash_all=locked, look_closely=locked)
            plan = self._gate(session, force=force, lock=lock).ask(plan, session.planner)
            refusals = plan.refusals.values()
            return PlanResult(
                time.perf_counter() - began,
                plan.results(),
                plan.space_needed,
                free_space(self.recipe.root),
                plan.bytes_to_hash,
                next((error.exit_code for error in refusals), 0),
                memory_bounds(plan.largest_whole, device=_device_class(device) != "cpu"),
                bounded(_problems(refusals)),
            )

    @_resilient
    def status(self, targets: Sequence[str] = ()) -> StatusResult:
        """Say of each target (none: every one with an output) how it stands, and which outputs nothing makes now."""
        names = self.recipe.resolve(targets) if targets else tuple(self.recipe.outputs().values())
        with self._session(silent) as session:
            plan = self._planned(session, names)
            blocked = {each.target: each for each in plan.blocked}
            states = [
                TargetState(name, OutputState.UP_TO_DATE, self.recipe.target(name).output)
                if name in plan.fresh
                else _blocked_state(self.recipe.root, blocked[name])
                if name in blocked
                else self._state(plan.by_name[name])
                for name in names
            ]
            orphans = self._sweeper(session, self._outputs(self._known(session))).orphans()
            return StatusResult(tuple(states), tuple(self._shown(row.path) for row in orphans))

    @_resilient
    def why(self, target: str, *, tensor: str | None = None, emit: Emit = silent) -> WhyResult:
        """Say what differs from a target's last build; of one that a build would refuse, why.

        With the name of a `tensor`, also what it follows from and what it was built from. All sources are read then.

        Raises:
            UsageError: neither the target nor its last build has such a tensor.
        """
        name = self._one(target)
        with self._session(emit) as session:
            plan = self._planned(session, (name,), hash_all=tensor is not None, look_closely=tensor is not None)
            plan = self._gate(session).ask(plan, session.planner)
            if plan.blocked:
                return WhyResult(name, Verdict.BLOCKED, (), plan.blocked[0].reasons, plan.errors[0].problems)
            if name in plan.fresh:
                return WhyResult(name, Verdict.UP_TO_DATE, (), ())
            action = plan.by_name[name]
            changes = action.judgement.changes
            description = action.judgement.description
            told = None
            if tensor is not None:
                from mergebuild.project.tensor_why import tensor_why

                told = tensor_why(description, plan.origins, session.store.ledger, tensor)
            if action.refused is not None:
                blocked = action.result()
                return WhyResult(name, blocked.verdict, changes, blocked.reasons, action.refused.error.problems, told)
            reasons = () if action.verdict is Verdict.UP_TO_DATE else action.reasons
            return WhyResult(name, action.verdict, changes if reasons else (), reasons, (), told)

    @_resilient
    def lineage(self, target: str) -> Lineage:
        """Return the exact proportions of sources in a target."""
        name = self._one(target)
        with self._session(silent) as session:
            session.planner.open_sources(name)  # all that are not there are named at once
            return lineages.lineage(session.planner.folding, self.recipe, name)

    # Building

    @_resilient
    def build(  # noqa: PLR0913 -- they are the command's options, one for one
        self,
        targets: Sequence[str] = (),
        *,
        keep_going: bool = False,
        threads: int | None = None,
        device: str = "auto",
        force: bool = False,
        locked: bool = False,
        durable: bool = False,
        out: Path | str | None = None,
        dtype: str | None = None,
        lock_timeout: float | None = None,
        emit: Emit = silent,
    ) -> BuildResult:
        """Make targets (none: the default ones) up to date.

        A target that fails does not raise: its result says so, and `exit_code` is the first one's. `out` writes one
        target there, in `dtype`, and changes nothing else.

        Raises:
            MergeBuildError: what is known before any work, unless `keep_going`, with the `result`; no space; an
                interrupt.
        """
        from mergebuild.build.builder import Builder, BuildOptions  # what only looks has no use for the engine
        from mergebuild.engine.run import check_device, may_need_torch, warm_up

        began = time.perf_counter()
        if _device_class(device) != "cpu":
            check_device(device)
        names = self.recipe.resolve(targets)
        options = BuildOptions(keep_going, threads, force, self.recipe.project.link, durable, device=device)

        lock = lockfile.read(self._lock_path()) if locked else None

        def checked_plan(session: _Session, *, hash_all: bool) -> Plan:
            """Plan, and ask what is refused before any work: then there is none, unless the rest is wanted."""
            if out is not None:
                plan = session.planner.plan([self._out_goal(names, out, dtype)], hash_all=hash_all or locked)
            else:
                plan = self._planned(session, names, hash_all=hash_all or locked, look_closely=hash_all or locked)
            plan = self._gate(session, force=force, lock=lock).ask(plan, session.planner)
            if plan.refusals and not keep_going:
                raise _RefusedError(plan, time.perf_counter() - began, session.sources.bytes_read)
            return plan

        def watched(event: Event) -> None:
            """Have torch loaded while a large source is hashed, if it may be needed: most often work follows."""
            is_large = isinstance(event, Hashing) and event.size > _LARGE
            if is_large and may_need_torch(self._methods_below(names), device):
                warm_up()
            emit(event)

        try:
            with (
                self._session(watched, durable=durable, device=device, lock_timeout=lock_timeout) as session,
                ExitStack() as stack,
            ):
                plan = None
                if not session.store.is_on_disk:  # a first build: what is wrong shows before anything is written
                    plan = checked_plan(session, hash_all=False)
                    session.store.create()
                places = self._outputs(names) | ({Path.cwd() / out: ""} if out is not None else {})
                stack.enter_context(self._changing(session, places, lock_timeout, emit))
                if plan is None or not session.store.shelf.is_empty():  # another process may have been quicker
                    session.plan_anew()
                    plan = checked_plan(session, hash_all=False)
                told = _tell(plan, emit)
                builder = stack.enter_context(
                    Builder(session.sources, session.store, options, emit, session.freshness.fingerprint)
                )
                if builder.look(plan):
                    builder.finish(session.plan_anew().plan(builder.looked_at, hash_all=True))
                    session.plan_anew()
                    plan = checked_plan(session, hash_all=True)
                    _tell(plan, emit, besides=told)
                results, exit_code = builder.run(plan)
                if out is None and all(each.verdict is Verdict.UP_TO_DATE for each in results):
                    with suppress(OSError):  # it is only a memory
                        self._write_stamp(session, plan, targets, names, results)
                return BuildResult(
                    ok=exit_code == 0,
                    seconds=time.perf_counter() - began,
                    bytes_read=session.sources.bytes_read + builder.source_bytes_read,
                    bytes_written=sum(result.bytes_written for result in results),
                    targets=tuple(
                        each._replace(verdict=Verdict.FAILED) if each.verdict is Verdict.BLOCKED else each
                        for each in results
                    ),
                    exit_code=exit_code,
                    problems=tuple(
                        dict.fromkeys(
                            (*_problems(plan.refusals.values()), *(each.error for each in results if each.error))
                        )
                    ),
                )
        except _RefusedError as refused:
            return refused.answer()

    def _write_stamp(
        self,
        session: _Session,
        plan: Plan,
        targets: Sequence[str],
        names: Sequence[str],
        results: Sequence[TargetResult],
    ) -> None:
        """Keep what the answer "nothing to do" follows from, where that is stat data alone."""
        stamp = self._stamp_of(targets) if self._stamp_of else None
        outputs = [self.recipe.target(name).output_path for name in names]
        store = os.path.abspath(self._store_root())  # noqa: PTH100 -- as a stamp has it
        if stamp is None or stamp.store != store or None in outputs:
            return
        needed = {each.ref for name in names for each in self._inputs_below(name)} & self.recipe.sources.keys()
        sources = [session.sources.file(name) for name in sorted(needed)]
        if any(source.path != self._as_written(source.name) for source in sources):
            return  # found through MERGEBUILD_MODELS: a file may appear where the recipe says it is
        watched = [path for source in sources for path in source.model.watched]
        planned = [plan.by_name[name].judgement.description for name in names if name in plan.by_name]
        folders = {made.goal.path for made in planned if made.is_folder}
        files = [*watched, *(path for path in outputs if path and path not in folders)]
        files += [file.path for made in planned if made.is_folder for file in made.files if file.path]
        files += {path.parent for path in files if path not in watched}
        files += {Path(os.path.realpath(folder)).parent for folder in folders if folder}  # where stages lie
        stamp.write(
            self.recipe.files,
            files,
            results,
            since=self._began,
            holds=lambda: not session.sources.changed(sorted(needed)),
        )

    def _methods_below(self, names: Sequence[str]) -> Iterator[Method]:
        """Yield the methods of targets and of all that they need, their rules' too; a formula has none."""
        for each in dict.fromkeys(below for name in names for below in self.recipe.below(name)):
            target = self.recipe.target(each)
            yield from (row for row in (target.row, *(rule.target.row for rule in target.rules)) if row is not None)

    def _inputs_below(self, name: str) -> Iterator[Input]:
        for each in self.recipe.below(name):
            yield from self.recipe.target(each).reads

    def _as_written(self, name: str) -> Path:
        source = self.recipe.sources[name]
        return source.folder / source.path

    # Checking

    @_resilient
    def verify(self, targets: Sequence[str] = (), *, rebuild: bool = False, emit: Emit = silent) -> VerifyResult:
        """Hash artifacts and outputs again; with `rebuild`, build them again elsewhere and compare the bytes.

        Raises:
            TrustError: a rebuild would run code that the user does not trust.
        """
        from mergebuild.project.verify import Verifier

        with self._session(emit) as session:
            names = self.recipe.resolve(targets) if targets else None
            session.store.remove_scratch()
            verifier = Verifier(
                self.recipe,
                session.sources,
                session.store,
                lambda: self._locked(session, None, emit),
            )
            found = verifier.read_again(names)
            if found.problems:
                forget_stamps(session.store.root)
            if not rebuild or found.problems or not session.store.root.is_dir():
                return found
            with self._locked(session, None, emit, name=REBUILDS):
                return verifier.rebuild(found, names, emit)

    @_resilient
    def lock(self, *, check: bool = False, emit: Emit = silent) -> Path:
        """Write `mergefile.lock` beside the mergefile: every source, every target, built or not; return its path.

        With `check` nothing is written.

        Raises:
            SourceError: a source is missing, or is not what its pin says.
            MergeBuildError: a target cannot be made as it is written.
            ResultDiffersError: with `check`, it would be another file.
        """
        path = self._lock_path()
        with self._session(emit) as session:
            sources, errors = self._hashed(session, self.recipe.sources)
            plan = self._planned(session, self._reached(self.recipe.target_names()), hash_all=True, look_closely=True)
            if errors or plan.errors:
                raise _together([*errors, *plan.errors])
            locked = lockfile.Locked(
                {each.name: lockfile.LockedSource.of(each) for each in sources},
                {each.name: lockfile.LockedTarget.of(each.description) for each in plan.judged},
            )
            if check:
                lockfile.check(path, locked)
                return path
            with ExitStack() as stack:
                if session.store.root.is_dir():
                    with suppress(OSError):  # it can't be written to, and holds no lock
                        stack.enter_context(self._locked(session, None, emit, name=LOCK_FILES))
                        publishing.remove_left_over([path])  # of `lock`s that were killed: none else is writing
                lockfile.write(path, locked)
        return path

    # Room

    @_resilient
    def gc(
        self,
        *,
        max_size: int | None = None,
        older_than: float | None = None,
        dry_run: bool = False,
        lock_timeout: float | None = None,
    ) -> CleanResult:
        """Free what no target needs and the history exceeds. `max_size` in bytes, `older_than` in seconds."""
        with self._session(silent, lock_timeout=lock_timeout) as session:
            known = self._known(session)
            outputs = self._outputs(known)
            with self._changing(session, outputs, lock_timeout):
                needing = {name for name in known if not self._has_only_its_output(name)}
                return self._sweeper(session, outputs).collect(needing, max_size, older_than, dry_run=dry_run)

    @_resilient
    def clean(
        self,
        targets: Sequence[str] = (),
        *,
        orphans: bool = False,
        dry_run: bool = False,
        foreseen: CleanResult | None = None,
        lock_timeout: float | None = None,
    ) -> CleanResult:
        """Remove outputs and artifacts that we made: of these targets, of orphans, or of all that the mergefile names.

        What stays unless it is asked for: orphans, members of families that were built by name alone, the history.
        `foreseen`: what a dry run answered; what was made since then stays.
        """
        names = set(self.recipe.resolve(targets) if targets else ())
        if not targets and not orphans:
            names.update(self._reached(self.recipe.target_names()))
        with self._session(silent, lock_timeout=lock_timeout) as session:
            outputs = self._outputs(self._known(session))
            with self._changing(session, outputs, lock_timeout):
                return self._sweeper(session, outputs).clean(
                    names, former=bool(targets), orphans=orphans, dry_run=dry_run, foreseen=foreseen
                )

    def trust(self) -> Trusted:
        """Let this project write into the folders outside it that its mergefile names now, and run its own methods."""
        return trust.grant(self.recipe.root, self._written(), self.recipe.own_methods.values())

    # Inside

    @contextmanager
    def _session(
        self,
        emit: Emit,
        *,
        durable: bool = False,
        device: str = "auto",
        lock_timeout: float | None = None,
    ) -> Iterator[_Session]:
        root = self._store_root()
        if not os.environ.get("MERGEBUILD_STORE"):
            trust.require_store(self.recipe.root, root, self._written())
        self._state_seen = _inode(root / STATE)
        store = DiskStore(
            root,
            project=_relative(self.recipe.path, root),
            history_bytes=self.recipe.project.history_bytes,
            durable=durable,
            patience=lock_timeout,
        )
        try:
            yield _Session(self.recipe, store, emit, _device_class(device))
        finally:
            store.close()

    def _store_root(self) -> Path:
        given = os.environ.get("MERGEBUILD_STORE")
        if given:
            return Path(given).expanduser().absolute()
        return self._own_store()

    def _own_store(self) -> Path:
        """Return where the project has its store unless its user says otherwise."""
        return self.recipe.root / os.path.expanduser(self.recipe.project.store or ".mergebuild")  # noqa: PTH111 -- never raises

    @contextmanager
    def _changing(
        self, session: _Session, outputs: Mapping[Path, str], timeout: float | None, emit: Emit = silent
    ) -> Iterator[None]:
        """Hold the store's lock, with what killed processes left at these outputs removed; if there is a store.

        `outputs`: by path, the target that makes it; of what `-o` makes, none.
        """
        if not session.store.root.is_dir():
            yield
            return
        with self._locked(session, timeout, emit):
            root = self.recipe.root  # where is no trust nothing was written, and nothing is removed
            written = {path: path if registry.is_folder(path) else path.parent for path in outputs}
            allowed = {folder for folder in set(written.values()) if trust.may_write(root, folder / "any")}
            paths = [path for path, folder in written.items() if folder in allowed]
            folders = {path: not self._has_only_its_output(outputs[path]) for path in paths if registry.is_folder(path)}
            for place in session.store.begin(paths, folders):
                emit(
                    Notice(
                        f"a file that is not ours, left in the middle of a build that was killed, is kept as {place}"
                    )
                )
            yield

    def _locked(
        self, session: _Session, timeout: float | None, emit: Emit = silent, *, name: str = "lock"
    ) -> AbstractContextManager[None]:
        return locked(session.store.root, timeout=timeout, what=_command(), emit=emit, name=name)

    def _begin_afresh(self, emit: Emit, *, look_again: bool) -> None:
        """Put a damaged state aside, unless another process was quicker."""
        root = self._store_root()
        with locked(root, timeout=None, what=_command(), emit=emit):
            path = root / STATE
            if _inode(path) != self._state_seen:
                return
            done = begin_afresh(path, look_again=look_again)
            if done is not None:
                forget_stamps(root)  # or no build would find out anew whose the outputs are
                aside, rows = done
                emit(
                    Notice(
                        f"{self._shown(path)} is damaged: it is kept as {aside.name}, and begun afresh"
                        f" with {rows} rows that could be read"
                    )
                )

    def _gate(self, session: _Session, *, force: bool = False, lock: lockfile.Locked | None = None) -> Gate:
        holds = self._holds(session, lock) if lock else ()
        return Gate(self.recipe, session.store.shelf, written=self._written, force=force, holds=holds)

    def _planned(
        self, session: _Session, names: Sequence[str], *, hash_all: bool = False, look_closely: bool = False
    ) -> Plan:
        """Plan targets, but for those that are seen at once to be up to date."""
        fresh = {} if look_closely else session.freshness.fresh([name for name in names if self._is_sound(name)])
        plan = session.planner.plan([name for name in names if name not in fresh], hash_all=hash_all)
        results = {
            name: TargetResult(
                name,
                Verdict.UP_TO_DATE,
                self._shown(row.path),
                tagged(record.artifact),
                tensors_reused=record.tensors,
                notices=record.notices,
            )
            for name, (record, row) in fresh.items()
        }
        return replace(plan, asked=tuple(names), fresh=results)

    def _is_sound(self, name: str) -> bool:
        """Whether a target can be made of the text; of members only their first is read with the mergefile."""
        try:
            self.recipe.target(name)
        except MergeBuildError:
            return False
        return True

    def _one(self, target: str) -> str:
        names = self.recipe.resolve((target,))
        if len(names) != 1:
            raise UsageError.one(
                "one-target", f"`{target}` is {len(names)} targets", help=f"name one, such as `{names[0]}`"
            )
        return names[0]

    def _out_goal(self, names: Sequence[str], out: Path | str, dtype: str | None) -> Goal:
        """Return the goal of `-o`."""
        path = Path.cwd() / out
        if len(names) != 1:
            raise UsageError.one("one-target", f"`-o` writes one target, and {len(names)} were named")
        is_folder = str(out).endswith(("/", os.sep))
        if is_folder != registry.is_folder(path):
            suffixes = registry.shown_suffixes(", ")
            raise UsageError.one("bad-output", f"`{out}` does not end in {suffixes} or `/`")
        if reserved := self.recipe.reserved(path):
            raise UsageError.one("bad-output", f"`{out}` {reserved}", help="name another path")
        for taken, owner in self.recipe.outputs().items():
            if path == taken:
                message = f"`{out}` is the output of `{owner}`"
                raise UsageError.one("output-taken", message, help="build that, or name another")
            if (registry.is_folder(taken) and taken in path.parents) or (is_folder and path in taken.parents):
                inner, outer = (f"`{out}`", f"`{owner}`") if taken in path.parents else (f"`{owner}`", f"`{out}`")
                message = f"{inner} would lie in the folder of {outer}"
                raise UsageError.one("output-taken", message, help="name a path of its own")
        for name, source in self.recipe.sources.items():
            there, here = (source.folder / source.path).resolve(), path.resolve()
            if there == here or there in here.parents or (is_folder and here in there.parents):
                what = "is" if there == here else "lies in the folder of" if there in here.parents else "holds"
                raise UsageError.one(
                    "output-is-source", f"`{out}` {what} the source `{name}`", help="name another path"
                )
        target = self.recipe.target(names[0])
        return Goal(target.name, path, dtype or target.dtype or self.recipe.default_dtype, is_extra=True)

    def _written(self) -> Iterator[Path]:
        """Yield every path that the recipe would write to."""
        for path in self.recipe.outputs():
            yield path / "any" if registry.is_folder(path) else path
        yield self._own_store() / "any"

    def _outputs(self, names: Iterable[str]) -> dict[Path, str]:
        """Return the outputs that are listed, and those of these targets and of the members that they name, by path."""
        found = dict(self.recipe.outputs())
        for name in self._reached(names):
            with suppress(MergeBuildError):  # a member that is wrong; if it is listed, its output is there already
                if path := self.recipe.target(name).output_path:
                    found[path] = name
        return found

    def _reached(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return these targets and all that they read, members among them that no list names.

        To name all members of a large family has them all made, which takes seconds.
        """
        found: dict[str, None] = {}
        waiting = list(names)[::-1]
        while waiting:
            name = waiting.pop()
            if name not in found and name not in self.recipe.sources:
                found[name] = None
                with suppress(MergeBuildError):  # whoever plans it says what is wrong with it
                    waiting += [each.ref for each in self.recipe.target(name).reads]
        return tuple(found)

    def _known(self, session: _Session) -> set[str]:
        """Return the targets that the mergefile names, and the members of its families that were built by name.

        Families are open: who refines one has targets that no list names, and these are no orphans.
        """
        found = set(self._reached(self.recipe.target_names()))
        for record in session.store.ledger.records():
            if "@" in record.target and record.target not in found:
                with suppress(MergeBuildError):
                    found.update(self._reached([self.recipe.target(record.target).name]))
        return found

    def _has_only_its_output(self, name: str) -> bool:
        """Whether a target is to have nothing in the store; not of what `-o` writes, nor of what can't be made."""
        return bool(name) and self._is_sound(name) and self.recipe.target(name).has_only_its_output

    def _sweeper(self, session: _Session, outputs: Mapping[Path, str]) -> Sweeper:
        found: list[Path] = []
        missing: dict[str, str] = {}
        for name, source in self.recipe.sources.items():
            found.append(source.folder / source.path)  # where it would be, whatever else is found
            try:
                found.append(locate(source, self.recipe.root))
            except SourceError:
                missing[name] = source.path
        root = self.recipe.root
        is_ours = bool(os.environ.get("MERGEBUILD_STORE"))  # a store that no project brought along
        return Sweeper(
            session.store,
            outputs,
            SourcePlaces(found, missing),
            root,
            lambda path: is_ours or trust.may_write(root, path),
        )

    def _lock_path(self) -> Path:
        return self.recipe.root / "mergefile.lock"

    def _hashed(self, session: _Session, names: Iterable[str]) -> tuple[list[SourceFile], list[SourceError]]:
        """Return sources with their SHA-256, and what is wrong with the others."""
        found: list[SourceFile] = []
        errors: list[SourceError] = []
        for name in names:
            try:
                found.append(session.sources.hashed(name, with_sha256=True))
            except SourceError as error:
                errors.append(error)
        return found, errors

    def _holds(self, session: _Session, lock: lockfile.Locked) -> tuple[Hold, Hold]:
        """Return what a locked build asks of a target: that its sources are the lock's, and that it is, too."""

        @cache
        def source_problems(name: str) -> tuple[Problem, ...]:
            try:
                source = session.sources.hashed(name, with_sha256=True)
            except SourceError as error:
                return error.problems
            problem = lockfile.other_source(lock, source, self.recipe.sources[name].where.place())
            return (problem,) if problem else ()

        def sources(made: Description) -> MergeBuildError | None:
            """Refuse what is made of sources that are not the lock's, each with all of its files."""
            names = sorted(session.planner.sources_of(made.name))
            problems = [problem for name in names for problem in source_problems(name)]
            return SourceError(problems) if problems else None

        listed = cache(lambda: frozenset(self._reached(self.recipe.target_names())))

        def results(made: Description) -> MergeBuildError | None:
            """Refuse what is not as the lock says; what goes elsewhere by `-o` is held to what it is else."""
            try:
                declared = session.planner.as_declared(made.name) if made.goal.is_extra else made
            except MergeBuildError as error:
                return error
            problem = lockfile.other_result(lock, declared, lambda name: "@" not in name or name in listed())
            return ResultDiffersError((problem,)) if problem else None

        return sources, results

    def _state(self, action: Action) -> TargetState:
        name, presence = action.judgement.name, action.judgement.presence
        if presence is Presence.FOREIGN:
            state = OutputState.CHANGED_BY_HAND
        elif action.verdict is Verdict.UP_TO_DATE:
            state = OutputState.UP_TO_DATE
        elif presence is Presence.ABSENT:
            state = OutputState.MISSING
        else:
            state = OutputState.STALE
        return TargetState(name, state, self.recipe.target(name).output)

    def _shown(self, path: Path) -> str:
        try:
            return path.relative_to(self.recipe.root).as_posix()
        except ValueError:
            return path.as_posix()


def _device_class(device: str) -> str:
    """Return the class of devices that makes what is not the same on all: `auto` leaves that to the processor."""
    return "cpu" if device in ("auto", "cpu") else "cuda"


def _command() -> str:
    return shlex.join(["mergebuild", *sys.argv[1:]])


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


class _RefusedError(Exception):
    """Something of a plan is refused, and so nothing is done."""

    def __init__(self, plan: Plan, seconds: float, bytes_read: int) -> None:
        super().__init__(plan)
        self._errors = list(plan.refusals.values())
        self._result = BuildResult(
            ok=False,
            seconds=seconds,
            bytes_read=bytes_read,
            bytes_written=0,
            targets=tuple(_not_built(plan)),
            exit_code=self._errors[0].exit_code,
            problems=_problems(self._errors),
        )

    def answer(self) -> BuildResult:
        """Return what the build comes to.

        Raises:
            MergeBuildError: something else is wrong than a target of its own; with the result.
        """
        if all(isinstance(error, TargetError) for error in self._errors):
            return self._result
        error = _together(self._errors)
        error.result = self._result
        raise error


def _tell(plan: Plan, emit: Emit, *, besides: Collection[tuple[str, str]] = ()) -> set[tuple[str, str]]:
    """Emit the notices of what is about to be made, one that many targets share once; return which they are.

    `besides`: pairs of a target and a sentence that were told before.
    """
    found: dict[str, list[str]] = {}
    for each in plan.results():
        if each.verdict in (Verdict.BUILD, Verdict.RESTORE):
            for text in dict.fromkeys(each.notices):
                if (each.target, text) not in besides:
                    found.setdefault(text, []).append(each.target)
    for text, names in found.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        emit(Notice(f"`{names[0]}`{more}: {text}"))
    return {(name, text) for text, names in found.items() for name in names}


def _not_built(plan: Plan) -> Iterator[TargetResult]:
    """Yield what a build says of each target of a plan when it is refused: what it is not done for, fails."""
    above = {judgement.name for judgement, each in plan.refused.items() if each.target != judgement.name}
    for each in plan.results():
        if each.verdict is Verdict.BLOCKED and each.target not in above:
            yield each._replace(verdict=Verdict.FAILED)
        elif each.verdict is Verdict.UP_TO_DATE:
            yield each
        else:
            total = each.tensors_computed + each.tensors_reused
            yield TargetResult(
                each.target, Verdict.SKIPPED, each.output, each.artifact, tensors_reused=total, reasons=each.reasons
            )


def _problems(errors: Iterable[MergeBuildError]) -> tuple[Problem, ...]:
    """Return the problems of all errors, each once."""
    return tuple(dict.fromkeys(problem for error in errors for problem in error.problems))


def _together(errors: Sequence[MergeBuildError]) -> MergeBuildError:
    """Return one error with the problems of all, and the first one's exit code."""
    return type(errors[0])(_problems(errors))


def _blocked_state(root: Path, blocked: TargetResult) -> TargetState:
    """Return the state of a target that can't be planned, by whether there is anything at its output's path."""
    there = blocked.output is not None and os.path.lexists(root / blocked.output)
    reason = blocked.error.message if blocked.error else ""
    return TargetState(blocked.target, OutputState.STALE if there else OutputState.MISSING, blocked.output, reason)


def _relative(path: Path, base: Path) -> str:
    try:
        return os.path.relpath(path, base)
    except ValueError:  # another drive
        return str(path)
