"""Everything that can go wrong, as values with a place and a way out.

A *problem* is one thing to mend: a code, one lower-case sentence, where it was found, and help. An *error* carries
one or more problems and the exit code of the contract (`docs/mergefile.md`, "Exit codes"), so a recipe can report
all its problems in one run. Nothing here prints; `report` renders.
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
"""What is told at once; a file that a script got wrong may have millions of mistakes."""
_LONGEST_TEXT = 2000
"""Signs of a message, and of its help: names stand in them, and may be of any length."""

UNSHOWN = "its text is not shown, as it is no `.toml` file in the project's folder"
"""What is said instead of what is quoted from such a file."""
_QUOTED = (
    (re.compile(r"`.*`", re.DOTALL), "`…`"),  # from the first to the last: a text may have some of its own
    (re.compile(r"\[.*\]|\{.*\}|\".*\"|'.*'", re.DOTALL), "…"),
    (re.compile(r"[0-9](?:[\w.,/:+-]*\w)?"), "…"),
)
"""What may be of the text of a file in a message, and what stands for it."""

_LONGEST_WORD = 200
"""Signs of a word that may be a misspelt one, or that one that is meant."""
_MOST_WORDS = 2000
"""Words that a misspelt one is compared with."""


class Place(NamedTuple):
    """A place in a file of the recipe. Lines and columns count from 1; 0 means not known."""

    file: str
    line: int = 0
    column: int = 0
    length: int = 0
    text: str = ""
    """The line itself, without its line break; empty when there is nothing to point at."""
    note: str = ""
    """What the place is, such as `[targets.orange]`; shown behind the position."""
    is_closed: bool = False
    """Whether nothing of the text of its file is told: who runs this may have no right to it, or its author none."""

    def __str__(self) -> str:
        position = f":{self.line}" if self.line else ""
        return f"{self.file}{position}:{self.column}" if self.line and self.column else f"{self.file}{position}"


class Problem(NamedTuple):
    """One thing that is wrong. `rows` are facts shown between the place and the help, one a line."""

    code: str
    message: str
    where: Place | None = None
    help: str = ""
    rows: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the contract's error object: `code`, `message`, `where`, `help` (and `rows` when there are any)."""
        found: dict[str, object] = {
            "code": self.code,
            "message": self.message,
            "where": str(self.where) if self.where else None,
            "help": self.help or None,
        }
        return found | ({"rows": list(self.rows)} if self.rows else {})


def bounded(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems that are told at once: the first 500, and how many more there are."""
    found = tuple(problems)
    more = len(found) - MOST_PROBLEMS
    if more <= 1:  # one takes no more room than to say that there is one, and may be the one that says so
        return found
    message = f"these are the first {MOST_PROBLEMS} mistakes, and there are {more} more"
    return (
        *found[:MOST_PROBLEMS],
        Problem("too-many-mistakes", message, help="mend some of them, and look again"),
    )


def clipped(text: str) -> str:
    """Return a text that is too long to be told without its middle."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 200]}…{text[-199:]}"


def _short(problem: Problem) -> Problem:
    """Return a problem in texts that are not too long to be told."""
    where = problem.where
    if where is not None and len(where.file) > _LONGEST_TEXT:  # `--set ...`
        where = where._replace(file=clipped(where.file))
    message, mend, rows = clipped(problem.message), clipped(problem.help), tuple(map(clipped, problem.rows))
    return Problem(problem.code, message, where, mend, rows)


def _without_text(problem: Problem) -> Problem:
    """Return a problem without what it quotes, where the file that it is in may be anything that the user may read."""
    if problem.where is None or not problem.where.is_closed:
        return problem
    message = problem.message
    for quoted, instead in _QUOTED:
        message = quoted.sub(instead, message)
    return Problem(problem.code, message, problem.where, UNSHOWN)


class MergeBuildError(Exception):
    """The base of all errors that a user can meet; `exit_code` is the process's.

    Its problems are of a length to be read, whatever names they quote.
    """

    exit_code: ClassVar[int] = 1
    result: BuildResult | None = None
    """Of a build that is refused before any work: what it comes to, target by target."""

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
    """A target failed: values that are not finite, an output changed by hand."""

    exit_code = 1


class UsageError(MergeBuildError):
    """The command line is wrong: an unknown target, a flag without sense, no such device."""

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
    """Bytes that we wrote are not what we wrote."""

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
    """The recipe asks for what needs the user's word first: `mergebuild trust`."""

    exit_code = 10


class InternalError(MergeBuildError):
    """A bug of ours."""

    exit_code = 70


class LockTimeoutError(MergeBuildError):
    """Another process holds the store, and `--lock-timeout` passed."""

    exit_code = 75


class Interrupted(MergeBuildError):  # noqa: N818 -- it is no error of anyone's
    """The user pressed Ctrl-C, or the process was asked to end."""

    exit_code = 130


def did_you_mean(found: str, allowed: Iterable[str], *, otherwise: str = "") -> str:
    """Return `did you mean ...?` for the nearest allowed word, joined with `otherwise`; or just `otherwise`."""
    import difflib  # no word needs a suggestion where nothing is wrong

    # To compare two texts takes as long as their product. What strangers name, they may name at length, and often.
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
