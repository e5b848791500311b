"""Which elements are the `r` largest in magnitude of what a kernel makes; see `methods/cuts.py`."""

from __future__ import annotations

from collections.abc import Sequence

from mergebuild.methods.compiled.method import Chunk
from mergebuild.methods.cuts import Cuts
from mergebuild.native import Histogram, Prepared, find, tally

__all__ = ["MOST_KEYS", "CountedSelection"]

MOST_KEYS = (1 << 32) - 1
"""Elements at most of a tensor: histograms count no further."""


class CountedSelection(Cuts[Histogram]):
    """The cuts of one stream of magnitudes: looks at all of it, in order, as long as `turn` asks for another look."""

    def look(self, kernel: Prepared, chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
        """Look at what a kernel makes of chunks; `span`: the index of the first element, and how many there are."""
        start, count = span
        if self._looks == 0:
            self._count += count
            self._histograms.setdefault(0, Histogram())
        if self._looks < 2:
            tally(kernel, chunks, span, list(self._histograms.values()))
            return
        for search in self._open():
            assert search.cut is not None
            found, place = find(kernel, chunks, span, search.cut[0], search.missing())
            if found >= search.missing():
                search.cut = (search.cut[0], start + place)
            search.seen += found

    def _empty(self, upper: int, _known: Histogram) -> Histogram:
        return Histogram(upper)

    def _digit_of(self, histogram: Histogram, wanted: int) -> tuple[int, int, int]:
        return histogram.digit_of(wanted)
