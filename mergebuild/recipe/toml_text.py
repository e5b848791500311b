"""Reads TOML with exact decimals, and explains common mistakes.

A mistake of syntax is one problem with its place. There is help for Windows paths in double quotes, names beyond ASCII
without quotes, decimal commas, numbers that begin or end in a point, text without quotes, and typographic quotes.
"""

from __future__ import annotations

import re
from fractions import Fraction

import tomli

from mergebuild.errors import UNSHOWN
from mergebuild.recipe.nodes import BadNumber
from mergebuild.recipe.numbers import exact_decimal
from mergebuild.recipe.places import Document
from mergebuild.recipe.problems import Problems

__all__ = ["count_values", "excess", "read_toml", "toml_number", "toml_value"]

_DEEPEST = 80
_MOST_DEEP = 5_000
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DEEP_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{8,}}+")
"""A dotted key with more than eight parts, or a text that looks like one."""
_QUOTED = r"'([^']*)'"
_TUPLE = re.compile(r"\((?:'[^']*',? ?)+\)")
_TYPOGRAPHIC = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
_COMMA = re.compile(r"[0-9]\s?,\s?[0-9]+\s*(?:[}\]#]|$)")


def read_toml(document: Document, problems: Problems) -> dict[str, object] | None:
    """Return a file's raw values, with floats as fractions; None if it is no TOML, which is reported."""
    too_much = excess(document.text)
    if too_much:
        problems.add("too-much-text", f"`{document.name}` has {too_much}", document.place(()),
                     help="no mergefile that people or scripts write has so much; take some away")  # fmt: skip
        return None
    try:
        return dict(tomli.loads(document.text, parse_float=toml_number))
    except tomli.TOMLDecodeError as error:
        _no_toml(document, error, problems)
    except RecursionError:
        problems.add("toml-syntax", f"`{document.name}` nests too deep", document.place(()),
                     help="no value of a mergefile has so many brackets; take some away")  # fmt: skip
    except ValueError:  # an integer of thousands of digits
        problems.add("toml-syntax", f"`{document.name}` has a number of thousands of digits", document.place(()),
                     help="a number is a decimal such as `0.3`, short of 1e1000")  # fmt: skip
    return None


def _no_toml(document: Document, error: tomli.TOMLDecodeError, problems: Problems) -> None:
    """Report a mistake of syntax; the text of a file that isn't the project's own is not shown."""
    place = document.at_line(error.lineno, error.colno)
    if not document.is_shown:
        problems.add("toml-syntax", f"`{document.name}` is no valid TOML", place, help=UNSHOWN)
        return
    message = _TUPLE.sub(lambda found: f"`{'.'.join(re.findall(_QUOTED, found[0]))}`", error.msg)
    message = message[:1].lower() + message[1:]
    help_ = _trap(place.text, place.column, error.msg)
    problems.add("toml-syntax", f"`{document.name}` is no valid TOML: {message}", place, help=help_)


def count_values(text: str) -> int:
    """Return an upper bound for the number of values in a TOML text: each comes after a `=`, a `,` or a `[`."""
    return sum(map(text.count, "=,["))


def toml_value(text: str) -> object:
    """Return the value of a text as TOML would read it after `=`; a text that is not TOML is a string."""
    try:
        found = tomli.loads(f"value = {text}", parse_float=toml_number)
    except (ValueError, RecursionError):
        return text
    return found["value"] if list(found) == ["value"] else text


def excess(text: str) -> str:
    """Return why a text is too much to be read, as part of a sentence, or "". A key of n parts takes n squared time."""
    for number, found in enumerate(_DEEP_KEY.finditer(text)):
        if found[0].count(".") > _DEEPEST or number == _MOST_DEEP:
            return f"keys of more than {_DEEPEST} parts, or more than {_MOST_DEEP:,} of more than 8"
    return ""


def toml_number(text: str) -> Fraction | BadNumber:
    """Return the number that a float of TOML or JSON means; a `BadNumber` if it isn't allowed."""
    try:
        return exact_decimal(text)
    except ValueError as error:
        return BadNumber(text, str(error))


def _trap(line: str, column: int, message: str) -> str:
    at = line[column - 1 : column]
    before, after = line[: column - 1].rstrip(), line[column - 1 :]
    if "\\" in line and ("Unescaped" in message or "hex" in message or "unicode" in message.lower()):
        return "a backslash in double quotes begins an escape; write paths with `/`, or in single quotes"
    if at and at in _TYPOGRAPHIC:
        return 'use straight quotes: "..."'
    if at and not at.isascii():
        return "a name with letters beyond a-z, 0-9, `_` and `-` stands in quotes"
    if _COMMA.search(before[-1:] + after) or re.search(r"[0-9],\s?[0-9]*$", before):
        return "decimals are written with a point: `0.5`"
    if (at == "." and after[1:2].isdigit()) or (at == "." and before[-1:].isdigit()):
        return "a number has digits on both sides of its point: `0.5`"
    if before.endswith("=") and (at.isalpha() or at in "/~_"):
        return 'text stands in quotes: "..."'
    if "Cannot overwrite" in message or "twice" in message:
        return "a key or a table stands twice; put the two together, or take one out"
    return "often a quote, a bracket or a `=` is missing here or in the line before"
