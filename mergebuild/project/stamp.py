"""Finds out that there is nothing to do from stat data alone, before a mergefile is even parsed.

After a build that left all targets asked for up to date, a stamp records what this follows from: the text of the
recipe's files, the words of the command, the stat data of all sources and outputs and of the folders that they are in
(where a killed build may have left something), and the epochs of their disks. If all of this is the same again, so is
the answer. A stamp only saves time: without one, or if anything differs, the build goes the long way.

What is recorded when the stamp is written must be what the answer followed from, some time before. So no stamp is
written if a file may have changed since the command began, by its times; if it got its time from a clock that was set
meanwhile; or if a source is not the one that was opened, which needs no clock to find out.

The outputs that the build itself published have changed, of course. They are recorded all the same if their stat data
are those of when they were published: each has a time of its own (`filestate.date`), so any later change shows, even in
the same tick of the clock. Their folders get such times here, and are then searched for what killed builds left. If a
file system's times are too coarse for this, the next build with nothing to do writes the stamp.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import xxhash

from mergebuild import REVISION, __version__
from mergebuild.results.build import BuildResult, TargetResult, Verdict
from mergebuild.system.filestate import Identity, Moment, date, epoch, has_fine_times, is_racy
from mergebuild.system.spans import span

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KnownAnswer", "Stamp", "forget_stamps"]

_MOST = 200
"""The most stamps in a store."""
_STATE = "state.sqlite3"
"""As in `store`, which takes a while to import."""


class KnownAnswer(NamedTuple):
    """The answer that there is nothing to do, and what it follows from; plain lists, as in JSON."""

    files: Sequence[Sequence[Any]]
    """For each file and folder, its path and its stat data."""
    absent: Sequence[str]
    """The paths at which a file would be part of a source, such as the `adapter_config.json` of a LoRA."""
    epochs: Sequence[Sequence[Any]]
    """For each device, its number and its epoch."""
    targets: Sequence[Sequence[Any]]
    """For each target, its name, output, artifact, number of tensors, and notices."""

    @classmethod
    def of(
        cls,
        files: Iterable[Path],
        absent: Iterable[Path],
        folders: Iterable[Path],
        targets: Sequence[TargetResult],
        *,
        since: Moment,
        placed: Mapping[Path, Identity],
        holds: Callable[[], bool],
    ) -> Self | None:
        """Return the answer of a build whose targets are all up to date now.

        None if it is not certain that they still are.

        Args:
            files: Every source and output that the answer follows from.
            absent: Paths at which nothing was, and a file would be part of a source.
            folders: Those that outputs are in.
            targets: The answer.
            since: A moment before any of the files was read.
            placed: The outputs that this build published, with their stat data recorded then.
            holds: Called after the stat data were read: whether the sources are those that the answer follows from, and
                no killed build left anything in the folders.
        """
        own_times = {str(path): state for path, state in placed.items()}
        if placed:  # their folders have changed, too
            own_times |= _dated(map(str, folders), since)
        states = {path: _state_of(path) for path in (*map(str, files), *map(str, folders))}
        until = Moment.now()

        def is_sure(path: str, state: Identity) -> bool:
            """Whether a file is the one that the answer follows from, and every later change of it shows."""
            return not is_racy(state, since, until) or (own_times.get(path) == state and has_fine_times(state))

        if not all(is_sure(path, Identity(*state)) for path, state in states.items()) or not holds():
            return None
        return cls(
            [[path, *state] for path, state in states.items()],
            list(map(str, absent)),
            [[device, epoch(device)] for device in {state[0] for state in states.values()}],
            [[each.target, each.output, each.artifact, each.tensors_reused, each.notices] for each in targets],
        )

    def holds(self) -> bool:
        """Whether everything that it follows from is unchanged.

        Raises:
            OSError: a file or folder is missing.
        """
        return (
            all(_state_of(path) == state for path, *state in self.files)
            and not any(map(os.path.lexists, self.absent))
            and all(epoch(device) == known for device, known in self.epochs)
        )

    def result(self, began: float) -> BuildResult:
        """Return it as the result of a build that began at this time."""
        targets = tuple(
            TargetResult(name, Verdict.UP_TO_DATE, output, artifact, tensors_reused=tensors, notices=tuple(notices))
            for name, output, artifact, tensors, notices in self.targets
        )
        return BuildResult(ok=True, seconds=time.perf_counter() - began, bytes_read=0, bytes_written=0, targets=targets)


class Stamp:
    """The stamp of one build command: for a mergefile, the values of `--set` and `--vars`, and the targets asked for.

    Paths are strings here: a build with nothing to do needs no `pathlib`, which takes a while to import.
    """

    def __init__(
        self,
        mergefile: Path | str,
        overrides: Sequence[str],
        variables: Mapping[str, object] | None,
        targets: Sequence[str],
    ) -> None:
        where = os.path.join(os.getcwd(), mergefile)
        self.store = _usual_store(where)
        """The store in which a stamp is looked for; `[project] store` is only known from the mergefile's text."""
        key = xxhash.xxh3_128()
        home = os.path.expanduser("~")  # paths in the mergefile may begin with it
        facts = (f"{__version__} {REVISION}", home, where, repr(sorted((variables or {}).items())))
        for word in (*facts, str(len(overrides)), *overrides, *targets):
            key.update(f"{len(word)}:{word}".encode(errors="surrogateescape"))
        self._path = os.path.join(self.store, "stamps", key.hexdigest())

    def answer(self) -> BuildResult | None:
        """Return the result of a build with nothing to do; None if that is not certain."""
        with span("stamp"):
            return self._answer()

    def _answer(self) -> BuildResult | None:
        began = time.perf_counter()
        try:
            kept = json.loads(_read(self._path))
            os.stat(os.path.join(self.store, _STATE))  # without the database, a build must record the outputs again
            if any(_text_of(path) != text for path, text in kept["texts"]):
                return None
            answer = KnownAnswer(kept["files"], kept["absent"], kept["epochs"], kept["targets"])
            return answer.result(began) if answer.holds() else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return None

    def write(self, texts: Mapping[Path, str], answer: KnownAnswer, *, read: Moment) -> None:
        """Record an answer, if it follows from the present text of the recipe's files; else remove the stamp.

        Args:
            texts: The recipe's files, with the texts that the answer follows from.
            answer: The answer.
            read: A moment before these were read.
        """
        words = {path: _text_of(path) for path in map(str, texts)}
        states = [Identity(*_state_of(path)) for path in words]
        until = Moment.now()
        if not all(map(_is_as_read, texts, texts.values())) or any(is_racy(state, read, until) for state in states):
            self.forget()
        else:
            self._put({"texts": list(words.items()), **answer._asdict()})

    def _put(self, kept: Mapping[str, object]) -> None:
        """Write the stamp's file, and remove the oldest ones if there are too many."""
        from pathlib import Path

        from mergebuild.system.publishing import write_text

        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        write_text(Path(self._path), json.dumps(kept, separators=(",", ":")))
        _forget_old(os.path.dirname(self._path))

    def forget(self) -> None:
        """Remove the stamp."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _usual_store(mergefile: str) -> str:
    """Return the store of a mergefile that names none: that of the environment, else the one beside it."""
    given = os.environ.get("MERGEBUILD_STORE")
    store = os.path.expanduser(given) if given else os.path.join(os.path.dirname(mergefile), ".mergebuild")
    return os.path.abspath(store)


def _dated(folders: Iterable[str], since: Moment) -> dict[str, Identity]:
    """Give folders that may have changed since then times of their own; return the stat data of these."""
    found = {}
    for folder in folders:
        if is_racy(Identity(*_state_of(folder)), since, Moment.now()):
            date(folder)
            found[folder] = Identity(*_state_of(folder))
    return found


def forget_stamps(store: Path) -> None:
    """Remove all stamps of a store, because something was found there that stat data don't show."""
    for path in (store / "stamps").glob("?" * 32):  # only names that stamps have
        path.unlink(missing_ok=True)


def _forget_old(folder: str) -> None:
    """Remove the oldest stamps if there are too many: most commands are used only once."""
    paths = [entry.path for entry in os.scandir(folder) if len(entry.name) == 32]  # other names are not ours
    if len(paths) > _MOST:
        for path in sorted(paths, key=os.path.getmtime)[:-_MOST]:
            os.unlink(path)


def _text_of(path: str) -> str:
    return xxhash.xxh3_128_hexdigest(_read(path))


def _is_as_read(path: Path, text: str) -> bool:
    """Whether a file has this text: another one may have come to its path by way of a folder, with times long ago."""
    from mergebuild.system.bounded_text import read_text

    try:
        return read_text(path) == text
    except UnicodeDecodeError:
        return False


def _read(path: str) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait
        raise OSError("it is no file")
    with open(path, "rb") as file:
        return file.read()


def _state_of(path: str) -> list[int]:
    found = os.stat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
