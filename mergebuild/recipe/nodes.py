"""Raw TOML values with their variables filled in, each with its place; and a reader that checks their types.

A `Node` is a value and its place. Numbers are fractions; variables in keys are filled in too. An invalid value is
`INVALID`: it is reported once, and ignored afterwards. A `Reader` returns a node's value if it has the expected type,
and else reports what was found instead.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple, final

from mergebuild.errors import did_you_mean
from mergebuild.recipe.numbers import is_unwieldy
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.sizes import AmountError, parse_size
from mergebuild.recipe.variables import Scalar, Scope, VariableError, as_text, render

__all__ = [
    "INVALID",
    "BadNumber",
    "Invalid",
    "Node",
    "Reader",
    "among",
    "count_nested",
    "described",
    "dotted_help",
    "misspelt",
    "plain",
    "resolve",
    "resolve_key",
]

_DEEPEST = 40
_MOST_ITEMS = 10_000
"""The most items of a list or table in a target, a method or a layout. A number for each tensor of a large model takes
5,000."""
_LONGEST = 100_000
"""The most characters of a string: a formula over a thousand models has 30,000."""


@final
class Invalid:
    """The type of `INVALID`."""


INVALID: Final = Invalid()


@dataclass(frozen=True, slots=True)
class BadNumber:
    """A TOML float that isn't allowed as a number."""

    text: str
    reason: str


class Node(NamedTuple):
    """A value and its place."""

    value: Scalar | dict[str, Node] | list[Node] | dt.date | dt.time | Invalid
    at: At


def resolve(raw: object, at: At, scope: Scope, problems: Problems) -> Node:
    """Return a raw TOML value as a node, with every variable in it filled in."""
    if isinstance(raw, str):
        return Node(_text(raw, at, scope, problems), at)
    if isinstance(raw, (Fraction, bool)):
        return Node(raw, at)
    if isinstance(raw, (int, BadNumber)):
        return Node(_number(raw, at, problems), at)
    if isinstance(raw, (dict, list)):
        return Node(_inside(raw, at, scope, problems), at)
    assert isinstance(raw, (dt.date, dt.time))  # TOML has no other types
    return Node(raw, at)


def _text(raw: str, at: At, scope: Scope, problems: Problems) -> Scalar | Invalid:
    """Return a string with its variables filled in."""
    if len(raw) > _LONGEST:
        problems.add("too-long", f"a string has {len(raw):,} signs, and at most {_LONGEST:,} are read", at,
                     help="nothing of a mergefile is so long; write it shorter")  # fmt: skip
        return INVALID
    return _filled(raw, at, scope, problems) if "${" in raw else raw


def _number(raw: int | BadNumber, at: At, problems: Problems) -> Fraction | Invalid:
    if isinstance(raw, int) and not is_unwieldy(found := Fraction(raw)):
        return found
    message = f"`{raw.text}` is {raw.reason}" if isinstance(raw, BadNumber) else "a whole number beyond 1e1000"
    problems.add("bad-number", message, at, help="a number is a finite decimal such as `0.3`, short of 1e1000")
    return INVALID


def _inside(
    raw: dict[str, object] | list[object], at: At, scope: Scope, problems: Problems
) -> dict[str, Node] | list[Node] | Invalid:
    if len(at.path) > _DEEPEST:
        problems.add("too-deep", f"values nest more than {_DEEPEST} deep", at,
                     help="nothing of a mergefile lies so deep; a name with dots in it stands in quotes")  # fmt: skip
        return INVALID
    if len(raw) > _MOST_ITEMS and at.path[2:3] != ("foreach",):  # `foreach` has a limit of its own
        message = f"a list or table has {len(raw):,} items, and at most {_MOST_ITEMS:,} are read"
        problems.add("too-much-text", message, at,
                     help="write fewer; a glob or a block stands for many tensors")  # fmt: skip
        return INVALID
    if isinstance(raw, dict):
        return _table(raw, at, scope, problems)
    return [resolve(item, at.child(number), scope, problems) for number, item in enumerate(raw)]


def resolve_key(raw: str, at: At, scope: Scope, problems: Problems) -> str | None:
    """Return a key with its variables filled in; None if that fails, which is reported."""
    if "${" not in raw:
        return raw
    try:
        return as_text(render(raw, scope))
    except VariableError as error:
        if error.code:
            problems.add(error.code, str(error), at, key=True, help=error.hint)
    except ValueError as error:
        problems.add("not-a-decimal", str(error), at, key=True, help="in a key a number must be a decimal")
    return None


def _table(raw: Mapping[str, object], at: At, scope: Scope, problems: Problems) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for raw_key, value in raw.items():
        below = at.child(raw_key)
        key = resolve_key(raw_key, below, scope, problems)
        if key in found:
            message = f"`{raw_key}` is `{key}` here, which stands there already"
            problems.add("duplicate-key", message, below, key=True, help="take one of them out, or rename it")
        elif key is not None:
            found[key] = resolve(value, below, scope, problems)
    return found


def _filled(raw: str, at: At, scope: Scope, problems: Problems) -> Scalar | Invalid:
    try:
        return render(raw, scope)
    except VariableError as error:
        if error.code:
            problems.add(error.code, str(error), at.inside(raw, error.start, error.end), help=error.hint)
        return INVALID


def count_nested(raw: object) -> int:
    """Return the number of values in a raw TOML value, including itself and tables; a long string counts as several."""
    if isinstance(raw, dict):
        return 1 + sum(map(count_nested, raw.values()))
    if isinstance(raw, list):
        return 1 + sum(map(count_nested, raw))
    return 1 + len(raw) // 100 if isinstance(raw, str) else 1


def plain(node: Node) -> object:
    """Return a node as plain values: integers as int, other numbers as Fraction."""
    value = node.value
    if isinstance(value, dict):
        return {key: plain(below) for key, below in value.items()}
    if isinstance(value, list):
        return [plain(below) for below in value]
    if isinstance(value, Fraction) and value.denominator == 1:
        return int(value)
    return value


def misspelt(wanted: str, found: Iterable[str], allowed: Collection[str]) -> bool:
    """Return whether a missing key was misspelt: whether an unknown key is there that it is the suggestion for."""
    suggestion = did_you_mean(wanted, [wanted])
    return any(did_you_mean(key, allowed) == suggestion for key in found if key not in allowed)


def among(allowed: Iterable[str]) -> str:
    """Return words in backticks, separated by commas."""
    return ", ".join(f"`{word}`" for word in allowed)


class Reader:
    """Returns values of nodes, and reports those of another type than expected.

    Each method returns None after reporting a wrong value. `what` names the value in the message, such as "`alpha` of
    target `orange`".
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def text(
        self, node: Node, what: str, *, expected: str = "a string", hint: str = 'text stands in quotes: "..."'
    ) -> str | None:
        """Return a string."""
        if isinstance(node.value, str):
            return node.value
        self.wrong(node, what, expected, hint)
        return None

    def number(self, node: Node, what: str) -> Fraction | None:
        """Return a number."""
        if isinstance(node.value, Fraction):
            return node.value
        self.wrong(node, what, "a number", _number_help(node))
        return None

    def flag(self, node: Node, what: str) -> bool | None:
        """Return a boolean."""
        if isinstance(node.value, bool):
            return node.value
        self.wrong(node, what, "true or false", "write `true` or `false`, without quotes")
        return None

    def integer(self, node: Node, what: str, below: int) -> int | None:
        """Return an integer from 0 to `below` - 1."""
        value = node.value
        if isinstance(value, Fraction) and value.denominator == 1 and 0 <= value < below:
            return int(value)
        self.wrong(node, what, f"a whole number from 0 to {below - 1}", "such as `0` or `42`")
        return None

    def size(self, node: Node, what: str, hint: str, *, least: int = 0) -> int | None:
        """Return a number of bytes, at least `least`; `hint` shows how one is written."""
        if not isinstance(node.value, (str, Fraction)):
            self.wrong(node, what, "a size", hint)
            return None
        try:
            found = parse_size(as_text(node.value))
        except ValueError as error:
            meant = error.hint if isinstance(error, AmountError) else ""
            hint = "; ".join(part for part in (meant, hint) if part)
        else:
            if found >= least:
                return found
        self.problems.add("bad-value", f"{what} is {described(node)}, expected a size", node.at, help=hint)
        return None

    def table(self, node: Node, what: str, hint: str) -> dict[str, Node] | None:
        """Return a table."""
        if isinstance(node.value, dict):
            return node.value
        self.wrong(node, what, "a table", hint)
        return None

    def items(self, node: Node, what: str, expected: str, hint: str) -> list[Node] | None:
        """Return the items of a list."""
        if isinstance(node.value, list):
            return node.value
        self.wrong(node, what, expected, hint)
        return None

    def texts(self, node: Node, what: str, hint: str) -> list[tuple[str, At]] | None:
        """Return a list of strings with their places; a single string counts as a list of one."""
        if isinstance(node.value, str):
            return [(node.value, node.at)]
        items = self.items(node, what, "a list of strings", hint)
        if items is None:
            return None
        found = [(self.text(item, f"an item of {what}", hint=hint), item.at) for item in items]
        return [(text, at) for text, at in found if text is not None]

    def numbers(self, node: Node, what: str) -> tuple[Fraction, ...] | None:
        """Return a list of numbers, at least one."""
        items = self.items(node, what, "a list of numbers", "such as `[0, 0.5, 1]`")
        if items is None:
            return None
        if not items:
            message = f"{what} is an empty list, expected numbers"
            self.problems.add("bad-value", message, node.at, help="list at least one, such as `[0, 0.5, 1]`")
            return None
        found = [self.number(item, f"an item of {what}") for item in items]
        numbers = tuple(number for number in found if number is not None)
        return numbers if len(numbers) == len(items) else None

    def choice(
        self, node: Node, what: str, allowed: Collection[str], hints: Mapping[str, str] | None = None
    ) -> str | None:
        """Return one of the allowed words; `hints`: what other words mean here."""
        if isinstance(node.value, str) and node.value in allowed:
            return node.value
        if not isinstance(node.value, str):
            self.wrong(node, what, f"one of {among(allowed)}", f'write it in quotes: `"{next(iter(allowed))}"`')
            return None
        message = f"{what} is `{node.value}`, expected one of {among(allowed)}"
        self.problems.add("bad-value", message, node.at, help=_choice_help(node.value, allowed, hints or {}))
        return None

    def known_keys(self, table: Mapping[str, Node], what: str, allowed: Collection[str], otherwise: str = "") -> None:
        """Report the unknown keys of a table; `otherwise`: the help if no allowed key is similar."""
        otherwise = otherwise or f"allowed: {among(allowed)}"
        for key, below in table.items():
            if key not in allowed:
                hint = did_you_mean(key, allowed, otherwise=otherwise)
                self.problems.add("unknown-key", f"{what} has unknown key `{key}`", below.at, key=True, help=hint)

    def wrong(self, node: Node, what: str, expected: str, hint: str, *, named: bool = False) -> None:
        """Report that something else was expected; nothing for an invalid node, which is reported already.

        `named`: the user chose the key, so a dot in it may be meant as part of a name.
        """
        if isinstance(node.value, Invalid):
            return
        dotted = dotted_help(node) if named else ""
        code = "dotted-key" if dotted else "wrong-type"
        hint = dotted or hint
        self.problems.add(code, f"{what} is {described(node)}, expected {expected}", node.at, help=hint)


def described(node: Node) -> str:
    """Return a node's type or value in words."""
    value = node.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string `{value if len(value) <= 60 else value[:57] + '...'}`"
    if isinstance(value, Fraction):
        try:
            return f"the number {as_text(value)}"
        except ValueError:
            return f"the number {value}"
    return "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a date or time"


def dotted_help(node: Node) -> str:
    """Return help for a table that TOML made from a key with a dot, such as `v4.5`; empty for other values."""
    parts = [str(node.at.path[-1])] if node.at.path else []
    while isinstance(node.value, dict) and node.value and node.at.is_implied():
        name, node = next(iter(node.value.items()))
        parts.append(name)
    if len(parts) < 2:
        return ""
    name = ".".join(parts)
    return f'a dot in a bare key makes a table; if the name is `{name}`, quote it: `"{name}"`'


def _choice_help(word: str, allowed: Collection[str], hints: Mapping[str, str]) -> str:
    """Return help for a word that is not allowed; `hints`: what some words mean here."""
    meant = hints.get(word.lower())
    return f"write `{meant}`" if meant else did_you_mean(word, allowed, otherwise=f"allowed: {among(allowed)}")


def _number_help(node: Node) -> str:
    value = node.value
    if not isinstance(value, str):
        return "a number is a decimal such as `0.3`"
    written = value.strip().replace(",", ".")
    if written.replace(".", "", 1).lstrip("+-").isdigit():
        return f"write the number without quotes: `{written}`"
    return 'a number is a decimal such as `0.3`, or a variable such as `"${m}"`'
