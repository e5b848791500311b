"""What readers of all formats share: opening a file, noticing that it changes meanwhile, and naming the rule it breaks.

Files may be untrusted or broken downloads. Each rule that a file can break has its own error code.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mergebuild.errors import Place, SourceError
from mergebuild.system.missing import brought_back_by
from mergebuild.system.platform import open_to_read, pread_into

__all__ = [
    "AGAIN",
    "UNFIT",
    "UNQUANTIZED",
    "BrokenRuleError",
    "beginning",
    "bytes_at",
    "checked",
    "clipped",
    "in_bytes",
    "kind_in_json",
    "opened",
    "quoted",
    "shown_json",
]

UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that no name may have: control characters, and halves of surrogate pairs, which UTF-8 can't encode."""

AGAIN: Final = "the file is damaged, or whatever wrote it is wrong: download or export it again"

_PUT_THERE: Final = "mend the path, or put the file there"
UNQUANTIZED: Final = "take the unquantized release of the model, or dequantize it first"
"""What to do about quantized weights."""

_WRITTEN_TO: Final = "wait until whatever writes it is done, and try again"


class BrokenRuleError(Exception):
    """A rule that a file breaks: code, the message after the file's name, help.

    Callers turn it into a `SourceError`.
    """

    def __init__(self, code: str, sentence: str, help: str = AGAIN, rows: tuple[str, ...] = ()) -> None:
        super().__init__(code)
        self.code = code
        self.sentence = sentence
        self.help = help
        self.rows = rows

    def named(self, shown: str) -> SourceError:
        """Return the error with the file's name."""
        message = f"`{clipped(shown)}` {self.sentence}"
        return SourceError.one(self.code, message, where=Place(shown), help=self.help, rows=self.rows)


@contextmanager
def opened(path: Path, shown: str) -> Iterator[int]:
    """Open a file for reading; yield its descriptor.

    Raises:
        SourceError: the file does not exist, or can't be opened.
    """
    try:
        fd = open_to_read(path)
    except (OSError, ValueError) as error:
        raise _not_opened(path, error).named(shown) from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def checked(fd: int, shown: str) -> Iterator[int]:
    """Yield the size of an open file; turn broken rules that are found meanwhile into errors with its name.

    Raises:
        SourceError: it is no regular file, empty, unreadable, being written to, or breaks a rule.
    """
    try:
        before = os.fstat(fd)
        _check_kind(before)
        yield before.st_size
        _check_unchanged(before, os.fstat(fd))
    except BrokenRuleError as broken:
        raise broken.named(shown) from None
    except OSError as error:
        raise _unreadable(error).named(shown) from error


def beginning(path: Path, most: int) -> bytes:
    """Return the first bytes of a file; empty if it is no regular file or can't be read: its reader reports that.

    Reading a pipe, a device or a file of the system that claims to be empty could block forever, so only regular files
    are read.
    """
    try:
        fd = open_to_read(path)
    except (OSError, ValueError):
        return b""
    try:
        found = os.fstat(fd)
        size = min(found.st_size, most) if stat.S_ISREG(found.st_mode) else 0
        return bytes(bytes_at(fd, 0, size)) if size else b""
    except (OSError, BrokenRuleError):
        return b""
    finally:
        os.close(fd)


def bytes_at(fd: int, offset: int, length: int) -> bytearray:
    """Return `length` bytes, which the file had when its size was read.

    Raises:
        BrokenRuleError: the file has become shorter.
    """
    found = bytearray(length)
    if pread_into(fd, found, offset) < length:
        raise BrokenRuleError("file-changed", "became shorter while it was read", _WRITTEN_TO)
    return found


# The header


def _not_opened(path: Path, error: OSError | ValueError) -> BrokenRuleError:
    if isinstance(error, ValueError):
        return BrokenRuleError("file-unreadable", f"is no possible path: {error}", "mend the path")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        sentence = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        command = brought_back_by(path)
        mend = f"another program keeps it: {command} brings it back" if command else _PUT_THERE
        return BrokenRuleError("file-missing", sentence, mend)
    if os.path.isdir(path):  # noqa: PTH112 -- never raises. Some systems refuse to open folders
        return _folder()
    if error.errno == errno.ENXIO:
        return BrokenRuleError("file-not-regular", "is a socket or a device, not a file", "name a file")
    return _unreadable(error)


def _unreadable(error: OSError) -> BrokenRuleError:
    reason = (error.strerror or str(error)).lower()
    way_out = "check its permissions" if isinstance(error, PermissionError) else "check the disk and the path"
    return BrokenRuleError("file-unreadable", f"can't be read: {reason}", way_out)


def _folder() -> BrokenRuleError:
    return BrokenRuleError(
        "file-is-a-folder", "is a folder, and a `.safetensors` file is expected", "name the file in it"
    )


def _check_kind(found: os.stat_result) -> None:
    """Raise if it is not a regular file with at least one byte."""
    if stat.S_ISDIR(found.st_mode):
        raise _folder()
    if not stat.S_ISREG(found.st_mode):
        raise BrokenRuleError("file-not-regular", "is a pipe, a socket or a device, not a file", "name a file")
    if found.st_size == 0:
        raise BrokenRuleError("file-empty", "is empty", "the download or export never began: do it again")


def _check_unchanged(before: os.stat_result, after: os.stat_result) -> None:
    """Raise if a file was written to meanwhile.

    A new name or new permissions, which change its ctime, are no problem.
    """
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BrokenRuleError("file-changed", "changed while it was read", _WRITTEN_TO)


# Words for what was found


def in_bytes(count: int) -> str:
    """Return a number of bytes for a message."""
    return "1 byte" if count == 1 else f"{count:,} bytes"


def kind_in_json(value: object) -> str:
    """Return the JSON type of a value, for a message."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def quoted(text: str) -> str:
    """Return a name for a message: in backticks, shortened, and without characters that could affect a terminal."""
    return f"`{clipped(text)}`"


def shown_json(value: object) -> str:
    """Return a JSON value for a message, shortened however large or deep it is."""
    if isinstance(value, list):
        shown = ", ".join(kind_in_json(each) if isinstance(each, list) else shown_json(each) for each in value[:8])
        return f"[{shown}]" if len(value) <= 8 else f"[{shown}, … {len(value)} in all]"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return json.dumps(value) if isinstance(value, bool | int | float) else kind_in_json(value)


def clipped(text: str, most: int = 100) -> str:
    """Return a text for a message: shortened, and without characters that could affect a terminal."""
    short = text if len(text) <= most else f"{text[: most - 20]}…{text[-19:]}"
    return UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", short)
