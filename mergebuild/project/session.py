"""What the verbs of a project work with: its sources, its store, and a planner over both.

Each verb opens them for itself and closes them; or one `Session` is used for several verbs (`with project:`), as long
as opening a new one would give the same. This is checked before each verb, for everything: whether the files of all
sources, and the store's database, are those that were opened. If not, the session is closed and another one opened. So
a verb in a session returns and does the same as alone, whatever other processes did to files and store meanwhile.

The store's database may be damaged: a verb that finds this is begun again, and if it finds it twice, a new database is
made. Verbs that only read write nothing to disk and take no lock. No lock is held longer than a verb.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from mergebuild.digest import tagged
from mergebuild.errors import CorruptionError
from mergebuild.events import Emit, Notice
from mergebuild.fold.folder import Folding
from mergebuild.formats import registry
from mergebuild.layouts import declared_for
from mergebuild.plan.freshness import Freshness
from mergebuild.plan.plan import Plan
from mergebuild.plan.planner import Planner
from mergebuild.project import trust
from mergebuild.project.claims import Claims
from mergebuild.project.gate import Gate, Hold
from mergebuild.project.stamp import KnownAnswer, forget_stamps
from mergebuild.recipe import Recipe
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.sources.sources import Sources
from mergebuild.store import STATE, ArtifactRow, DatabaseDamagedError, DiskStore, Record, begin_afresh, locked

__all__ = ["Session", "Sessions", "device_class"]

Answer = TypeVar("Answer")

_MOST_ANSWERS = 200
"""The most answers to remember: most combinations of targets are asked for only once."""


class Opening(NamedTuple):
    """What a session depends on: with other values another session is needed."""

    root: Path
    """The store's folder."""
    durable: bool


class Session:
    """Sources and store of one recipe, for one verb after another; `begin` begins a verb.

    What was found out about sources and forms is kept from verb to verb. What is at outputs, and what a lock or the
    user's trust says, is read again by each.
    """

    planner: Planner

    def __init__(self, recipe: Recipe, opening: Opening, *, timeout: float | None) -> None:
        self.recipe = recipe
        self.claims = Claims(recipe)
        self.store = _store_of(recipe, opening, timeout)
        self._opening = opening
        ledger, keeps_names = self.store.ledger, partial(declared_for, user=recipe.layouts)
        self.sources = Sources(recipe.sources, ledger, folder=recipe.root, keeps_names=keeps_names)
        self.freshness = Freshness(recipe, self.sources, self.store.shelf, ledger)
        self._folding = Folding(recipe, self.sources)
        self._answers: dict[tuple[str, ...], tuple[KnownAnswer, tuple[int, int]]] = {}
        """By the targets asked for: the answer that there is nothing to do, and the version of the store for which it
        holds."""
        self.is_sound = True
        """Whether all went well so far; if not, no other verb uses this session."""

    def begin(self, emit: Emit, *, device: str = "auto", timeout: float | None = None) -> None:
        """Begin a verb. `emit` is told what happens; a lock is waited for at most `timeout` seconds."""
        self.emit = emit
        self.device = device_class(device)
        """The class of devices, for results that differ between classes."""
        self._timeout = timeout
        self.store.look_again(patience=timeout)
        self.sources.begin(emit)
        self.plan_anew()

    def holds(self, opening: Opening) -> bool:
        """Whether a session opened now would find the same as this one."""
        return self._opening == opening and self.store.is_current() and self.sources.are_unchanged()

    def remember(self, targets: tuple[str, ...], answer: KnownAnswer) -> None:
        """Remember that there is nothing to do for targets, until something changes."""
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.clear()
        self._answers[targets] = answer, self.store.version()

    def nothing_to_do(self, targets: tuple[str, ...]) -> KnownAnswer | None:
        """Return the answer that there is nothing to do for targets, if it is remembered and nothing has changed since.

        In a session that `holds`, sources are unchanged. Any write to the store makes the answer invalid: it may be
        that a file was found to be damaged, which stat data don't show.
        """
        answer, version = self._answers.get(targets, (None, None))
        try:
            return answer if answer is not None and version == self.store.version() and answer.holds() else None
        except OSError:  # a file is missing
            return None

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def plan_anew(self) -> Planner:
        """Return a planner that has planned nothing yet."""
        self.sources.look_again()
        self.planner = Planner(
            self.recipe,
            self.sources,
            self.store.shelf,
            self.store.ledger,
            device=self.device,
            folding=self._folding,
        )
        return self.planner

    def plan(self, names: Sequence[str], *, hash_all: bool = False, look_closely: bool = False) -> Plan:
        """Plan targets; those that are known at once to be up to date are left out (unless `look_closely`)."""
        fresh = {} if look_closely else self.fresh(names)
        plan = self.planner.plan([name for name in names if name not in fresh], hash_all=hash_all)
        self.is_sound = self.is_sound and not plan.errors
        return replace(plan, asked=tuple(names), fresh={name: result for name, (result, _) in fresh.items()})

    def fresh(self, names: Sequence[str]) -> dict[str, tuple[TargetResult, ArtifactRow]]:
        """Return which targets are known at once to be up to date, with their results and their outputs' rows."""
        return {
            name: (self._up_to_date(record, row), row)
            for name, (record, row) in self.freshness.fresh(list(filter(self.claims.is_sound, names))).items()
        }

    def _up_to_date(self, record: Record, row: ArtifactRow) -> TargetResult:
        return TargetResult(
            record.target,
            Verdict.UP_TO_DATE,
            self.claims.shown(row.path),
            tagged(record.artifact),
            tensors_reused=record.tensors,
            notices=record.notices,
        )

    def gated(self, plan: Plan, *, force: bool = False, holds: Iterable[Hold] = ()) -> Plan:
        """Return a plan without what a build would refuse. `holds`: further conditions for targets."""
        gate = Gate(self.recipe, self.store.shelf, written=self.claims.written, force=force, holds=holds)
        return gate.ask(plan, self.planner)

    @contextmanager
    def changing(self, outputs: Mapping[Path, str]) -> Iterator[None]:
        """Hold the store's lock, and remove what killed processes left at these outputs; nothing if there is no store.

        `outputs`: by path, the target that makes it; empty for what `-o` makes.
        """
        if not self.store.root.is_dir():
            yield
            return
        with self.locked():
            for place in self.store.begin(*self._to_clear(outputs)):
                what = "a file that is not ours, left in the middle of a build that was killed"
                self.emit(Notice(f"{what}, is kept as {place}"))
            yield

    def _to_clear(self, outputs: Mapping[Path, str]) -> tuple[list[Path], dict[Path, bool]]:
        """Return the outputs to clear of what killed processes left; of folders, whether the store may have a copy.

        Nothing was written to folders that the project isn't trusted with, so nothing is removed there.
        """
        written = {path: path if registry.is_folder(path) else path.parent for path in outputs}
        allowed = {folder for folder in set(written.values()) if trust.may_write(self.recipe.root, folder / "any")}
        paths = [path for path, folder in written.items() if folder in allowed]
        folders = [path for path in paths if registry.is_folder(path)]
        return paths, {path: not self.claims.has_only_its_output(outputs[path]) for path in folders}

    def locked(self, name: str = "lock") -> AbstractContextManager[None]:
        """Hold a lock of the store."""
        return locked(self.store.root, timeout=self._timeout, what=_command(), emit=self.emit, name=name)


class Sessions:
    """Opens sessions over one recipe: one for each verb, or one for several between `keep` and `let_go`.

    A kept session belongs to the thread that called `keep`. A verb takes it, and gives it back if all went well. So a
    verb called meanwhile, from a callback, gets one of its own, and a session in which something failed is never used
    again.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._claims = Claims(recipe)
        self._kept: Session | None = None
        self._keeper: tuple[int, int] | None = None
        """The process and the thread that a session is kept for."""
        self._times = 0
        """How often that thread called `keep`."""
        self._state_seen = 0
        """The inode of the database file when it was opened last."""

    def keep(self) -> None:
        """Keep a session open from now on, for verbs of this thread."""
        if self._times == 0:
            self._keeper = _thread()
        self._times += 1

    def let_go(self) -> None:
        """Undo one `keep`, if there was one; when all are undone, the session is closed."""
        self._times = max(0, self._times - 1)
        if self._times == 0:
            kept, self._kept = self._kept, None
            if kept is not None and self._keeper == _thread():
                kept.close()
            self._keeper = None

    @contextmanager
    def open(
        self, emit: Emit, *, durable: bool = False, device: str = "auto", timeout: float | None = None
    ) -> Iterator[Session]:
        """Give a session for one verb.

        Raises:
            TrustError: the project names a store outside of its folder, and the user did not allow that.
        """
        root = self._claims.store
        if not os.environ.get("MERGEBUILD_STORE"):
            trust.require_store(self._recipe.root, root, self._claims.written())
        self._state_seen = _inode(root / STATE)
        opening = Opening(root, durable)
        session = self._taken(opening) or Session(self._recipe, opening, timeout=timeout)
        is_done = False
        try:
            session.begin(emit, device=device, timeout=timeout)
            yield session
            is_done = session.is_sound
        finally:
            if is_done and self._kept is None and self._keeper == _thread():
                self._kept = session
            else:
                session.close()

    def _taken(self, opening: Opening) -> Session | None:
        """Return the kept session, which is no longer kept then.

        None if a session opened now would find something else.
        """
        if self._kept is None or self._keeper != _thread():
            return None
        kept, self._kept = self._kept, None
        if kept.holds(opening):
            return kept
        kept.close()
        return None

    def run(
        self,
        verb: Callable[[Session], Answer],
        emit: Emit,
        *,
        durable: bool = False,
        device: str = "auto",
        timeout: float | None = None,
    ) -> Answer:
        """Return a verb's answer in a session; if the store's database can't be read, the verb is begun again.

        A read may have failed just once; if the database is damaged, or reading fails again, a new one is made.
        """

        def once() -> Answer:
            with self.open(emit, durable=durable, device=device, timeout=timeout) as session:
                return verb(session)

        try:
            for is_first in (True, False):
                try:
                    return once()
                except DatabaseDamagedError:
                    self._begin_afresh(emit, look_again=is_first)
            return once()
        except DatabaseDamagedError as error:
            raise CorruptionError.one(
                "state-damaged",
                f"the store's state is damaged as soon as it is written: {error}",
                help="check the disk that the store is on",
            ) from error

    def _begin_afresh(self, emit: Emit, *, look_again: bool) -> None:
        """Put a damaged database aside, unless another process has done so."""
        root = self._claims.store
        with locked(root, timeout=None, what=_command(), emit=emit):
            path = root / STATE
            if _inode(path) != self._state_seen:
                return
            done = begin_afresh(path, look_again=look_again)
            if done is not None:
                forget_stamps(root)  # so that the next build records the outputs again
                aside, rows = done
                what = f"is damaged: it is kept as {aside.name}, and begun afresh with {rows} rows that could be read"
                emit(Notice(f"{self._claims.shown(path)} {what}"))


def _store_of(recipe: Recipe, opening: Opening, timeout: float | None) -> DiskStore:
    """Return a recipe's store, whose database is waited for at most `timeout` seconds."""
    return DiskStore(
        opening.root,
        project=_relative(recipe.path, opening.root),
        history_bytes=recipe.project.history_bytes,
        durable=opening.durable,
        patience=timeout,
    )


def device_class(device: str) -> str:
    """Return the class of a device, for results that differ between classes; `auto` means that of the processor."""
    return "cpu" if device in ("auto", "cpu") else "cuda"


def _command() -> str:
    return shlex.join(["mergebuild", *sys.argv[1:]])


def _thread() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _relative(path: Path, base: Path) -> str:
    try:
        return os.path.relpath(path, base)
    except ValueError:  # another drive
        return str(path)
