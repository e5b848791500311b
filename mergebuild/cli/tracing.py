"""`MERGEBUILD_TRACE=FILE`: a trace of any command, which says what each thread did when.

The modules that write it are imported only if the variable is set. Shell completion is not traced: a shell in which the
variable is set runs the program at each press of the completion key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mergebuild.errors import UsageError
from mergebuild.system.spans import span

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mergebuild.cli.settings import Settings
    from mergebuild.system.trace import TraceFile

__all__ = ["VARIABLE", "traced_if_asked"]

VARIABLE = "MERGEBUILD_TRACE"


@contextmanager
def traced_if_asked(arguments: Sequence[str], settings: Settings) -> Iterator[None]:
    """Trace the block of this context manager into the file that the environment names; if it names none, do nothing.

    Raises:
        UsageError: The file can't be written; raised before the block begins.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        yield
        return
    from shlex import join

    command = join(arguments)
    trace: TraceFile | None = None
    try:
        with _traced(path, command) as trace, span("command", words=command):
            yield
    finally:
        if trace is not None and trace.lost:
            settings.console.message(f"the trace `{path}` ends early: {trace.lost}")


def _traced(path: str, command: str) -> AbstractContextManager[TraceFile]:
    from mergebuild.system.trace import NoTraceFileError, TraceFile

    try:
        return TraceFile(path, command)
    except NoTraceFileError as error:
        raise UsageError.one(
            "no-trace-file",
            f"the trace `{path}` {error}",
            help=f"{VARIABLE} names it: a new file, or a trace that is to be replaced",
        ) from error
