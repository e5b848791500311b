"""What the verbs of a project work with: its sources, its store, and a planner over both.

Each verb opens them for itself and closes them; or one `Session` serves verb after verb (`with project:`), as long as
it is what one that is opened now would be. That is asked before each verb, of all at once: whether the files of every
source, and the state of the store, are those that it was opened by. If not, it is closed, and another opened. So a
verb in a session answers and does what it would by itself, whatever others did to files and store meanwhile.

The state of a store may be damaged: a verb that meets that begins again, and what is damaged twice is begun afresh.
Verbs that only look leave no trace on disk, and take no lock. No lock outlives a verb.
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
"""Remembered at a time: words are used once and never again."""


class Opening(NamedTuple):
    """What a session was opened by: with another one it would be another."""

    root: Path
    """Where the store is."""
    durable: bool


class Session:
    """Sources and store of one recipe, for one verb after another; `begin` says which verb it is.

    What was found out of sources and forms is kept from verb to verb. What is at the places of outputs, and what a lock
    or a person's trust says, is asked anew by each.
    """

    planner: Planner

    def __init__(self, recipe: Recipe, opening: Opening, *, timeout: float | None) -> None:
        self.recipe = recipe
        self.claims = Claims(recipe)
        self.store = DiskStore(
            opening.root,
            project=_relative(recipe.path, opening.root),
            history_bytes=recipe.project.history_bytes,
            durable=opening.durable,
            patience=timeout,
        )
        self._opening = opening
        ledger, keeps_names = self.store.ledger, partial(declared_for, user=recipe.layouts)
        self.sources = Sources(recipe.sources, ledger, folder=recipe.root, keeps_names=keeps_names)
        self.freshness = Freshness(recipe, self.sources, self.store.shelf, ledger)
        self._folding = Folding(recipe, self.sources)
        self._answers: dict[tuple[str, ...], tuple[KnownAnswer, tuple[int, int]]] = {}
        """By the targets asked for: that there is nothing to do, and the version of the store that this is of."""
        self.is_sound = True
        """Whether nothing was wrong so far with what it was asked for: else no other verb is to go on with it."""

    def begin(self, emit: Emit, *, device: str = "auto", timeout: float | None = None) -> None:
        """Begin a verb. `emit` is told what happens; a lock is waited for `timeout` seconds."""
        self.emit = emit
        self.device = device_class(device)
        """The class of devices that makes what is not the same on all of them."""
        self._timeout = timeout
        self.store.look_again(patience=timeout)
        self.sources.begin(emit)
        self.plan_anew()

    def holds(self, opening: Opening) -> bool:
        """Whether one that is opened now would find what this one found."""
        return self._opening == opening and self.store.is_current() and self.sources.are_unchanged()

    def remember(self, targets: tuple[str, ...], answer: KnownAnswer) -> None:
        """Remember that there is nothing to do for targets, until anything changes."""
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.clear()
        self._answers[targets] = answer, self.store.version()

    def nothing_to_do(self, targets: tuple[str, ...]) -> KnownAnswer | None:
        """Return that there is nothing to do for targets, if that is remembered, and nothing changed since.

        Sources are what they were in a session that holds. Whatever anybody wrote into the store makes it look again:
        also that a file was found to be damaged, which no stat data show.
        """
        answer, version = self._answers.get(targets, (None, None))
        try:
            return answer if answer is not None and version == self.store.version() and answer.holds() else None
        except OSError:  # something is not there
            return None

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def plan_anew(self) -> Planner:
        """Return a planner that knows of nothing planned before."""
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
        """Plan targets, but for those that are seen at once to be up to date."""
        fresh = {} if look_closely else self.fresh(names)
        plan = self.planner.plan([name for name in names if name not in fresh], hash_all=hash_all)
        self.is_sound = self.is_sound and not plan.errors
        return replace(plan, asked=tuple(names), fresh={name: result for name, (result, _) in fresh.items()})

    def fresh(self, names: Sequence[str]) -> dict[str, tuple[TargetResult, ArtifactRow]]:
        """Return those of some targets that are seen at once to be up to date: what is said of each, and its output."""
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
        """Return a plan without what a build would refuse. `holds`: what else targets are held to."""
        gate = Gate(self.recipe, self.store.shelf, written=self.claims.written, force=force, holds=holds)
        return gate.ask(plan, self.planner)

    @contextmanager
    def changing(self, outputs: Mapping[Path, str]) -> Iterator[None]:
        """Hold the store's lock, with what killed processes left at these outputs removed; if there is a store.

        `outputs`: by path, the target that makes it; of what `-o` makes, none.
        """
        if not self.store.root.is_dir():
            yield
            return
        with self.locked():
            root = self.recipe.root  # where is no trust nothing was written, and nothing is removed
            written = {path: path if registry.is_folder(path) else path.parent for path in outputs}
            allowed = {folder for folder in set(written.values()) if trust.may_write(root, folder / "any")}
            paths = [path for path, folder in written.items() if folder in allowed]
            folders = {
                path: not self.claims.has_only_its_output(outputs[path]) for path in paths if registry.is_folder(path)
            }
            for place in self.store.begin(paths, folders):
                what = "a file that is not ours, left in the middle of a build that was killed"
                self.emit(Notice(f"{what}, is kept as {place}"))
            yield

    def locked(self, name: str = "lock") -> AbstractContextManager[None]:
        """Hold a lock of the store."""
        return locked(self.store.root, timeout=self._timeout, what=_command(), emit=self.emit, name=name)


class Sessions:
    """Opens sessions over one recipe, one for each verb; between `keep` and `let_go` one for many, while it holds.

    The one that is kept belongs to the thread that asked for it. A verb takes it, and gives it back when all went well:
    so a verb that is called meanwhile, from a callback, has one of its own, and what a failure left is never used.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._claims = Claims(recipe)
        self._kept: Session | None = None
        self._keeper: tuple[int, int] | None = None
        """The process and the thread that one is kept for."""
        self._times = 0
        """How often that thread asked to keep one."""
        self._state_seen = 0
        """Which file the state was when it was opened last."""

    def keep(self) -> None:
        """Keep a session open from now on, for verbs of this thread."""
        if self._times == 0:
            self._keeper = _thread()
        self._times += 1

    def let_go(self) -> None:
        """Undo one `keep`, if there was one; with the first of them undone, the session is closed."""
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
            TrustError: the project names a store outside it, and the user did not say that it may.
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
        """Return the session that is kept, if it is as one that is opened now would be; it is kept no more."""
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
        """Return what a verb answers in a session, having it begin again where the store's state can't be read.

        It may have been a read that failed once; what is damaged, or fails again, is begun afresh.
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
        """Put a damaged state aside, unless another process was quicker."""
        root = self._claims.store
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
                        f"{self._claims.shown(path)} is damaged: it is kept as {aside.name}, and begun afresh"
                        f" with {rows} rows that could be read"
                    )
                )


def device_class(device: str) -> str:
    """Return the class of devices that makes what is not the same on all: `auto` leaves that to the processor."""
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
