"""The vocabulary of a model, which token has which number, from its folder's small files; and how two of them differ.

Rows of embeddings are merged by number. If two tokenizers use a number for different tokens, rows of different words
are merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["ADDED", "KINDS", "TokenDifference", "difference", "vocabulary"]

KINDS: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""The files with a vocabulary. A folder may have several, which may disagree; clients read the first of them."""
ADDED: Final = "added_tokens.json"
"""The file with tokens added to those of any of these files but the first."""

JsonObject = Mapping[str, Any]

Read = Callable[[str], bytes | None]
"""Returns the content of a file of the folder; None if there is no such file."""


class TokenDifference(NamedTuple):
    """How two vocabularies differ."""

    other: int
    """How many numbers have different tokens."""
    example: tuple[int, str, str] | None
    """The first such number, and its two tokens."""
    alone: tuple[int, int]
    """How many numbers only the first, and only the second, vocabulary has."""


def vocabulary(kind: str, read: Read) -> Mapping[int, str] | None:
    """Return the token of each number, from a file of this kind; None if its format is unknown."""
    try:
        found = dict(_pairs(kind, read))
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError):
        return None
    return found or None


def difference(one: Mapping[int, str], other: Mapping[int, str]) -> TokenDifference | None:
    """Return how two vocabularies differ; None if they are equal."""
    both = [number for number in one if number in other]
    unlike = sorted(number for number in both if one[number] != other[number])
    alone = (len(one) - len(both), len(other) - len(both))
    if not unlike and alone == (0, 0):
        return None
    example = (unlike[0], one[unlike[0]], other[unlike[0]]) if unlike else None
    return TokenDifference(len(unlike), example, alone)


def _pairs(kind: str, read: Read) -> Iterator[tuple[int, str]]:
    """Yield numbers and tokens; a later pair replaces an earlier one with the same number."""
    if (raw := read(kind)) is None:
        return
    if kind == "tokenizer.json":
        yield from _of_document(_object(raw))
        return
    if kind.endswith(".json"):
        yield from _by_number(_object(raw))
    elif kind.endswith(".txt"):
        yield from enumerate(raw.decode().splitlines())
    else:
        yield from enumerate(_pieces(raw))
    if (added := read(ADDED)) is not None:
        yield from _by_number(_object(added))


def _object(raw: bytes) -> JsonObject:
    found = json.loads(raw.decode())
    if not isinstance(found, dict):
        message = "a JSON object is expected"
        raise TypeError(message)
    return found


def _of_document(document: JsonObject) -> Iterator[tuple[int, str]]:
    """Yield the numbers and tokens of a `tokenizer.json`."""
    yield from _of_model(document["model"])
    for each in document.get("added_tokens") or ():
        yield int(each["id"]), str(each["content"])


def _of_model(model: JsonObject) -> Iterator[tuple[int, str]]:
    vocab = model["vocab"]
    if isinstance(vocab, Mapping):
        yield from _by_number(vocab)
    else:  # a list of tokens, in order, each with a score
        yield from enumerate(str(token) for token, *_ in vocab)


def _by_number(vocab: Mapping[str, object]) -> Iterator[tuple[int, str]]:
    for token, number in vocab.items():
        yield int(number), token  # type: ignore[call-overload]  # raises for other types: the format is unknown


def _pieces(raw: bytes) -> Iterator[str]:
    """Yield the pieces of a SentencePiece model: field 1 of each message in field 1 of the whole message."""
    for number, content in _fields(raw):
        if number == 1 and isinstance(content, bytes):
            yield next(text for inner, text in _fields(content) if inner == 1 and isinstance(text, bytes)).decode()


def _fields(raw: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the number and the content of each field of a protobuf message."""
    place = 0
    while place < len(raw):
        tag, place = _varint(raw, place)
        kind = tag & 7
        if kind == 2:
            length, place = _varint(raw, place)
            yield tag >> 3, raw[place : place + length]
            place += length
        elif kind == 0:
            value, place = _varint(raw, place)
            yield tag >> 3, value
        else:
            place += {1: 8, 5: 4}[kind]


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128 or shift > 63:
            return value, place
