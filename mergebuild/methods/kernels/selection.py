"""Which elements are the `r` largest, exactly, with a few looks and little memory, without sorting.

The bits of a float32, read as an integer (`magnitude_keys`, `ordered_keys`), are in the order of the values. A radix
select finds the r-th largest key: a first look counts keys by their upper 16 bits, a second one counts the lower 16
bits of keys with the right upper bits. Elements with equal keys are taken in the order of their indices until r are
taken; a third look finds the last of them, if only some are. The result is a cut: a key and an index. From it alone,
every chunk can tell which of its elements are taken.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mergebuild.methods.cuts import DIGITS, Cuts, Search, value_of

__all__ = ["LargestCut", "Selection", "magnitude_keys", "ordered_keys", "value_of"]

_WITHOUT_SIGN = (1 << 31) - 1


class LargestCut(NamedTuple):
    """The r largest elements: those above a key, and of those at the key the ones up to the index `last`."""

    key: int
    last: int

    def kept(self, values: Tensor, start: int) -> Tensor:
        """Return 1 for each of `values` that is among the r largest, else 0 (float32 [n]).

        `values`: float32 [n] (for magnitude keys: the magnitudes), the first with the index `start`. The result is
        numbers and not booleans, as multiplying is several times as fast as filling by a mask.
        """
        inner = min(max(self.last + 1 - start, 0), len(values))
        threshold = value_of(self.key)
        result = torch.empty_like(values)
        torch.ge(values[:inner], threshold, out=result[:inner])
        torch.gt(values[inner:], threshold, out=result[inner:])
        return result


class Selection(Cuts[Tensor]):
    """The cuts of one stream of keys.

    Show it all keys in order, call `turn`, and repeat that as long as it returns True.
    """

    def look(self, keys: Tensor, start: int) -> None:
        """Count the next `keys` (int32 [n]), the first of which has the index `start`."""
        if self._looks == 0:
            self._count += len(keys)
            if callable(self._takes):
                self._not_zero += int(torch.count_nonzero(keys))
            self._tally(0, (keys >> 16).add_(DIGITS // 2))
        elif self._looks == 1:
            uppers = keys >> 16
            for upper in self._histograms:
                (places,) = torch.nonzero(uppers == upper, as_tuple=True)
                self._tally(upper, keys.index_select(0, places).bitwise_and_(DIGITS - 1))
        else:
            for search in self._open():
                self._find_last(search, keys, start)

    @property
    def cuts(self) -> tuple[LargestCut, ...]:
        """The cut for each number of elements to take, once `turn` has returned False."""
        return tuple(LargestCut(*cut) for cut in self.found())

    def _tally(self, name: int, digits: Tensor) -> None:
        """Count digits (int32 [n], from 0) in the histogram with this name."""
        counts = torch.bincount(digits, minlength=DIGITS)
        known = self._histograms.get(name)
        self._histograms[name] = counts if known is None else known.add_(counts)

    def _find_last(self, search: Search, keys: Tensor, start: int) -> None:
        """Find the index of the last element at the key that is taken, if it is in this chunk."""
        assert search.cut is not None
        (places,) = torch.nonzero(keys == search.cut[0], as_tuple=True)
        missing = search.missing()
        if len(places) >= missing:
            search.cut = (search.cut[0], start + int(places[missing - 1]))
        search.seen += len(places)

    def _empty(self, _upper: int, known: Tensor) -> Tensor:
        return torch.zeros_like(known)

    def _digit_of(self, histogram: Tensor, wanted: int) -> tuple[int, int, int]:
        from_top = histogram.flip(0).cumsum(0)
        place = int(torch.searchsorted(from_top, wanted))
        digit = len(histogram) - 1 - place
        there = int(histogram[digit])
        return digit, wanted - (int(from_top[place]) - there), there


def magnitude_keys(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return integers (int32 [n]) in the order of the magnitudes of `values` (float32 [n]).

    `out`: a float32 buffer [n] for the result, which may be `values` itself.
    """
    return torch.abs(values, out=out).view(torch.int32)


def ordered_keys(values: Tensor) -> Tensor:
    """Return integers (int32 [n]) in the order of `values` (float32 [n])."""
    bits = (values + 0.0).view(torch.int32)  # -0 + 0 is 0
    return bits.bitwise_xor_((bits >> 31).bitwise_and_(_WITHOUT_SIGN))
