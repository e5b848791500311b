"""The union of tokenizers: one that has the tokens of all of them.

The first one's tokens keep their numbers, and its rules stay. All others are added tokens: first the regular ones of
the other tokenizers, one tokenizer after another, in the order of their numbers; then all that any of them has added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mergebuild.configuration.tokenizer_json import AddedToken, TokenizerJson

__all__ = ["TokenUnion", "UnionInput", "union_of"]


class UnionInput(NamedTuple):
    """A tokenizer of a union: the model that it is of, and the number of tokens that this model has rows for."""

    name: str
    tokenizer: TokenizerJson
    size: int

    @property
    def added(self) -> dict[str, AddedToken]:
        """Its added tokens that the model has rows for."""
        tokenizer = self.tokenizer
        return {token: each for token, each in tokenizer.added.items() if tokenizer.ids[token] < self.size}


class TokenUnion(NamedTuple):
    """A union, and what users should know about it, one sentence each."""

    tokenizer: TokenizerJson
    notices: tuple[str, ...]


def union_of(inputs: Sequence[UnionInput]) -> TokenUnion:
    """Return the union of tokenizers, the base first.

    Raises:
        TokenizerJsonError: the base's tokenizer can't be cut, or leaves numbers out.
    """
    base = inputs[0].tokenizer.cut(inputs[0].size)
    added: dict[str, AddedToken] = {}
    for each in inputs:
        for token, how in each.added.items():
            added.setdefault(token, how)
    regular = list(dict.fromkeys(token for each in inputs[1:] for token in _regular(each, base, added)))
    found = base.with_added([*(AddedToken(token) for token in regular), *added.values()])
    return TokenUnion(found, tuple(_notices(inputs, base, added, len(regular))))


def _regular(each: UnionInput, base: TokenizerJson, added: dict[str, AddedToken]) -> Iterator[str]:
    """Yield the regular tokens of a tokenizer that the base lacks, in the order of their numbers."""
    for token, number in each.tokenizer.ids.items():
        if number < each.size and token not in base.ids and token not in added:
            yield token


def _notices(
    inputs: Sequence[UnionInput], base: TokenizerJson, added: dict[str, AddedToken], regular: int
) -> Iterator[str]:
    """Yield what users should know about a union."""
    for each in inputs:
        beyond = [token for token, number in each.tokenizer.ids.items() if number >= each.size]
        if beyond:
            yield (
                f"{len(beyond)} tokens of `{each.name}` are beyond its {each.size} rows and left out, such as"
                f" `{beyond[0][:40]}`"
            )
    unlike = [token for token, how in added.items() if any(each.added.get(token, how) != how for each in inputs)]
    if unlike:
        yield f"{len(unlike)} added tokens are matched otherwise in other inputs than the first, such as `{unlike[0]}`"
    if regular:
        new = regular + sum(token not in base.ids for token in added)
        yield (
            f"{new} tokens are added to the {len(base.ids)} of `{inputs[0].name}`, {regular} of them regular ones of"
            " other tokenizers: texts are split otherwise than any of the models knows"
        )
