"""Which path is whose: no two targets write one file, and none writes a source.

The folder of a target is its own as well: what a build finds there and did not put there is of an older one, so no
other target and no source may lie in it; and a source's folder is no place for an output, nor are the store, the folder
of git, and those that hold the mergefile or the store. Paths are compared as the file system's rules of case compare
them, as written and resolved through links.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mergebuild.recipe.model import Source
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.targets import absolute

__all__ = ["SUFFIXES", "Outputs"]

SUFFIXES = (".safetensors", ".ckpt")
"""What an output ends in that is one file, not a folder."""


class Outputs:
    """The outputs of the targets read so far."""

    def __init__(self, sources: Iterable[Source], root: str, store: str) -> None:
        self._root = os.path.normcase(root)
        self._store = os.path.normcase(store)
        self.listed: dict[str, str] = {}
        """From an absolute path to its target, members that are listed."""
        self._owners: dict[str, tuple[str, At]] = {}
        self._above: dict[str, tuple[str, At]] = {}
        """From every folder above an output to the first target that is below it."""
        self._whole: dict[str, tuple[str, At]] = {}
        """From every folder that is an output to its target."""
        self._folders: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self._above_sources: dict[str, str] = {}
        for source in sources:
            for written in _source_paths(source):
                for path in (os.path.normcase(written), os.path.normcase(os.path.realpath(written))):
                    self._sources[path] = source.name
                    self._above_sources.update(dict.fromkeys(_above(path), source.name))

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
        reserved = self._reserved(compared)
        if reserved:
            message = f"the output of target `{name}` {reserved}"
            problems.add(
                "bad-output", message, at, help='choose another path, such as `output = "out/name.safetensors"`'
            )
            return
        source = self._source(compared)
        if source is not None:
            message = f"the output of target `{name}` is the source `{source}`"
            problems.add("output-is-source", message, at, help="a source is never overwritten; choose another path")
        elif not self._is_nested(compared, name, at, problems) and listed:
            self.listed[path] = name

    def _reserved(self, path: str) -> str:
        """Return what is wrong with where an output lies, or nothing."""
        behind = path + os.sep
        if f"{os.sep}.git{os.sep}" in behind.lower():
            return "lies in the folder of git"
        if behind.startswith(self._store + os.sep):
            return "lies in the store"
        if not path.endswith(SUFFIXES) and f"{self._root}{os.sep}".startswith(behind):
            return "is the folder that holds the mergefile"
        if not path.endswith(SUFFIXES) and self._store.startswith(behind):
            return "is a folder that holds the store"
        return ""

    def _is_nested(self, path: str, name: str, at: At, problems: Problems) -> bool:
        """Report an output in another target's or a source's folder, or with another's output or a source in its own.

        Files come in their thousands, and mostly into one folder: what lies above that is looked at once.
        """
        parent = path.rpartition(os.sep)[0]
        if parent not in self._above or self._whole:
            for folder in _above(path):
                self._above.setdefault(folder, (name, at))
                if folder in self._whole and self._whole[folder][0] != name:
                    _report_nested(self._whole[folder], (name, at), at, problems)
                    return True
                if folder in self._sources:
                    message = (
                        f"the output of target `{name}` lies in the folder of the source `{self._sources[folder]}`"
                    )
                    hint = "nothing is written beside a source; choose another path"
                    problems.add("output-is-source", message, at, help=hint)
                    return True
        if path.endswith(SUFFIXES):
            return False
        self._whole[path] = (name, at)
        if path in self._above and self._above[path][0] != name:
            _report_nested((name, at), self._above[path], at, problems)
            return True
        source = self._above_sources.get(path) or self._above_sources.get(os.path.normcase(os.path.realpath(path)))
        if source is not None:
            message = f"the source `{source}` lies in the folder that is the output of target `{name}`"
            problems.add("output-is-source", message, at, help="give the target a folder of its own")
        return source is not None

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


def _above(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, the innermost first."""
    while (parent := path.rpartition(os.sep)[0]) and parent != path:
        yield parent
        path = parent


def _report_nested(outer: tuple[str, At], inner: tuple[str, At], at: At, problems: Problems) -> None:
    message = f"the output of target `{inner[0]}` lies in the folder of target `{outer[0]}`"
    name, other = outer if inner[1] is at else inner
    problems.add(
        "duplicate-output",
        message,
        at,
        help="the folder of a target is its own; give one of them another path",
        rows=(f"the output of `{name}` is at {other.place()}",),
    )


def _source_paths(source: Source) -> list[str]:
    """Return where a source may lie: as written, then in the folders of MERGEBUILD_MODELS if it is there."""
    found = [absolute(source.path, str(source.folder))]
    for folder in os.environ.get("MERGEBUILD_MODELS", "").split(os.pathsep):
        path = absolute(source.path, folder) if folder else ""
        if path and os.path.exists(path):  # noqa: PTH110 -- strings throughout
            found.append(path)
    return found
