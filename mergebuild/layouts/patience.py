"""How long the regular expressions and globs of a mergefile may take.

To look for a pattern among the tensors of a model takes milliseconds, but one with a repetition in a repetition may
take for ever, and a mergefile may come from anybody. So each pattern has a limit by itself, of processor time
(`portable.time_limit` says whose): whether a mergefile is sound must not depend on how many patterns it has, nor on
what else the machine does. A glob goes back nowhere (`globs.py`), and takes milliseconds over the names of any model;
but long names in their thousands are a stranger's too, so it has the same limit. Names need none.

A pattern that takes longer is a mistake. Then the mergefile is refused anyway, and the other patterns are only tried
because all mistakes are told at once. For that they have as long again, all together: so a file of a thousand such
patterns is refused within two limits, not a thousand.

All that is of the keys, `re:` and globs. The patterns of a layout are tried when it is found to be that of a file, see
`detect`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mergebuild.system.portable import time_limit

__all__ = ["LIMIT", "SHORTER", "SIMPLER", "Patience", "UntriedError"]

LIMIT = 5.0
"""Seconds of processor time."""
SHORTER = "fewer sets such as `[ab]` in a row; shorter than those is `*`"
SIMPLER = "no repetition inside of a repetition, such as `(a*)*`; simpler than patterns are globs"


class UntriedError(Exception):
    """What a pattern finds is not known, because another one took too long."""


class Patience:
    """What is left to the patterns and globs of one mergefile."""

    def __init__(self) -> None:
        self._rest: float | None = None
        """Seconds of all patterns together; None while none took too long."""

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Interrupt a pattern that is looked for inside, once it takes too long.

        Raises:
            TimeoutError: it does.
            UntriedError: another one did, and this one takes longer than it may.
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
