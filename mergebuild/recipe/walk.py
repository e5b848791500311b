"""A walk over what targets need, depth first and without recursion: chains may be thousands of targets long.

It finds cycles, and endless chains: families are open, so a member that needs another member of its family may need one
more each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems

__all__ = ["Read", "Walk"]

Needs = tuple[tuple[str, At], ...]
Read = Callable[[str, Problems], Needs | None]
"""Reads a target and returns what it needs; None for a source, or if it was read before."""

_LONGEST_CHAIN = 1000
"""So many members of one family that need each other count as an endless chain."""
_DEEPEST = 10_000
"""The longest chain of targets: longer than any real one. What is below each target is asked for often."""
_LONGEST_SHOWN = 24


class Walk:
    """One walk; calls `read` once for every target that it meets."""

    def __init__(self, read: Read, problems: Problems) -> None:
        self._read = read
        self._problems = problems
        self._open: dict[str, None] = {}
        self._depth: dict[str, int] = {}

    def from_(self, name: str) -> None:
        """Read a target and all that it needs."""
        stack = [self._opened(name, self._read(name, self._problems) or ())]
        while stack:
            current, rest = stack[-1]
            for ref, at in rest:
                if ref in self._open:
                    self._circle(ref, at)
                elif self._endless(ref):
                    message = f"target `{current}` needs `{ref}`, and so on without end"
                    hint = "families are open, so a member that needs another member of its family never ends"
                    self._problems.add("endless-chain", message, at, help=hint)
                    return
                elif len(stack) > _DEEPEST:
                    message = f"targets need each other more than {_DEEPEST:,} deep"
                    self._problems.add("too-deep", message, at, help="give a target the inputs of those below it")
                    return
                elif needs := self._read(ref, self._problems):
                    stack.append(self._opened(ref, needs))
                    break
            else:
                stack.pop()
                del self._open[current]
                self._depth[_family(current)] -= 1

    def _opened(self, name: str, needs: Needs) -> tuple[str, Iterator[tuple[str, At]]]:
        family = _family(name)
        self._open[name] = None
        self._depth[family] = self._depth.get(family, 0) + 1
        return name, iter(needs)

    def _endless(self, name: str) -> bool:
        return "@" in name and self._depth.get(_family(name), 0) >= _LONGEST_CHAIN

    def _circle(self, name: str, at: At) -> None:
        opened = list(self._open)
        circle = [*opened[opened.index(name) :], name]
        shown = circle if len(circle) <= _LONGEST_SHOWN else [*circle[:10], "...", *circle[-10:]]
        message = f"targets need each other: {' -> '.join(shown)}"
        self._problems.add("dependency-cycle", message, at, help="no target can be made from itself")


def _family(name: str) -> str:
    return name.partition("@")[0]
