"""Tells quickly that a target is up to date, without folding it.

A *fingerprint* covers everything that affects a target's artifact, names and metadata: its recipe fields, the content
of its sources and their names for tensors (and their SHA-256, if its metadata name that), and the fingerprints of the
targets that it reads. It is part of the record of the last build. If it is the same, and the output is still the file
that was published, the target is up to date, and nothing else need be known. If it differs, the planner decides.

It includes every field that takes part in comparing recipe values, even names, so it changes more often than digests
do. That only costs the time for planning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mergebuild import REVISION, __version__
from mergebuild.digest import SCHEMA, checksum
from mergebuild.errors import MergeBuildError
from mergebuild.formats.layout import LAYOUT_VERSION
from mergebuild.key import Key, Line, written
from mergebuild.recipe import Recipe
from mergebuild.sources.sources import Sources
from mergebuild.store import ArtifactRow, Ledger, Record, Shelf
from mergebuild.system.spans import span

__all__ = ["Freshness"]


class Freshness:
    """Finds targets that are up to date, over one recipe, its sources and one store."""

    def __init__(self, recipe: Recipe, sources: Sources, shelf: Shelf, ledger: Ledger) -> None:
        self._recipe = recipe
        self._sources = sources
        self._shelf = shelf
        self._ledger = ledger
        self._fingerprints: dict[str, bytes] = {}
        self._common = _common_lines(recipe)
        """The lines before those of each target: made into text once, not for each of ten thousand targets."""

    def fresh(self, names: Sequence[str]) -> dict[str, tuple[Record, ArtifactRow]]:
        """Return those of these targets that are certainly up to date, each with its record and its output's row."""
        with span("fresh", targets=len(names)):
            return {
                record.target: (record, row)
                for record, row in self._ledger.published(names)
                if str(record.output) == str(self._recipe.target(record.target).output_path)
                and record.fingerprint == self.fingerprint(record.target)
                and self._shelf.is_intact(row)
            }

    def fingerprint(self, name: str) -> bytes | None:
        """Return the fingerprint of a target or source; None while a source's content is unknown."""
        found = self._fingerprints.get(name)
        if found is None:
            for each in self._unknown_below(name):
                if (below := self._compute(each)) is not None:
                    self._fingerprints[each] = below
            found = self._compute(name)
            if found is not None:  # what is unknown now may be known later
                self._fingerprints[name] = found
        return found

    def _unknown_below(self, name: str) -> Iterator[str]:
        """Yield the targets below one whose fingerprints are unknown, the deepest first, so that nothing recurses."""
        if name in self._sources or all(each.ref in self._fingerprints for each in self._recipe.target(name).reads):
            return
        for each in self._recipe.below(name)[:-1]:
            if each not in self._fingerprints:
                yield each

    def _compute(self, name: str) -> bytes | None:
        if name in self._sources:
            return self._of_source(name)
        target = self._recipe.target(name)
        if target.words.get("gate") == "prompts":
            return None  # it follows from a tokenizer, too, which is no source's content
        below = [self.fingerprint(each.ref) for each in target.reads]
        if target.metadata == "full" and None not in below:
            below += self._named_by_metadata(name)
        if None in below:
            return None
        inputs = (Line("input", each) for each in below if each is not None)
        return checksum(self._common + Key((Line("target", target), *inputs)).text)

    def _of_source(self, name: str) -> bytes | None:
        """Return the fingerprint of a source; None if it can't be opened, was not hashed, or differs from its pin."""
        try:
            source = self._sources.file(name)
        except MergeBuildError:
            return None
        known = source.is_hashed and self._sources.meets_pin(name)
        return checksum(source.content + source.said) if known else None

    def _named_by_metadata(self, name: str) -> Iterator[bytes | None]:
        """Yield the SHA-256 of the sources below a target, None for one that is unknown.

        It covers what the digest of a source's content does not, such as the file's metadata.
        """
        refs = (each.ref for below in self._recipe.below(name) for each in self._recipe.target(below).reads)
        for ref in dict.fromkeys(ref for ref in refs if ref in self._sources):
            sha256 = self._sources.known_sha256(ref)
            yield sha256.encode() if sha256 else None


def _common_lines(recipe: Recipe) -> bytes:
    """Return the lines of every target's fingerprint, as text."""
    return Key(
        (
            Line("version", __version__),
            Line("revision", REVISION),
            Line("schema", SCHEMA),
            Line("layout", LAYOUT_VERSION),
            Line("link", recipe.project.link),
            Line("layouts", written(recipe.layouts)),
            Line("methods", written(recipe.own_methods)),
        )
    ).text
