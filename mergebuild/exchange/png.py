"""The texts that a PNG carries beside its picture: image programs keep the graph there that drew it.

A text is a chunk `tEXt` (Latin-1), `zTXt` (the same, compressed) or `iTXt` (UTF-8, compressed or not). Pictures come
from strangers: a length may lie, a few bytes may unpack to gigabytes. So reading ends at the first chunk that is not
whole, all texts together are bounded, and a damaged text is left out, as viewers do. Checksums are not asked: editors
of metadata leave wrong ones, and a text that was damaged fails where it is parsed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from mergebuild.exchange.recipe_file import MOST_BYTES

__all__ = ["SIGNATURE", "PngError", "texts"]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS: Final = 100_000
_LONGEST_KEYWORD: Final = 79
_MOST_BESIDE: Final = 1000
"""Bytes of a text chunk beside its text: keywords, flags, a language. What is longer is cut, and then too long."""


class PngError(ValueError):
    """A PNG whose texts can't be read; the message is a sentence."""


def texts(stream: BinaryIO, *, most: int = MOST_BYTES) -> dict[str, str]:
    """Return the texts of a PNG by their keywords; of several with one keyword the last.

    Args:
        stream: The file, at its beginning, in which one can seek: the picture itself is skipped.
        most: The most bytes that the texts may have together, unpacked.

    Raises:
        PngError: it is no PNG, has more chunks than a picture has, or its texts are too long.
        OSError: it can't be read.
    """
    found: dict[str, str] = {}
    left = most
    for kind, body in _text_chunks(stream, most):
        try:
            entry = _entry(kind, body, left)
        except OverflowError:
            message = f"its texts have more than {most:,} bytes"
            raise PngError(message) from None
        if entry is not None:
            keyword, text, size = entry
            left -= size
            found[keyword] = text
    return found


def _text_chunks(stream: BinaryIO, most: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and data of each text chunk, up to the end of the picture or the first chunk that is not whole."""
    if stream.read(len(SIGNATURE)) != SIGNATURE:
        message = "it is no PNG"
        raise PngError(message)
    for _ in range(_MOST_CHUNKS):
        head = stream.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            return
        if kind in _READERS:
            body = stream.read(min(length, most + _MOST_BESIDE))
            if len(body) < min(length, most + _MOST_BESIDE):
                return
            yield kind, body
            length -= len(body)
        stream.seek(length + 4, os.SEEK_CUR)
    message = f"it has more than {_MOST_CHUNKS:,} chunks"
    raise PngError(message)


def _entry(kind: bytes, body: bytes, most: int) -> tuple[str, str, int] | None:
    """Return keyword, text and length of a text chunk; None of a damaged one.

    Raises:
        OverflowError: it is longer than `most` bytes.
    """
    keyword, separator, rest = body.partition(b"\0")
    if not separator or not 0 < len(keyword) <= _LONGEST_KEYWORD:
        return None
    try:
        raw = _READERS[kind](rest, most)
        return keyword.decode("latin-1"), _decoded(raw), len(raw)
    except (zlib.error, ValueError):
        return None


def _plain(rest: bytes, most: int) -> bytes:
    return _bounded(rest, most)


def _compressed(rest: bytes, most: int) -> bytes:
    return _unpacked(rest[1:], most)


def _international(rest: bytes, most: int) -> bytes:
    """Return the text behind a flag, a method of compression, a language and a translated keyword."""
    is_packed = rest[:1] == b"\1"
    _language, _translated, text = rest[2:].split(b"\0", 2)
    return _unpacked(text, most) if is_packed else _bounded(text, most)


def _unpacked(packed: bytes, most: int) -> bytes:
    """Return what was compressed, having made no more than a byte beyond `most` of it."""
    inflater = zlib.decompressobj()
    raw = inflater.decompress(packed, most + 1)
    if not inflater.eof and len(raw) <= most:
        message = "the text ends too early"
        raise ValueError(message)
    return _bounded(raw, most)


def _bounded(raw: bytes, most: int) -> bytes:
    if len(raw) > most:
        raise OverflowError
    return raw


def _decoded(raw: bytes) -> str:
    """Return the text: UTF-8 is written into chunks of Latin-1 too, and no JSON in Latin-1 is valid UTF-8 by chance."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


_READERS: Final = {b"tEXt": _plain, b"zTXt": _compressed, b"iTXt": _international}
