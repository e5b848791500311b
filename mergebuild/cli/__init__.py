"""The command line: arguments in, calls of the library, exit codes out. No logic lives here.

A module a command, imported when it is called. Some have the names of builtins (`list`), which hide those in this
file once they are imported; so nothing but these names lives here.
"""

from mergebuild.cli.process import main, run

__all__ = ["main", "run"]
