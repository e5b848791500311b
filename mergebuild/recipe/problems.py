"""Collects all mistakes, so that one run reports all of them, in the order of the text."""

from __future__ import annotations

from typing import NoReturn

from mergebuild.errors import MOST_PROBLEMS, MergeBuildError, Place, Problem, RecipeError, UsageError, clipped
from mergebuild.recipe.places import At

__all__ = ["Problems"]

_Rows = tuple[str, ...]
"""Facts shown between the place of a problem and its help, one per line."""


class Problems:
    """The problems found so far."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}
        self._files: dict[str, int] = {}
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._found)

    def __len__(self) -> int:
        """Return how often a problem was added: if this grows while something is read, that had a mistake."""
        return self._count

    def expect(self, file: str) -> None:
        """Sort the problems of this file after those of the files expected before."""
        self._files.setdefault(file, len(self._files))

    def add(
        self, code: str, message: str, where: At | Place | None, *, help: str, key: bool = False, rows: _Rows = ()
    ) -> None:
        """Add a problem, with help; the same problem is kept once.

        Raises:
            RecipeError, UsageError: there are so many that reading on is not worth while.
        """
        place = where.place(key=key) if isinstance(where, At) else where
        if place is not None:
            self.expect(place.file)
        self._count += 1
        self._found[Problem(code, clipped(message), place, clipped(help), rows)] = None
        if self._count == MOST_PROBLEMS:
            self._stop()

    def _stop(self) -> None:
        """Raise all problems, and say that there are more."""
        more = f"these are the first {MOST_PROBLEMS} mistakes, and there are more"
        self._found[Problem("too-many-mistakes", more, None, "mend some of them, and look again")] = None
        self.fail()

    def fail(self) -> NoReturn:
        """Raise all problems: a UsageError if all of them are about the command line, else a RecipeError."""
        found = sorted(self._found, key=self._order)
        from_command_line = all(one.where is None or one.where.file.startswith("--") for one in found)
        kind: type[MergeBuildError] = UsageError if from_command_line else RecipeError
        raise kind(found)

    def _order(self, problem: Problem) -> tuple[int, int, int]:
        where = problem.where
        return (self._files[where.file], where.line, where.column) if where is not None else (-1, 0, 0)
