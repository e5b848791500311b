"""Which token has which number, from a folder's small files; and in what two such vocabularies differ.

Rows of embeddings are merged by number. Where two tokenizers give a number to other tokens, rows of other words are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["ADDED", "KINDS", "TokenDifference", "difference", "vocabulary"]

KINDS: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""The files that say it. A folder may have several, which need not say the same; clients take the first."""
ADDED: Final = "added_tokens.json"
"""Says which tokens a model has beside those of any other file but the first."""

JsonObject = Mapping[str, Any]

Read = Callable[[str], bytes | None]
"""Returns what is in a file of the folder, None where there is none."""


class TokenDifference(NamedTuple):
    """In what two vocabularies differ."""

    other: int
    """Numbers that are other tokens."""
    example: tuple[int, str, str] | None
    """The first such number, and the tokens that it is."""
    alone: tuple[int, int]
    """Numbers that are a token in the one, and in the other, alone."""


def vocabulary(kind: str, read: Read) -> Mapping[int, str] | None:
    """Return the token of each number by a file of some kind; None where it does not say it in a way that is known."""
    try:
        found = dict(_pairs(kind, read))
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError):
        return None
    return found or None


def difference(one: Mapping[int, str], other: Mapping[int, str]) -> TokenDifference | None:
    """Return in what two vocabularies differ, None where they are one."""
    both = [number for number in one if number in other]
    unlike = sorted(number for number in both if one[number] != other[number])
    alone = (len(one) - len(both), len(other) - len(both))
    if not unlike and alone == (0, 0):
        return None
    example = (unlike[0], one[unlike[0]], other[unlike[0]]) if unlike else None
    return TokenDifference(len(unlike), example, alone)


def _pairs(kind: str, read: Read) -> Iterator[tuple[int, str]]:
    """Yield numbers and tokens, those that replace others last."""
    raw = read(kind)
    if raw is None:
        return
    if kind == "tokenizer.json":
        document = _object(raw)
        yield from _of_model(document["model"])
        for each in document.get("added_tokens") or ():
            yield int(each["id"]), str(each["content"])
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


def _of_model(model: JsonObject) -> Iterator[tuple[int, str]]:
    vocab = model["vocab"]
    if isinstance(vocab, Mapping):
        yield from _by_number(vocab)
    else:  # with a score each, in their order
        yield from enumerate(str(token) for token, *_ in vocab)


def _by_number(vocab: Mapping[str, object]) -> Iterator[tuple[int, str]]:
    for token, number in vocab.items():
        yield int(number), token  # type: ignore[call-overload]  # another kind raises, which says that nothing is known


def _pieces(raw: bytes) -> Iterator[str]:
    """Yield the pieces of a SentencePiece model: the first field of each message in the first field of its message."""
    for number, content in _fields(raw):
        if number == 1 and isinstance(content, bytes):
            yield next(text for inner, text in _fields(content) if inner == 1 and isinstance(text, bytes)).decode()


def _fields(raw: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the fields of a message of protobuf: their numbers and contents."""
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
