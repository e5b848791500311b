"""Which path is whose: no two targets write one file, and none writes a source.

Paths are compared as the file system's rules of case compare them, as written and resolved through links.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mergebuild.recipe.model import Source
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.targets import absolute

__all__ = ["Outputs"]


class Outputs:
    """The outputs of the targets read so far."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self.listed: dict[str, str] = {}
        """From an absolute path to its target, members that are listed."""
        self._owners: dict[str, tuple[str, At]] = {}
        self._folders: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        for source in sources:
            for path in _source_paths(source):
                self._sources[os.path.normcase(path)] = source.name
                self._sources[os.path.normcase(os.path.realpath(path))] = source.name

    def claim(self, path: str, name: str, at: At, problems: Problems, *, listed: bool) -> None:
        """Note a target's output; report one that another target has, or that is a source."""
        compared = os.path.normcase(path)
        owner, first = self._owners.setdefault(compared, (name, at))
        if owner != name:
            same_family = first.path == at.path and first.document is at.document
            rows = () if same_family else (f"`{owner}` has it at {first.place()}",)
            message = f"targets `{owner}` and `{name}` have the same output"
            hint = (
                "a family's output names every axis, such as `out/mix-${alpha}.safetensors`" if same_family
                else "give one of them another path"
            )  # fmt: skip
            problems.add("duplicate-output", message, at, help=hint, rows=rows)
            return
        source = self._source(compared)
        if source is not None:
            message = f"the output of target `{name}` is the source `{source}`"
            problems.add("output-is-source", message, at, help="a source is never overwritten; choose another path")
        elif listed:
            self.listed[path] = name

    def owner(self, text: str, root: Path) -> str | None:
        """Return the target of an output as a user types it: relative to where he is, or to the project."""
        for folder in (Path.cwd(), root):
            found = self._owners.get(os.path.normcase(absolute(text, str(folder))))
            if found is not None:
                return found[0]
        return None

    def _source(self, path: str) -> str | None:
        folder, _, name = path.rpartition(os.sep)
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.normcase(os.path.realpath(folder or os.sep)).rstrip(os.sep)
        found = self._sources.get(path) or self._sources.get(f"{real}{os.sep}{name}")
        if found is None and os.path.islink(path):  # noqa: PTH114 -- strings, for there may be 100,000
            found = self._sources.get(os.path.normcase(os.path.realpath(path)))
        return found


def _source_paths(source: Source) -> list[str]:
    """Return where a source may lie: as written, then in the folders of MERGEBUILD_MODELS if it is there."""
    found = [absolute(source.path, str(source.folder))]
    for folder in os.environ.get("MERGEBUILD_MODELS", "").split(os.pathsep):
        path = absolute(source.path, folder) if folder else ""
        if path and os.path.exists(path):  # noqa: PTH110 -- strings throughout
            found.append(path)
    return found
