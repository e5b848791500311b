"""Exceptions as problems with an exit code.

Ours carry both. click's are mistakes in the command line. A full disk is a full disk wherever it was met. What is
left is a bug of ours, and says so.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import click

from mergebuild.errors import (
    InternalError,
    Interrupted,
    MergeBuildError,
    NoSpaceError,
    Problem,
    TargetError,
    UsageError,
    did_you_mean,
)

__all__ = ["explained"]

_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def explained(error: BaseException) -> tuple[int, tuple[Problem, ...]]:
    """Return the exit code and the problems of whatever ended a command."""
    if isinstance(error, MergeBuildError):
        return error.exit_code, error.problems
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Interrupted.exit_code, (Problem("interrupted", "interrupted"),)
    if isinstance(error, click.ClickException):
        return UsageError.exit_code, (_usage_problem(error),)
    if _is_no_space(error):
        return NoSpaceError.exit_code, (_no_space_problem(error),)
    if isinstance(error, OSError) and error.errno is not None:
        return TargetError.exit_code, (_system_problem(error),)
    return InternalError.exit_code, (_bug_problem(error),)


def _usage_problem(error: click.ClickException) -> Problem:
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "mergebuild"
    otherwise = f"`{path} --help` shows all"
    if isinstance(error, click.NoSuchOption):
        message = f"`{path}` has no option `{error.option_name}`"
        return Problem("unknown-option", message, help=_nearest(error.option_name, error.possibilities, otherwise))
    first, *rest = error.format_message().splitlines() or ["wrong usage"]
    message = " ".join((first[:1].lower() + first[1:], *(line.strip() for line in rest))).removesuffix(".")
    return Problem("usage", message.replace("'", "`"), help=otherwise)


def _nearest(found: str, possibilities: Sequence[str] | None, otherwise: str) -> str:
    return did_you_mean(found, possibilities or (), otherwise=otherwise)


def _is_no_space(error: BaseException) -> bool:
    # sqlite3 need not be imported to be recognized
    return (isinstance(error, OSError) and error.errno in _NO_SPACE) or (
        getattr(error, "sqlite_errorname", None) in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")
    )


def _no_space_problem(error: BaseException) -> Problem:
    path = getattr(error, "filename", None)
    at = f" for `{path}`" if path else ""
    return Problem(
        "no-space", f"no space is left{at}: {_reason(error)}", help="`mergebuild gc` frees what is not needed"
    )


def _system_problem(error: OSError) -> Problem:
    at = f"`{error.filename}`: " if error.filename else ""
    return Problem("system", f"{at}{_reason(error)}")


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text[:1].lower() + text[1:]


def _bug_problem(error: BaseException) -> Problem:
    return Problem(
        "internal",
        f"{type(error).__name__}: {error}",
        help="this is a bug in mergebuild; please report it with the lines above and `mergebuild --version`",
    )
