"""A draft as the text of a mergefile.

Every text of a recipe is a stranger's: it gets into strings and comments only, where nothing it holds can end them.
Strings are TOML's basic ones, with all that is not printable escaped; a comment is one line of printable signs. `${`
would be a variable, so a string that holds it says it by a variable of the mergefile itself. Numbers are decimals in
plain form, as the recipe spelt them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from mergebuild.exchange.draft import Draft, DraftSource, DraftTarget, Value

__all__ = ["decimal_text", "text_of"]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_WIDTH: Final = 110
"""Signs of a line in which a table or a list is still written inline."""
_LONGEST_COMMENT: Final = 500
_MOST_DIGITS: Final = 60
"""Digits of a number in plain form; one with more zeros than that gets an exponent."""
_DOLLAR: Final = "dollar"
"""The variable that is `$`, for texts with `${`."""


def text_of(draft: Draft) -> str:
    """Return the text of a mergefile."""
    body = "\n".join(_body(draft))
    if f"${{{_DOLLAR}}}" in body:
        body = f'[vars]\n{_DOLLAR} = "$"\n\n{body}'
    head = [_comment(text) for text in draft.comments]
    return "\n".join([*head, *([""] if head else []), body]).rstrip("\n") + "\n"


def decimal_text(number: Decimal | int) -> str:
    """Return a number as TOML has it: its digits as they are, without an exponent where that is not too long.

    Raises:
        ValueError: it is not finite.
    """
    if isinstance(number, int):
        return str(number)
    if not number.is_finite():
        raise ValueError(f"{number} is no number of a mergefile")
    plain = format(number, "f")
    return plain if len(plain) <= _MOST_DIGITS else f"{number:e}".replace("e+", "e")


def _body(draft: Draft) -> Iterator[str]:
    if draft.default:
        yield from ("[project]", f"default = {_value(list(draft.default))}", "")
    if draft.sources:
        yield "[sources]"
        yield from map(_source, draft.sources.values())
        yield ""
    for target in draft.targets.values():
        yield from _target(target)
        yield ""


def _source(source: DraftSource) -> str:
    pins: dict[str, Value] = {"path": source.path, **source.pins}
    if source.model.url:
        pins["url"] = source.model.url
    said = [source.model.comment] if source.model.comment else []
    if source.model.autov1:
        said.append(f"AutoV1 {source.model.autov1}")
    return _line(source.name, pins if len(pins) > 1 else source.path, "; ".join([*said, *source.comments]))


def _target(target: DraftTarget) -> Iterator[str]:
    """Yield the lines of a target: comments, its values, then the tables that are too long to stand in a line."""
    header = f"targets.{_key(target.name)}"
    yield f"[{header}]"
    yield from map(_comment, target.comments)
    tables: dict[str, Mapping[str, Value]] = {}
    for key, value in target.keys.items():
        if isinstance(value, dict) and len(_line(key, value, "")) > _WIDTH:
            tables[key] = value
        else:
            yield _line(key, value, target.notes.get(key, ""))
    for key, table in tables.items():
        yield from _table(f"{header}.{_key(key)}", table, target.notes.get(key, ""))


def _table(header: str, table: Mapping[str, Value], note: str) -> Iterator[str]:
    yield f"[{header}]{_behind(note)}"
    for key, value in table.items():
        yield _line(key, value, "")


def _line(key: str, value: Value, note: str) -> str:
    text = f"{_key(key)} = {_value(value)}"
    if isinstance(value, list) and len(text) > _WIDTH and any(isinstance(each, (dict, list)) for each in value):
        text = f"{_key(key)} = [\n" + "".join(f"  {_value(each)},\n" for each in value) + "]"
    return text + _behind(note)


def _behind(note: str) -> str:
    return f"  {_comment(note)}" if note else ""


def _value(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int() | Decimal():
            return decimal_text(value)
        case list():
            return _list(value)
        case dict():
            return _inline(value)


def _list(items: Sequence[Value]) -> str:
    return f"[{', '.join(map(_value, items))}]"


def _inline(table: Mapping[str, Value]) -> str:
    inner = ", ".join(f"{_key(key)} = {_value(value)}" for key, value in table.items())
    return f"{{ {inner} }}" if inner else "{}"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return f'"{_escaped(text.replace("${", f"${{{_DOLLAR}}}{{"))}"'


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(sign) or (sign if sign.isprintable() else _code(sign)) for sign in text)


def _code(sign: str) -> str:
    """Return the escape of a sign that can't be printed; half of a pair that is no sign becomes the sign for that."""
    point = ord(sign)
    if 0xD800 <= point <= 0xDFFF:
        return "\N{REPLACEMENT CHARACTER}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"


def _comment(text: str) -> str:
    """Return a comment of one line, whatever the text holds."""
    plain = _printable(text if len(text) <= _LONGEST_COMMENT else f"{text[:_LONGEST_COMMENT]} …")
    return f"# {plain}".rstrip()


def _printable(signs: Iterable[str]) -> str:
    return "".join(
        sign if sign.isprintable() else " " if sign.isspace() else "\N{REPLACEMENT CHARACTER}" for sign in signs
    )
