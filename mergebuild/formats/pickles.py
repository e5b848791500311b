"""Checkpoints saved by PyTorch (`.ckpt`, `.pt`, `.pth`, `.bin`), read in place and without torch.

Both layouts store numbers as they are in memory, apart from the pickle that describes them: since torch 1.6 a zip
archive with `data.pkl` and uncompressed `data/<key>`, before that several pickles followed by the storages. So a tensor
is a range of the file, or a view with strides, as in a safetensors file. `unpickling` interprets the pickle without
running any code.

Which dict has the model's tensors:

1. `state_dict` is followed, twice if necessary. 2. A dict that holds tensors itself is the one. 3. Otherwise the first
of `module`, `model`, `model_state_dict`, `params_ema`, `params` that holds tensors itself.

Its tensors are the model's, in its order; of equal names the last counts, as in any dict. Dicts inside it are not
merged into it: torch gives each weight one flat name, and anything deeper is bookkeeping of some layer. Everything else
is left out with a notice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.foreign import LOOKED_AT
from mergebuild.formats.header import METADATA, Piece, TensorInfo
from mergebuild.formats.model import Model
from mergebuild.formats.reading import (
    AGAIN,
    UNFIT,
    BrokenRuleError,
    bytes_at,
    checked,
    in_bytes,
    opened,
    quoted,
    shown_json,
)
from mergebuild.formats.unpickling import (
    MOST_BYTES,
    SIZES,
    Dict,
    Odd,
    Opaque,
    ShortPickle,
    Storage,
    Tensor,
    length_error,
    unpickle,
)
from mergebuild.formats.zips import Archive, read_archive

__all__ = ["is_pickle", "read_pickle", "read_pickle_fd"]

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_WRAPPERS: Final = ("module", "model", "model_state_dict", "params_ema", "params")
_MOST_WRAPPED: Final = 2
_MOST_REACH: Final = 1 << 60
_MOST_REPEATED: Final = 1 << 24
"""Bytes of the largest tensor that repeats elements of its storage: otherwise a small file could claim any size."""
_FIRST_LOOK: Final = 1 << 20
"""Bytes first read of a file whose pickles may be of any length."""
_RETRY: Final = "load it with the program that made it, and save its `state_dict()` as safetensors"

_Places = Callable[[Storage], tuple[int, int]]


def is_pickle(head: bytes) -> bool:
    """Return whether a file that begins with `head` (`LOOKED_AT` bytes) is one for `read_pickle`.

    A safetensors file may by chance begin like a zip archive (with its length): check for a `{` at byte 8 first.
    """
    if head.startswith((b"PK\3\4", b"PK\5\6")) or head[257:262] == b"ustar":
        return True
    return re.match(rb"\x80[\x02-\x05][\x8a\x95c}\]q(]", head[:LOOKED_AT]) is not None


def read_pickle(path: Path, *, shown: str | None = None) -> Model:
    """Read the description of a checkpoint's tensors; the tensors themselves are not read.

    Args:
        path: The file.
        shown: What to call it in errors; by default the path.

    Raises:
        SourceError: the file does not exist, can't be read, is no checkpoint, breaks a rule of its format, or asks for
            code
            that no state dict needs (`unsafe-pickle`). No code is run.
    """
    name = str(path) if shown is None else shown
    with opened(path, name) as fd:
        return read_pickle_fd(fd, path, name)


def read_pickle_fd(fd: int, path: Path, shown: str) -> Model:
    """Read an open checkpoint, even if its path now leads to another file. Its position may change.

    Raises:
        SourceError: as `read_pickle`, or it is being written to.
    """
    with checked(fd, shown) as size:
        tensors, notices = _read(fd, size)
    return Model("pickle", (path,), (size,), tensors, {}, notices=notices)


def _read(fd: int, file_size: int) -> tuple[dict[str, TensorInfo], tuple[str, ...]]:
    head = bytes(bytes_at(fd, 0, min(file_size, LOOKED_AT)))
    if head[257:262] == b"ustar":
        sentence = "is a checkpoint of PyTorch 0.1.9 or older (a tar archive), which this version can't read"
        raise BrokenRuleError("old-tar-checkpoint", sentence, "load it with an old PyTorch, and save it anew")
    top, places = _from_zip(fd, file_size) if head.startswith(b"PK") else _from_row(fd, file_size)
    names, notices = _state_dict(top)
    return {name: _tensor(name, found, places) for name, found in names.items()}, notices


# The zip archive


def _from_zip(fd: int, file_size: int) -> tuple[object, _Places]:
    archive = read_archive(fd, file_size)
    prefix = _prefix(archive)
    try:
        top, _ = unpickle(_contents(archive, f"{prefix}data.pkl", MOST_BYTES))
    except ShortPickle:
        raise BrokenRuleError("bad-pickle", "has a pickle that ends too early", AGAIN) from None
    return top, _StoragesInZip(archive, prefix).place


class _StoragesInZip:
    """The places of storages in a checkpoint's archive; each entry is looked at once."""

    def __init__(self, archive: Archive, prefix: str) -> None:
        """`prefix`: of the names of its entries."""
        self._archive = archive
        self._prefix = prefix
        self._known: dict[str, tuple[int, int]] = {}

    def place(self, storage: Storage) -> tuple[int, int]:
        """Return where the bytes of a storage begin and end in the file."""
        if storage.view is not None:
            raise BrokenRuleError("bad-pickle", f"has a part of the storage {quoted(storage.key)}, as old files do")
        if storage.key not in self._known:
            name = f"{self._prefix}data/{storage.key}"
            if name not in self._archive.entries:
                raise _storage_missing(storage)
            self._known[storage.key] = self._archive.place(name)
        begin, end = self._known[storage.key]
        return begin, _end(storage, begin, end - begin)


def _only_pickle(archive: Archive) -> str:
    """Return the name of the pickle of a checkpoint."""
    found = [name for name in archive.entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(found) != 1:
        shown = " and ".join(map(quoted, found[:2])) if found else "no `data.pkl`"
        sentence = f"is a zip archive with {shown}, and a checkpoint has one"
        raise BrokenRuleError("not-a-model", sentence, "name the model itself; if it is in the archive, unpack it")
    return found[0]


def _prefix(archive: Archive) -> str:
    """Return the prefix of the names of a checkpoint's entries.

    Raises:
        BrokenRuleError: it is no checkpoint, or one that can't be read.
    """
    prefix = _only_pickle(archive).removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in archive.entries:
        sentence = "is a TorchScript program, not a model's state dict"
        raise BrokenRuleError("not-a-state-dict", sentence, _RETRY)
    order = _contents(archive, f"{prefix}byteorder", 100) if f"{prefix}byteorder" in archive.entries else b"little"
    if order != b"little":
        raise _big_endian()
    return prefix


def _contents(archive: Archive, name: str, most: int) -> bytes:
    begin, end = archive.place(name)
    if end - begin > most:
        raise length_error(end - begin)
    return bytes(bytes_at(archive.fd, begin, end - begin))


def _end(storage: Storage, begin: int, size: int) -> int:
    """Return where a storage ends, which has `size` bytes at most."""
    needed = storage.count * SIZES[storage.dtype]
    if needed > size:
        found = f"{in_bytes(size)} for the storage {quoted(storage.key)}"
        sentence = f"has {found}, and {storage.count:,} times {storage.dtype} take {needed:,}"
        raise BrokenRuleError("storage-too-short", sentence, AGAIN)
    return begin + needed


def _big_endian() -> BrokenRuleError:
    sentence = "was saved on a machine with its bytes in the other order (big-endian)"
    return BrokenRuleError("big-endian", sentence, "load it with PyTorch there or here, and save it as safetensors")


# Pickles in a row


def _from_row(fd: int, file_size: int) -> tuple[object, _Places]:
    """Read the pickles at a file's beginning: magic number, version, machine, the object, and the keys of storages."""
    values, end = _row(fd, file_size)
    top, keys = _object_and_keys(values)
    roots = {storage.key: storage for storage in _reachable(top, set()) if isinstance(storage, Storage)}
    known = _storages_in_row(fd, file_size, end, keys, roots)

    def place(storage: Storage) -> tuple[int, int]:
        if storage.key not in known:
            raise _storage_missing(storage)
        begin, end = known[storage.key]
        return _viewed(storage, begin, _end(storage, begin, end - begin))

    return top, place


def _storage_missing(storage: Storage) -> BrokenRuleError:
    sentence = f"has no storage {quoted(storage.key)}, and its pickle refers to it"
    return BrokenRuleError("storage-missing", sentence, AGAIN)


def _viewed(storage: Storage, begin: int, end: int) -> tuple[int, int]:
    """Return the range of the part of a storage that is used, given the range of the whole storage."""
    if storage.view is None:
        return begin, end
    _, offset, count = storage.view
    size = SIZES[storage.dtype]
    if begin + (offset + count) * size > end:
        sentence = f"has a part of the storage {quoted(storage.key)} that reaches beyond it"
        raise BrokenRuleError("storage-too-short", sentence, AGAIN)
    return begin + offset * size, begin + (offset + count) * size


def _object_and_keys(values: Sequence[object]) -> tuple[object, list[object]]:
    """Return the object among the values of a file's pickles, and the keys of its storages."""
    machine, top, keys = values[2:]
    if isinstance(machine, Dict) and machine.named.get("little_endian") is False:
        raise _big_endian()
    if not isinstance(keys, list):
        raise BrokenRuleError("bad-pickle", "has no list of its storages behind its pickle", AGAIN)
    return top, keys


def _storages_in_row(
    fd: int, file_size: int, end: int, keys: Sequence[object], roots: Mapping[str, Storage]
) -> dict[str, tuple[int, int]]:
    """Return the ranges of the storages, which follow the pickles; each comes after its number of elements.

    `end`: where the pickles end.
    """
    known: dict[str, tuple[int, int]] = {}
    for key in keys:
        if not isinstance(key, str) or key in known or key not in roots:
            shown = quoted(key) if isinstance(key, str) else "what is no string"
            raise BrokenRuleError("bad-pickle", f"lists the storage {shown} twice, or without describing it", AGAIN)
        count = int.from_bytes(bytes_at(fd, end, 8), "little") if end + 8 <= file_size else -1
        begin = end + 8
        end = begin + count * SIZES[roots[key].dtype]
        if count < 0 or end > file_size:
            raise BrokenRuleError("data-truncated", f"is cut short, in or before its storage {quoted(key)}", AGAIN)
        known[key] = begin, end
    return known


def _row(fd: int, file_size: int) -> tuple[list[object], int]:
    """Return the five pickles and where they end, reading at most twice as much of the file as they take."""
    size = min(file_size, _FIRST_LOOK)
    while True:
        try:
            return _five(bytes(bytes_at(fd, 0, size)))
        except ShortPickle as short:
            if short.needed > file_size:
                raise BrokenRuleError("data-truncated", "is cut short, within its pickle", AGAIN) from None
            if short.needed > MOST_BYTES:
                raise length_error(short.needed) from None
            size = min(max(2 * size, short.needed), file_size, MOST_BYTES)


def _five(data: bytes) -> tuple[list[object], int]:
    """Return the five pickles at the beginning of a file, and where they end.

    Raises:
        ShortPickle: more of the file is needed.
    """
    values: list[object] = []
    end = 0
    while len(values) < 5:
        value, end = unpickle(data, end)
        values.append(value)
        if len(values) <= 2 and value != (_MAGIC, _PROTOCOL)[len(values) - 1]:
            sentence = "is a pickle, and not one that `torch.save` wrote"
            raise BrokenRuleError("not-a-model", sentence, _RETRY)
    return values, end


# The state dict


def _reachable(top: object, seen: set[int]) -> Iterator[object]:
    """Yield every tensor and storage inside a value, each once. `seen`: the ids of values already visited."""
    waiting = [top]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, tuple | list | Dict | Opaque | Tensor | Odd | Storage) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor | Odd | Storage):
            yield value
            waiting += [value.storage] if isinstance(value, Tensor) else []
        elif isinstance(value, Dict):
            waiting += [*value.named.values(), *value.others]
        else:
            waiting += value.parts if isinstance(value, Opaque) else value


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Dict) and any(isinstance(each, Tensor | Odd) for each in value.named.values())


def _wrapper(found: Dict) -> str | None:
    """Return the key that holds the state dict; None if this is the state dict itself."""
    if isinstance(found.named.get("state_dict"), Dict):
        return "state_dict"
    if _holds_tensors(found):
        return None
    return next((key for key in _WRAPPERS if _holds_tensors(found.named.get(key))), None)


def _state_dict(top: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the model's tensors by name, and notices about what was left out."""
    if isinstance(top, Tensor | Odd | Storage):
        raise BrokenRuleError("lone-tensor", "is a single tensor without a name, not a model", _RETRY)
    if not isinstance(top, Dict):
        raise BrokenRuleError("no-tensors", "holds no dict of tensors", _RETRY)
    found, left = _unwrapped(top)
    if not _holds_tensors(found):
        raise _no_tensors(found)
    tensors, inside = _sorted_out(found)
    return tensors, tuple(_notices(left, inside))


def _notices(left: Mapping[str, object], inside: Mapping[str, object]) -> Iterator[str]:
    """Yield notices about what was left out: items beside the model's dict, and items inside it."""
    if left:
        yield f"left out what training needs, not the model: {_listed(left)}"
    if inside:
        yield f"left out what stands between the tensors and is none: {_listed(inside)}"


def _unwrapped(found: Dict) -> tuple[Dict, dict[str, object]]:
    """Return the dict inside of its wrappers, and the other items of these."""
    left: dict[str, object] = {}
    for _ in range(_MOST_WRAPPED):
        key = _wrapper(found)
        if key is None:
            break
        left |= {name: value for name, value in found.named.items() if name != key}
        inner = found.named[key]
        assert isinstance(inner, Dict)  # `_wrapper` only returns keys of dicts
        found = inner
    return found, left


def _sorted_out(found: Dict) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return the tensors of a dict, and its other items."""
    tensors: dict[str, Tensor] = {}
    inside: dict[str, object] = {}
    for name, value in found.named.items():
        if isinstance(value, Odd):
            sentence = f"has the tensor {quoted(name)}, which is {value.kind}"
            raise BrokenRuleError("unsupported-tensor", sentence, "take a release of the model with plain tensors")
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            inside[name] = value
    if found.others:
        inside["entries without a name"] = found.others
    return tensors, inside


def _listed(left: Mapping[str, object], most: int = 8) -> str:
    """Return names with their numbers of tensors, for a sentence."""
    seen: set[int] = set()  # a shared value counts once, and is visited once
    counts = [
        (name, sum(isinstance(each, Tensor | Odd) for each in _reachable(value, seen))) for name, value in left.items()
    ]
    counts.sort(key=lambda each: -each[1])  # stable: those that hold tensors first, else in the order of the file
    words = [quoted(name) + _tensors(number) for name, number in counts[:most]]
    return ", ".join(words) + (f" and {len(counts) - most:,} more" if len(counts) > most else "")


def _tensors(number: int) -> str:
    return "" if number == 0 else " (1 tensor)" if number == 1 else f" ({number:,} tensors)"


def _no_tensors(found: Dict) -> BrokenRuleError:
    listed = f"it holds {_listed(found.named)}" if found.named else "it is empty"
    allowed = ", ".join(f"`{key}`" for key in _WRAPPERS)
    sentence = f"has no dict of tensors, neither as it is nor under `state_dict`, {allowed}"
    return BrokenRuleError("no-tensors", sentence, _RETRY, (listed,))


# A tensor


def _tensor(name: str, found: Tensor, places: _Places) -> TensorInfo:
    """Return where a tensor is, after checking everything that the pickle says of it against the file."""
    _check_sayings(name, found)
    shape, strides = found.shape, found.strides
    begin, end = places(found.storage)
    size = DTYPES_BY_WORD[found.dtype].size
    count = math.prod(shape)
    if count == 0:
        return TensorInfo(name, found.dtype, shape, begin, begin)
    last = found.offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if begin + (last + 1) * size > end:
        sentence = f"has {quoted(name)} reach to element {shown_json(last)} of a storage of {(end - begin) // size:,}"
        raise BrokenRuleError("view-outside", sentence)
    first = begin + found.offset * size
    if _is_contiguous(shape, strides):
        return TensorInfo(name, found.dtype, shape, first, first + count * size)
    if count * size > max(_MOST_REPEATED, end - begin):
        sentence = f"makes {in_bytes(count * size)} for {quoted(name)} of a storage of {end - begin:,} by repeating it"
        raise BrokenRuleError("view-repeats", sentence, "it is made to do harm, or saved without `.contiguous()`")
    return TensorInfo(name, found.dtype, shape, 0, count * size, pieces=(Piece(0, first, shape, strides),))


def _check_sayings(name: str, found: Tensor) -> None:
    """Refuse a tensor with an invalid name, dtype, shape or strides, whatever the file's data are."""
    if UNFIT.search(name) or name == METADATA:
        sentence = f"has a control character or half a character in the name {quoted(name)}, or it is reserved"
        raise BrokenRuleError("bad-tensor-name", sentence)
    if found.dtype not in DTYPES_BY_WORD:
        sentence = f"stores {quoted(name)} as {found.dtype}, which this version can't merge or copy"
        way_out = f"take a release of the model in one of {', '.join(DTYPES_BY_WORD)}"
        raise BrokenRuleError("unsupported-dtype", sentence, way_out)
    _check_view(name, found)


def _check_view(name: str, found: Tensor) -> None:
    """Refuse a tensor whose shape and strides no tensor has."""
    shape, strides = found.shape, found.strides
    if len(shape) != len(strides) or found.offset < 0 or min((*shape, *strides), default=0) < 0:
        sentence = f"gives {quoted(name)} the shape {shown_json(list(shape))} with strides {shown_json(list(strides))}"
        raise BrokenRuleError("bad-view", f"{sentence} from element {shown_json(found.offset)} on, which no tensor has")
    if math.prod(size or 1 for size in shape) > _MOST_REACH:
        sentence = f"gives {quoted(name)} the shape {shown_json(list(shape))}, which is more than any file holds"
        raise BrokenRuleError("shape-overflow", sentence)


def _is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether elements are consecutive, in their order."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True
