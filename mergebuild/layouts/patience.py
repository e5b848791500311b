"""A limit to the time that the regular expressions and globs of a mergefile may take.

Finding a pattern among a model's tensors takes milliseconds, but a repetition inside a repetition may take practically
forever, and mergefiles may come from anybody. So each pattern has its own limit of processor time
(`system.time_limit` says which threads it counts): whether a mergefile is valid must not depend on how many patterns
it has, or on other load on the machine. A glob never backtracks (`globs.py`) and takes milliseconds on the names of any
real model; it has the same limit, as an untrusted file may have thousands of long names. Plain names need no limit.

A pattern that takes longer is a mistake, and the mergefile is refused. The other patterns are still tried, so that all
mistakes are reported at once; for that they have the same time again, all together. So a file with a thousand such
patterns is refused within twice the limit.

This is for keys: `re:` and globs. The patterns of a layout are tried when it is found to be a file's layout; see
`detect`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mergebuild.system.time_limit import time_limit

__all__ = ["LIMIT", "SHORTER", "SIMPLER", "Patience", "UntriedError"]

LIMIT = 5.0
"""Seconds of processor time."""
SHORTER = "fewer sets such as `[ab]` in a row; shorter than those is `*`"
SIMPLER = "no repetition inside of a repetition, such as `(a*)*`; simpler than patterns are globs"


class UntriedError(Exception):
    """It is not known what a pattern finds, because another one took too long."""


class Patience:
    """The time left for the patterns and globs of one mergefile."""

    def __init__(self) -> None:
        self._rest: float | None = None
        """Seconds for all patterns together; None as long as none took too long."""

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Interrupt the search for a pattern inside the `with` block once it takes too long.

        Raises:
            TimeoutError: it took too long.
            UntriedError: another one took too long before, and the rest of the time is used up.
        """
        rest = self._rest
        if rest is not None and rest <= 0:
            raise UntriedError
        began = time.thread_time()
        try:
            with time_limit(LIMIT if rest is None else rest):
                yield
        except TimeoutError:
            self._rest = LIMIT if rest is None else 0
            if rest is not None:
                raise UntriedError from None
            raise
        if rest is not None:
            self._rest = rest - (time.thread_time() - began)
