"""Build targets whose sources were never seen, hashing the sources in the very pass that merges them.

A plan needs digests, and digests need the bytes. For a target that was never built, from sources that nobody pinned,
nothing could be reused anyway; so the tensors are hashed one by one just before they are computed with, and a cold
build reads each byte of a source from the disk once. What a tensor comes to (its terms gathered and ordered by digest,
a copy or a step) is decided then, tensor by tensor, by the same rules as everywhere.

What only the digests of all tensors tell, the artifact's digest and the header that names it, follows after the pass.
The header's length is known before, for a digest is as long as any other; where it is not (two sources turn out to be
the same), the target is left to be built in the ordinary way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mergebuild.build.pass_work import Lying, Wave
from mergebuild.digest import source_tensor_digest
from mergebuild.engine.work import Cluster, Copy, Leaf, OutputRange, Pending, Step
from mergebuild.key import digest_of, resolve
from mergebuild.plan.plan import Item
from mergebuild.sources.sources import SourceFile, Sources

__all__ = ["FirstSight"]


class _Key(NamedTuple):
    """A tensor by where it is: in a source, or in an item of the wave."""

    owner: str
    tensor: str


@dataclass(slots=True)
class _Knot:
    """Tensors that hang together: to be read, and to be made of these, each behind what it needs."""

    sources: dict[_Key, None] = field(default_factory=dict)
    made: list[tuple[int, str]] = field(default_factory=list)
    """(index of the item, name of the tensor)"""


class FirstSight:
    """Fills a wave with items whose sources are not hashed yet. Every file target that they read is in it too."""

    def __init__(self, wave: Wave, sources: Sources) -> None:
        self._wave = wave
        self._sources = sources
        self._index: dict[str, int] = {}
        self._checksums: dict[str, dict[str, bytes]] = {}
        self._tally: list[tuple[int, int, int]] = []
        """(index of the item, tensors computed, bytes read), appended from any thread."""
        self._seen_bytes: list[int] = []

    def add(self, item: Item, temporary: Path) -> None:
        """Add an item, behind those that it reads; its header is a provisional one."""
        self._index[item.name] = self._wave.output(item, temporary)

    def tie(self) -> None:
        """Turn the tensors of all items added into the wave's pending work; what is left of the sources is hashed."""
        knots = self._knots()
        tied = {key for knot in knots for key in knot.sources}
        self._checksums = {key.owner: {} for key in tied if not self._sources.file(key.owner).is_hashed}
        self._wave.work.pending = sorted(map(self._pending, [*knots, *self._loose(tied)]), key=_position)

    def settle(self) -> list[SourceFile]:
        """Give the sources the checksums found, and the wave its figures; return the sources."""
        for index, computed, read in self._tally:
            self._wave.computed[index] += computed
            self._wave.bytes_read[index] += read
        found = []
        for owner, checksums in self._checksums.items():
            source = self._sources.file(owner)
            source.checksums = {name: checksums[name] for name in source.tensors}
            found.append(source)
        return found

    @property
    def source_bytes(self) -> int:
        """How many bytes of sources the pass read, each once, and none that were at hand."""
        unseen = (info.nbytes for owner in self._checksums for info in self._sources.file(owner).tensors.values())
        return sum(unseen) + sum(self._seen_bytes)

    # Before the pass

    def _knots(self) -> list[_Knot]:
        """Return the tensors of all items, those together that share something that is read."""
        above: dict[_Key, _Key] = {}

        def root(key: _Key) -> _Key:
            while (parent := above.setdefault(key, key)) != key:
                above[key] = key = above[parent]
            return key

        inputs: list[tuple[int, str, list[_Key]]] = []
        for name, index in self._index.items():
            for tensor, form in self._wave.items[index].blueprint.forms.items():
                keys = [_Key(slot.owner, slot.tensor(tensor)) for slot, _ in form.terms]
                inputs.append((index, tensor, keys))
                for key in keys:
                    above[root(key)] = root(_Key(name, tensor))
        knots: dict[_Key, _Knot] = {}
        for index, tensor, keys in inputs:  # in the order of the items, so that each stands behind what it needs
            knot = knots.setdefault(root(_Key(self._wave.items[index].name, tensor)), _Knot())
            knot.made.append((index, tensor))
            knot.sources |= dict.fromkeys(key for key in keys if key.owner not in self._index)
        return list(knots.values())

    def _loose(self, tied: set[_Key]) -> list[_Knot]:
        """Return the tensors of unseen sources that nothing is made of: they are hashed all the same."""
        return [
            _Knot({_Key(owner, tensor): None})
            for owner in self._checksums
            for tensor in self._sources.file(owner).tensors
            if _Key(owner, tensor) not in tied
        ]

    def _pending(self, knot: _Knot) -> Pending:
        unseen = [key for key in knot.sources if key.owner in self._checksums]
        leaves = [self._leaf(key, b"") for key in unseen]
        return Pending(leaves, lambda checksums: self._resolve(knot, dict(zip(unseen, checksums, strict=True))))

    # In the pass, from any thread: each knot writes to entries that are its own

    def _resolve(self, knot: _Knot, checksums: dict[_Key, bytes]) -> tuple[Cluster | None, list[Copy]]:
        """Say what is to be done for a knot, the bytes of its sources being known."""
        digests: dict[_Key, bytes] = {}
        lying: dict[bytes, Lying] = {}
        for key in knot.sources:
            source = self._sources.file(key.owner)
            if key in checksums:
                info = source.tensors[key.tensor]
                self._checksums[key.owner][key.tensor] = checksums[key]
                digest = source_tensor_digest(info.dtype, info.shape, checksums[key])
                lying[digest] = Lying(self._leaf(key, digest), checksums[key], 0)
            else:
                digest = source.digests[key.tensor]
                lying[digest] = self._wave.whereabouts.in_source(digest, *key)
                if self._sources.at_hand.isdisjoint(source.model.files):
                    self._seen_bytes.append(lying[digest].leaf.size)
            digests[key] = digest
        weaving = _Weaving(self._wave, digests, lying)
        self._tally += [weaving.make(index, name) for index, name in knot.made]
        return weaving.cluster(), weaving.copies

    def _leaf(self, key: _Key, digest: bytes) -> Leaf:
        return self._wave.whereabouts.in_source(digest, key.owner, key.tensor).leaf


@dataclass(slots=True)
class _Weaving:
    """The making of one knot's tensors, one after another."""

    wave: Wave
    digests: dict[_Key, bytes]
    lying: dict[bytes, Lying]
    steps: dict[bytes, Step] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)

    def make(self, index: int, name: str) -> tuple[int, int, int]:
        """Add what makes one tensor: a step, one more place of a step, or a copy. Return the item's tally of it."""
        item = self.wave.items[index]
        assert item.header is not None
        info = item.header.tensors[name]
        place = OutputRange(index, info.begin)
        form = item.blueprint.forms[name]
        terms = [(self.digests[_Key(slot.owner, slot.tensor(name))], share) for slot, share in form.terms]
        found = resolve(terms, self._dtype, info.dtype)
        digest = digest_of(found, info.dtype, info.shape)
        self.digests[_Key(item.name, name)] = digest
        if digest in self.steps:
            self.steps[digest].places.append(place)
            return index, 0, 0
        if digest in self.lying:
            there = self.lying[digest]
            self.copies.append(there.leaf.copied_to(place))
            self.wave.known[digest] = (there.checksum, 0)
            return index, 0, there.leaf.size
        self.steps[digest] = Step(digest, info.dtype, info.count, found.terms, [place])
        return index, 1, sum(self.lying[read].leaf.size for read, _ in found.terms if read in self.lying)

    def cluster(self) -> Cluster | None:
        """Return the steps with the leaves that they read; None when there is nothing to compute."""
        if not self.steps:
            return None
        used = dict.fromkeys(digest for step in self.steps.values() for digest, _ in step.terms)
        leaves = [self.lying[digest].leaf for digest in used if digest in self.lying]
        return Cluster(leaves, list(self.steps.values()))

    def _dtype(self, digest: bytes) -> str:
        return self.steps[digest].dtype if digest in self.steps else self.lying[digest].leaf.dtype


def _position(pending: Pending) -> tuple[str, int]:
    if not pending.leaves:
        return "", 0
    first = pending.leaves[0].location
    return str(first.path), first.offset
