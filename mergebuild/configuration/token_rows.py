"""Which rows an embedding gets that is put into the order of other tokens, as a value.

A row is an input's own for a token that it has, or that of another input, zeros, or a mean. Most tokens follow their
neighbours in both orders, so rows are written as runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple

from mergebuild.digest import checksum, tagged

__all__ = ["MEAN", "ZEROS", "MissingTokenError", "RowRun", "RowWish", "RowsOfTokens", "TokensOfInput", "rows_for"]

ZEROS: Final = -1
"""The part of rows that are zeros."""
MEAN: Final = -2
"""The part of a row that is a mean."""


class RowRun(NamedTuple):
    """Consecutive rows: `rows` rows of a part (the index of an operand), from its row `first` on.

    For `ZEROS`, `first` is 0; for `MEAN`, it is the index of the mean.
    """

    part: int
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class RowsOfTokens:
    """The rows of an embedding in a new order; an argument of the method that makes it."""

    runs: tuple[RowRun, ...] = field(compare=False)
    means: tuple[tuple[tuple[int, int], ...], ...] = field(compare=False)
    """Of each row that is a mean: the parts, and their rows."""
    padding: int = field(compare=False)
    """How many rows follow these, each the mean of all of them."""
    digest: bytes = b""
    """Of all of this."""

    @property
    def count(self) -> int:
        """The number of rows, without padding."""
        return sum(run.rows for run in self.runs)

    @property
    def key_text(self) -> str:
        """Its text in keys."""
        return f"{self.count} + {self.padding} {tagged(self.digest)}"

    @property
    def ends(self) -> list[int]:
        """Of each run, how many rows there are up to its end."""
        return list(accumulate(run.rows for run in self.runs))

    def within(self, first: int, past: int, ends: Sequence[int]) -> Iterator[RowRun]:
        """Yield the runs of rows from `first` to before `past`, without padding. `ends`: as they are."""
        place = bisect_right(ends, first)
        while first < past and place < len(ends):
            run, end = self.runs[place], min(past, ends[place])
            skipped = first - (ends[place] - run.rows) if run.part >= 0 else 0
            yield RowRun(run.part, run.first + skipped, end - first)
            first, place = end, place + 1


class TokensOfInput(NamedTuple):
    """The tokens of an input, and how many rows its embedding has."""

    name: str
    ids: Mapping[str, int]
    rows: int

    def row(self, token: str) -> int | None:
        """Return the row of a token; None if it has none."""
        found = self.ids.get(token)
        return found if found is not None and found < self.rows else None


class RowWish(NamedTuple):
    """The row that a recipe says for a token: a row of an input, or zeros; both None: the usual one."""

    input: int | None
    of: str | int | None
    zero: bool
    force: bool


class MissingTokenError(ValueError):
    """A recipe names the row of a token that an input does not have."""

    def __init__(self, token: str, model: str, wanted: str | int) -> None:
        super().__init__(token, model, wanted)
        self.token, self.model, self.wanted = token, model, wanted


_Row = tuple[tuple[int, int], ...]
"""A row: an input and its row; several are averaged, and none is zeros."""


def rows_for(
    at: int, tokens: Sequence[str], inputs: Sequence[TokensOfInput], wishes: Mapping[str, RowWish], padding: int
) -> tuple[RowsOfTokens, tuple[int, ...]] | None:
    """Return the rows of an input's embedding in the order of `tokens`, and the inputs that its parts are.

    None if they are the rows that it has. The base is the first of `inputs`.

    Raises:
        MissingTokenError: a wish is for a row that there is not.
    """
    rows = [_row(at, token, inputs, wishes.get(token)) for token in tokens]
    parts = tuple(dict.fromkeys((at, *(each for row in rows for each, _ in row))))
    index = {each: place for place, each in enumerate(parts)}
    runs: list[RowRun] = []
    means: list[tuple[tuple[int, int], ...]] = []
    for row in rows:
        _append(runs, means, tuple((index[each], number) for each, number in row))
    if not padding and runs == [RowRun(0, 0, inputs[at].rows)]:
        return None
    text = repr((runs, means, padding)).encode()
    return RowsOfTokens(tuple(runs), tuple(means), padding, checksum(text)), parts


def _append(runs: list[RowRun], means: list[tuple[tuple[int, int], ...]], row: _Row) -> None:
    """Add a row to runs, joined with the last one if it goes on there."""
    if len(row) > 1:
        runs.append(RowRun(MEAN, len(means), 1))
        means.append(row)
        return
    part, first = row[0] if row else (ZEROS, 0)
    last = runs[-1] if runs else None
    goes_on = last is not None and last.part == part and (part == ZEROS or last.first + last.rows == first)
    if last is not None and goes_on:
        runs[-1] = last._replace(rows=last.rows + 1)
    else:
        runs.append(RowRun(part, first, 1))


def _row(at: int, token: str, inputs: Sequence[TokensOfInput], wish: RowWish | None) -> _Row:
    """Return the row of a token in an input: its own, or the usual one of those that lack it."""
    own = inputs[at].row(token)
    if own is not None and not (wish and wish.force):
        return ((at, own),)
    if wish is not None and (wish.zero or wish.input is not None):
        return () if wish.input is None else (_wished(token, inputs, wish.input, wish.of),)
    having = [(place, row) for place, each in enumerate(inputs) if (row := each.row(token)) is not None]
    if having and having[0][0] == 0:
        return (having[0],)
    return tuple(having)


def _wished(token: str, inputs: Sequence[TokensOfInput], place: int, of: str | int | None) -> tuple[int, int]:
    each = inputs[place]
    row = each.row(token if of is None else of) if not isinstance(of, int) else (of if of < each.rows else None)
    if row is None:
        raise MissingTokenError(token, each.name, token if of is None else of)
    return place, row
