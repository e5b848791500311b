"""What a file is, when it is clearly no safetensors file: a pickle, a page that was downloaded instead, a pointer.

Asked only after a file failed to look like safetensors (8 bytes of length, then `{`), so no valid file is ever
mistaken for another format.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["LOOKED_AT", "Foreign", "recognize"]

LOOKED_AT = 512
"""How many bytes of a file's beginning `recognize` wants."""

_CONVERT = "convert it to safetensors first, with a tool that loads it safely (a pickle can run code)"
_DOWNLOAD = "the download failed and saved a page instead of the file: download it again"


class Foreign(NamedTuple):
    """What was recognized: an error code, `is ...` for the sentence, and what to do."""

    code: str
    sentence: str
    help: str
    rows: tuple[str, ...] = ()


_PICKLE = Foreign(
    "not-in-this-version", "is a PyTorch checkpoint (a pickle), and a safetensors file is expected", _CONVERT
)
_ZIP = Foreign(
    "not-in-this-version",
    "is a PyTorch checkpoint or another zip archive, and a safetensors file is expected",
    _CONVERT,
)
_GGUF = Foreign(
    "not-in-this-version",
    "is a GGUF file, which this version does not read",
    "take the unquantized safetensors release of the model: merging quantized weights loses quality",
)
_LFS = Foreign(
    "git-lfs-pointer",
    "is a git-lfs pointer, not the model that it points to",
    "run `git lfs pull` in its repository, or download the file itself",
)
_INDEX = Foreign(
    "not-in-this-version",
    "is the index of a model in several files, not the model",
    "name the folder that it lies in",
)
_PAGE = Foreign("not-a-model", "is a web page, not a model", _DOWNLOAD)


def recognize(head: bytes) -> Foreign | None:
    """Return what a file that begins with `head` (its first `LOOKED_AT` bytes) is, None if nothing known."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _ZIP
    if re.match(rb"\x80[\x02-\x05][\x8a\x95c}\]q(]", head) or head[257:262] == b"ustar":
        return _PICKLE
    if head.startswith(b"GGUF"):
        return _GGUF
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return _LFS
    return _recognize_text(head)


def _recognize_text(head: bytes) -> Foreign | None:
    """Return what a text is: a page, or lines such as `Access to this model is restricted`."""
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
