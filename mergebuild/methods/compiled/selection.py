"""Which elements are the `r` largest, in magnitude or as they are, of what a kernel makes; see `methods/cuts.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mergebuild.methods.compiled.method import Chunk
from mergebuild.methods.cuts import Cuts, Search
from mergebuild.native import Histogram, Prepared, find, tally

__all__ = ["MOST_KEYS", "CountedSelection"]

MOST_KEYS = (1 << 32) - 1
"""The most elements that a tensor may have: histograms count in 32 bits."""


class CountedSelection(Cuts[Histogram]):
    """The cuts of one stream of values. Show it all chunks, in order, as often as `turn` asks for another look."""

    def __init__(self, takes: Sequence[int] | Callable[[int], Sequence[int]], *, signed: bool = False) -> None:
        """Begin with the numbers of elements to take; `signed`: by value, else by magnitude."""
        super().__init__(takes)
        self._signed = signed

    def look(self, kernel: Prepared, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
        """Look at the values that a kernel makes of chunks.

        `span`: the index in the tensor of the first element, and the number of elements.
        """
        if self._looks == 0:
            self._count += span[1]
            self._histograms.setdefault(0, Histogram())
        if self._looks < 2:
            tally(kernel, chunks, span, list(self._histograms.values()), signed=self._signed)
            return
        for search in self._open():
            self._look_for_index(search, kernel, chunks, span)

    def _look_for_index(self, search: Search, kernel: Prepared, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
        """Look for the last element at the key that is taken."""
        assert search.cut is not None
        found, place = find(kernel, chunks, span, search.cut[0], search.missing(), signed=self._signed)
        if found >= search.missing():
            search.cut = (search.cut[0], span[0] + place)
        search.seen += found

    def _empty(self, upper: int, _known: Histogram) -> Histogram:
        return Histogram(upper)

    def _digit_of(self, histogram: Histogram, wanted: int) -> tuple[int, int, int]:
        return histogram.digit_of(wanted)
