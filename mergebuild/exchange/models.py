"""Finds the models that recipes name: by file name, then by hash.

Recipes name models loosely: without a suffix, with a folder of another machine, with a hash in brackets. A name that
fits several files takes none of them, and all are told of. Hashes are of whole files, so they are computed of files
whose name or hash in the recipe gives a reason to, and of all where there are few or `--hash` says so; each file once.
AutoV1 is of 64 KiB, and equal for many merges: it is never looked for. Two models never get one path, however their
names end.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from mergebuild.exchange.draft import Draft, DraftSource, Said
from mergebuild.exchange.file_names import last_step, split_hash, suffix_of, without_suffix
from mergebuild.formats.registry import READ_SUFFIXES
from mergebuild.sources import hashes
from mergebuild.sources.locating import folders_of_models

__all__ = ["ModelFolders"]

_FEW: Final = 50
"""Where there are fewer files, all of them are hashed for a source that no name finds."""
_MOST_FILES: Final = 100_000
_HASHES: Final = ("sha256", "autov2", "autov3")
_FOLDER_OF_ONE: Final = frozenset({"config.json", "model_index.json", "adapter_config.json"})
_CACHED: Final = re.compile(r"models--(.+)/snapshots/[0-9a-f]{40}$")
"""A repository's folder in the cache of Hugging Face."""


@dataclass(frozen=True)
class ModelFolders:
    """Where models are looked for."""

    root: Path
    """The folder of the mergefile, which paths in it are relative to."""
    beside: Sequence[Path] = ()
    """Folders of the recipes: a path in one may be relative to it."""
    named: Sequence[Path] = ()
    """Folders of `--models`."""
    hash_all: bool = False
    """Whether files are hashed whatever their number."""
    _hashes: dict[Path, dict[str, str | None]] = field(default_factory=dict)

    def look_up(self, draft: Draft) -> None:
        """Give each source of a draft the path of its model, if there is one, else say what there is."""
        for source in draft.sources.values():
            found = self._found(source)
            if len(found) == 1:
                self._take(source, found[0])
            elif found:
                said = f"several fit: {', '.join(self._written(path) for path in found[:10])}"
                source.comments.append(said)
                draft.notices.append(Said(f"source `{source.name}`", said))
            elif _is_of_another_machine(source.path):
                source.comments.append(source.path)
                source.path = re.split(r"/", source.path.rstrip("/"))[-1] + "/" * source.model.is_folder
            if not found and _lacks_end(source):
                source.comments.append(f"the recipe names {source.model.text or source.path}")
                source.path += ".safetensors"
        _keep_apart(draft)

    def find(self, source: DraftSource) -> Path | None:
        """Return the file or folder that a source is; None: none fits, or several do."""
        found = self._found(source)
        return found[0] if len(found) == 1 else None

    def _take(self, source: DraftSource, found: Path) -> None:
        written = self._written(found)
        if source.model.text and Path(written).name != Path(source.path).name:
            source.comments.append(f"the recipe names {source.model.text}")
        source.path = written

    def _found(self, source: DraftSource) -> list[Path]:
        """Return the files or folders that a source may be; several where a name fits several."""
        exact = [path for path in self._at_path(source) if self._meets(path, source)]
        if exact:
            return exact
        known = self._folders if source.model.is_folder else self._files
        if source.model.text:
            wanted = source.model.text.replace("\\", "/") if source.model.url else source.path
            for fits in (_same_path, _same_path_but_its_end, _same_name, _same_stem):
                found = [path for path in known if fits(path, wanted) and self._meets(path, source)]
                if found:
                    return found
        return self._by_hash(source) if source.pins else []

    def _at_path(self, source: DraftSource) -> list[Path]:
        """Return what is at the path of a recipe; where it has no end, the files of that name with one."""
        if not source.model.text:
            return []
        given = source.model.text.replace("\\", "/").rstrip("/")
        texts = [*([] if given.rpartition("/")[2] in ("", ".", "..") else [given]), source.path]
        folders = [self.root, *([source.beside] if source.beside else []), *self.beside]
        places = (folder / text for folder in folders for text in texts)
        exact = next((path for path in places if os.path.lexists(path)), None)
        if exact is not None or not _lacks_end(source):
            return [exact] if exact is not None else []
        ended = [[folder / f"{source.path}{end}" for end in READ_SUFFIXES] for folder in folders]
        found = ([path for path in each if os.path.isfile(path)] for each in ended)  # noqa: PTH113 -- it never fails
        return next(filter(None, found), [])

    def _by_hash(self, source: DraftSource) -> list[Path]:
        files = self._files
        if not self.hash_all and len(files) >= _FEW:
            files = [path for path in files if _is_like(path, source.model.text)]
        return [path for path in files if self._meets(path, source)]

    def _meets(self, path: Path, source: DraftSource) -> bool:
        """Whether a file has the hashes that the recipe gives; a folder has none of these."""
        return not source.pins or (path.is_file() and hashes.differs(source.pins, self._hashes_of(path)) is None)

    def _hashes_of(self, path: Path) -> dict[str, str | None]:
        if path not in self._hashes:
            try:
                has_length = path.suffix.lower() == ".safetensors"
                self._hashes[path] = hashes.of_file(path, has_length=has_length, wanted=_HASHES)
            except OSError:
                self._hashes[path] = {}
        return self._hashes[path]

    def _written(self, path: Path) -> str:
        """Return a path as the mergefile has it: from its folder or a folder of `MERGEBUILD_MODELS`, else absolute."""
        end = "/" if path.is_dir() else ""
        whole = Path(os.path.abspath(path))  # noqa: PTH100 -- links stay as they are
        for folder in (self.root, *folders_of_models()):
            try:
                return whole.relative_to(os.path.abspath(folder)).as_posix() + end  # noqa: PTH100
            except ValueError:
                continue
        return whole.as_posix() + end

    @cached_property
    def _files(self) -> list[Path]:
        return list(self._walked(_files_in))

    @cached_property
    def _folders(self) -> list[Path]:
        return list(self._walked(_folder_itself))

    def _walked(self, take: Callable[[Path, list[str]], Iterable[Path]]) -> Iterator[Path]:
        """Yield what is in all folders of models, each path once, sorted, up to a bound."""
        seen: set[str] = set()
        for top in (*self.named, *folders_of_models()):
            for parent, folders, files in os.walk(top, followlinks=False):
                folders.sort()
                for path in take(Path(parent), sorted(files)):
                    real = os.path.realpath(path)
                    if real not in seen and len(seen) < _MOST_FILES:
                        seen.add(real)
                        yield path


def _keep_apart(draft: Draft) -> None:
    """Give sources that are two models, and came to one path as their names end alike, paths to be filled in."""
    by_path: dict[str, list[DraftSource]] = {}
    for source in draft.sources.values():
        by_path.setdefault(posixpath.normpath(source.path).lower(), []).append(source)
    for path, sources in by_path.items():
        for source in [each for each in sources if any(_are_two(each, other) for other in sources)]:
            named = _plain(source)
            is_own = named == without_suffix(path) if source.model.is_folder and not source.model.url else "/" in named
            if not is_own or not f"/{without_suffix(path)}".endswith(f"/{named}"):
                _to_fill_in(draft, source, {other.path for other in draft.sources.values()})


def _are_two(one: DraftSource, other: DraftSource) -> bool:
    """Whether a recipe names two models: by hashes, places, or paths of which neither is the end of the other."""
    shared = [kind for kind in one.pins if kind in other.pins]
    if shared:
        return any(one.pins[kind] != other.pins[kind] for kind in shared)
    urls = [each.model.url for each in (one, other)]
    if (None in urls and any(urls)) or (None not in urls and one.model.comment != other.model.comment):
        return True  # a folder and a repository, or two revisions
    first, second = _plain(one), _plain(other)
    return bool(first and second) and not (f"/{first}".endswith(f"/{second}") or f"/{second}".endswith(f"/{first}"))


def _plain(source: DraftSource) -> str:
    """Return how a recipe names a model, to compare it: without a hash behind it, and without a suffix."""
    text = posixpath.normpath(_plain_path(source)).strip("/")
    return "" if text == "." else without_suffix(text).lower()


def _to_fill_in(draft: Draft, source: DraftSource, taken: Collection[str]) -> None:
    """Give a source a path that no other has: of its name's last folder and its name, else of its name in the draft."""
    steps = [re.sub(r"[^\w+. -]", "_", step) for step in _plain_path(source).split("/")[-2:]]
    end = "/" if source.model.is_folder else Path(source.path).suffix
    wished = "/".join(steps).removesuffix(end) + end
    is_told = len(steps) == 2 and not {"", ".", "..", "~"} & {*steps} and wished not in taken
    source.path = wished if is_told else f"{source.name}{end}"
    text = f"`{source.model.text}` is not the only model whose file is called so: its path is to be filled in"
    source.comments.append(text)
    draft.notices.append(Said(f"source `{source.name}`", text))


def _plain_path(source: DraftSource) -> str:
    return split_hash(source.model.text.replace("\\", "/"))[0].strip().rstrip("/")


def _files_in(parent: Path, files: list[str]) -> Iterator[Path]:
    return (parent / file for file in files if suffix_of(file))


def _folder_itself(parent: Path, files: list[str]) -> Iterator[Path]:
    return iter([parent] if not _FOLDER_OF_ONE.isdisjoint(files) else [])


def _same_path(path: Path, wanted: str) -> bool:
    """Whether a path ends in the path of a recipe; a repository's is also its folder in the cache of Hugging Face."""
    whole = path.as_posix()
    cached = _CACHED.search(whole)
    return f"/{whole}".endswith(f"/{wanted.strip('/')}") or (
        cached is not None and cached[1].replace("--", "/") == wanted.strip("/")
    )


def _same_path_but_its_end(path: Path, wanted: str) -> bool:
    """Whether a path ends in the path of a recipe that names a folder, and a file without or with another suffix."""
    plain, whole = wanted.strip("/"), without_suffix(path.as_posix())
    return "/" in plain and f"/{whole}".endswith(f"/{without_suffix(plain)}")


def _same_name(path: Path, wanted: str) -> bool:
    return path.name == last_step(wanted)


def _same_stem(path: Path, wanted: str) -> bool:
    return without_suffix(path.name) == without_suffix(last_step(wanted))


def _is_like(path: Path, text: str) -> bool:
    """Whether a file's name and a recipe's have one in the other, whatever the signs between words."""
    mine, wanted = (re.sub(r"[\W_]+", "", without_suffix(Path(each).name)).lower() for each in (path.name, text))
    return bool(wanted) and (wanted in mine or mine in wanted)


def _lacks_end(source: DraftSource) -> bool:
    """Whether a source is a file whose name has none of the ends that models have."""
    return not source.model.is_folder and not suffix_of(source.path)


def _is_of_another_machine(path: str) -> bool:
    return path.startswith("/") or re.match(r"[A-Za-z]:/", path) is not None
