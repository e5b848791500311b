"""Exceptions as problems (texts for the user), with an exit code.

Exceptions of mergebuild have both. Those of click are mistakes in the command line. A full disk, too little memory, and
everything else that the operating system or SQLite refuses are recognized wherever they were raised. Any other
exception is a bug in mergebuild, and the message says so.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence

import click

from mergebuild.errors import (
    InternalError,
    Interrupted,
    LockTimeoutError,
    MergeBuildError,
    NoSpaceError,
    Problem,
    TargetError,
    UsageError,
    did_you_mean,
)
from mergebuild.system.space import NO_SPACE

__all__ = ["explained"]

_ELSEWHERE = "check the permissions of the store's folder, or name another one in MERGEBUILD_STORE"

_NO_FILES = {errno.EMFILE, errno.ENFILE}
_NO_MEMORY = re.compile("DefaultCPUAllocator|can't allocate memory|SQLITE_NOMEM|SQLITE_IOERR_NOMEM")
"""Parts of torch's messages about allocations that failed, and SQLite's names for the same."""
_NO_THREADS = "can't start new thread"

_FEW_FILES = Problem(
    "too-many-files",
    "this process may not have so many files open",
    help="`ulimit -n 256` or more is enough for any build",
)
_LITTLE_MEMORY = Problem(
    "no-memory",
    "there is not enough memory, or this process may not have as much",
    help="`-j 1` needs the least; `ulimit -v` shows whether there is a limit",
)
_FEW_THREADS = Problem(
    "no-threads",
    "this process may not have so many threads",
    help="`ulimit -u` and `ulimit -v` show whether there is a limit",
)

_RECORDS = {
    "SQLITE_BUSY": (LockTimeoutError, "store-locked", "are in use by another process", "wait for it, then try again"),
    "SQLITE_LOCKED": (LockTimeoutError, "store-locked", "are in use by another process", "wait for it, then try again"),
    "SQLITE_PROTOCOL": (LockTimeoutError, "store-locked", "cannot be locked", "wait for others, then try again"),
    "SQLITE_READONLY": (TargetError, "store-read-only", "cannot be written", _ELSEWHERE),
    "SQLITE_PERM": (TargetError, "store-read-only", "cannot be written", _ELSEWHERE),
    "SQLITE_CANTOPEN": (TargetError, "store-unreadable", "cannot be opened", _ELSEWHERE),
    "SQLITE_IOERR": (TargetError, "store-unreadable", "cannot be read or written", "check the disk that they are on"),
}
"""Errors of the store's database, by the beginning of SQLite's name: class, code, and parts of message and help."""


def explained(error: BaseException) -> tuple[int, tuple[Problem, ...]]:
    """Return the exit code and the problems for an exception that ended a command."""
    if isinstance(error, MergeBuildError):
        return error.exit_code, error.problems
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Interrupted.exit_code, (Problem("interrupted", "interrupted"),)
    if isinstance(error, click.ClickException):
        return UsageError.exit_code, (_usage_problem(error),)
    if _is_no_space(error):
        return NoSpaceError.exit_code, (_no_space_problem(error),)
    if (found := _of_records(error)) is not None:
        return found
    if (refused := _shortage(error) or _refusal(error)) is not None:
        return TargetError.exit_code, (refused,)
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
    # SQLite's errors are recognized by an attribute, so that sqlite3 need not be imported
    return (isinstance(error, OSError) and error.errno in NO_SPACE) or (
        getattr(error, "sqlite_errorname", None) == "SQLITE_FULL"
    )


def _no_space_problem(error: BaseException) -> Problem:
    path = getattr(error, "filename", None)
    at = f" for `{path}`" if path else ""
    return Problem(
        "no-space", f"no space is left{at}: {_reason(error)}", help="`mergebuild gc` frees what is not needed"
    )


def _shortage(error: BaseException) -> Problem | None:
    """Return a problem if an exception says that files, memory or threads ran out, else None."""
    number = error.errno if isinstance(error, OSError) else None
    said = f"{error} {getattr(error, 'sqlite_errorname', '')}"
    if number in _NO_FILES:
        return _FEW_FILES
    if number == errno.ENOMEM or isinstance(error, MemoryError) or _NO_MEMORY.search(said):
        return _LITTLE_MEMORY
    if isinstance(error, RuntimeError) and _NO_THREADS in said:
        return _FEW_THREADS
    return None


def _of_records(error: BaseException) -> tuple[int, tuple[Problem, ...]] | None:
    """Return exit code and problem if an exception is SQLite's and in `_RECORDS`, so no bug of ours; else None."""
    name = getattr(error, "sqlite_errorname", None) or ""
    for beginning, (kind, code, what, mend) in _RECORDS.items():
        if name.startswith(beginning) and not name.endswith("NOMEM"):
            path = getattr(error, "filename", None)
            message = f"the records of the store{f' (`{path}`)' if path else ''} {what}: {_reason(error)}"
            return kind.exit_code, (Problem(code, message, help=mend),)
    return None


def _refusal(error: BaseException) -> Problem | None:
    """Return a problem if an exception says that the operating system refused something, else None."""
    if isinstance(error, UnicodeEncodeError):  # about a file's name: streams escape what they can't show
        shown = error.object.encode(errors="backslashreplace").decode()
        return Problem(
            "unwritable-name",
            f"`{shown}` is no name for a file where names are in `{error.encoding}`",
            help="set a locale in UTF-8 (`LC_ALL=C.UTF-8`), or PYTHONUTF8=1",
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if isinstance(error, FileNotFoundError) and error.filename is None and _folder_is_gone():
        return Problem("no-folder", "the folder that this was started in is gone", help="go to one that is there")
    at = f"`{error.filename}`: " if error.filename else ""
    return Problem("system", f"{at}{_reason(error)}")


def _folder_is_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 -- the same, without an import
    except FileNotFoundError:
        return True
    return False


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text[:1].lower() + text[1:]


def _bug_problem(error: BaseException) -> Problem:
    return Problem(
        "internal",
        f"{type(error).__name__}: {error}",
        help="this is a bug in mergebuild; please report it with the lines above and `mergebuild --version`",
    )
