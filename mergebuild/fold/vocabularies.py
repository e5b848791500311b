"""The tokens of sources and targets: which number each has, and the files that say so.

A source's are those of its `tokenizer.json`. A target has those of a model, or the union of its inputs', if it says so;
else those of the model whose tokenizer is written beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from mergebuild.configuration.parts import config_of
from mergebuild.configuration.token_union import UnionInput, union_of
from mergebuild.configuration.tokenizer_json import (
    AddedToken,
    TokenizerJson,
    TokenizerJsonError,
    read_tokenizer_json,
)
from mergebuild.digest import checksum
from mergebuild.errors import Place, SourceError
from mergebuild.recipe import Recipe
from mergebuild.recipe.tokenizer import TokenizerText
from mergebuild.sources.sources import Sources

__all__ = ["TOKENIZER", "ReadFile", "TokenVocabulary", "Vocabularies"]

TOKENIZER: Final = "tokenizer.json"
_SAVE: Final = "save it once as `AutoTokenizer.from_pretrained(…).save_pretrained(…)` of transformers does"


class ReadFile(NamedTuple):
    """A small file of a source that something follows from: the source, its path in the folder, its checksum."""

    source: str
    path: str
    checksum: bytes


@dataclass(frozen=True, eq=False)
class TokenVocabulary:
    """The tokens of a source or a target."""

    owner: str
    """The source whose tokenizer it is, perhaps with other tokens."""
    tokenizer: TokenizerJson
    content: bytes
    """Of its `tokenizer.json`."""
    read: tuple[ReadFile, ...]
    """The files that it follows from."""
    notices: tuple[str, ...] = ()
    """What users should know about it, one sentence each."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Its tokens, in the order of their numbers."""
        return tuple(self.tokenizer.ids)


class Vocabularies:
    """Finds the tokens of sources and targets, each once."""

    def __init__(self, recipe: Recipe, sources: Sources, rows_of: Callable[[str], int | None]) -> None:
        """`rows_of`: returns the rows of the embedding of a source or target; None if it has no embedding."""
        self._recipe = recipe
        self._sources = sources
        self._rows_of = rows_of
        self._of_sources: dict[str, TokenVocabulary] = {}
        self._of_texts: dict[TokenizerText, TokenVocabulary] = {}

    def of(self, ref: str) -> TokenVocabulary:
        """Return the tokens of a source or target.

        Raises:
            SourceError: there is no `tokenizer.json`, or one that can't be used.
        """
        name = self.speaking(ref)
        if name in self._sources:
            found = self._of_sources.get(name)
            if found is None:
                found = self._of_sources[name] = self._of_source(name)
            return found
        text = self._recipe.target(name).tokenizer
        assert text is not None  # else it would not speak for itself
        return self.said(text)

    def speaking(self, ref: str) -> str:
        """Return the source, or the target with a `tokenizer`, whose tokens a source or target has."""
        while ref not in self._sources:
            target = self._recipe.target(ref)
            if target.tokenizer is not None:
                return ref
            ref = target.config.ref if target.config else target.inputs[0].ref
        return ref

    def said(self, text: TokenizerText) -> TokenVocabulary:
        """Return the tokens that a target's `tokenizer` means.

        Raises:
            SourceError: as `of`.
        """
        found = self._of_texts.get(text)
        if found is None:
            found = self._of_texts[text] = self._made(text)
        return found

    def _of_source(self, name: str) -> TokenVocabulary:
        path = self._sources.file(name).model.sidecars.get(TOKENIZER)
        if path is None:
            shown = self._sources.file(name).shown
            raise SourceError.one("no-tokenizer", f"`{shown}` has no `{TOKENIZER}`", where=Place(shown), help=_SAVE)
        raw = _content(path)
        try:
            tokenizer = read_tokenizer_json(raw)
        except TokenizerJsonError as error:
            raise self._bad(name, error) from None
        return TokenVocabulary(name, tokenizer, raw, (ReadFile(name, TOKENIZER, checksum(raw)),))

    def _made(self, text: TokenizerText) -> TokenVocabulary:
        found = self.of(text.input.ref) if text.input is not None else self._union(text)
        wanted = [AddedToken(row.token) for row in text.tokens if row.token not in found.tokenizer.ids]
        try:
            tokenizer = found.tokenizer.with_added(wanted)
            _ = tokenizer.count
        except TokenizerJsonError as error:
            raise self._bad(found.owner, error) from None
        content = found.content if tokenizer is found.tokenizer else tokenizer.encoded()
        return TokenVocabulary(found.owner, tokenizer, content, found.read, found.notices)

    def _union(self, text: TokenizerText) -> TokenVocabulary:
        """Return the union of the tokens of a target's inputs."""
        parts = [self.of(each.ref) for each in text.inputs]
        inputs = [
            UnionInput(each.ref, part.tokenizer, self._size(each.ref, part.tokenizer))
            for each, part in zip(text.inputs, parts, strict=True)
        ]
        base = parts[0]
        try:
            union = union_of(inputs)
        except TokenizerJsonError as error:
            raise self._bad(base.owner, error) from None
        content = base.content if union.tokenizer is base.tokenizer else union.tokenizer.encoded()
        read = tuple(dict.fromkeys(file for part in parts for file in part.read))
        notices = (*(notice for part in parts for notice in part.notices), *union.notices)
        return TokenVocabulary(base.owner, union.tokenizer, content, read, tuple(dict.fromkeys(notices)))

    def _size(self, ref: str, tokenizer: TokenizerJson) -> int:
        """Return how many tokens a model has rows for, as its configuration says, or else its embedding."""
        said = config_of(self._sources.file(ref).model.facts, "text").get("vocab_size") if ref in self._sources else 0
        if isinstance(said, int) and said > 0:
            return said
        return self._rows_of(ref) or len(tokenizer.ids)

    def _bad(self, owner: str, error: TokenizerJsonError) -> SourceError:
        shown = f"{self._sources.file(owner).shown.rstrip('/')}/{TOKENIZER}"
        return SourceError.one("bad-tokenizer", f"`{shown}` {error}", where=Place(shown), help=_SAVE)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"`{path.name}` can't be read: {error.strerror}"
        raise SourceError.one("unreadable", message, where=Place(str(path))) from error
