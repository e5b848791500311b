"""See that there is nothing to do from stat data alone, before a mergefile is even parsed.

After a build that left every target asked for up to date, a stamp keeps what this followed from: the text of the
recipe's files, the words of the command, and the stat data of all sources and outputs. If all of it holds again, the
answer is the same. A stamp is only a memory: without it, or when anything in it differs, the long way is taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import xxhash

from mergebuild import __version__
from mergebuild.filestate import Identity, boot_id, is_racy
from mergebuild.results import BuildResult, TargetResult, Verdict

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Stamp", "forget_stamps"]


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
        facts = (__version__, boot_id(), where, repr(sorted((variables or {}).items())))
        for word in (*facts, str(len(overrides)), *overrides, *targets):
            key.update(f"{len(word)}:{word}".encode())
        self._path = os.path.join(self.store, "stamps", key.hexdigest())

    def answer(self) -> BuildResult | None:
        """Return the result of a build that has nothing to do; None when that is not certain."""
        began = time.perf_counter()
        try:
            kept = json.loads(_read(self._path))
            if any(_text_of(path) != text for path, text in kept["texts"]):
                return None
            for path, *state in kept["files"]:
                if _state_of(path) != state:
                    return None
            targets = tuple(
                TargetResult(name, Verdict.UP_TO_DATE, output, artifact, tensors_reused=tensors)
                for name, output, artifact, tensors in kept["targets"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return BuildResult(ok=True, seconds=time.perf_counter() - began, bytes_read=0, bytes_written=0, targets=targets)

    def write(self, texts: Iterable[Path], files: Iterable[Path], targets: Sequence[TargetResult]) -> None:
        """Keep the stamp of a build whose targets are all up to date now.

        `texts`: the recipe's files. `files`: every source and output that the answer follows from. Nothing is kept
        while one of them changed so recently that a further change might not show.
        """
        now = time.time_ns()
        states: list[list[str | int]] = []
        for path in map(str, dict.fromkeys(files)):
            state = _state_of(path)
            if is_racy(Identity(*state), now):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
                return
            states.append([path, *state])
        kept = {
            "texts": [[str(path), _text_of(str(path))] for path in texts],
            "files": states,
            "targets": [[each.target, each.output, each.artifact, each.tensors_reused] for each in targets],
        }
        folder, name = os.path.split(self._path)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{name}.{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(kept, file, separators=(",", ":"))
        os.replace(temporary, self._path)


def forget_stamps(store: Path) -> None:
    """Have every answer found out anew: something that no stat data show was found in this store."""
    for path in (store / "stamps").glob("*"):
        path.unlink(missing_ok=True)


def _text_of(path: str) -> str:
    return xxhash.xxh3_128_hexdigest(_read(path))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _state_of(path: str) -> list[int]:
    found = os.stat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
