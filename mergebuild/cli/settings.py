"""The settings of one command line: what the options that all commands share come to.

`options` fills them in, `locate` finds the mergefile that they name, and every command is given them; so they lie below
the three.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from mergebuild.report.console import Console

__all__ = ["Settings"]


class Settings:
    """What the shared options of one command line say; filled in while click reads them."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.mergefile: str | None = None
        self.quiet = False
        self.verbose = 0
        self.color = True
        self.overrides: tuple[str, ...] = ()
        self.variables: Mapping[str, object] = {}

    @cached_property
    def console(self) -> Console:
        """The console that these settings ask for; asked for once all options are read."""
        return Console(as_json=self.as_json, quiet=self.quiet, verbose=self.verbose, color=self.color)
