"""Weights in shards: the files that an index names, and what each holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mergebuild.errors import SourceError
from mergebuild.formats.documents import MAX_INDEX, is_plain, read_document
from mergebuild.formats.folder_place import FolderPlace
from mergebuild.formats.header import TensorInfo
from mergebuild.formats.model import Model
from mergebuild.formats.quantized import listed
from mergebuild.formats.reading import quoted
from mergebuild.system.missing import brought_back_by, near

__all__ = ["AGAIN", "sharded", "single"]

AGAIN: Final = "the file is damaged or hostile: download it again"
_MOST_SHARDS: Final = 10_000
"""The most files in an index; models have a few hundred."""


def single(place: FolderPlace, name: str) -> Model:
    """Return one file of weights in a folder."""
    return place.read_file(place.path / name, f"{place.shown}/{name}")


def sharded(place: FolderPlace, name: str) -> Model:
    """Return the tensors of all shards in an index; each tensor must be in the shard that the index says."""
    weight_map = _weight_map(place, name)
    found = _Shards(place)
    for shard in _shards_there(place, weight_map):
        found.add(shard, single(place, shard))
    notices = found.checked(weight_map)
    files, sizes, index = tuple(found.files), tuple(found.sizes), (place.path / name,)
    return Model("safetensors", files, sizes, found.tensors, found.metadata, index, notices=notices)


class _Shards:
    """The tensors of shards, put together one by one."""

    def __init__(self, place: FolderPlace) -> None:
        self._place = place
        self.tensors: dict[str, TensorInfo] = {}
        self._homes: dict[str, str] = {}
        """By tensor, its shard."""
        self.files: list[Path] = []
        self.sizes: list[int] = []
        self.metadata: dict[str, str] = {}
        self._notices: list[str] = []

    def add(self, shard: str, part: Model) -> None:
        """Add a shard.

        Raises:
            SourceError: it has a tensor that another one has.
        """
        for info in part.tensors.values():
            if info.name in self.tensors:
                raise self._twice(info.name, shard)
            self.tensors[info.name] = _moved(info, len(self.files))
            self._homes[info.name] = shard
        self.files += part.files
        self.sizes += part.sizes
        self.metadata = {**part.metadata, **self.metadata}
        self._notices += part.notices

    def _twice(self, name: str, shard: str) -> SourceError:
        sentence, rows = f"has {quoted(name)} in two shards", (self._homes[name], shard)
        return self._place.error("duplicate-tensor", sentence, "download or export it again", rows)

    def checked(self, weight_map: Mapping[str, str]) -> tuple[str, ...]:
        """Return notices, after all shards were read.

        Raises:
            SourceError: a shard lacks a tensor that the index says it has.
        """
        wrong = sorted(tensor for tensor, shard in weight_map.items() if self._homes.get(tensor) != shard)
        if wrong:
            raise _not_where_said(self._place, wrong, weight_map)
        if len(self.tensors) > len(weight_map):
            beyond = next(tensor for tensor in self.tensors if tensor not in weight_map)
            count = f"{len(self.tensors) - len(weight_map)} tensors that its index does not name"
            self._notices.append(f"{quoted(self._place.shown)} has {count}, such as {quoted(beyond)}")
        return tuple(self._notices)


def _shards_there(place: FolderPlace, weight_map: Mapping[str, str]) -> list[str]:
    """Return the names of the shards of an index, after checking that all are there."""
    shards = sorted(set(weight_map.values()))
    if len(shards) > _MOST_SHARDS:
        sentence = f"has an index that names {len(shards):,} files, and at most {_MOST_SHARDS:,} are read"
        raise place.error("bad-index", sentence, AGAIN)
    missing = [shard for shard in shards if not place.has(shard)]
    if missing:
        raise _shards_missing(place, missing, len(shards))
    return shards


def _not_where_said(place: FolderPlace, wrong: Sequence[str], weight_map: Mapping[str, str]) -> SourceError:
    sentence = f"has an index that names {len(wrong)} tensors in shards that don't hold them"
    rows = tuple(f"{quoted(tensor)} is not in {quoted(weight_map[tensor])}" for tensor in wrong[:8])
    mend = "index and shards are of different downloads: get both again"
    return place.error("index-mismatch", sentence, mend, rows)


def _shards_missing(place: FolderPlace, missing: Sequence[str], count: int) -> SourceError:
    sentence = f"lacks {len(missing)} of the {count} shards that its index names"
    rows, mend = listed(missing), "download the missing files"
    first = place.path / missing[0]
    if (beside := near(first)) is not None:
        rows, mend = (*rows, f"there is {quoted(beside.path.name)}: {beside.why}"), beside.help
    elif (command := brought_back_by(first)) is not None:
        mend = f"another program keeps them: {command} brings them back"
    return place.error("shard-missing", sentence, mend, rows)


def _weight_map(place: FolderPlace, name: str) -> dict[str, str]:
    """Return the shard of each tensor in an index, with every name checked."""
    inner = place._replace(shown=f"{place.shown}/{name}")
    path, shown = place.path / name, inner.shown
    document = read_document(path, home=place.home, shown=shown, most=MAX_INDEX, is_strict=True, within=place.within)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise inner.error("bad-index", "has no `weight_map` that names a shard for each tensor", AGAIN)
    suffix = ".bin" if ".bin.index." in name else ".safetensors"
    return {tensor: _shard(inner, tensor, shard, suffix) for tensor, shard in weight_map.items()}


def _shard(index: FolderPlace, tensor: str, shard: object, suffix: str) -> str:
    """Return the name that an index gives for a tensor's shard.

    Raises:
        SourceError: it is not the name of a file in the same folder, with this suffix.
    """
    if not isinstance(shard, str):
        raise index.error("bad-index", f"names no file for {quoted(tensor)}", AGAIN)
    named = f"names the shard {quoted(shard)} for {quoted(tensor)}"
    if not is_plain(shard):
        raise index.error("index-outside", f"{named}, and the name of a file beside it is expected", AGAIN)
    if not shard.endswith(suffix):
        raise index.error("bad-index", f"{named}, and a `{suffix}` file is expected", AGAIN)
    return shard


def _moved(info: TensorInfo, by: int) -> TensorInfo:
    """Return a tensor's place if this many files come before its own."""
    if by == 0:
        return info
    pieces = tuple(piece._replace(file=piece.file + by) for piece in info.pieces)
    return replace(info, file=info.file + by, pieces=pieces)
