"""`${...}` in strings: a variable or an exact computation. As a whole string it keeps its type, else it is text.

A target's scope is the file's `[vars]`; for a member of a family, its axes come first. Variables may refer to each
other; they are resolved depth first, and a cycle among them is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from mergebuild.errors import did_you_mean
from mergebuild.recipe.expression import Expression, ExpressionError, Name, evaluate, names, parse
from mergebuild.recipe.numbers import shortest_text

__all__ = ["Scalar", "Scope", "VariableError", "as_text", "render", "variables_of"]

_LONGEST = 10_000
"""The most characters of a string with variables, before and after they are filled in: nested ones grow quickly."""

Scalar = Fraction | str | bool
Scope = Mapping[str, Scalar | None]
"""Variables by name; None: declared, but invalid, which is reported elsewhere."""


class VariableError(ValueError):
    """A `${...}` that has no value here. `start` and `end` are offsets in the string.

    The code is empty if the reason is reported already: the variable itself is invalid.
    """

    def __init__(self, code: str, message: str, start: int, end: int, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.start = start
        self.end = end
        self.hint = hint


@dataclass(frozen=True, slots=True)
class _Hole:
    """One `${...}`. `tree` is None if its text is no expression; it may still be the name of a variable."""

    source: str
    tree: Expression | None
    failure: ExpressionError | None
    start: int


def as_text(value: Scalar) -> str:
    """Return a value as it is written in a longer string.

    Raises:
        ValueError: a number without a finite decimal form.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else shortest_text(value)


def render(text: str, scope: Scope) -> Scalar:
    """Return a string with its variables filled in; a string that is one `${...}` becomes that value.

    Raises:
        VariableError: an unknown variable, a text where a number is needed, a division by 0, a number that has no
            decimal form in a longer string, a `${` that is not closed, a string of more than 10,000 characters.
    """
    parts = _parts(text)
    if len(parts) == 1 and isinstance(parts[0], _Hole):
        return _value(parts[0], scope)
    shown = [part if isinstance(part, str) else _shown(part, scope) for part in parts]
    if sum(map(len, shown)) > _LONGEST:
        raise _too_long(text)
    return "".join(shown)


def _shown(hole: _Hole, scope: Scope) -> str:
    """Return the value of a `${...}` as it is written in a longer string; raise `VariableError` if it has none."""
    try:
        return as_text(_value(hole, scope))
    except VariableError:
        raise
    except ValueError as error:
        hint = "inside a longer string a number must be a decimal"
        raise _failure("not-a-decimal", str(error), hole, hint) from None


def variables_of(text: str, known: Mapping[str, object]) -> list[str]:
    """Return the variables that a string names, known or not.

    Raises:
        VariableError: a `${` that is not closed.
    """
    found: list[str] = []
    for part in _parts(text):
        if isinstance(part, _Hole):
            if part.source in known:
                found.append(part.source)
            elif part.tree is not None:
                found.extend(name.name for name in names(part.tree))
    return found


@lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[str | _Hole, ...]:
    found: list[str | _Hole] = []
    position = 0
    if len(text) > _LONGEST and "${" in text:
        raise _too_long(text)
    while (start := text.find("${", position)) >= 0:
        end = _closing(text, start)
        if start > position:
            found.append(text[position:start])
        found.append(_hole(text[start + 2 : end], start))
        position = end + 1
    if position < len(text) or not found:
        found.append(text[position:])
    return tuple(found)


def _too_long(text: str) -> VariableError:
    message = f"a string with its variables filled in has more than {_LONGEST:,} signs"
    return VariableError("too-long", message, 0, len(text), "nothing of a mergefile is so long; write it shorter")


def _hole(source: str, start: int) -> _Hole:
    """Return a `${...}` from the text in its braces and the index where it begins."""
    try:
        return _Hole(source.strip(), parse(source), None, start)
    except ExpressionError as error:
        return _Hole(source.strip(), None, error, start)


def _closing(text: str, start: int) -> int:
    """Return the index of the `}` that closes the `${` at an index; raise `VariableError` if none does."""
    quote = ""
    for offset in range(start + 2, len(text)):
        sign = text[offset]
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "}":
            return offset
    message = "`${` is not closed by `}`"
    raise VariableError("bad-variable", message, start, len(text), "a variable is written `${name}`")


def _value(hole: _Hole, scope: Scope) -> Scalar:
    if hole.source in scope:
        return _known(hole.source, scope, hole)
    if hole.tree is None:
        failure = hole.failure
        assert failure is not None  # set if there is no tree
        message = f"`${{{hole.source}}}` is no variable and no computation: {failure}"
        raise _failure("bad-variable", message, hole, failure.hint)
    if isinstance(hole.tree, Name):
        return _named(hole.tree, scope, hole)
    try:
        return evaluate(hole.tree, lambda name: _number(name, scope, hole))
    except ExpressionError as error:
        raise _failure("bad-variable", f"`${{{hole.source}}}` has no value: {error}", hole, error.hint) from None


def _number(name: Name, scope: Scope, hole: _Hole) -> Fraction:
    value = _named(name, scope, hole)
    if isinstance(value, bool) or not isinstance(value, Fraction):
        message = f"`{name.name}` is the text `{as_text(value)}`, and `${{{hole.source}}}` computes with numbers"
        raise _failure("bad-variable", message, hole, f"give `{name.name}` a number, without quotes")
    return value


def _named(name: Name, scope: Scope, hole: _Hole) -> Scalar:
    if name.name not in scope:
        known = ", ".join(f"`{one}`" for one in list(scope)[:12])
        hint = did_you_mean(name.name, scope, otherwise=f"variables here: {known}" if known else "there are none here")
        raise _failure("unknown-variable", f"unknown variable `{name.name}`", hole, hint)
    return _known(name.name, scope, hole)


def _known(name: str, scope: Scope, hole: _Hole) -> Scalar:
    value = scope[name]
    if value is None:
        raise _failure("", f"variable `{name}` has no value", hole, "it is reported where it is declared")
    return value


def _failure(code: str, message: str, hole: _Hole, hint: str) -> VariableError:
    return VariableError(code, message, hole.start, hole.start + len(hole.source) + 3, hint)
