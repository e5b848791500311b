"""The search for cuts: which key the r-th largest of a stream is, by histograms of its upper and then its lower half.

A cut is a key and an index: those above the key are taken, and of those at the key the ones up to the index. Counting
is done elsewhere (`kernels/selection.py`, `compiled/selection.py`); what the counts say is the same. No torch.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["DIGITS", "Cut", "Cuts", "Search", "value_of"]

DIGITS = 1 << 16
"""Values of half a key; the upper half, which has a sign, counts from the least one."""
_WITHOUT_SIGN = (1 << 31) - 1
_MOST = 0x7F800000
"""The key of infinity."""
_LEAST = -_MOST - 1
"""The key of minus infinity."""

Cut = tuple[int, int]
"""The key, and the index of the last element at the key that is taken (-1: of none)."""

_NOTHING: Cut = (_MOST, -1)
"""Above infinity there is none."""

H = TypeVar("H")
"""A histogram."""


@dataclass(slots=True)
class Search:
    """The search for the cut of one r."""

    wanted: int
    """How many of what is left to search through are to be taken."""
    upper: int = 0
    """The upper half of the key."""
    cut: Cut | None = None
    """What is known of it once the key is: the index -1 as long as that is not."""
    seen: int = 0
    """Keys at the cut that a third look has passed."""

    def missing(self) -> int:
        """Return how many keys at the cut are still to be passed."""
        return self.wanted - self.seen


class Cuts(ABC, Generic[H]):
    """The cuts of one stream of keys: looks at all of it, in order, as long as `turn` asks for another look."""

    def __init__(self, takes: Sequence[int] | Callable[[int], Sequence[int]]) -> None:
        """Begin with the numbers of elements to take, or what says them once the number of keys not 0 is known."""
        self._takes = takes
        self._looks = 0
        self._count = 0
        self._not_zero = 0
        self._histograms: dict[int, H] = {}
        """In the first look one, under 0; in the second by the upper half of the keys counted."""
        self._searches: list[Search] = []

    @abstractmethod
    def _empty(self, upper: int, known: H) -> H:
        """Return a histogram of no keys yet, of this upper half, beside one that there is."""

    @abstractmethod
    def _digit_of(self, histogram: H, wanted: int) -> tuple[int, int, int]:
        """Return the digit at which the `wanted` largest end, how many of it are among them, and how many there are."""

    def turn(self) -> bool:
        """End a look; return whether another is needed."""
        self._looks += 1
        if self._looks == 1:
            self._begin_searches()
        elif self._looks == 2:
            self._end_keys()
        return bool(self._open())

    def found(self) -> Sequence[Cut]:
        """Return the cut of each number to take, once no look is needed any more."""
        return [search.cut or _NOTHING for search in self._searches]

    def _open(self) -> list[Search]:
        """Return the searches that are not done."""
        return [search for search in self._searches if search.cut is None or search.cut[1] < 0 < search.wanted]

    def _begin_searches(self) -> None:
        """Find the upper halves of the keys."""
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
        """Find the lower halves of the keys, and the indices where all keys there are taken."""
        for search in self._open():
            digit, search.wanted, there = self._digit_of(self._histograms[search.upper], search.wanted)
            search.cut = (search.upper * DIGITS + digit, self._count if search.wanted == there else -1)
        self._histograms = {}


def value_of(key: int) -> float:
    """Return the float32 of an ordered key or of a magnitude's."""
    bits = key if key >= 0 else key ^ _WITHOUT_SIGN
    found: float = struct.unpack("=f", struct.pack("=i", bits))[0]
    return found
