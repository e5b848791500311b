"""`tokenizer.json`, the format of the library `tokenizers`: read with checks, cut, and written with more tokens.

A row of an embedding belongs to the token with its number, so numbers must be certain: no two tokens have one, and none
is left out. Files come from anywhere; what is wrong with one is a sentence, before anything follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

__all__ = ["AddedToken", "TokenizerJson", "TokenizerJsonError", "read_tokenizer_json"]

_HIGHEST: Final = 1 << 31
"""Numbers of tokens are below it."""
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""The members of an added token that say how it is matched, in the order in which they are written."""

JsonObject = Mapping[str, Any]


class TokenizerJsonError(ValueError):
    """A `tokenizer.json` that can't be used; its text is the end of a sentence about it."""


class AddedToken(NamedTuple):
    """A token that is matched as a whole, before any other rule, and how it is matched."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False

    @property
    def flags(self) -> dict[str, bool]:
        """How it is matched, as JSON has it."""
        return {flag: getattr(self, flag) for flag in _FLAGS}


@dataclass(frozen=True, eq=False)
class TokenizerJson:
    """A tokenizer: its document, the number of each token, and which of them are added ones."""

    document: JsonObject
    ids: Mapping[str, int]
    """By token, its number; in the order of the numbers."""
    added: Mapping[str, AddedToken]
    """The added tokens, in the order of their numbers."""

    @property
    def kind(self) -> str:
        """The type of its model: `BPE`, `Unigram`, ..."""
        said = self.document["model"].get("type")
        return said if isinstance(said, str) else "of no type"

    @property
    def count(self) -> int:
        """The number of tokens.

        Raises:
            TokenizerJsonError: numbers are left out.
        """
        for place, number in enumerate(self.ids.values()):
            if place != number:
                left = f"numbers {place} to {number - 1}" if number - 1 > place else f"number {place}"
                message = f"gives the {left} to no token, and others above {'them' if number - 1 > place else 'it'}"
                raise TokenizerJsonError(message)
        return len(self.ids)

    def cut(self, count: int) -> TokenizerJson:
        """Return it without the tokens whose numbers are `count` or above, and without the merges that make them.

        Raises:
            TokenizerJsonError: tokens of a model that is not of type BPE are among them.
        """
        left = {token for token, number in self.ids.items() if number >= count}
        if not left:
            return self
        model = self.document["model"]
        if not left.isdisjoint(dict(_tokens_of(model))):
            model = self._cut_model(left)
        added = [each for each in self.document.get("added_tokens") or () if each["content"] not in left]
        kept = {token: number for token, number in self.ids.items() if token not in left}
        document = {**self.document, "added_tokens": added, "model": model}
        return TokenizerJson(document, kept, {name: each for name, each in self.added.items() if name not in left})

    def _cut_model(self, left: set[str]) -> JsonObject:
        model = self.document["model"]
        if self.kind != "BPE":
            message = (
                f"has tokens beyond the rows of its model, and only those of type BPE can be cut (it is {self.kind})"
            )
            raise TokenizerJsonError(message)
        vocab = {token: number for token, number in model["vocab"].items() if token not in left}
        merges = [each for each in model.get("merges") or () if left.isdisjoint(_made_by(each))]
        return {**model, "vocab": vocab, "merges": merges}

    def with_added(self, tokens: Sequence[AddedToken]) -> TokenizerJson:
        """Return it with more added tokens: those that it lacks get the next free numbers, in order.

        Raises:
            TokenizerJsonError: numbers are left out.
        """
        new = [each for each in tokens if each.content not in self.added]
        if not new:
            return self
        ids, count = dict(self.ids), self.count
        for each in new:
            if each.content not in ids:
                ids[each.content] = count
                count += 1
        entries = [{"id": ids[each.content], "content": each.content, **each.flags} for each in new]
        every = sorted([*(self.document.get("added_tokens") or ()), *entries], key=lambda each: int(each["id"]))
        added = {**self.added, **{each.content: each for each in new}}
        in_order = {token: added[token] for token in sorted(added, key=lambda token: ids[token])}
        return TokenizerJson({**self.document, "added_tokens": every}, ids, in_order)

    def encoded(self) -> bytes:
        """Return the text of the file."""
        return (json.dumps(self.document, ensure_ascii=False, indent=2) + "\n").encode()


def read_tokenizer_json(raw: bytes) -> TokenizerJson:
    """Return the tokenizer that a `tokenizer.json` describes.

    Raises:
        TokenizerJsonError: it describes none, or gives a number to two tokens.
    """
    document = _document(raw)
    model = document.get("model")
    if not isinstance(model, dict):
        message = "has no `model`"
        raise TokenizerJsonError(message)
    entries = list(_added_in(document.get("added_tokens")))
    ids = _numbered([*_tokens_of(model), *((each.content, number) for number, each in entries)])
    if not ids:
        message = "has no tokens"
        raise TokenizerJsonError(message)
    added = {each.content: each for _, each in entries}
    return TokenizerJson(document, ids, {token: added[token] for token in ids if token in added})


def _document(raw: bytes) -> JsonObject:
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_object)
        if b"\\ud" in raw.lower():  # half of a character, perhaps, which no UTF-8 can have
            json.dumps(found, ensure_ascii=False).encode()
    except TokenizerJsonError:
        raise
    except RecursionError:
        message = "nests too deep"
        raise TokenizerJsonError(message) from None
    except (ValueError, OverflowError):
        message = "is not valid JSON"
        raise TokenizerJsonError(message) from None
    if not isinstance(found, dict):
        message = "is no JSON object"
        raise TokenizerJsonError(message)
    return found


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        message = f"has `{twice[:40]}` twice"
        raise TokenizerJsonError(message)
    return found


def _tokens_of(model: JsonObject) -> Iterator[tuple[str, int]]:
    """Yield the tokens of a tokenizer's model and their numbers."""
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        for token, number in vocab.items():
            yield token, _number(number, token)
    elif isinstance(vocab, list):  # of a token and its score each, in the order of the numbers
        for number, each in enumerate(vocab):
            if not isinstance(each, list) or not each or not isinstance(each[0], str):
                message = f"has an entry of `vocab` that is no token (that with the number {number})"
                raise TokenizerJsonError(message)
            yield each[0], number
    else:
        message = "has no `vocab`"
        raise TokenizerJsonError(message)


def _added_in(entries: object) -> Iterator[tuple[int, AddedToken]]:
    """Yield the added tokens and their numbers."""
    if entries is not None and not isinstance(entries, list):
        message = "has `added_tokens` that are no list"
        raise TokenizerJsonError(message)
    for each in entries or ():
        if not isinstance(each, dict) or not isinstance(each.get("content"), str):
            message = "has an added token without content"
            raise TokenizerJsonError(message)
        flags = {flag: each[flag] for flag in _FLAGS if flag in each}
        if not all(isinstance(flag, bool) for flag in flags.values()):
            message = f"has an added token `{each['content'][:40]}` with a flag that is neither true nor false"
            raise TokenizerJsonError(message)
        yield _number(each.get("id"), each["content"]), AddedToken(each["content"], **flags)


def _number(number: object, token: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _HIGHEST:
        message = f"gives the token `{token[:40]}` no number from 0 on"
        raise TokenizerJsonError(message)
    return number


def _numbered(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return tokens by their numbers, in order; none has two, and no two have one."""
    ids: dict[str, int] = {}
    tokens: dict[int, str] = {}
    for token, number in pairs:
        if ids.setdefault(token, number) != number:
            message = f"gives the token `{token[:40]}` two numbers, {ids[token]} and {number}"
            raise TokenizerJsonError(message)
        if tokens.setdefault(number, token) != token:
            message = f"gives the number {number} to two tokens, `{tokens[number][:40]}` and `{token[:40]}`"
            raise TokenizerJsonError(message)
    return dict(sorted(ids.items(), key=lambda pair: pair[1]))


def _made_by(merge: object) -> set[str]:
    """Return the tokens that a merge joins, and the one that it makes."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(each, str) for each in parts):
        message = "has a merge that does not join two tokens"
        raise TokenizerJsonError(message)
    return {*parts, "".join(parts)}
