"""Which files are written in one pass over their inputs: a *wave*, of as many as a process can hold open.

A wave is published when it is over, and a build that is killed keeps the waves before. What a method must know first,
it reads from files that an earlier wave published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from mergebuild.plan.actions import FileAction
from mergebuild.system import limits

__all__ = ["most_files", "waves"]

_WAVE = 200
"""Targets a wave at most: each holds one file open."""
_MUCH = 4 << 30
"""Bytes written by a wave after which it is worth while to publish them: some seconds of work."""


def most_files() -> int:
    """Return how many targets a wave has at most."""
    return min(_WAVE, limits.files_at_once())


def waves(actions: Sequence[FileAction]) -> Iterator[list[FileAction]]:
    """Yield files in waves.

    One ends where it has written much and the next file has no source with it in common, which would be read twice.
    The files of a folder, which are published together, are in one wave where it can hold them; if not, who reads the
    folder is in a later one than all of them.
    """
    some: list[FileAction] = []
    most = most_files()
    size = 0
    sources: set[str] = set()
    earlier: set[str] = set()
    parts = Counter(action.judgement for action in actions if action.is_part)
    for action in actions:
        made = action.description
        together = parts.pop(action.judgement, 1)
        is_full = len(some) + min(together, most) > most or (size >= _MUCH and sources.isdisjoint(made.sources))
        needed = {each.name for each in some}.intersection(made.needs)
        if some and (is_full or (needed and (made.waits_for_files or not needed.isdisjoint(earlier)))):
            yield some
            earlier |= {each.name for each in some}
            some, size, sources = [], 0, set()
        some.append(action)
        size += action.content.size
        sources |= made.sources
    if some:
        yield some
