"""Order statistics in C: histograms of magnitudes, ranks, and what is kept or moved by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mergebuild.native import calls
from mergebuild.native.calls import Chunk, Prepared, input_of, work_of

__all__ = ["Histogram", "Ranking", "Region", "arranged", "find", "keep_by_rank", "tally"]


class Histogram:
    """How often each digit occurs: the upper halves of all keys, or the lower halves of keys with one upper half.

    A key is the 32 bits of a float32's magnitude, as a number; a signed key is a number in the order of the values
    themselves. A digit is a half of it.
    """

    __slots__ = ("counts", "upper")

    def __init__(self, upper: int | None = None) -> None:
        """Begin with no keys. `upper`: count lower halves of keys with this upper half; None: count upper halves."""
        self.upper = upper
        self.counts = bytearray(4 * 2 * 65_536)

    def digit_of(self, wanted: int) -> tuple[int, int, int]:
        """Return the digit of the smallest of the `wanted` largest keys counted.

        After it come two counts: how many of the `wanted` largest have this digit, and how many of all. An upper half
        is returned with 32,768 added.
        """
        return calls.compiled.digit_of(self.counts, wanted)


def tally(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    span: tuple[int, int],
    histograms: Sequence[Histogram],
    *,
    signed: bool = False,
) -> None:
    """Add the keys of the values that a kernel makes to histograms; see `apply` for the other arguments.

    A histogram counts at most 2**32 - 1 keys in all calls together.
    """
    pairs = tuple((-(1 << 31) if each.upper is None else each.upper, each.counts) for each in histograms)
    calls.compiled.tally(work_of(kernel, inputs, span), pairs, signed)


def find(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    span: tuple[int, int],
    key: int,
    nth: int,
    *,
    signed: bool = False,
) -> tuple[int, int]:
    """Return how many of the values that a kernel makes have a key, and the index in the span of the `nth` of them.

    `nth` counts from 1. If fewer have the key, the index is the number of elements. See `apply` for other arguments.
    """
    return calls.compiled.find(work_of(kernel, inputs, span), key, nth, signed)


class Ranking(NamedTuple):
    """The probabilities with which elements are kept: `rank * step + least`.

    An element's rank is that of its magnitude in its row; the smallest magnitude has rank 0.
    """

    length: int
    """The number of elements of a row."""
    behind: int
    """How many rows are interleaved: the next element of a row is this many elements further on."""
    stream: int
    """The key of the random numbers."""
    least: float
    step: float


def keep_by_rank(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    span: tuple[int, int],
    ranking: Ranking,
    *,
    with_chances: bool = False,
) -> list[tuple[bytearray, str]]:
    """Return which of the values that a kernel makes are kept, as float32 chunks of ones and zeros.

    With `with_chances`, a second chunk has their probabilities. See `apply` for the other arguments. The span must be
    whole rows; a group of interleaved rows has less than 2**31 elements.
    """
    room = bytearray(16 * ranking.length + 4 * ranking.length * ranking.behind)
    found = [bytearray(4 * span[1]) for _ in range(2 if with_chances else 1)]
    kept, chances = found[0], found[1] if with_chances else None
    calls.compiled.keep_by_rank(work_of(kernel, inputs, span), *ranking, room, kept, chances)
    return [(each, "float32") for each in found]


class Region(NamedTuple):
    """A range of a tensor's magnitudes, sorted from the smallest: from `begin` to before `end`, or all outside it."""

    begin: int
    end: int
    is_outside: bool
    is_strict: bool
    """Whether magnitudes equal to the last one before the range are left out."""


def arranged(pair: Sequence[Chunk], count: int, region: Region) -> Chunk:
    """Return the `count` values of the first of two tensors, with those of a region moved, as float32.

    A value of the region goes to the index at which the second tensor has its value of the same rank. Neither tensor
    may have a NaN, nor 2**32 values.
    """
    room, out = bytearray(20 * count), bytearray(4 * count)
    begin, end, is_outside, is_strict = region
    calls.compiled.arrange(tuple(map(input_of, pair)), count, begin, end, is_strict, is_outside, room, out)
    return out, "float32"
