"""What one tensor follows from, for people: the lines of its key now, beside those of its key at the last build.

They are the lines of the key, in its order. Digests in them are shown as names of tensors; a key inside a key, or that
of an intermediate tensor, follows with its own lines, indented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from mergebuild.digest import tagged
from mergebuild.key import Key, Value
from mergebuild.results.looks import KeyLine, TensorWhy, WhatItIs

__all__ = ["ExplainedTensor", "explained", "labelled"]

Intermediates = Callable[[bytes], Key | None]
"""Returns the key of an intermediate tensor: one that a virtual target makes by an operation, in float32."""


class ExplainedTensor(NamedTuple):
    """A tensor's key, and what the digests in it are."""

    key: Key
    intermediate: Intermediates
    labels: Mapping[bytes, str]
    """The names, for people, of the tensors with these digests."""

    def called(self, digest: bytes) -> str:
        """Return the name of a tensor for people, or else its digest."""
        return self.labels.get(digest) or tagged(digest)


class _Shown(NamedTuple):
    path: tuple[str, ...]
    """The names of the lines above it, and its own."""
    value: str
    digest: bytes | None
    """The digest of the tensor that the line names."""


def explained(name: str, before: ExplainedTensor | None, after: ExplainedTensor | None, note: str = "") -> TensorWhy:
    """Return the key of a tensor by the mergefile (`after`), beside that at the last build (`before`)."""

    def what(found: ExplainedTensor | None) -> WhatItIs | None:
        if found is None:
            return None
        digest = found.key.digest
        return WhatItIs(tagged(digest), found.called(digest) if found.key.is_copy else None)

    one, other = (list(_lines(each)) if each is not None else [] for each in (before, after))
    return TensorWhy(name, what(before), what(after), tuple(_paired(one, other)), note)


def labelled(own: Iterable[tuple[bytes, str]], others: Iterable[tuple[bytes, str]]) -> dict[bytes, str]:
    """Return the label of each digest, from pairs of these.

    If inputs of the tensor itself (`own`) are equal, all of them are named. Elsewhere hundreds may be equal, such as
    biases that are 0: there only the first is named.
    """
    found: dict[bytes, dict[str, None]] = {}
    for digest, label in own:
        found.setdefault(digest, {})[label] = None
    labels = {digest: " = ".join(named) for digest, named in found.items()}
    for digest, label in others:
        labels.setdefault(digest, label)
    return labels


def _lines(described: ExplainedTensor) -> Iterator[_Shown]:
    """Yield the lines of a key and, each once, those of intermediate tensors."""
    told: set[bytes] = set()
    waiting = [_own(described, described.key, ())]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        shown, below = found
        yield shown
        if below is None and shown.digest is not None and shown.digest not in told:
            told.add(shown.digest)
            below = described.intermediate(shown.digest)
        if below is not None:
            waiting.append(_own(described, below, shown.path))


def _own(described: ExplainedTensor, key: Key, above: tuple[str, ...]) -> Iterator[tuple[_Shown, Key | None]]:
    """Yield the lines of a key without nested ones, each with the key that is its value, if it is one."""
    for name, value in key.lines:
        digest = next((each for each in (name, value) if isinstance(each, bytes)), None)
        path = (*above, described.called(name) if isinstance(name, bytes) else name)
        yield _Shown(path, _text(value, described), digest), value if isinstance(value, Key) else None


def _text(value: Value, described: ExplainedTensor) -> str:
    match value:
        case bytes():
            return described.called(value)
        case Key():
            return tagged(value.digest)
        case Fraction():
            return _number(value)
        case tuple():
            return ", ".join(_text(each, described) for each in value)
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _number(number: Fraction) -> str:
    """Return a number exactly and, unless it is an integer, as a decimal with six digits."""
    if number.denominator == 1:
        return str(number)
    try:
        return f"{number} ({float(number):.6g})"
    except OverflowError:
        return str(number)


def _paired(before: Sequence[_Shown], after: Sequence[_Shown]) -> Iterator[KeyLine]:
    """Yield lines in two columns: lines with the same name, below lines with the same names, are paired."""
    places: dict[tuple[str, ...], list[int]] = {}
    for index, shown in enumerate(before):
        places.setdefault(shown.path, []).append(index)
    beside = [places[each.path].pop(0) if places.get(each.path) else -1 for each in after]
    taken = set(beside)
    done = 0
    for shown, index in zip(after, beside, strict=True):
        while done < len(before) and (done not in taken or done < index):
            if done not in taken:
                yield _line(before[done], None)
            done += 1
        yield _line(before[index] if index >= 0 else None, shown)
    yield from (_line(each, None) for at, each in enumerate(before) if at >= done and at not in taken)


def _line(before: _Shown | None, after: _Shown | None) -> KeyLine:
    """Return one line. Different tensors with one name are shown with their digests."""
    shown = after or before
    assert shown is not None  # at least one column is there
    differ = before is not None and after is not None and before.digest != after.digest
    values = [
        each and (f"{each.value} [{tagged(each.digest)}]" if differ and each.digest is not None else each.value)
        for each in (before, after)
    ]
    return KeyLine(shown.path[-1], values[0], values[1], len(shown.path) - 1)
