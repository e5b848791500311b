"""What tests of many rounds share: the types of their fixtures, and a tally of what went wrong.

A test of three hundred rounds that stops at the first bad one tells little. So rounds go on, what went wrong in each is
counted by its message, and the test fails at the end with all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Report", "Rounds", "Trouble"]

Rounds = Callable[[int, int], int]
"""Chooses between the number of rounds of the fault suite and that of the normal one."""
Report = Callable[..., None]
"""Reports figures by name."""

_SHOWN = 12


class Trouble:
    """Counts what went wrong over many cases."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    @contextmanager
    def noted(self, case: str) -> Iterator[None]:
        """Note what is raised inside, but for an interrupt."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- any is one too many
            text = str(error)
            what = f"{type(error).__name__}: {text if 'Traceback' in text else text.partition(chr(10))[0]}"
            self._found[what] += 1
            self._first.setdefault(what, case)

    def check(self) -> None:
        """Fail if there was any."""
        worst = self._found.most_common(_SHOWN)
        told = [f"{number} x {what}\n    (first: {self._first[what]})" for what, number in worst]
        assert not told, "\n".join([f"{self._found.total()} cases went wrong:", *told])
