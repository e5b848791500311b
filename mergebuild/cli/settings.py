"""The settings of one command line: values of the options that all commands share.

`options.py` fills them in, `locate.py` finds the mergefile that they name, and every command gets them as its first
argument. So this module imports none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from mergebuild.report.console import Console

__all__ = ["Settings"]


class Settings:
    """Values of the shared options of one command line; filled in while click reads them."""

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
        """The console with these settings. It keeps their values, so it is first used after all options are read."""
        return Console(as_json=self.as_json, quiet=self.quiet, verbose=self.verbose, color=self.color)
