"""Answers as tables of HTML, for notebooks: few tags, no style of their own, and every text escaped.

Names of targets, tensors and files are anybody's, and a notebook shows HTML as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from mergebuild.errors import Problem

__all__ = ["joined", "page", "problems", "table"]

_MOST_ROWS = 200
"""Rows of a table that are shown: a notebook keeps all that it shows."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; empty where it has no rows. None is an empty cell."""
    found = list(rows)
    if not found:
        return ""
    head = "".join(f"<th>{_escaped(each)}</th>" for each in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in islice(found, _MOST_ROWS))
    more = len(found) - _MOST_ROWS
    rest = f'<tr><td colspan="{len(columns)}">and {more:,} more</td></tr>' if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}{rest}</tbody></table>"


def page(title: str, *parts: str) -> str:
    """Return a line of text above tables."""
    return f"<div><p>{_escaped(title)}</p>{''.join(parts)}</div>"


def problems(found: Iterable[Problem]) -> str:
    """Return a table of what is wrong, with how to mend it."""
    rows = ((each.code, each.message, each.where, each.help) for each in found)
    return table(("problem", "what is wrong", "where", "help"), rows)


def joined(texts: Iterable[object]) -> str:
    """Return sentences as one text."""
    return "; ".join(map(str, texts))


def _cell(value: object) -> str:
    return f"<td>{'' if value is None else _escaped(value)}</td>"


def _escaped(value: object) -> str:
    from html import escape  # commands have no use for it

    return escape(str(value))
