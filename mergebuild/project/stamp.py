"""See that there is nothing to do from stat data alone, before a mergefile is even parsed.

After a build that left every target asked for up to date, a stamp keeps what this followed from: the text of the
recipe's files, the words of the command, and the stat data of all sources and outputs, of the folders that these lie in
(where a killed build may have left something), and the epochs of their disks. If all of it holds again, the answer is
the same. A stamp is only a memory: without it, or when anything in it differs, the long way is taken.

What is looked at when the stamp is written must be what the answer followed from, some time before. So none is kept
when a file may have changed since the command began, by its times; when it was dated in that time by a clock that was
set meanwhile; or when a source is not the one that was opened, which needs no clock to tell.

What the build itself put at its place did change, and is stamped all the same while it is as it was recorded then: it
has a time of its own (`filestate.date`), so whatever befell it since shows, in the same tick too. The folders that it
went into get such a time here, and are then looked through. Where times are too coarse for that, the next build that
finds nothing to do keeps a stamp.
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
"""Stamps kept in a store."""
_STATE = "state.sqlite3"
"""As `store` has it, which takes a while to import."""


class KnownAnswer(NamedTuple):
    """That there is nothing to do, and what this follows from; plain lists, as JSON gives them."""

    files: Sequence[Sequence[Any]]
    """Of each file and folder its path, and what `stat` says of it."""
    epochs: Sequence[Sequence[Any]]
    """Of each device its number, and its epoch."""
    targets: Sequence[Sequence[Any]]
    """Of each target its name, output, artifact, number of tensors, and notices."""

    @classmethod
    def of(
        cls,
        files: Iterable[Path],
        folders: Iterable[Path],
        targets: Sequence[TargetResult],
        *,
        since: Moment,
        placed: Mapping[Path, Identity],
        holds: Callable[[], bool],
    ) -> Self | None:
        """Return the answer of a build whose targets are all up to date now; None if that is not sure to be so still.

        Args:
            files: every source and output that the answer follows from.
            folders: those that outputs lie in.
            targets: the answer.
            since: from before any of the files was read.
            placed: the outputs that this build put at their places, as each was recorded then.
            holds: asked once all were looked at: whether the sources are those that the answer follows from, and
                nothing is left in the folders by a build that was killed.
        """
        own_times = {str(path): state for path, state in placed.items()}
        if placed:  # the folders changed too
            own_times |= _dated(map(str, folders), since)
        states = {path: _state_of(path) for path in (*map(str, files), *map(str, folders))}
        until = Moment.now()

        def is_sure(path: str, state: Identity) -> bool:
            """Whether a file is what the answer follows from, and every later change of it shows."""
            return not is_racy(state, since, until) or (own_times.get(path) == state and has_fine_times(state))

        if not all(is_sure(path, Identity(*state)) for path, state in states.items()) or not holds():
            return None
        return cls(
            [[path, *state] for path, state in states.items()],
            [[device, epoch(device)] for device in {state[0] for state in states.values()}],
            [[each.target, each.output, each.artifact, each.tensors_reused, each.notices] for each in targets],
        )

    def holds(self) -> bool:
        """Whether all of what it follows from is as it was.

        Raises:
            OSError: something of it is not there.
        """
        return all(_state_of(path) == state for path, *state in self.files) and all(
            epoch(device) == known for device, known in self.epochs
        )

    def result(self, began: float) -> BuildResult:
        """Return it as the result of a build that began then."""
        targets = tuple(
            TargetResult(name, Verdict.UP_TO_DATE, output, artifact, tensors_reused=tensors, notices=tuple(notices))
            for name, output, artifact, tensors, notices in self.targets
        )
        return BuildResult(ok=True, seconds=time.perf_counter() - began, bytes_read=0, bytes_written=0, targets=targets)


class Stamp:
    """The stamp of one build command: a mergefile, what `--set` and `--vars` say, and the targets asked for.

    Paths are strings here: a build with nothing to do has no other use for `pathlib`, which takes a while to import.
    """

    def __init__(
        self,
        mergefile: Path | str,
        overrides: Sequence[str],
        variables: Mapping[str, object] | None,
        targets: Sequence[str],
    ) -> None:
        where = os.path.join(os.getcwd(), mergefile)
        given = os.environ.get("MERGEBUILD_STORE")
        store = os.path.expanduser(given) if given else os.path.join(os.path.dirname(where), ".mergebuild")
        self.store = os.path.abspath(store)
        """The store that a stamp is looked for in; what `[project] store` names is only known from the text."""
        key = xxhash.xxh3_128()
        facts = (f"{__version__} {REVISION}", where, repr(sorted((variables or {}).items())))
        for word in (*facts, str(len(overrides)), *overrides, *targets):
            key.update(f"{len(word)}:{word}".encode())
        self._path = os.path.join(self.store, "stamps", key.hexdigest())

    def answer(self) -> BuildResult | None:
        """Return the result of a build that has nothing to do; None when that is not certain."""
        with span("stamp"):
            return self._answer()

    def _answer(self) -> BuildResult | None:
        began = time.perf_counter()
        try:
            kept = json.loads(_read(self._path))
            os.stat(os.path.join(self.store, _STATE))  # without records whose outputs these are, a build finds out anew
            if any(_text_of(path) != text for path, text in kept["texts"]):
                return None
            answer = KnownAnswer(kept["files"], kept["epochs"], kept["targets"])
            return answer.result(began) if answer.holds() else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return None

    def write(self, texts: Iterable[Path], answer: KnownAnswer, *, read: Moment) -> None:
        """Keep an answer, if the recipe's files are what it follows from; else whatever was kept is forgotten.

        `read`: from before these were read.
        """
        words = {path: _text_of(path) for path in map(str, texts)}
        states = [Identity(*_state_of(path)) for path in words]
        until = Moment.now()
        if any(is_racy(state, read, until) for state in states):
            self.forget()
            return
        from pathlib import Path

        from mergebuild.system.publishing import write_text

        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        kept = {"texts": list(words.items()), **answer._asdict()}
        write_text(Path(self._path), json.dumps(kept, separators=(",", ":")))
        _forget_old(os.path.dirname(self._path))

    def forget(self) -> None:
        """Have the answer found out anew."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _dated(folders: Iterable[str], since: Moment) -> dict[str, Identity]:
    """Give the folders that may have changed since then times of their own, and return the states that these have."""
    found = {}
    for folder in folders:
        if is_racy(Identity(*_state_of(folder)), since, Moment.now()):
            date(folder)
            found[folder] = Identity(*_state_of(folder))
    return found


def forget_stamps(store: Path) -> None:
    """Have every answer found out anew: something that no stat data show was found in this store."""
    for path in (store / "stamps").glob("?" * 32):  # as stamps are called, and nothing else that may be there
        path.unlink(missing_ok=True)


def _forget_old(folder: str) -> None:
    """Remove the oldest of too many stamps: words are used once and never again."""
    paths = [
        entry.path for entry in os.scandir(folder) if len(entry.name) == 32
    ]  # what is called otherwise is not ours
    if len(paths) > _MOST:
        for path in sorted(paths, key=os.path.getmtime)[:-_MOST]:
            os.unlink(path)


def _text_of(path: str) -> str:
    return xxhash.xxh3_128_hexdigest(_read(path))


def _read(path: str) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise OSError("it is no file")
    with open(path, "rb") as file:
        return file.read()


def _state_of(path: str) -> list[int]:
    found = os.stat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
