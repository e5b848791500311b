"""Checks the paths of outputs: no two targets write one file, and none overwrites a source.

A folder that is an output belongs to its target alone: files that a build finds there and does not write are taken for
those of an older build. So no other output and no source may be in it. An output may not be in a source's folder,
either, nor in the store or git's folder; and it may not be one of the recipe's files, its lock file, or a folder that
contains one of these. Paths are compared as written and with links resolved, by the system's rules for upper and lower
case. A single disk may have other rules, which can't be told from a path; so if two outputs differ only in case, there
is a notice.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from mergebuild.formats.registry import SUFFIXES
from mergebuild.recipe.model import Source
from mergebuild.recipe.paths import absolute
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.system.filestate import is_gone

__all__ = ["OutputPaths"]

_LONGEST_NAME = 255
"""The most bytes that file systems allow in the name of a file or folder."""
_LONGEST_PATH = 4096 - 256
"""The most bytes that systems allow in a path, less room for one more name: of a temporary file, or of a shard."""
_FEW_OUTPUTS = 100
"""In one folder: for so many outputs, links are checked one by one, before the whole folder is read."""


class OutputPaths:
    """The outputs of the targets read so far."""

    def __init__(self, sources: Iterable[Source], root: str, store: str, files: Iterable[str] = ()) -> None:
        """`files`: those that the recipe is read from. `root`: the project's folder, where the lock file is."""
        self._root = os.path.normcase(root)
        self._store = os.path.normcase(store)
        self._files: dict[str, str] = {}
        """From the case-folded paths of the recipe's files and its lock file to their names."""
        self._above_files: dict[str, str] = {}
        """From every folder that contains one of these, directly or not, to its name."""
        for path in (f"{root}{os.sep}mergefile.lock", *files):
            name = os.path.basename(path)  # noqa: PTH119 -- strings throughout
            self._files[path.casefold()] = name
            self._above_files.update(dict.fromkeys(_above(os.path.normcase(path)), name))
        self._blocked: dict[str, str] = {}
        """From a folder to the file that is at its path or at that of a folder above it; empty if there is none."""
        self._folded: dict[str, tuple[str, str]] = {}
        """From a folded path to the first output with it, and that one's target."""
        self._alike: dict[str, list[str]] = {}
        self.listed: dict[str, str] = {}
        """From an absolute path to its target; of families, listed members only."""
        self._owners: dict[str, tuple[str, At]] = {}
        self._above: dict[str, tuple[str, At]] = {}
        """From every folder above an output to the first target with an output below it."""
        self._whole: dict[str, tuple[str, At]] = {}
        """From every folder that is an output to its target."""
        self._folders: dict[str, str] = {}
        self._looked: dict[str, int] = {}
        self._links: dict[str, set[str]] = {}
        """By folder, if many outputs are in it: the names of links in it."""
        self._sources: dict[str, str] = {}
        self._above_sources: dict[str, str] = {}
        self._alike_sources: dict[str, tuple[str, str]] = {}
        """From a folded path to the first source there: its path and name."""
        for source in sources:
            for written in _source_paths(source):
                self._note_source(os.path.normcase(written), source.name)
                self._note_source(os.path.normcase(os.path.realpath(written)), source.name)

    def _note_source(self, path: str, name: str) -> None:
        self._sources[path] = name
        self._alike_sources.setdefault(_folded(path), (path, name))
        self._above_sources.update(dict.fromkeys(_above(path), name))

    def claim(self, path: str, name: str, at: At, problems: Problems, *, listed: bool) -> None:
        """Record a target's output; report one that another target has, or that is a source."""
        if self.listed.get(path) == name:
            return  # recorded with all members of its family before
        compared = os.path.normcase(path)
        owner, first = self._owners.setdefault(compared, (name, at))
        if owner != name:
            _report_same((owner, first), (name, at), problems)
            return
        self._note_case(path, name)
        if self._is_forbidden(compared, name, at, problems) or self._is_nested(compared, name, at, problems):
            return
        if listed:
            self.listed[path] = name

    def _is_forbidden(self, path: str, name: str, at: At, problems: Problems) -> bool:
        """Return whether nothing may be written to a path, or it is a source's; report it then."""
        if reserved := self.reserved(path):
            hint = 'choose another path, such as `output = "out/name.safetensors"`'
            problems.add("bad-output", f"the output of target `{name}` {reserved}", at, help=hint)
            return True
        source = self._source(path)
        if source is not None:
            message = f"the output of target `{name}` is the source `{source}`"
            problems.add("output-is-source", message, at, help="a source is never overwritten; choose another path")
        return source is not None

    def notices(self, name: str) -> tuple[str, ...]:
        """Return notices about the output of a target, a sentence each."""
        return tuple(self._alike.get(name, ()))

    def _note_case(self, path: str, name: str) -> None:
        """Add a notice if an output equals another one, or a source, on a disk that compares names loosely."""
        folded = _folded(path)
        first, other = self._folded.setdefault(folded, (path, name))
        if first != path and other != name:
            for one, its, another in ((name, first, other), (other, path, name)):
                self._note_alike(one, its, path if its is first else first, f"that of `{another}`,")
        source, its_name = self._alike_sources.get(folded, (path, ""))
        if source not in (path, os.path.normcase(path)):
            self._note_alike(name, source, path, f"the source `{its_name}`,")

    def _note_alike(self, name: str, its: str, path: str, what: str) -> None:
        ignored = "the case of letters" if its.casefold() == path.casefold() else "how letters are composed"
        shown = os.path.relpath(its, self._root)
        self._alike.setdefault(name, []).append(f"on a disk that ignores {ignored} its output is {what} `{shown}`")

    def reserved(self, path: str) -> str:
        """Return why nothing may be written to a path, or ""; `path` is absolute, after `os.path.normcase`."""
        return _too_long(path) or self._taken(path)

    def _taken(self, path: str) -> str:
        behind = path + os.sep
        if file := self._files.get(path.casefold()):
            return f"is where `{file}` is"
        if file := self._file_above(path.rpartition(os.sep)[0]):
            return f"lies below `{file}`, which is a file"
        if f"{os.sep}.git{os.sep}" in behind.lower():
            return "lies in the folder of git"
        if behind.startswith(self._store + os.sep):
            return "lies in the store"
        return "" if path.endswith(SUFFIXES) else self._held_in(path)

    def _held_in(self, folder: str) -> str:
        """Return why a folder can't be an output, by what it holds, as the end of a sentence; empty if it can."""
        behind = folder + os.sep
        if f"{self._root}{os.sep}".startswith(behind):
            return "is the folder that holds the mergefile"
        if self._store.startswith(behind):
            return "is a folder that holds the store"
        if folder in self._above_files:
            return f"is a folder that holds `{self._above_files[folder]}`"
        return ""

    def _file_above(self, folder: str) -> str:
        """Return the recipe's file that is at the path of a folder, or of one above it; "" if there is none."""
        found = self._blocked.get(folder)
        if found is None:
            paths = (folder, *_above(folder))
            found = next((name for each in paths if (name := self._files.get(each.casefold()))), "")
            self._blocked[folder] = found
        return found

    def _is_nested(self, path: str, name: str, at: At, problems: Problems) -> bool:
        """Report an output that is inside another output or a source's folder, or contains one.

        There may be thousands of files, mostly in one folder: the folders above it are checked once.
        """
        parent = path.rpartition(os.sep)[0]
        if (parent not in self._above or self._whole) and self._is_inside(path, name, at, problems):
            return True
        return not path.endswith(SUFFIXES) and self._is_around(path, name, at, problems)

    def _is_inside(self, path: str, name: str, at: At, problems: Problems) -> bool:
        """Report an output that is inside another target's folder or a source's."""
        for folder in _above(path):
            self._above.setdefault(folder, (name, at))
            if folder in self._whole and self._whole[folder][0] != name:
                _report_nested(self._whole[folder], (name, at), at, problems)
                return True
            if folder in self._sources:
                message = f"the output of target `{name}` lies in the folder of the source `{self._sources[folder]}`"
                hint = "nothing is written beside a source; choose another path"
                problems.add("output-is-source", message, at, help=hint)
                return True
        return False

    def _is_around(self, path: str, name: str, at: At, problems: Problems) -> bool:
        """Report a folder that contains another output or a source."""
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
        """Return the target of an output; `text` is relative to the current folder, or else to the project."""
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
        if found is None and self._is_link(folder, name):
            found = self._sources.get(os.path.normcase(os.path.realpath(path)))
        return found

    def _is_link(self, folder: str, name: str) -> bool:
        """Whether there is a link of this name.

        In a folder, the first are checked one by one, later ones all at once.
        """
        known = self._links.get(folder)
        if known is None:
            self._looked[folder] = self._looked.get(folder, 0) + 1
            if self._looked[folder] <= _FEW_OUTPUTS:
                return os.path.islink(f"{folder}{os.sep}{name}")  # noqa: PTH114 -- strings, for there may be 100,000
            known = _links_in(folder or os.sep)
            if known is None:  # a folder that can't be listed may have files that can be read
                return os.path.islink(f"{folder}{os.sep}{name}")  # noqa: PTH114
            self._links[folder] = known
        return name in known


def _links_in(folder: str) -> set[str] | None:
    """Return the names of the links in a folder, none if there is no such folder; None if it can't be listed."""
    try:
        with os.scandir(folder) as entries:
            return {os.path.normcase(each.name) for each in entries if each.is_symlink()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError:
        return None


def _folded(path: str) -> str:
    """Return a path folded as on a disk that compares names most loosely."""
    if path.isascii():
        return path.casefold()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _too_long(path: str) -> str:
    """Return what is too long in a path, as the end of a sentence about it; empty if nothing is."""
    if len(path) * 4 <= _LONGEST_NAME:  # no character has more than 4 bytes
        return ""
    raw = path.encode(errors="surrogatepass")
    longest = max(map(len, raw.split(os.sep.encode())))
    if longest > _LONGEST_NAME:
        return f"has a name of {longest:,} bytes in its path, and disks take at most {_LONGEST_NAME}"
    if len(raw) > _LONGEST_PATH:
        return f"has a path of {len(raw):,} bytes, and at most {_LONGEST_PATH:,} are taken"
    return ""


def _above(path: str) -> Iterator[str]:
    """Yield the folders above a path, the innermost first."""
    while (parent := path.rpartition(os.sep)[0]) and parent != path:
        yield parent
        path = parent


def _report_same(first: tuple[str, At], second: tuple[str, At], problems: Problems) -> None:
    """Report two targets, each with its place, that have the same output."""
    (owner, there), (name, at) = first, second
    same_family = there.path == at.path and there.document is at.document
    rows = () if same_family else (f"`{owner}` has it at {there.place()}",)
    message = f"targets `{owner}` and `{name}` have the same output"
    of_family = "a family's output names every axis, such as `out/mix-${alpha}.safetensors`"
    hint = of_family if same_family else "give one of them another path"
    problems.add("duplicate-output", message, at, help=hint, rows=rows)


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
    """Return the paths that a source may have: as written, and in the folders of `MERGEBUILD_MODELS` that have it."""
    found = [absolute(source.path, str(source.folder))]
    for folder in os.environ.get("MERGEBUILD_MODELS", "").split(os.pathsep):
        path = absolute(source.path, folder) if folder else ""
        if path and not is_gone(path):
            found.append(path)
    return found
