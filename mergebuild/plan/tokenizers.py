"""Whether inputs whose embeddings are merged number their tokens alike, by their tokenizers' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergebuild.configuration.tokenizers import ADDED, KINDS, TokenDifference, difference, vocabulary
from mergebuild.fold.folder import Folding
from mergebuild.fold.vocabularies import TOKENIZER
from mergebuild.formats.reading import clipped
from mergebuild.sources.sources import Sources

__all__ = ["Tokenizers"]


class Tokenizers:
    """Compares the tokenizers of sources, each pair once."""

    def __init__(self, sources: Sources, folding: Folding) -> None:
        self._sources = sources
        self._folding = folding
        self._found: dict[tuple[str, str], TokenDifference | None] = {}
        self._vocabularies: dict[tuple[str, str], Mapping[int, str] | None] = {}

    def compare(self, inputs: Sequence[tuple[str, str]]) -> list[str]:
        """Return how the tokenizers of inputs differ from the first one's, a sentence for each.

        `inputs`: their names, each with the source that has its small files, or the target that says its tokens.
        """
        told: list[str] = []
        (one, mine), *others = inputs
        for other, theirs in others:
            if (mine, theirs) not in self._found:
                self._found[mine, theirs] = self._difference(mine, theirs)
            found = self._found[mine, theirs]
            if found is not None:
                told.append(_sentence(one, other, found))
        return told

    def written(self, first: tuple[str, str], config: tuple[str, str]) -> list[str]:
        """Return how the tokenizer that is written differs from that of the model whose rows are written."""
        found = self._difference(first[1], config[1])
        if found is None or found.example is None:
            return []
        number, mine, theirs = found.example
        count = f"{found.other} numbers are other tokens than in `{first[0]}`, whose rows are written"
        example = f"{number} is `{_shown(theirs)}` there and `{_shown(mine)}` in `{first[0]}`"
        return [f"the tokenizer that is written is that of `{config[0]}`: {count}, such as {example}"]

    def _difference(self, mine: str, theirs: str) -> TokenDifference | None:
        if mine == theirs:
            return None
        names = [self._names(each) for each in (mine, theirs)]
        kind = next((each for each in KINDS if all(each in some for some in names)), None)
        if kind is None or all(self._read(mine, name) == self._read(theirs, name) for name in (kind, ADDED)):
            return None
        one, other = (self._vocabulary(each, kind) for each in (mine, theirs))
        return difference(one, other) if one is not None and other is not None else None

    def _names(self, ref: str) -> set[str]:
        """Return the small files of a source; of a target that has tokens of its own, `tokenizer.json`."""
        if ref not in self._sources:
            return {TOKENIZER}
        return set(self._sources.file(ref).model.sidecars)

    def _vocabulary(self, ref: str, kind: str) -> Mapping[int, str] | None:
        if (ref, kind) not in self._vocabularies:
            self._vocabularies[ref, kind] = vocabulary(kind, lambda name: self._read(ref, name))
        return self._vocabularies[ref, kind]

    def _read(self, ref: str, name: str) -> bytes | None:
        """Return the content of a small file of a source or target; None if there is none, or it can't be read."""
        if ref not in self._sources:
            return self._folding.tokens_of(ref).content if name == TOKENIZER else None
        path = self._sources.file(ref).model.sidecars.get(name)
        try:
            return path.read_bytes() if path else None
        except OSError:
            return None


def _sentence(one: str, other: str, found: TokenDifference) -> str:
    begin = f"the tokenizers of `{one}` and `{other}` differ, and rows of embeddings are merged by number"
    told: list[str] = []
    if found.example is not None:
        number, mine, theirs = found.example
        example = f"{number} is `{_shown(mine)}` in `{one}` and `{_shown(theirs)}` in `{other}`"
        told.append(f"{found.other} numbers are other tokens, such as {example}")
    for name, count in zip((one, other), found.alone, strict=True):
        if count:
            told.append(f"{count} are tokens of `{name}` alone")
    return f"{begin}: {'; '.join(told)}"


def _shown(token: str) -> str:
    return clipped(token, 40)
