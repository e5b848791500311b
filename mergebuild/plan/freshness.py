"""See quickly that a target is up to date, without folding it.

A *fingerprint* covers everything that a target's artifact, names and metadata follow from: its recipe fields, the
content of its sources and what they call their tensors (and their SHA-256, where its metadata name that), and the
fingerprints of the targets that it reads. A record of the last build keeps it. If it is the same, and the output is
still the file that was published, the target is up to date; nothing else need be known. If it is not, nothing follows:
the planner decides.

What goes into a fingerprint is every field that takes part in comparing recipe values, names included, so it changes
more often than the digests do. That only costs a closer look.
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
        self._common = (
            Line("version", __version__),
            Line("revision", REVISION),
            Line("schema", SCHEMA),
            Line("layout", LAYOUT_VERSION),
            Line("link", recipe.project.link),
            Line("layouts", written(recipe.layouts)),
            Line("methods", written(recipe.own_methods)),
        )

    def fresh(self, names: Sequence[str]) -> dict[str, tuple[Record, ArtifactRow]]:
        """Return the targets of these that are surely up to date, with what is known of them."""
        with span("fresh", targets=len(names)):
            return {
                record.target: (record, row)
                for record, row in self._ledger.published(names)
                if str(record.output) == str(self._recipe.target(record.target).output_path)
                and record.fingerprint == self.fingerprint(record.target)
                and self._shelf.is_intact(row)
            }

    def fingerprint(self, name: str) -> bytes | None:
        """Return the fingerprint of a target or source; None while a source's content is not known."""
        found = self._fingerprints.get(name)
        if found is None:
            for each in self._unknown_below(name):
                if (below := self._compute(each)) is not None:
                    self._fingerprints[each] = below
            found = self._compute(name)
            if found is not None:  # what is not known now may be known later
                self._fingerprints[name] = found
        return found

    def _unknown_below(self, name: str) -> Iterator[str]:
        """Yield what a target needs and what is not known yet, the deepest first, so that no fingerprint recurses."""
        if name in self._sources or all(each.ref in self._fingerprints for each in self._recipe.target(name).reads):
            return
        for each in self._recipe.below(name)[:-1]:
            if each not in self._fingerprints:
                yield each

    def _compute(self, name: str) -> bytes | None:
        if name in self._sources:
            try:
                source = self._sources.file(name)
            except MergeBuildError:
                return None
            known = source.is_hashed and self._sources.meets_pin(name)
            return checksum(source.content + source.said) if known else None
        target = self._recipe.target(name)
        below = [self.fingerprint(each.ref) for each in target.reads]
        if target.metadata == "full" and None not in below:
            below += self._named_by_metadata(name)
        if None in below:
            return None
        inputs = (Line("input", each) for each in below if each is not None)
        return Key((*self._common, Line("target", target), *inputs)).digest

    def _named_by_metadata(self, name: str) -> Iterator[bytes | None]:
        """Yield the SHA-256 of the sources below a target, None for what is not known.

        It covers what the content of a source does not, such as a file's own metadata.
        """
        refs = (each.ref for below in self._recipe.below(name) for each in self._recipe.target(below).reads)
        for ref in dict.fromkeys(ref for ref in refs if ref in self._sources):
            sha256 = self._sources.known_sha256(ref)
            yield sha256.encode() if sha256 else None
