"""Which elements are the `r` largest, exactly, in a few looks and little memory, without a sort.

The bits of a float32, read as an integer (`magnitude_keys`, `ordered_keys`), are in the order of the values. A radix
select finds the r-th largest key: a first look counts the keys by their upper 16 bits, a second one counts the lower
16 bits of those whose upper bits are the right ones. Elements with the very same key are taken in the order of their
indices until exactly r are taken; only where that splits them does a third look find the last of them. What comes out
is a `Cut`: a key and an index. With it every chunk knows on its own which of its elements are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LargestCut", "Selection", "magnitude_keys", "ordered_keys", "value_of"]

_HALF = 1 << 16
_WITHOUT_SIGN = (1 << 31) - 1
_MOST = 0x7F800000
"""The key of infinity."""
_LEAST = -_MOST - 1
"""The key of minus infinity."""


class LargestCut(NamedTuple):
    """The r largest: those above a key, and of those at the key the ones up to an index."""

    key: int
    last: int

    def kept(self, values: Tensor, start: int) -> Tensor:
        """Return 1 for each of `values` that is among the r largest, else 0 (float32 [n]).

        `values`: float32 [n], in the order of the keys (of magnitude keys: the magnitudes); the first has the index
        `start`. Numbers rather than booleans: multiplying by them is several times as fast as filling by a mask.
        """
        inner = min(max(self.last + 1 - start, 0), len(values))
        threshold = value_of(self.key)
        result = torch.empty_like(values)
        torch.ge(values[:inner], threshold, out=result[:inner])
        torch.gt(values[inner:], threshold, out=result[inner:])
        return result


_NOTHING = LargestCut(_MOST, -1)
"""Above infinity there is none."""


@dataclass(slots=True)
class _Search:
    """The search for the cut of one r."""

    wanted: int
    """How many of what is left to search through are to be taken."""
    upper: int = 0
    """The upper half of the key."""
    cut: LargestCut | None = None
    """What is known of it once the key is: `last` -1 as long as the index is not."""
    seen: int = 0
    """Keys at the cut that a third look has passed."""


class Selection:
    """The cuts of one stream of keys: looks at all of it, in order, as long as `turn` asks for another look."""

    def __init__(self, takes: Sequence[int] | Callable[[int], Sequence[int]]) -> None:
        """Begin with the numbers of elements to take, or what says them once the number of keys not 0 is known."""
        self._takes = takes
        self._looks = 0
        self._count = 0
        self._not_zero = 0
        self._histograms: dict[int, Tensor] = {}
        self._searches: list[_Search] = []

    def look(self, keys: Tensor, start: int) -> None:
        """Look at `keys` (int32 [n]), the first of which has the index `start`."""
        if self._looks == 0:
            self._count += len(keys)
            if callable(self._takes):
                self._not_zero += int(torch.count_nonzero(keys))
            self._tally(0, (keys >> 16).add_(_HALF // 2))
        elif self._looks == 1:
            uppers = keys >> 16
            for upper in self._histograms:
                (places,) = torch.nonzero(uppers == upper, as_tuple=True)
                self._tally(upper, keys.index_select(0, places).bitwise_and_(_HALF - 1))
        else:
            for search in self._open():
                self._find_last(search, keys, start)

    def turn(self) -> bool:
        """End a look; return whether another is needed."""
        self._looks += 1
        if self._looks == 1:
            self._begin_searches()
        elif self._looks == 2:
            self._end_keys()
        return bool(self._open())

    @property
    def cuts(self) -> tuple[LargestCut, ...]:
        """Return the cut of each number to take, once no look is needed any more."""
        return tuple(search.cut or _NOTHING for search in self._searches)

    def _open(self) -> list[_Search]:
        """Return the searches that are not done."""
        return [search for search in self._searches if search.cut is None or search.cut.last < 0 < search.wanted]

    def _tally(self, name: int, digits: Tensor) -> None:
        """Count digits (int32 [n], from 0) into a histogram."""
        counts = torch.bincount(digits, minlength=_HALF)
        known = self._histograms.get(name)
        self._histograms[name] = counts if known is None else known.add_(counts)

    def _begin_searches(self) -> None:
        """Find the upper halves of the keys."""
        takes = self._takes(self._not_zero) if callable(self._takes) else self._takes
        histograms, self._histograms = self._histograms, {}
        for take in takes:
            search = _Search(take)
            if take <= 0:
                search = _Search(0, cut=_NOTHING)
            elif take > self._count:
                search = _Search(0, cut=LargestCut(_LEAST, self._count))
            else:
                digit, search.wanted, _ = _digit_of(histograms[0], take)
                search.upper = digit - _HALF // 2
                self._histograms[search.upper] = torch.zeros(_HALF, dtype=torch.int64, device=histograms[0].device)
            self._searches.append(search)

    def _end_keys(self) -> None:
        """Find the lower halves of the keys, and the indices where all keys there are taken."""
        for search in self._open():
            digit, search.wanted, there = _digit_of(self._histograms[search.upper], search.wanted)
            search.cut = LargestCut(search.upper * _HALF + digit, self._count if search.wanted == there else -1)
        self._histograms = {}

    def _find_last(self, search: _Search, keys: Tensor, start: int) -> None:
        """Find the index of the last key at the cut that is taken, if it is in this chunk."""
        assert search.cut is not None
        (places,) = torch.nonzero(keys == search.cut.key, as_tuple=True)
        missing = search.wanted - search.seen
        if len(places) >= missing:
            search.cut = LargestCut(search.cut.key, start + int(places[missing - 1]))
        search.seen += len(places)


def _digit_of(histogram: Tensor, wanted: int) -> tuple[int, int, int]:
    """Return the digit at which the `wanted` largest end, how many of it are among them, and how many there are."""
    from_top = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, wanted))
    digit = len(histogram) - 1 - place
    there = int(histogram[digit])
    return digit, wanted - (int(from_top[place]) - there), there


def magnitude_keys(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return integers (int32 [n]) in the order of the magnitudes of `values` (float32 [n]).

    `out`: a float32 buffer [n] for them, which may be `values` itself.
    """
    return torch.abs(values, out=out).view(torch.int32)


def ordered_keys(values: Tensor) -> Tensor:
    """Return integers (int32 [n]) in the order of `values` (float32 [n])."""
    bits = (values + 0.0).view(torch.int32)  # -0 + 0 is 0
    return bits.bitwise_xor_((bits >> 31).bitwise_and_(_WITHOUT_SIGN))


def value_of(key: int) -> float:
    """Return the float32 of an ordered key or of a magnitude's."""
    bits = key if key >= 0 else key ^ _WITHOUT_SIGN
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
