"""One run of the program: its streams, and its exit code. `interrupts.py` handles requests to end it.

Only here do exceptions become exit codes, so all commands behave alike: messages go to stderr in the form of the
contract, one JSON document to stdout under `--json`, and the class of the error decides the exit code.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from mergebuild.cli.interrupts import Ending
from mergebuild.cli.settings import Settings
from mergebuild.cli.tracing import traced_if_asked
from mergebuild.errors import InternalError, Interrupted, TargetError
from mergebuild.report.console import make_streams_safe
from mergebuild.system.spans import span

__all__ = ["main", "run"]

_COMPLETION = "_MERGEBUILD_COMPLETE"
"""The variable by which a shell asks for completions."""
_BROKEN_PIPE = 141
"""The exit code that a shell shows for a program that a closed pipe ended (128 + SIGPIPE)."""


def main(arguments: Sequence[str] | None, ending: Ending) -> NoReturn:
    """Run the program and end the process with its exit code.

    Args:
        arguments: The command line; None takes that of the process.
        ending: Requests to end; its `listen` was called already.
    """
    make_streams_safe()
    try:
        code = run(sys.argv[1:] if arguments is None else arguments, ending)
    except KeyboardInterrupt:  # while another failure was being shown, or after the work was done
        code = Interrupted.exit_code
    ending.finish()
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process at once, with everything flushed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):  # `run` has already reported failing streams
                stream.flush()
    # All files are published, closed and flushed; only functions registered with `atexit` are left to run. An orderly
    # exit with torch takes a third of a second, and only frees what the operating system frees anyway.
    atexit._run_exitfuncs()  # noqa: SLF001 -- there is no other way to do what `sys.exit` would
    os._exit(code)


def run(arguments: Sequence[str], ending: Ending | None = None) -> int:
    """Run one command line and return its exit code, with any failure already shown.

    `ending`: requests to end, if the process runs nothing but this; None ignores them.
    """
    settings = Settings(as_json=_asks_for_json(arguments))
    ending = ending or Ending()
    ending.last_words = lambda: settings.console.failure(Interrupted.one("interrupted", "interrupted").problems)
    try:
        ending.begin()
        try:
            return _run(arguments, settings)
        finally:
            ending.finish()
    except BrokenPipeError:
        return _BROKEN_PIPE
    except KeyboardInterrupt as error:
        ending.tell()
        return _fail(error, settings)
    except Exception as error:  # noqa: BLE001 -- the last place that can show it to the user
        return _fail(error, settings)


def _run(arguments: Sequence[str], settings: Settings) -> int:
    if instruction := os.environ.get(_COMPLETION):
        return _complete(instruction)
    with traced_if_asked(arguments, settings):
        return 0 if _is_answered(arguments, settings) else _by_command(arguments, settings)


def _is_answered(arguments: Sequence[str], settings: Settings) -> bool:
    """Answer a plain build with nothing to do; return whether it was one."""
    if arguments[:1] != ["build"]:
        return False
    from mergebuild.cli.at_once import is_answered

    return is_answered(arguments, settings)


def _by_command(arguments: Sequence[str], settings: Settings) -> int:
    with span("import"):
        import click  # takes longer to import than a build with nothing to do

        from mergebuild.cli.program import PROGRAM_NAME, program

    try:
        with program.make_context(PROGRAM_NAME, list(arguments), obj=settings) as context:
            code = program.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return code if isinstance(code, int) else 0


def _fail(error: BaseException, settings: Settings) -> int:
    try:
        return _told(error, settings)
    except MemoryError:  # too little memory even for the usual message
        with suppress(OSError):
            os.write(2, b"error[no-memory]: there is not enough memory, or this process may not have as much\n")
        return TargetError.exit_code


def _told(error: BaseException, settings: Settings) -> int:
    if isinstance(error, MemoryError):
        error.__traceback__ = None  # frees all that its frames refer to
    from mergebuild.cli.failures import explained  # only failures need it

    code, problems = explained(error)
    try:
        if code == InternalError.exit_code:
            settings.console.message(_traceback_text(error))
        settings.console.failure(problems)
    except BrokenPipeError:
        return _BROKEN_PIPE
    except OSError:
        return code  # for example stdout is a file on a full disk: the failure can't be shown anywhere
    return code


def _traceback_text(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)).rstrip()


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Return whether `--json` is given. Needed before parsing, as mistakes in arguments are also shown as JSON."""
    before = list(arguments[: arguments.index("--")]) if "--" in arguments else arguments
    return "--json" in before


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    from mergebuild.cli.program import PROGRAM_NAME, program

    return shell_complete(program, {"obj": Settings()}, PROGRAM_NAME, _COMPLETION, instruction)
