"""The search for cuts: which key is the r-th largest of a stream, found by histograms of the keys' two halves.

A *cut* is a key and an index. Elements above the key are taken, and of the elements at the key those up to the index. A
first look through the stream counts the upper halves of the keys, a second one the lower halves, and a third finds the
index where only some elements at the key are taken. `kernels/selection.py` and `compiled/selection.py` count; the
conclusions are drawn here. No torch.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["DIGITS", "Cut", "Cuts", "Search", "value_of"]

DIGITS = 1 << 16
"""How many values half a key can have. The upper half has a sign; it is counted from the least value up."""
_WITHOUT_SIGN = (1 << 31) - 1
_MOST = 0x7F800000
"""The key of infinity."""
_LEAST = -_MOST - 1
"""The key of minus infinity."""

Cut = tuple[int, int]
"""The key, and the index of the last element at the key that is taken (-1: none is)."""

_NOTHING: Cut = (_MOST, -1)
"""The cut that takes no element: above infinity."""

H = TypeVar("H")
"""A histogram."""


@dataclass(slots=True)
class Search:
    """The search for the cut of one r."""

    wanted: int
    """How many elements are still to be taken among those not yet decided."""
    upper: int = 0
    """The upper half of the key, once the first look has found it."""
    cut: Cut | None = None
    """The cut; None until the key is known. Its index is -1 until that is known."""
    seen: int = 0
    """How many elements at the key the third look has passed so far."""

    def missing(self) -> int:
        """Return how many more elements at the key are to be taken."""
        return self.wanted - self.seen


class Cuts(ABC, Generic[H]):
    """The cuts of one stream of keys.

    Its user shows it all keys in order, calls `turn`, and repeats that as long as `turn` returns True.
    """

    def __init__(self, takes: Sequence[int] | Callable[[int], Sequence[int]]) -> None:
        """Begin a search for each number of elements to take.

        `takes` is these numbers, or a function that returns them, given how many keys are not 0.
        """
        self._takes = takes
        self._looks = 0
        self._count = 0
        self._not_zero = 0
        self._histograms: dict[int, H] = {}
        """In the first look a single one, under 0; in the second, one for each upper half of a key that a search has
        found."""
        self._searches: list[Search] = []

    @abstractmethod
    def _empty(self, upper: int, known: H) -> H:
        """Return an empty histogram for keys with this upper half, of the same form as `known`."""

    @abstractmethod
    def _digit_of(self, histogram: H, wanted: int) -> tuple[int, int, int]:
        """Return where the `wanted` largest keys of a histogram end.

        Returns:
            The digit of the last of them, how many keys with this digit are among them, and how many have it in all.
        """

    def turn(self) -> bool:
        """End a look through all keys; return whether another one is needed."""
        self._looks += 1
        if self._looks == 1:
            self._begin_searches()
        elif self._looks == 2:
            self._end_keys()
        return bool(self._open())

    def found(self) -> Sequence[Cut]:
        """Return the cut for each number of elements to take, once `turn` has returned False."""
        return [search.cut or _NOTHING for search in self._searches]

    def _open(self) -> list[Search]:
        """Return the searches that have not ended."""
        return [search for search in self._searches if search.cut is None or search.cut[1] < 0 < search.wanted]

    def _begin_searches(self) -> None:
        """Find the upper half of each key."""
        takes = self._takes(self._not_zero) if callable(self._takes) else self._takes
        histograms, self._histograms = self._histograms, {}
        for take in takes:
            search = Search(take)
            if take <= 0:
                search = Search(0, cut=_NOTHING)
            elif take > self._count:
                search = Search(0, cut=(_LEAST, self._count))
            else:
                digit, search.wanted, _ = self._digit_of(histograms[0], take)
                search.upper = digit - DIGITS // 2
                self._histograms[search.upper] = self._empty(search.upper, histograms[0])
            self._searches.append(search)

    def _end_keys(self) -> None:
        """Find the lower half of each key, and its index if all elements at the key are taken."""
        for search in self._open():
            digit, search.wanted, there = self._digit_of(self._histograms[search.upper], search.wanted)
            search.cut = (search.upper * DIGITS + digit, self._count if search.wanted == there else -1)
        self._histograms = {}


def value_of(key: int) -> float:
    """Return the float32 whose key this is, as `ordered_keys` or `magnitude_keys` of `kernels/selection.py` make it."""
    bits = key if key >= 0 else key ^ _WITHOUT_SIGN
    found: float = struct.unpack("=f", struct.pack("=i", bits))[0]
    return found
