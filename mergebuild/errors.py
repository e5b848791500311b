"""Everything that can go wrong, as values: each says where it is and how to fix it.

A *problem* is one thing to fix: a code, one lower-case sentence, its place, and help. An *error* carries one or more
problems and the exit code of the contract (`docs/mergefile.md`, "Exit codes"), so that one run can report all mistakes
of a recipe. Nothing here prints; `report` renders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

if TYPE_CHECKING:
    from mergebuild.results.build import BuildResult

__all__ = [
    "MOST_PROBLEMS",
    "UNSHOWN",
    "CorruptionError",
    "ExportError",
    "InternalError",
    "Interrupted",
    "LockTimeoutError",
    "MergeBuildError",
    "MismatchError",
    "NoSpaceError",
    "Place",
    "Problem",
    "RecipeError",
    "ResultDiffersError",
    "SourceError",
    "StatusError",
    "TargetError",
    "TrustError",
    "UsageError",
    "bounded",
    "clipped",
    "did_you_mean",
    "problems_of",
    "together",
]

MOST_PROBLEMS = 500
"""The most problems shown at once: a generated file may have millions of mistakes."""
_LONGEST_TEXT = 2000
"""Characters of a message, and of its help: they quote names, which may be of any length."""

UNSHOWN = "its text is not shown, as it is no `.toml` file in the project's folder"
"""The help of a problem in such a file, in place of one that would quote the file."""
_QUOTED = (
    (r"(?s)`.*`", "`…`"),  # greedy: the quoted text may contain backquotes
    (r"(?s)\[.*\]|\{.*\}|\".*\"|'.*'", "…"),
    (r"[0-9](?:[\w.,/:+-]*\w)?", "…"),
)
"""Patterns of what a message may quote from a file, and what is shown in its place."""

_LONGEST_WORD = 200
"""Characters of a misspelt word, and of a word that it is compared with."""
_MOST_WORDS = 2000
"""Words that a misspelt one is compared with, at most."""


class Place(NamedTuple):
    """A place in a file of the recipe. Lines and columns count from 1; 0 means not known."""

    file: str
    line: int = 0
    column: int = 0
    length: int = 0
    text: str = ""
    """The line itself, without its line break; empty if there is no line to show."""
    note: str = ""
    """What the place is, such as `[targets.orange]`; shown after the position."""
    is_closed: bool = False
    """Whether the text of its file must not be shown: the file may hold anything that the user's account can read."""

    def __str__(self) -> str:
        position = f":{self.line}" if self.line else ""
        return f"{self.file}{position}:{self.column}" if self.line and self.column else f"{self.file}{position}"


class Problem(NamedTuple):
    """One thing that is wrong. `rows` are facts shown between the place and the help, one per line."""

    code: str
    message: str
    where: Place | None = None
    help: str = ""
    rows: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the contract's error object: `code`, `message`, `where`, `help`, and `rows` if it has any."""
        found: dict[str, object] = {
            "code": self.code,
            "message": self.message,
            "where": str(self.where) if self.where else None,
            "help": self.help or None,
        }
        return found | ({"rows": list(self.rows)} if self.rows else {})


def bounded(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems to show at once: the first 500, and one that says how many more were found."""
    found = tuple(problems)
    more = len(found) - MOST_PROBLEMS
    if more <= 1:  # the one problem left out takes no more room than a line about it, and may itself be that line
        return found
    message = f"these are the first {MOST_PROBLEMS} mistakes, and there are {more} more"
    return (
        *found[:MOST_PROBLEMS],
        Problem("too-many-mistakes", message, help="mend some of them, and look again"),
    )


def clipped(text: str) -> str:
    """Return a text, cut in its middle if it is too long to show."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 200]}…{text[-199:]}"


def _short(problem: Problem) -> Problem:
    """Return a problem with its texts cut to a length that can be shown."""
    where = problem.where
    if where is not None and len(where.file) > _LONGEST_TEXT:  # `--set ...`
        where = where._replace(file=clipped(where.file))
    message, mend, rows = clipped(problem.message), clipped(problem.help), tuple(map(clipped, problem.rows))
    return Problem(problem.code, message, where, mend, rows)


def _without_text(problem: Problem) -> Problem:
    """Return a problem with its quotations removed if its place is closed, else as it is."""
    if problem.where is None or not problem.where.is_closed:
        return problem
    message = problem.message
    for quoted, instead in _QUOTED:
        message = re.sub(quoted, instead, message)
    return Problem(problem.code, message, problem.where, UNSHOWN)


class MergeBuildError(Exception):
    """The base of all errors that a user can meet; `exit_code` is the process's.

    The texts of its problems are cut to a readable length, whatever names they quote.
    """

    exit_code: ClassVar[int] = 1
    result: BuildResult | None = None
    """If a build is refused before any work: its result, target by target."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(map(_short, problems))
        super().__init__(self.problems)

    @classmethod
    def one(
        cls, code: str, message: str, *, where: Place | None = None, help: str = "", rows: Iterable[str] = ()
    ) -> Self:
        """Return an error of this class with a single problem."""
        return cls((Problem(code, message, where, help, tuple(rows)),))

    def __str__(self) -> str:
        return "; ".join(problem.message for problem in self.problems)


class TargetError(MergeBuildError):
    """A target failed, for example: its values are not finite, or its output was changed by hand."""

    exit_code = 1


class UsageError(MergeBuildError):
    """The command line is wrong: an unknown target, a flag that makes no sense here, a missing device."""

    exit_code = 2


class RecipeError(MergeBuildError):
    """The mergefile is wrong, alone or against the headers of its inputs."""

    exit_code = 3

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__(map(_without_text, problems))


class SourceError(MergeBuildError):
    """A source is missing, unreadable, unsafe, or not what its pin or the lock says."""

    exit_code = 4


class CorruptionError(MergeBuildError):
    """A file that we wrote no longer has the bytes that we wrote."""

    exit_code = 5


class ResultDiffersError(MergeBuildError):
    """A rebuild, or a locked build, gave another result."""

    exit_code = 6


class NoSpaceError(MergeBuildError):
    """The disk is full, or would be."""

    exit_code = 7


class StatusError(MergeBuildError):
    """`status --exit-code` found a target that is not up to date."""

    exit_code = 8


class MismatchError(MergeBuildError):
    """The inputs of a target do not fit together."""

    exit_code = 9


class TrustError(MergeBuildError):
    """The recipe asks for something that the user must allow first, with `mergebuild trust`."""

    exit_code = 10


class ExportError(MergeBuildError):
    """A target says more than the format of a recipe can."""

    exit_code = 11


class InternalError(MergeBuildError):
    """A bug of ours."""

    exit_code = 70


class LockTimeoutError(MergeBuildError):
    """Another process has held the store's lock for longer than `--lock-timeout`."""

    exit_code = 75


class Interrupted(MergeBuildError):  # noqa: N818 -- an interrupt is not an error
    """The user pressed Ctrl-C, or the process was asked to end."""

    exit_code = 130


def did_you_mean(found: str, allowed: Iterable[str], *, otherwise: str = "") -> str:
    """Return `did you mean ...?` for the nearest allowed word, joined with `otherwise`; or `otherwise` alone."""
    import difflib  # imported here, as it is needed only when something is wrong

    # Comparing takes time in proportion to the product of the lengths, and names from untrusted files may be long.
    near = (each for each in allowed if len(each) <= _LONGEST_WORD)
    close = difflib.get_close_matches(found, islice(near, _MOST_WORDS), n=1) if len(found) <= _LONGEST_WORD else []
    hint = f"did you mean `{close[0]}`?" if close else ""
    return "  ".join(part for part in (hint, otherwise) if part)


def problems_of(errors: Iterable[MergeBuildError]) -> tuple[Problem, ...]:
    """Return the problems of all errors, each once."""
    return tuple(dict.fromkeys(problem for error in errors for problem in error.problems))


def together(errors: Sequence[MergeBuildError]) -> MergeBuildError:
    """Return one error with the problems of all, and the first one's exit code."""
    return type(errors[0])(problems_of(errors))
