"""Where the sources of a project are: at these paths nothing is removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["SourcePlaces", "real_path"]


class SourcePlaces:
    """Tells whether a path has to do with a source.

    `found`: the paths of existing sources. `missing`: by name, the paths of the others as the mergefile has them.
    """

    def __init__(self, found: Iterable[Path], missing: Mapping[str, str]) -> None:
        self.missing = missing
        paths = list(found)
        self._places = {place for path in paths for place in (_normal(path), real_path(path))}
        self._above = {folder for place in self._places for folder in place.parents}
        self._tails = [parts for text in missing.values() if (parts := _tail(text))]

    def touch(self, path: Path) -> bool:
        """Whether a path is a source's, is inside of one, or contains one."""
        return any(
            each in self._above or not self._places.isdisjoint((each, *each.parents))
            for each in {_normal(path), real_path(path)}
        )

    def may_touch(self, path: Path) -> bool:
        """Whether a path may be that of a missing source, or inside it, by its name."""
        return any(_has_in_it(path.parts, tail) for tail in self._tails)


def _normal(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 -- without `..`, but with links as they are


def real_path(path: Path) -> Path:
    """Return a path with all links resolved."""
    return Path(os.path.realpath(path))


def _tail(text: str) -> tuple[str, ...]:
    """Return the last parts of a source's path, which it has in any folder."""
    return tuple(part for part in Path(os.path.normpath(text)).parts if part not in (os.pardir, os.curdir))


def _has_in_it(parts: tuple[str, ...], some: tuple[str, ...]) -> bool:
    return any(parts[start : start + len(some)] == some for start in range(len(parts) - len(some) + 1))
