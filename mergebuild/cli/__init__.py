"""The command line: arguments in, calls of the library, exit codes out. No logic lives here.

A module a command, imported when it is called. Some have the names of builtins (`list`), which hide those in this
file once they are imported; so nothing but what starts it lives here.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["main", "run"]

_OBJECTS_BEFORE_COLLECTING = 50_000
"""A recipe of ten thousand targets is a million objects that stay, and imports leave many more than garbage: looking
for garbage as often as Python does by itself takes a sixth of the time of a plan, and a twentieth of a start."""
_YOUNG_BEFORE_OLDER = 50
"""How often what is new is looked through before what outlived that is: it stays, and is as much as all the rest."""


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
    """Put something harmless where stdin, stdout or stderr is closed.

    Else the next file that is opened, an output perhaps, takes its number, and gets what libraries print there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
