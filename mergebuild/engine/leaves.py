"""Reads leaves for computing: chunks as float32, whole tensors as they are stored, and combinations of these.

Files are mapped, and a chunk is a view of the file if possible; otherwise it is written into buffers, which are used
again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from mergebuild.engine.gathering import Runs
from mergebuild.engine.makers import DTYPES, makers_of
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.scaling import Factors, factors_of, multiply
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.transfers import Transfers
from mergebuild.engine.work import Combination, Leaf, LeafScale, Step

__all__ = ["LeafReader", "Room"]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an element, a dtype whose elements are picked and not looked at."""

_MOST_SCALES = 16
"""The most leaves whose scales are kept for their next chunks."""


class Room:
    """The buffers in which a cluster is computed, each for one chunk."""

    def __init__(self, chunk: int, transfers: Transfers) -> None:
        self._transfers = transfers
        self.chunk = chunk
        self.out = transfers.floats(chunk)
        self.spare = transfers.floats(chunk)
        self.slots: list[torch.Tensor] = []

    def grow(self, slots: int) -> None:
        """Make sure that there are so many buffers for inputs."""
        while len(self.slots) < slots:
            self.slots.append(self._transfers.floats(self.chunk))


class LeafReader:
    """Reads leaves for one worker. `room`: the worker's buffers, used for one thing at a time."""

    def __init__(self, transfers: Transfers, mappings: Mappings, room: Room) -> None:
        self._transfers = transfers
        self._mappings = mappings
        self._room = room
        self._inner: Room | None = None
        """Buffers for combinations of which a chunk's maker needs some elements; the room is in use then."""
        self._scales_of: dict[bytes, Factors] = {}
        """The scales of recently read leaves, by digest."""

    # Chunks

    def load(self, leaf: Leaf, start: int, count: int, room: torch.Tensor, *, to_odd: bool = False) -> torch.Tensor:
        """Return a chunk of a leaf as float32; a view of the file if possible."""
        if not count:
            return room[:0]
        dtype, lying = DTYPES[leaf.dtype], leaf.location
        data: memoryview | bytearray
        if lying.pieces:
            data = self._mappings.gathered(lying, start, count)
        else:
            data = self._mappings.view(lying.path, lying.offset + start * dtype.itemsize, count * dtype.itemsize)
        if leaf.scale is None:
            return self._transfers.bring(data, dtype, room[:count], to_odd=to_odd)
        values = self._transfers.bring(data, dtype, room[:count])
        return multiply(values, start, self._scales(leaf.digest, leaf.scale), leaf.scale.scaling, odd=to_odd)

    def _scales(self, digest: bytes, scale: LeafScale) -> Factors:
        """Return the scales of the leaf with this digest."""
        found = self._scales_of.get(digest)
        if found is None:
            if len(self._scales_of) == _MOST_SCALES:
                self._scales_of.clear()
            across = math.ceil(scale.scaling.columns / scale.scaling.block_columns)
            scales = self.whole(scale.leaf).view(-1, across)
            found = self._scales_of[digest] = factors_of(scales, self._transfers.whole)
        return found

    def load_to_odd(self, leaf: Leaf, start: int, out: torch.Tensor) -> torch.Tensor:
        """Write values of a leaf (float64, or scaled) into a buffer, rounded to odd; return it."""
        return self.load(leaf, start, len(out), out, to_odd=True)

    # Whole leaves

    def part(self, part: Combination, span: tuple[int, int] | None = None) -> torch.Tensor:
        """Return an operand that is taken whole, or a range of it, flat; a single tensor as it is stored."""
        if len(part) == 1 and part[0][1] == 1 and part[0][0].scale is None:
            whole = self.whole(part[0][0])
            return self._transfers.whole(whole if span is None else whole[span[0] : span[1]])
        return self.combined(part, span)

    def whole(self, leaf: Leaf) -> torch.Tensor:
        """Return a leaf as it is stored, not scaled, flat; a view of the file if possible."""
        dtype = getattr(torch, leaf.dtype)
        lying = leaf.location
        if lying.pieces:
            return torch.frombuffer(self._mappings.gathered(lying, 0, leaf.count), dtype=dtype)
        if not leaf.count:
            return torch.empty(0, dtype=dtype)
        data: memoryview | bytearray = self._mappings.view(lying.path, lying.offset, lying.size)
        if lying.offset % dtype.itemsize:
            data = bytearray(data)
        found: torch.Tensor = torch.frombuffer(data, dtype=dtype)
        return found

    def combined(self, terms: Combination, span: tuple[int, int] | None = None) -> torch.Tensor:
        """Return a linear combination of whole leaves, or a range of it (float32, flat).

        A combination without terms is 0; `span` gives its length.
        """
        first, past = span or (0, terms[0][0].count)
        found = torch.empty(past - first, device=self._transfers.place)
        if not terms or first == past:
            return found.zero_()
        if len(terms) == 1 and terms[0][1] == 1:
            return self.load(terms[0][0], first, past - first, found)
        return self._summed(terms, first, found)

    def run(self, terms: Combination, first: int, count: int) -> torch.Tensor:
        """Return elements of a linear combination of whole leaves (float32, flat), while a chunk is made."""
        return self._run(terms, first, torch.empty(count, device=self._transfers.place))

    def rows(self, terms: Combination, runs: Runs, width: int) -> torch.Tensor:
        """Return runs of rows of a linear combination of whole leaves (float32, flat), while a chunk is made.

        Rows in another order than the file's are picked out of it at once, if it has a single tensor as it is.
        """
        count = sum(rows for _, rows in runs) * width
        if len(runs) == 1:
            ((first, _),) = runs
            return self._run(terms, first * width, torch.empty(count, device=self._transfers.place))
        if len(terms) == 1 and terms[0][1] == 1 and self._can_be_picked_from(terms[0][0]):
            return self._picked(terms[0][0], runs, width)
        found, at = torch.empty(count, device=self._transfers.place), 0
        for first, rows in runs:
            room = found[at : at + rows * width]
            room.copy_(self._run(terms, first * width, room))
            at += rows * width
        return found

    def _run(self, terms: Combination, first: int, found: torch.Tensor) -> torch.Tensor:
        """Return elements of a linear combination, from `first` on; perhaps in `found`, which is as long."""
        if not terms or not len(found):
            return found.zero_()
        if len(terms) == 1 and terms[0][1] == 1:
            return self.load(terms[0][0], first, len(found), found)
        self._inner = self._inner or Room(self._room.chunk, self._transfers)
        return self._summed(terms, first, found, self._inner)

    def _can_be_picked_from(self, leaf: Leaf) -> bool:
        """Whether rows of a leaf can be picked by the processor: it is not scaled, and in the file as it is."""
        return leaf.scale is None and not leaf.location.pieces and self._transfers.place.type == "cpu"

    def _picked(self, leaf: Leaf, runs: Runs, width: int) -> torch.Tensor:
        """Return rows of a leaf."""
        picked = [row for first, rows in runs for row in range(first, first + rows)]
        whole = self.whole(leaf)
        dtype, stored = whole.dtype, whole.view(_BITS[whole.dtype.itemsize]).view(-1, width)
        found = stored.index_select(0, torch.tensor(picked)).view(dtype).reshape(-1).to(torch.float32)
        self._mappings.release_all(leaf)
        return found

    def _summed(self, terms: Combination, first: int, found: torch.Tensor, room: Room | None = None) -> torch.Tensor:
        """Fill a tensor with a linear combination of leaves, from their elements at `first` on; return it."""
        parts = [(leaf.digest, share) for leaf, share in terms]
        (maker,), slots = makers_of(Cluster([leaf for leaf, _ in terms], [Step(b"", "float32", len(found), parts)]))
        room = room or self._room
        room.grow(slots)
        chunk = room.chunk
        for start in range(0, len(found), chunk):
            count = min(chunk, len(found) - start)
            chunks = [self.load(leaf, first + start, count, room.slots[slot]) for slot, (leaf, _) in enumerate(terms)]
            found[start : start + count] = maker.make(chunks, start, room.out[:count], room.spare[:count])
        return found

    # Releasing

    def release(self, leaves: Iterable[Leaf]) -> None:
        """Release whole leaves."""
        for leaf in leaves:
            self._mappings.release_all(leaf)

    def release_chunk(self, leaf: Leaf, start: int, count: int) -> None:
        """Release a chunk of a leaf; if it is scattered, all of the leaf with its last chunk."""
        lying = leaf.location
        if not lying.pieces:
            width = DTYPES[leaf.dtype].itemsize
            self._mappings.release(lying.path, lying.offset + start * width, count * width)
        elif start + count == leaf.count:
            self._mappings.release_all(lying)

    def count_bad(self, leaf: Leaf) -> int:
        """Return how many values of a leaf are NaN or Inf; 0 for integers, which a LoRA may have."""
        if leaf.dtype not in DTYPES:
            return 0
        out, chunk = self._room.out, self._room.chunk
        return sum(
            int((~torch.isfinite(self.load(leaf, start, min(chunk, leaf.count - start), out))).sum())
            for start in range(0, leaf.count, chunk)
        )
