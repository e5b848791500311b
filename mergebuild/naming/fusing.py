"""Several parameters in one stored tensor: which elements of it each parameter has.

Most such tensors are equal parts one after another (gate and up; queries, keys and values with equally many heads).
This module handles the others: fewer keys and values than queries, heads of one group next to each other, and stacked
experts of a layer. The shape of a neighbouring tensor decides, so no configuration is needed, except for heads in
groups, whose size no shape tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from mergebuild.naming.renamed import Renamed, RowsOf, view_of
from mergebuild.naming.templates import TEXTS

__all__ = ["EACH", "HOWS", "Fused", "cut", "heads_of"]

EACH: Final = "#"
"""In the name of a parameter that is in a stack, the placeholder for its index."""

HOWS: Final = frozenset({"queries", "groups", "stack", "stack_in_turn", "long_stack", "long_stack_transposed"})
"""The arrangements that this module handles; `cut` describes them."""

_HEADS: Final = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_QUERIES_KEYS_VALUES: Final = 3


class Fused(NamedTuple):
    """A stored tensor that holds several parameters."""

    tensor: str
    shape: tuple[int, ...]
    beside: tuple[int, ...]
    """The shape of the neighbouring tensor that the rule names; empty if there is none."""
    heads: int | None
    """How many heads of queries there are, if the configuration says it."""


Parts = Sequence[tuple[str, Renamed]]


def cut(how: str, ours: Sequence[str], fused: Fused) -> Parts | None:
    """Return the parameters that a stored tensor holds, with what each is made of; None if its shape does not allow it.

    Args:
        how: The arrangement.
            `queries`: first as many rows of queries as the neighbour has columns, then the rest in equal parts. (The
            neighbour is `o_proj`, whose input is the output of the queries' heads.)
            `groups`: for each group of heads its queries, its key and its value. The neighbour is as for `queries`.
        `stack`: modules along an additional first dimension, each with equal parts one after another. The neighbour is
        the stack of the way back (`down_proj`), whose shape tells whether both are transposed; without one they are
            not.
            `stack_in_turn`: the same, of transposed modules or of vectors, with the parts' elements alternating.
            `long_stack`: modules one after another along the first dimension. The neighbour has one row per module (a
            router).
            `long_stack_transposed`: the same, with each module transposed.
        ours: The parameters' names; in a stack, with `#` for the index.
        fused: The stored tensor.
    """
    if not fused.shape or 0 in fused.shape:
        return None
    match how:
        case "queries":
            return _queries(ours, fused)
        case "groups":
            return _groups(ours, fused)
        case "stack" | "stack_in_turn":
            return _stack(ours, fused, in_turn=how == "stack_in_turn")
        case "long_stack" | "long_stack_transposed":
            return _long_stack(ours, fused, is_turned=how == "long_stack_transposed")
    raise AssertionError(how)


def heads_of(facts: Mapping[str, object] | None) -> int | None:
    """Return how many heads of queries the language model has by its configuration; None if that does not say it."""
    said = facts or {}
    for table in (*(said.get(name) for name in TEXTS), said):
        if isinstance(table, Mapping):
            for name in _HEADS:
                number = table.get(name)
                if isinstance(number, int) and not isinstance(number, bool) and number > 0:
                    return number
    return None


def _queries(ours: Sequence[str], fused: Fused) -> Parts | None:
    queries, rows, others = _width(fused), fused.shape[0], len(ours) - 1
    rest = rows - queries
    if not queries or rest <= 0 or rest % others:
        return None
    ends = [queries + rest // others * place for place in range(others + 1)]
    cuts = [(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    return [
        (name, Renamed((end - begin, *fused.shape[1:]), (RowsOf("", fused.tensor, (begin, end)),)))
        for name, (begin, end) in zip(ours, cuts, strict=True)
    ]


def _groups(ours: Sequence[str], fused: Fused) -> Parts | None:
    width, rows = _width(fused), fused.shape[0]
    if fused.heads is None or len(ours) != _QUERIES_KEYS_VALUES or not width or width % fused.heads:
        return None
    size = width // fused.heads
    groups, left = divmod(rows - width, 2 * size)
    if left or groups < 1 or fused.heads % groups:
        return None
    queries, group = width // groups, rows // groups
    spans = ((0, queries), (queries, queries + size), (queries + size, group))
    made: list[tuple[str, Renamed]] = []
    for name, (begin, end) in zip(ours, spans, strict=True):
        cuts = tuple(RowsOf("", fused.tensor, (at + begin, at + end)) for at in range(0, rows, group))
        made.append((name, Renamed((groups * (end - begin), *fused.shape[1:]), cuts)))
    return made


def _width(fused: Fused) -> int:
    """Return how many rows the queries have: the columns of the neighbouring matrix."""
    return fused.beside[1] if len(fused.beside) == 2 else 0


def _stack(ours: Sequence[str], fused: Fused, *, in_turn: bool) -> Parts | None:
    if len(fused.shape) not in {2, 3}:
        return None
    is_turned = len(fused.shape) == 3 and (in_turn or _is_turned(fused, len(ours)))
    count, rows = fused.shape[0], fused.shape[2 if is_turned else 1]
    if rows % len(ours):
        return None
    share = rows // len(ours)
    made: list[tuple[str, Renamed]] = []
    for number in range(count):
        for place, name in enumerate(ours):
            lying = _within(fused, number, place, share, len(ours), is_turned=is_turned, in_turn=in_turn)
            made.append((name.replace(EACH, str(number)), _made(lying, fused)))
    return made


def _within(fused: Fused, number: int, place: int, share: int, parts: int, *, is_turned: bool, in_turn: bool) -> RowsOf:
    """Return where one part of one module of a stack is."""
    if parts == 1:
        return RowsOf("", fused.tensor, None, is_turned, number)
    if in_turn:
        return RowsOf("", fused.tensor, None, is_turned, number, (place, share * parts, parts))
    if is_turned:
        return RowsOf("", fused.tensor, None, is_turned, number, (place * share, (place + 1) * share, 1))
    return RowsOf("", fused.tensor, (place * share, (place + 1) * share), at=number)


def _is_turned(fused: Fused, parts: int) -> bool:
    """Return whether the matrices of a stack are transposed, by the shape of the stack beside it.

    The stack is that of gate and up, the one beside it that of down. The outputs of the first are the inputs of the
    second, and the first holds two parts, so only one of both orientations fits.
    """
    if len(fused.beside) != 3:
        return False
    (_, rows, columns), (_, rows_beside, columns_beside) = fused.shape, fused.beside
    if parts > 1:
        return columns == parts * rows_beside and rows == columns_beside
    return columns_beside == 2 * rows and rows_beside == columns


def _long_stack(ours: Sequence[str], fused: Fused, *, is_turned: bool) -> Parts | None:
    count = fused.beside[0] if fused.beside else 0
    if not count or len(ours) != 1 or fused.shape[0] % count or (is_turned and len(fused.shape) != 2):
        return None
    rows = fused.shape[0] // count
    (name,) = ours
    return [
        (
            name.replace(EACH, str(number)),
            _made(RowsOf("", fused.tensor, (number * rows, (number + 1) * rows), is_turned), fused),
        )
        for number in range(count)
    ]


def _made(lying: RowsOf, fused: Fused) -> Renamed:
    return Renamed(view_of(lying, fused.shape, (0,) * len(fused.shape)).shape, (lying,))
