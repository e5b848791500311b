"""Recognizes files that are no models, to say what they are: web pages from failed downloads, pointers, GGUF.

It is used only for files that don't look like safetensors (8 bytes of length, then `{`), so a valid file is never
mistaken for another format.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["LOOKED_AT", "Foreign", "recognize"]

LOOKED_AT = 512
"""How many bytes from a file's beginning `recognize` needs."""

_DOWNLOAD = "the download failed and saved a page instead of the file: download it again"


class Foreign(NamedTuple):
    """What was recognized: an error code, a clause `is ...` for the message, and what to do."""

    code: str
    sentence: str
    help: str
    rows: tuple[str, ...] = ()
    is_pointer: bool = False
    """Whether it is a pointer to a file that another program keeps elsewhere."""


_GGUF = Foreign(
    "not-in-this-version",
    "is a GGUF file, which this version does not read",
    "take the unquantized safetensors release of the model: merging quantized weights loses quality",
)
_LFS = Foreign(
    "git-lfs-pointer",
    "is a git-lfs pointer, not the file that it points to",
    "run `git lfs pull` in its repository, or download the file itself",
    is_pointer=True,
)
_ANNEX = Foreign(
    "git-annex-pointer",
    "is a git-annex pointer, not the file that it points to",
    "run `git annex get` for it in its repository, or download the file itself",
    is_pointer=True,
)
_DVC = Foreign(
    "dvc-pointer",
    "is what DVC keeps in place of a file, not the file itself",
    "run `dvc pull` in its repository, and name the file without `.dvc`",
    is_pointer=True,
)
_INDEX = Foreign("index-alone", "is the index of a model in several files", "name the folder that it stands in")
_PAGE = Foreign("not-a-model", "is a web page, not a model", _DOWNLOAD)


def recognize(head: bytes) -> Foreign | None:
    """Return what a file with these first `LOOKED_AT` bytes is; None if it is not recognized."""
    if head.startswith(b"GGUF"):
        return _GGUF
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return _LFS
    if head.startswith(b"/annex/objects/"):
        return _ANNEX
    if re.match(rb"(?:md5: \w+\n|frozen: \w+\n)*outs:\s*\n- (?:md5|hash|size|path): ", head):
        return _DVC
    return _recognize_text(head)


def _recognize_text(head: bytes) -> Foreign | None:
    """Return what a text file is: a web page, an index, or lines such as `Access to this model is restricted`."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"<(!doctype|html|head|\?xml)\b", text, re.IGNORECASE):
        return _PAGE
    if len(text) < 8 or re.search(rb"[^\t\n\r -~]", text):
        return None
    if text.startswith(b"{") and b'"weight_map"' in text:
        return _INDEX
    line = text.splitlines()[0].decode("ascii").strip()
    shown = line if len(line) <= 100 else f"{line[:99]}…"
    return Foreign(
        "not-a-model", "is a text, not a model", f"if it was downloaded: {_DOWNLOAD}", (f"it says: {shown}",)
    )
