"""A cluster being computed: its makers, the buffers of its chunks, and how one chunk of each step is made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mergebuild.engine.leaves import LeafReader, Room
from mergebuild.engine.makers import Maker
from mergebuild.engine.schedule import Cluster
from mergebuild.methods.method import UndefinedError

__all__ = ["ClusterWork", "Extent", "chunk_for"]

Extent = tuple[int, int]
"""A range of elements: the first, and how many."""


@dataclass(frozen=True, slots=True)
class ClusterWork:
    """What is needed to compute one cluster."""

    cluster: Cluster
    makers: Sequence[Maker]
    reader: LeafReader
    room: Room
    size: int
    """Elements of a chunk."""

    def extents(self) -> Iterator[Extent]:
        """Yield the chunks, in order."""
        count, size = self.cluster.count, self.size
        return ((start, min(size, count - start)) for start in range(0, count, size))

    def chunks(self, extent: Extent) -> list[torch.Tensor]:
        """Return the chunks of all leaves, followed by buffers for the chunks that makers keep for each other."""
        slots, (start, count) = self.room.slots, extent
        chunks = [self.reader.load(leaf, start, count, slots[slot]) for slot, leaf in enumerate(self.cluster.leaves)]
        kept = sum(maker.kept is not None for maker in self.makers)
        return chunks + [slots[len(chunks) + number][:count] for number in range(kept)]

    def made(self, maker: Maker, chunks: list[torch.Tensor], extent: Extent) -> torch.Tensor | None:
        """Return a maker's chunk, or None if it has no value.

        If it isn't written anywhere, it is kept for others, rounded to the step's dtype.
        """
        maker.problem = maker.problem or next(
            (each.problem for each in self.makers if each.problem and each.kept in maker.inputs), None
        )
        if maker.problem:
            return None
        start, count = extent
        try:
            value = maker.make(chunks, start, self.room.out[:count], self.room.spare[:count])
        except UndefinedError as error:
            maker.problem = error
            return None
        if maker.kept is not None and not maker.step.places:
            chunks[maker.kept].copy_(value.to(maker.dtype))
        return value

    def below(self, maker: Maker) -> list[Maker]:
        """Return the makers that one depends on, each after those that it depends on itself."""
        return [each for step in self.cluster.below(maker.step) for each in self.makers if each.step is step]


def chunk_for(makers: Sequence[Maker], count: int, chunk: int) -> int:
    """Return how many elements to make at a time, so that every kernel gets whole units."""
    whole = any(place.turned for maker in makers for place in maker.step.places)
    unit = math.lcm(*(maker.unit for maker in makers), max(1, count) if whole else 1)
    if unit >= count:
        return max(1, count) if unit > 1 else chunk
    return max(unit, chunk // unit * unit)
