"""The command line: it turns arguments into calls of the library, and results into output and exit codes.

Begin with `program.py` (the table of commands) and any short command, such as `lineage.py`. Each command is one module,
imported only when it is called. `options.py` has the options that commands share, `settings.py` their values,
`locate.py` finds and loads the mergefile, `process.py` turns exceptions into exit codes, `interrupts.py` ends the
process on Ctrl-C.

A command decides nothing: it calls `mergebuild.project` and gives the answer to `mergebuild.report`. It may import any
room; only this one imports click. Some modules are named as builtins (`list`): once imported, they hide these in this
file, so it has only the start of the program.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["main", "run"]

_OBJECTS_BEFORE_COLLECTING = 200_000
"""New objects before Python's garbage collector runs. A recipe of ten thousand targets is a million objects that stay
in use, and so do most that imports create: with Python's own threshold, collecting takes a sixth of the time of a plan,
and a twentieth of a start. A build of one target creates fewer than this many."""
_YOUNG_BEFORE_OLDER = 50
"""Collections of a young generation before the next older one is collected: old objects are many, and nearly all stay
in use."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and end the process with its exit code. `arguments`: those of the process if None."""
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTING, _YOUNG_BEFORE_OLDER)  # before the rest is imported
    _fill_closed_streams()
    from mergebuild.cli.interrupts import Ending

    ending = Ending()
    ending.listen()
    from mergebuild.cli.process import main as run_to_the_end

    run_to_the_end(arguments, ending)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Every failure is already shown."""
    from mergebuild.cli.process import run as run_once

    return run_once(arguments)


def _fill_closed_streams() -> None:
    """Open the null device in place of each of stdin, stdout and stderr that is closed.

    Otherwise the next file that is opened, such as an output, gets that number, and what libraries print goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `descriptor`
