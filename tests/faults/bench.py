"""What a test of the fault suite works with: the program, the project undisturbed, dice and a report."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import forty_targets
from forked_runs import Ended, Program
from forty_targets import FIRST, Reference, make_project

__all__ = ["Bench", "Trouble"]

_SHOWN, _LINES = 12, 40
_RAISED = re.compile(r"[\w.]+(Error|Interrupt|Exception)\b")
"""The last line of a traceback."""


@dataclass(frozen=True)
class Bench:
    """One test's place, and what it draws on."""

    name: str
    space: Path
    """A folder of its own."""
    program: Program
    sources: Path
    first: Reference
    """The project as it is, built undisturbed."""
    other: Reference
    """The project with the other `m`, built undisturbed."""
    chance: random.Random
    """Dice; their seed is shown when the test fails."""
    is_long: bool

    def rounds(self, long: int, short: int) -> int:
        """Choose between the number of rounds of the fault suite and that of the normal one."""
        return long if self.is_long else short

    def project(self, root: Path, *, m: str = FIRST, link: str = "auto", sources: Path | None = None) -> Path:
        """Write the mergefile of a project; return its folder."""
        return make_project(root, sources or self.sources, m=m, link=link)

    def link(self) -> str:
        """Draw how the store keeps second names or copies of outputs."""
        return self.chance.choice(("auto", "copy", "hard"))

    def check_promise(self, root: Path, wanted: Reference, *former: Reference, **options: object) -> Ended:
        """See `forty_targets.check_promise`."""
        return forty_targets.check_promise(self.program, root, wanted, *former, **options)  # type: ignore[arg-type]

    def report(self, **figures: object) -> None:
        """Print figures, and add them to the report where one is asked for."""
        line = json.dumps({"test": self.name, **figures})
        print(line)
        if place := os.environ.get("MERGEBUILD_FAULTS_REPORT"):
            with Path(place).open("a") as file:
                file.write(line + "\n")


class Trouble:
    """Counts what went wrong over many cases.

    A test of three hundred rounds that stops at the first bad one tells little: the rounds go on, and the test fails at
    the end with all of it.
    """

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    @contextmanager
    def noted(self, case: str) -> Iterator[None]:
        """Note what is raised inside, but for an interrupt."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- any is one too many
            lines = str(error).splitlines() or [""]
            raised = [line for line in lines if _RAISED.match(line)] if "Traceback" in str(error) else []
            what = f"{type(error).__name__}: {(raised or lines)[0]}"
            self._found[what] += 1
            self._first.setdefault(what, "\n    ".join([case, *lines[-_LINES:]]))

    def check(self) -> None:
        """Fail if there was any."""
        worst = self._found.most_common(_SHOWN)
        told = [f"{number} x {what}\n    first: {self._first[what]}" for what, number in worst]
        assert not told, "\n".join([f"{self._found.total()} cases went wrong:", *told])
