"""The small JSON files beside weights, read with limits, as they may be untrusted like the weights.

A document must be in its own folder: a link out of it is not followed, because the linked file would become part of an
output that the user may publish. Exception: the cache of Hugging Face is a folder of links to `blobs`, which belong to
it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mergebuild.errors import Place, SourceError
from mergebuild.formats.foreign import LOOKED_AT, recognize
from mergebuild.formats.reading import UNFIT, clipped, quoted
from mergebuild.system.bounded_text import what_is_wrong
from mergebuild.system.missing import brought_back_by
from mergebuild.system.platform import open_to_read, pread_into

__all__ = ["MAX_CONFIG", "MAX_INDEX", "is_own", "is_plain", "quoted", "read_document"]

MAX_CONFIG: Final = 4 << 20
"""The longest configuration (bytes). Real ones have a few thousand, and 100,000 with names of a thousand classes."""
MAX_INDEX: Final = 32 << 20
"""The longest index of shards (bytes). That of a model with 140,000 tensors has 15 million."""

_AGAIN: Final = "the file is damaged: download or export it again"


def read_document(
    path: Path,
    *,
    home: Path,
    shown: str,
    most: int = MAX_CONFIG,
    is_strict: bool = False,
    within: Sequence[Path] = (),
) -> dict[str, object]:
    """Return the JSON object in a file.

    Args:
        path: The file.
        home: The folder that it must belong to; see `is_own`.
        shown: What to call it in errors.
        most: The most bytes that it may have.
        is_strict: Whether a key that is twice in one object is an error; otherwise the last one counts.
        within: Folders in which links may also end.

    Raises:
        SourceError: it is missing, a link out of its folder, not a file, too long, or not a JSON object.
    """
    if not is_own(path, home, within):
        sentence = "is a link to a file outside of its folder"
        raise _error("link-outside", shown, sentence, "put a copy of the file there, if you trust the folder")
    found = _parsed(_content(path, shown, most), shown, is_strict=is_strict)
    if not isinstance(found, dict):
        raise _error("json-invalid", shown, "is not a JSON object")
    return found


def _parsed(raw: bytearray, shown: str, *, is_strict: bool) -> object:
    """Return the JSON value in a file's bytes."""
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique if is_strict else None)
    except UnicodeDecodeError as error:
        raise _error("json-not-utf8", shown, f"is not UTF-8 (byte {error.start})") from error
    except RecursionError:
        # without `from`: a traceback of a thousand frames is of no use
        raise _error("json-too-deep", shown, "is JSON nested without end") from None
    except ValueError as error:
        if (pointer := recognize(bytes(raw[:LOOKED_AT]))) is not None and pointer.is_pointer:
            raise _error(pointer.code, shown, pointer.sentence, pointer.help) from None
        raise _error("json-invalid", shown, f"is not JSON: {clipped(what_is_wrong(error))}") from error


def is_own(path: Path, folder: Path, within: Sequence[Path] = ()) -> bool:
    """Return whether a path inside a model folder, with links followed, ends where the folder's owner keeps models.

    Such places are the folder itself, files of models in Hugging Face's cache (the one that contains the folder, and
    this user's), and the folders `within` (the project, the user's folder of models). Hidden files in `within`, such as
    keys, do not count, except in the caches of DVC and git-annex, which hold models.
    """
    real, home = (Path(os.path.realpath(each)) for each in (path, folder))  # loops of links raise nothing
    if real.is_relative_to(home) or _is_in_cache_of(home, real) or _is_in_hub(real):
        return True
    places = (Path(os.path.realpath(each)) for each in within)
    return any(real.is_relative_to(each) and not _is_hidden(real.relative_to(each).parts) for each in places)


def _is_in_cache_of(home: Path, real: Path) -> bool:
    """Return whether a file is in the same cache of a model as a folder, which is a snapshot in it."""
    caches = (parent.parent for parent in home.parents if parent.name == "snapshots")
    return any(cache.name.startswith("models--") and real.parent == cache / "blobs" for cache in caches)


def _is_in_hub(real: Path) -> bool:
    """Return whether a file belongs to a model in this user's cache of Hugging Face."""
    home = Path(os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    try:
        cache = Path(os.path.realpath(hub.expanduser()))
    except RuntimeError:  # this user has no home folder
        return False
    if not real.is_relative_to(cache):
        return False
    parts = real.relative_to(cache).parts
    return len(parts) == 3 and parts[0].startswith("models--") and parts[1] == "blobs"


def _is_hidden(parts: Sequence[str]) -> bool:
    """Return whether a path in a folder goes through something hidden that is not a cache of models."""
    if parts[:1] == (".dvc",) and "cache" in parts[1:3]:
        parts = parts[1:]
    elif parts[:3] == (".git", "annex", "objects"):
        parts = parts[3:]
    return any(part.startswith(".") for part in parts)


def is_plain(name: str) -> bool:
    """Return whether a name is a valid name of an entry in one folder, on every system."""
    return bool(name) and name not in {".", ".."} and not UNFIT.search(name) and not set("/\\:") & set(name)


def _opened(path: Path, shown: str) -> int:
    try:
        return open_to_read(path)
    except (FileNotFoundError, NotADirectoryError):
        sentence = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        command = brought_back_by(path)
        mend = f"another program keeps it: {command} brings it back" if command else "download the whole folder"
        raise _error("file-missing", shown, sentence, mend) from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _error("file-not-regular", shown, "is a socket or a device, not a file") from error
        raise _unreadable(shown, error) from error


def _check_kind_and_size(found: os.stat_result, shown: str, most: int) -> None:
    """Refuse what is no regular file, or has more than so many bytes."""
    if not stat.S_ISREG(found.st_mode):
        raise _error("file-not-regular", shown, "is a folder, a pipe or a device, not a file")
    if found.st_size > most:
        sentence = f"has {found.st_size:,} bytes, and at most {most:,} are allowed"
        raise _error("json-too-large", shown, sentence)


def _content(path: Path, shown: str, most: int) -> bytearray:
    fd = _opened(path, shown)
    try:
        found = os.fstat(fd)
        _check_kind_and_size(found, shown, most)
        raw = bytearray(found.st_size)
        if pread_into(fd, raw, 0) < len(raw):
            raise _error("file-changed", shown, "became shorter while it was read", "try again")
        return raw
    except OSError as error:
        raise _unreadable(shown, error) from error
    finally:
        os.close(fd)


def _unreadable(shown: str, error: OSError) -> SourceError:
    reason = (error.strerror or str(error)).lower()
    way_out = "check its permissions" if isinstance(error, PermissionError) else "check the disk and the path"
    return _error("file-unreadable", shown, f"can't be read: {reason}", way_out)


def _error(code: str, shown: str, sentence: str, help: str = _AGAIN) -> SourceError:
    return SourceError.one(code, f"{quoted(shown)} {sentence}", where=Place(shown), help=help)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        message = f"it has {quoted(name)} twice in one object"
        raise ValueError(message)
    return found
