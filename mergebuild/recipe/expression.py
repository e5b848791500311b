"""The arithmetic of `${...}` and of formulas: + - * / with parentheses and signs, over decimals and names.

One small parser is used for both. Sums and products are flat, so that a sum of a thousand terms is as shallow as one of
two; only parentheses and signs nest, and their depth is limited. Every node has its offsets in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from mergebuild.recipe.numbers import exact_decimal, is_unwieldy

__all__ = [
    "NOT_ZERO",
    "UNWIELDY",
    "Expression",
    "ExpressionError",
    "Name",
    "Number",
    "Product",
    "Sum",
    "evaluate",
    "names",
    "parse",
]

_DEEPEST = 50
NOT_ZERO = "divide by a number other than 0"
"""Help for a division by 0."""
UNWIELDY = "it comes to a number of more than 1000 digits"
_ROUNDED = "write rounded numbers, or compute less"


class ExpressionError(ValueError):
    """A text that is no expression, or has no value. `start` and `end` are offsets in the text."""

    def __init__(self, message: str, start: int, end: int, hint: str) -> None:
        super().__init__(message)
        self.start = start
        self.end = end
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal."""

    value: Fraction
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Name:
    """A bare or quoted name."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sum:
    """Terms with their signs (1 or -1)."""

    terms: tuple[tuple[int, Expression], ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Product:
    """Factors; True marks a divisor."""

    factors: tuple[tuple[bool, Expression], ...]
    start: int
    end: int


Expression = Number | Name | Sum | Product


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | '(?P<single>[^']*)' | "(?P<double>[^"]*)"
      | (?P<sign>[-+*/()])
    )""",
    re.VERBOSE,
)
_EXAMPLE = "it is empty; write a computation such as `0.7*a + 0.3*b`"
_SIGNS = "there are numbers, names, `+ - * /` and parentheses; a name with other signs stands in quotes"
_OTHER_SIGNS = {
    "\N{MULTIPLICATION SIGN}": "multiply with `*`",
    "\N{MIDDLE DOT}": "multiply with `*`",
    "\N{MINUS SIGN}": "subtract with a plain `-`",
    "\N{EN DASH}": "subtract with a plain `-`",
    "\N{DIVISION SIGN}": "divide with `/`",
    "^": "there are no powers; write the product",
    ",": "decimals are written with a point, such as `0.5`",
    "'": "the quote is not closed",
    '"': "the quote is not closed",
}


def parse(text: str) -> Expression:
    """Return the tree of a text.

    Raises:
        ExpressionError: it is no expression; with the offsets and what was expected.
    """
    parser = _Parser(text)
    tree = parser.sum(0)
    parser.expect_end()
    return tree


def evaluate(tree: Expression, lookup: Callable[[Name], Fraction]) -> Fraction:
    """Return the exact value.

    Raises:
        ExpressionError: a division by 0, a number of more than 1000 digits; whatever `lookup` raises.
    """
    value = _evaluate(tree, lookup)
    if is_unwieldy(value):
        raise ExpressionError(UNWIELDY, tree.start, tree.end, _ROUNDED)
    return value


def _evaluate(tree: Expression, lookup: Callable[[Name], Fraction]) -> Fraction:
    match tree:
        case Number():
            return tree.value
        case Name():
            return lookup(tree)
        case Sum():
            return _total(tree, lookup)
        case Product():
            return _multiplied(tree, lookup)


def _total(tree: Sum, lookup: Callable[[Name], Fraction]) -> Fraction:
    total = Fraction(0)
    for sign, term in tree.terms:
        total += sign * evaluate(term, lookup)
        if is_unwieldy(total):
            raise ExpressionError(UNWIELDY, tree.start, tree.end, _ROUNDED)
    return total


def _multiplied(tree: Product, lookup: Callable[[Name], Fraction]) -> Fraction:
    value = Fraction(1)
    for divides, factor in tree.factors:
        number = evaluate(factor, lookup)
        if divides and number == 0:
            message = "division by 0"
            raise ExpressionError(message, factor.start, factor.end, NOT_ZERO)
        value = value / number if divides else value * number
        if is_unwieldy(value):
            raise ExpressionError(UNWIELDY, tree.start, tree.end, _ROUNDED)
    return value


def names(tree: Expression) -> list[Name]:
    """Return every name in the tree, in the order of the text."""
    match tree:
        case Name():
            return [tree]
        case Sum():
            return [name for _, term in tree.terms for name in names(term)]
        case Product():
            return [name for _, factor in tree.factors for name in names(factor)]
        case Number():
            return []


def _meaningless(text: str, position: int) -> ExpressionError:
    """Return the error for the first sign from a position on."""
    start = position + len(text[position:]) - len(text[position:].lstrip())
    odd = text[start]
    hint = _OTHER_SIGNS.get(odd, _SIGNS if odd.isascii() else "a name beyond a-z, 0-9 and _ stands in quotes")
    return ExpressionError(f"`{odd}` has no meaning here", start, start + 1, hint)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise _meaningless(text, position)
        kind = match.lastgroup or ""
        start = match.start(kind) - (1 if kind in ("single", "double") else 0)
        found.append(_Token(kind, match[kind], start, match.end()))
        position = match.end()
    return found


def _found_help(token: _Token) -> str:
    if token.kind != "sign":
        return "names with other signs than a-z, 0-9 and _ stand in quotes; a product needs its `*`"
    if token.text == "(":
        return "a product needs its `*`"
    return "every `)` needs its `(`" if token.text == ")" else "take one of the signs away, or put a name between them"


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0

    def _peek(self, *signs: str) -> bool:
        token = self._tokens[self._next] if self._next < len(self._tokens) else None
        return token is not None and token.kind == "sign" and token.text in signs

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _fail(self, expected: str) -> ExpressionError:
        if self._next >= len(self._tokens):
            end = len(self._text.rstrip())
            message = f"expected {expected} at the end"
            hint = "write out what is missing, or take away what waits for it" if self._tokens else _EXAMPLE
            return ExpressionError(message, max(end - 1, 0), max(end, 1), hint)
        token = self._tokens[self._next]
        message = f"expected {expected}, found `{self._text[token.start : token.end]}`"
        return ExpressionError(message, token.start, token.end, _found_help(token))

    def expect_end(self) -> None:
        if self._next < len(self._tokens):
            raise self._fail("an operator")

    def sum(self, depth: int) -> Expression:
        terms = [(1, self._product(depth))]
        while self._peek("+", "-"):
            sign = 1 if self._take().text == "+" else -1
            terms.append((sign, self._product(depth)))
        return terms[0][1] if len(terms) == 1 else Sum(tuple(terms), terms[0][1].start, terms[-1][1].end)

    def _product(self, depth: int) -> Expression:
        factors = [(False, self._factor(depth))]
        while self._peek("*", "/"):
            divides = self._take().text == "/"
            factors.append((divides, self._factor(depth)))
        return factors[0][1] if len(factors) == 1 else Product(tuple(factors), factors[0][1].start, factors[-1][1].end)

    def _factor(self, depth: int) -> Expression:
        if depth > _DEEPEST:
            token = self._tokens[min(self._next, len(self._tokens) - 1)]
            message = f"parentheses and signs nest more than {_DEEPEST} deep"
            hint = "take parentheses away, or give a part of it a name of its own"
            raise ExpressionError(message, token.start, token.end, hint)
        if self._peek("+", "-"):
            token = self._take()
            operand = self._factor(depth + 1)
            return Sum(((1 if token.text == "+" else -1, operand),), token.start, operand.end)
        return self._parenthesis(depth) if self._peek("(") else self._atom()

    def _parenthesis(self, depth: int) -> Expression:
        self._take()
        inside = self.sum(depth + 1)
        if not self._peek(")"):
            raise self._fail("`)`")
        self._take()
        return inside

    def _atom(self) -> Expression:
        if self._next >= len(self._tokens) or self._tokens[self._next].kind == "sign":
            raise self._fail("a number or a name")
        token = self._take()
        if token.kind != "number":
            return Name(token.text, token.start, token.end)
        try:
            return Number(exact_decimal(token.text), token.start, token.end)
        except ValueError as error:
            message = f"`{token.text}` is {error}"
            raise ExpressionError(message, token.start, token.end, "write a number nearer to 1") from None
