"""Families of targets: axes with exact values, and members that are named by them.

The values of a range are `from + i * step` in fractions, so rounding never accumulates and the end is never passed; the
number of steps is known before any value is made. Each member has one canonical name (`grid@alpha=0.3,beta=0.5`: axes
in the order of declaration, values in shortest form). A family is open: a value that isn't listed makes a member too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from mergebuild.errors import did_you_mean
from mergebuild.recipe.nodes import Invalid, Node, Reader, among, misspelt
from mergebuild.recipe.numbers import exact_decimal, shortest_text

__all__ = ["MOST_MEMBERS", "Axis", "Family", "Member", "MemberError", "Values", "bad_axis_text", "read_axes"]

MOST_MEMBERS = 100_000
"""The limit for all families of a mergefile together."""
_MOST_AXES = 32
"""17 axes of two values are too many members already; further ones could only have a single value each."""
_LONGEST = 100
"""The most characters of a value as text: it is part of the names of members, and of their files."""

_AXIS_EXAMPLE = "such as `foreach.alpha = [0.1, 0.2]`"
_RANGE_EXAMPLE = "such as `{ from = 0.1, to = 0.5, step = 0.1 }`"

Values = Mapping[str, Fraction | str]
"""The values of a member, by axis."""
_Range = tuple[Fraction, Fraction, Fraction]
"""The first value of a range, the last one, and the step between two."""


class MemberError(ValueError):
    """A text that names no member of a family."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Member(NamedTuple):
    """One member of a family: its canonical name, its values, and whether the family lists it."""

    name: str
    values: Values
    is_listed: bool


@dataclass(frozen=True)
class Axis:
    """One axis: its listed values (numbers or strings) and their texts, all different.

    Each member looks up its own value, so that must not take longer if there are more values.
    """

    name: str
    values: tuple[Fraction | str, ...]
    texts: tuple[str, ...]

    @cached_property
    def listed(self) -> Mapping[str, Fraction | str]:
        """The listed values, by their texts."""
        return dict(zip(self.texts, self.values, strict=True))

    @cached_property
    def _kinds(self) -> frozenset[type]:
        """The types of its values, of `Fraction` and `str`."""
        return frozenset(map(type, self.values))

    def read(self, text: str) -> tuple[Fraction | str, str]:
        """Return the value that a text means on this axis, listed or not, and its canonical text.

        Raises:
            MemberError: it is no number, and the axis has only numbers; or it is too long.
        """
        if len(text) > _LONGEST:
            raise self._error(f"a value of `{self.name}` has {len(text)} signs, expected at most {_LONGEST}")
        if text in self.listed:
            return self.listed[text], text
        if (number := self._number(text)) is not None:
            return number, self._short(number)
        if bad_axis_text(text):
            raise self._error(f"`{text}` can't be a value of `{self.name}`")
        return text, text

    def _number(self, text: str) -> Fraction | None:
        """Return the number that a text means; None if it means none. Raise `MemberError` if it has to mean one."""
        if Fraction not in self._kinds:
            return None
        try:
            return exact_decimal(text)
        except ValueError:
            if str not in self._kinds:
                raise self._error(f"`{text}` is no number, as `{self.name}` is") from None
            return None

    def _short(self, number: Fraction) -> str:
        text = shortest_text(number)
        if len(text) > _LONGEST:  # `1e900` is short, but its canonical text is long
            raise self._error(f"a value of `{self.name}` has {len(text)} digits, expected at most {_LONGEST}")
        return text

    def _error(self, message: str) -> MemberError:
        return MemberError(message, f"such as `{self.name}={self.texts[0]}`")


@dataclass(frozen=True)
class Family:
    """A target with `foreach`."""

    name: str
    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """The number of listed members."""
        size = 1
        for axis in self.axes:
            size *= len(axis.values)
        return size

    @cached_property
    def first(self) -> str:
        """The name of the first listed member."""
        return next(self.members())[0]

    def members(self, fixed: Mapping[str, tuple[Fraction | str, str]] | None = None) -> Iterator[tuple[str, Values]]:
        """Yield names and values of the members, the last axis varying fastest.

        Axes in `fixed` have only that value.
        """
        choices = self._choices(fixed or {})
        names = [axis.name for axis in self.axes]
        values = itertools.product(*([value for value, _ in each] for each in choices))
        texts = itertools.product(
            *([f"{name}={text}" for _, text in each] for name, each in zip(names, choices, strict=True))
        )
        for value, text in zip(values, texts, strict=True):
            yield f"{self.name}@{','.join(text)}", dict(zip(names, value, strict=True))

    def _choices(self, fixed: Mapping[str, tuple[Fraction | str, str]]) -> list[list[tuple[Fraction | str, str]]]:
        """Return the values that each axis can have, with their texts."""
        return [
            [fixed[axis.name]] if axis.name in fixed else list(zip(axis.values, axis.texts, strict=True))
            for axis in self.axes
        ]

    def read(self, text: str) -> dict[str, tuple[Fraction | str, str]]:
        """Return the values that `alpha=0.3,beta=0.5` (without the name) gives to some of the axes.

        Raises:
            MemberError: it has another form, an axis is unknown or repeated, or a value is invalid.
        """
        axes = {axis.name: axis for axis in self.axes}
        found: dict[str, tuple[Fraction | str, str]] = {}
        for part in text.split(","):
            name, value = self._assignment(part, axes)
            if name in found:
                raise MemberError(f"`{name}` is given twice", self._example)
            found[name] = axes[name].read(value)
        return found

    def _assignment(self, part: str, axes: Mapping[str, Axis]) -> tuple[str, str]:
        """Return the name of the axis and the text of the value in `alpha=0.3`.

        Raises:
            MemberError: it has another form, or the axis is unknown.
        """
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise MemberError(f"`{part.strip()}` gives no axis a value", self._example)
        if name not in axes:
            hint = did_you_mean(name, axes, otherwise=f"its axes: {among(axes)}")
            raise MemberError(f"`{self.name}` has no axis `{name}`", hint)
        return name, value

    @property
    def _example(self) -> str:
        """Help for a text that names no member."""
        return f"a member is named such as `{self.first}`"

    def member(self, fixed: Mapping[str, tuple[Fraction | str, str]]) -> Member:
        """Return the member with these values, as `read` gives them; axes left out have their first one."""
        name, values = next(self.members(fixed))
        listed = (fixed[axis.name][1] in axis.listed for axis in self.axes if axis.name in fixed)
        return Member(name, values, all(listed))


def bad_axis_text(text: str) -> bool:
    """Return whether a string can't be a value or a name of an axis, because a member's name could not hold it."""
    return not text or text != text.strip() or any(sign in ",=@" or not sign.isprintable() for sign in text)


def read_axes(reader: Reader, node: Node, what: str) -> tuple[Axis, ...] | None:
    """Return the axes of a `foreach` table, in its order; None if something is wrong, which is reported."""
    table = reader.table(node, what, _AXIS_EXAMPLE)
    if table is None:
        return None
    if not table:
        reader.problems.add("empty-range", f"{what} has no axis", node.at, help=_AXIS_EXAMPLE)
        return None
    if len(table) > _MOST_AXES:
        message = f"{what} has {len(table)} axes, expected at most {_MOST_AXES}"
        reader.problems.add("too-many-members", message, node.at, help="put values that go together into one axis")
        return None
    return _axes(reader, table, node, what)


def _axes(reader: Reader, table: Mapping[str, Node], node: Node, what: str) -> tuple[Axis, ...] | None:
    """Return the axes in a table; None if one is wrong or they make too many members, which is reported."""
    found: list[Axis] = []
    size = 1
    for name, below in table.items():
        label = f"axis `{name}` of {what}"
        values = _values(reader, below, label) if _is_axis_name(reader, name, below, label) else None
        if values is None:
            continue
        size *= len(values)
        if size > MOST_MEMBERS:  # before any further value is made
            _too_many(reader, node, what, size)
            return None
        axis = _axis(reader, name, values, below, label)
        if axis is not None:
            found.append(axis)
    return tuple(found) if len(found) == len(table) else None


def _is_axis_name(reader: Reader, name: str, node: Node, label: str) -> bool:
    """Report a name that no axis can have."""
    is_bad = bad_axis_text(name)
    if is_bad:
        message = f"{label} has a name with a sign that is not allowed"
        hint = "it is part of the members' names: no `,`, `=`, `@`, and no blanks at its ends"
        reader.problems.add("bad-axis", message, node.at, key=True, help=hint)
    return not is_bad


def _too_many(reader: Reader, node: Node, what: str, size: int) -> None:
    shown = str(size) if size < 10**30 else "endlessly many"
    message = f"{what} makes {shown} members, more than {MOST_MEMBERS}"
    hint = "families are open: list fewer, and ask for others by name"
    reader.problems.add("too-many-members", message, node.at, help=hint)


def _axis(reader: Reader, name: str, values: list[Fraction | str], node: Node, label: str) -> Axis | None:
    texts: dict[str, None] = {}
    for value in values:
        text = _axis_text(reader, value, node, label)
        if text is None:
            return None
        if text in texts:
            message = f"{label} has the value `{text}` twice"
            reader.problems.add("duplicate-member", message, node.at, help="take one of them out")
            return None
        texts[text] = None
    return Axis(name, tuple(values), tuple(texts))


def _axis_text(reader: Reader, value: Fraction | str, node: Node, label: str) -> str | None:
    """Return a value as text for the names of members; report a value that can't be in a name."""
    if isinstance(value, str) and bad_axis_text(value):
        message = f"{label} has the value `{value}`; names of members can't hold `,`, `=`, `@` or blank ends"
        reader.problems.add("bad-axis", message, node.at, help="give it another value, such as `a-b`")
        return None
    try:
        text = value if isinstance(value, str) else shortest_text(value)
    except ValueError as error:
        hint = "members are named by decimals"
        reader.problems.add("not-a-decimal", f"{label} has a value that is none: {error}", node.at, help=hint)
        return None
    if len(text) > _LONGEST:
        message = f"{label} has a value of {len(text)} signs, expected at most {_LONGEST}"
        reader.problems.add("bad-axis", message, node.at, help="it is part of the members' names; write it shorter")
        return None
    return text


def _values(reader: Reader, node: Node, label: str) -> list[Fraction | str] | None:
    if isinstance(node.value, dict):
        return _range(reader, node, node.value, label)
    items = reader.items(node, label, "a list or `{ from = 0.1, to = 0.5, step = 0.1 }`", _AXIS_EXAMPLE)
    if items is None:
        return None
    if not items:
        hint = f"list at least one value, {_AXIS_EXAMPLE}"
        reader.problems.add("empty-range", f"{label} is an empty list", node.at, help=hint)
        return None
    if len(items) > MOST_MEMBERS:
        _too_many(reader, node, label, len(items))
        return None
    return _listed_values(reader, items, label)


def _listed_values(reader: Reader, items: list[Node], label: str) -> list[Fraction | str] | None:
    """Return the values in a list; None if one is neither a number nor a string, which is reported."""
    found: list[Fraction | str] = []
    for item in items:
        if isinstance(item.value, (Fraction, str)):
            found.append(item.value)
        elif not isinstance(item.value, Invalid):
            reader.wrong(item, f"a value of {label}", "a number or a string", 'such as `0.5` or `"half"`')
    return found if len(found) == len(items) else None


def _range(reader: Reader, node: Node, table: dict[str, Node], label: str) -> list[Fraction | str] | None:
    """Return the values of a range, including its ends."""
    numbers = _range_numbers(reader, node, table, label)
    if numbers is None or not _is_usable(reader, node, table, label, numbers):
        return None
    first, last, step = numbers
    count = (last - first) // step + 1
    if count > MOST_MEMBERS:
        _too_many(reader, node, label, count)
        return None
    return list(_steps(first, step, count))


def _is_usable(reader: Reader, node: Node, table: dict[str, Node], label: str, numbers: _Range) -> bool:
    """Return whether the numbers of a range are short, and lead to its end; report if they are not or don't."""
    first, last, step = numbers
    if any(_is_long(number) for number in (first, step)):
        message, hint = f"{label} has numbers of more than {_LONGEST} digits", "they are part of the members' names"
        reader.problems.add("bad-axis", message, node.at, help=f"{hint}: write shorter ones")
        return False
    if step == 0 or (last - first) * step < 0:
        is_endless = step == 0 or last > first
        _no_way(reader, table["step"] if is_endless else node, label, is_endless=is_endless)
        return False
    return True


def _no_way(reader: Reader, node: Node, label: str, *, is_endless: bool) -> None:
    """Report a range whose steps don't lead from its beginning to its end."""
    code = "endless-range" if is_endless else "empty-range"
    message = f"{label} never reaches its end" if is_endless else f"{label} is empty: it starts beyond its end"
    hint = "`step` must lead from `from` to `to`; it may be negative"
    reader.problems.add(code, message, node.at, help=hint)


def _range_numbers(reader: Reader, node: Node, table: dict[str, Node], label: str) -> _Range | None:
    """Return `from`, `to` and `step`; None if one is missing or isn't a number, which is reported."""
    before = len(reader.problems)
    wanted = ("from", "to", "step")
    reader.known_keys(table, label, wanted, f"a range has {among(wanted)}")
    for key in wanted:
        if key not in table and not misspelt(key, table, wanted):
            reader.problems.add("missing-key", f"{label} has no `{key}`", node.at, help=_RANGE_EXAMPLE)
    found = [reader.number(table[key], f"`{key}` of {label}") for key in wanted if key in table]
    numbers = [number for number in found if number is not None]
    if len(reader.problems) > before or len(numbers) < len(wanted):
        return None
    first, last, step = numbers
    return first, last, step


def _steps(first: Fraction, step: Fraction, count: int) -> Iterator[Fraction]:
    """Yield `count` values, computed with one common denominator."""
    whole = math.lcm(first.denominator, step.denominator)
    begin, stride = int(first * whole), int(step * whole)
    return (Fraction(begin + number * stride, whole) for number in range(count))


def _is_long(number: Fraction) -> bool:
    """Return whether a number has too many digits; False if it is no decimal, which is reported elsewhere."""
    try:
        return len(shortest_text(number)) > _LONGEST
    except ValueError:
        return False
