"""Builds targets whose sources were never hashed, and hashes the sources in the same pass that merges them.

A plan needs digests, and digests need the bytes. For a target that was never built, from sources that nobody pinned,
nothing could be reused anyway. So tensors are hashed one by one just before they are computed with, and a cold build
reads each byte of a source from the disk once. How a tensor is then made (its terms gathered and sorted by digest; as a
copy or a step) is decided by the engine (`engine/first_sight.py`), by the same rule as in plans. This module turns the
forms of targets into the groups of tensors for the engine, and its results into checksums and figures.

The artifact's digest, and the header that contains it, need the digests of all tensors, and follow after the pass. The
header's length is known before, since all digests have the same length. If it turns out to be another (because two
sources are equal), the target is built in the ordinary way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mergebuild.build.pass_work import Wave, WaveFile, place_of
from mergebuild.engine.work import Pass, SeenGroup, UnseenGroup, UnseenInput, UnseenTensor
from mergebuild.plan.actions import FileAction
from mergebuild.sources.source_file import SourceFile
from mergebuild.sources.sources import Sources

__all__ = ["FirstSight"]


class _NamedTensor(NamedTuple):
    """A tensor of a source, or of a target of the wave."""

    owner: str
    tensor: str


@dataclass(slots=True)
class _Knot:
    """Connected tensors: those to be read, and those to be made of them, each after the tensors that it needs."""

    sources: dict[_NamedTensor, None] = field(default_factory=dict)
    made: list[_NamedTensor] = field(default_factory=list)


class FirstSight:
    """Fills a wave with files whose sources are not hashed yet, together with every file target that they read."""

    def __init__(self, wave: Wave, sources: Sources) -> None:
        self._wave = wave
        self._sources = sources
        self._files: dict[str, tuple[int, WaveFile]] = {}
        """By target: the file, and its index in the wave."""
        self._knots: list[_Knot] = []
        self._unseen: list[str] = []
        """The sources that are not hashed."""

    def add(self, action: FileAction, temporary: Path) -> None:
        """Add a file after those that it reads; its header is a placeholder."""
        self._files[action.name] = len(self._wave.files), self._wave.output(action, temporary)

    def work(self) -> Pass:
        """Return the pass that makes the tensors of all added files, and hashes the other tensors of their sources."""
        tied = self._tied()
        owners = dict.fromkeys(key.owner for knot in tied for key in knot.sources)
        self._unseen = [owner for owner in owners if not self._sources.file(owner).is_hashed]
        self._knots = [*tied, *self._loose({key for knot in tied for key in knot.sources})]
        return Pass(outputs=self._wave.outputs, unseen=tuple(map(self._group, self._knots)))

    def settle(self, found: Sequence[SeenGroup]) -> list[SourceFile]:
        """Give the checksums that the pass found to the sources, and its figures to the wave; return the sources."""
        checksums: dict[str, dict[str, bytes]] = {owner: {} for owner in self._unseen}
        for knot, group in zip(self._knots, found, strict=True):
            for (owner, tensor), checksum, digest in zip(knot.sources, group.checksums, group.inputs, strict=True):
                self._wave.copied[digest] = (checksum, 0)
                if owner in checksums:
                    checksums[owner][tensor] = checksum
            self._count(knot, group)
        for owner, of_tensors in checksums.items():
            source = self._sources.file(owner)
            source.checksums = {name: of_tensors[name] for name in source.tensors}
        return [self._sources.file(owner) for owner in self._unseen]

    @property
    def source_bytes(self) -> int:
        """How many bytes of sources the pass reads, each counted once, without those at hand."""
        at_hand = self._sources.at_hand
        sources = {key: self._sources.file(key.owner) for knot in self._knots for key in knot.sources}
        return sum(
            source.tensors[key.tensor].nbytes
            for key, source in sources.items()
            if key.owner in self._unseen or at_hand.isdisjoint(source.model.files)
        )

    def _count(self, knot: _Knot, group: SeenGroup) -> None:
        """Add the tensors that a group has made to the figures of their files."""
        for (owner, _), made in zip(knot.made, group.tensors, strict=True):
            _, file = self._files[owner]
            file.computed += made.is_computed
            file.bytes_read += made.bytes_read

    def _tied(self) -> list[_Knot]:
        """Return the tensors of all files, connected if they share something that is read."""
        above: dict[_NamedTensor, _NamedTensor] = {}

        def root(key: _NamedTensor) -> _NamedTensor:
            while (parent := above.setdefault(key, key)) != key:
                above[key] = key = above[parent]
            return key

        inputs: list[tuple[_NamedTensor, list[_NamedTensor]]] = []
        for name, (_, file) in self._files.items():
            for tensor, form in file.action.description.blueprint.forms.items():
                keys = [_NamedTensor(slot.owner, slot.tensor(tensor)) for slot, _ in form.terms]
                inputs.append((_NamedTensor(name, tensor), keys))
                for key in keys:
                    above[root(key)] = root(_NamedTensor(name, tensor))
        knots: dict[_NamedTensor, _Knot] = {}
        for made, keys in inputs:  # in the order of the files, so that each comes after what it needs
            knot = knots.setdefault(root(made), _Knot())
            knot.made.append(made)
            knot.sources |= dict.fromkeys(key for key in keys if key.owner not in self._files)
        return list(knots.values())

    def _loose(self, tied: set[_NamedTensor]) -> list[_Knot]:
        """Return the tensors of unhashed sources from which nothing is made: they must be hashed, too."""
        return [
            _Knot({_NamedTensor(owner, tensor): None})
            for owner in self._unseen
            for tensor in self._sources.file(owner).tensors
            if _NamedTensor(owner, tensor) not in tied
        ]

    def _group(self, knot: _Knot) -> UnseenGroup:
        order = {key: index for index, key in enumerate((*knot.sources, *knot.made))}
        return UnseenGroup(tuple(map(self._input, knot.sources)), tuple(self._tensor(key, order) for key in knot.made))

    def _input(self, key: _NamedTensor) -> UnseenInput:
        source = self._sources.file(key.owner)
        digest = b"" if key.owner in self._unseen else source.digests[key.tensor]
        lying = self._wave.whereabouts.in_source(digest, *key)
        return UnseenInput(lying.leaf, source.tensors[key.tensor].shape, lying.checksum)

    def _tensor(self, key: _NamedTensor, order: Mapping[_NamedTensor, int]) -> UnseenTensor:
        """Return a tensor of a target. `order`: the index of each input and tensor of its group."""
        index, file = self._files[key.owner]
        content = file.action.content
        info = content.header.tensors[key.tensor]
        form = file.action.description.blueprint.forms[key.tensor]
        terms = tuple((order[_NamedTensor(slot.owner, slot.tensor(key.tensor))], share) for slot, share in form.terms)
        return UnseenTensor(place_of(content, key.tensor, index), info.dtype, info.shape, terms, key.tensor)
