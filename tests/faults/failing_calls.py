"""Calls of the C library that fail, for the program in processes of its own: see failing_calls.c.

A `Failure` is what happens to the n-th call of those that it may happen to. A *report* names calls: what happened to
which, or, where nothing is to happen, all that there are, so that every n can have its turn.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

__all__ = ["FAILURES", "Call", "Failure", "Group", "compiled", "count_only"]

_SOURCE = Path(__file__).with_suffix(".c")


class Group(IntFlag):
    """What a call does; failing_calls.c has them too."""

    LOOK = 1
    OPEN = 2
    CREATE = 4
    READ = 8
    MAP = 16
    WRITE = 32
    SIZE = 64
    NAME = 128
    REMOVE = 256
    SYNC = 512
    DATE = 1024
    LOCK = 2048
    CLOSE = 4096


_ALL = Group(8191)
_CHANGES = Group.CREATE | Group.WRITE | Group.SIZE | Group.NAME | Group.REMOVE | Group.DATE
_ROOM = Group.CREATE | Group.WRITE | Group.SIZE | Group.NAME | Group.SYNC
_PATHS = Group.LOOK | Group.OPEN | Group.CREATE | Group.NAME | Group.REMOVE | Group.DATE


@dataclass(frozen=True)
class Failure:
    """What happens to a call. `lasting`: to all that follow it, too.

    `step`: of so many places one has its turn, where one is much like the next.
    """

    name: str
    error: str
    """An error number, or `KILL` or `SHORT`."""
    groups: Group
    lasting: bool = False
    step: int = 1

    @property
    def is_kill(self) -> bool:
        """Whether the process ends there."""
        return self.error == "KILL"

    @property
    def is_want_of_space(self) -> bool:
        """Whether the program may call it that."""
        return self.error == str(errno.ENOSPC)

    def environment(self, folder: Path, report: Path, nth: int) -> Mapping[str, str]:
        """Return what has it happen to the n-th call (from 1) that concerns a folder; the report names that."""
        return {
            **count_only(folder, report),
            "FAILING_CALLS_NTH": str(nth),
            "FAILING_CALLS_ERROR": self.error,
            "FAILING_CALLS_GROUPS": str(int(self.groups)),
            "FAILING_CALLS_LASTING": str(int(self.lasting)),
        }


class Call(NamedTuple):
    """A call that a report names."""

    function: str
    group: Group
    path: str

    @classmethod
    def all(cls, report: Path) -> list[Call]:
        """Read a report."""
        found = (line.split(" ", 2) for line in report.read_text().splitlines())
        return [cls(function, Group(int(group)), path) for function, group, path in found]


def count_only(folder: Path, report: Path) -> Mapping[str, str]:
    """Return what has the report name all calls that concern a folder."""
    return {
        "FAILING_CALLS_FOLDER": str(folder),
        "FAILING_CALLS_REPORT": str(report),
        "FAILING_CALLS_GROUPS": str(int(_ALL)),
    }


FAILURES = (
    Failure("kill", "KILL", _CHANGES | Group.SYNC),
    Failure("EIO", str(errno.EIO), _ALL),
    Failure("EIO from then on", str(errno.EIO), _ALL & ~Group.LOCK, lasting=True, step=4),
    Failure("ENOSPC", str(errno.ENOSPC), _ROOM),
    Failure("ENOSPC from then on", str(errno.ENOSPC), _ROOM, lasting=True),
    Failure("EACCES", str(errno.EACCES), _PATHS),
    Failure("ESTALE", str(errno.ESTALE), Group.OPEN | Group.READ | Group.NAME | Group.REMOVE),
    Failure("short", "SHORT", Group.READ | Group.WRITE),
)


def compiled(folder: Path) -> Path:
    """Compile the library into a folder.

    Raises:
        AssertionError: there is no C compiler, or it fails: these tests need one.
    """
    compiler = shutil.which("cc")
    assert compiler, "these tests need a C compiler, `cc` (CONTRIBUTING.md)"
    library = folder / "failing_calls.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library
