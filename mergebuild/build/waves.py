"""Which files are written in one pass over their inputs: a *wave*, with as many as a process can hold open.

A wave is published when it ends, so a build that is killed keeps the waves before. Surveys read from files that an
earlier wave has published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from mergebuild.plan.actions import FileAction
from mergebuild.system import limits

__all__ = ["most_files", "waves"]

_WAVE = 200
"""The most targets of a wave: each holds one file open."""
_MUCH = 4 << 30
"""If a wave writes more bytes, it is worth while to publish it: some seconds of work."""


def most_files() -> int:
    """Return the most targets of a wave."""
    return min(_WAVE, limits.files_at_once())


def waves(actions: Sequence[FileAction]) -> Iterator[list[FileAction]]:
    """Yield files in waves.

    A wave ends if it writes much and the next file shares no source with it, which would be read twice. The files of a
    folder, which are published together, are in one wave if it can hold them; if not, targets that read the folder are
    in a later wave than all of them.
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
