"""Text on a terminal: how wide it is, what must not reach it, and columns.

Names come from files of strangers, so control characters (escape sequences among them) are shown, never sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["clean", "pad", "table", "width"]

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
# marks that turn the reading direction: text behind them is shown in another order than it stands
_CONTROLS |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def clean(text: str) -> str:
    """Return text with control characters spelled out; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():  # as nearly every line of ten thousand is
        return text
    return text.translate(_CONTROLS)


def width(text: str) -> int:
    """Return how many cells of a terminal the text takes: 2 for East Asian wide characters, 0 for combining ones."""
    if text.isascii():
        return len(text)
    import unicodedata  # most texts have no use for it

    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def pad(text: str, cells: int) -> str:
    """Return text filled up with spaces to so many cells."""
    return text + " " * (cells - width(text))


def table(rows: Iterable[Sequence[str]], *, gap: int = 2, indent: int = 0) -> list[str]:
    """Return rows as lines whose columns are aligned. Rows may have fewer cells than others."""
    rows = [tuple(row) for row in rows]
    filled, measured = (str.ljust, len) if _is_plain(rows) else (pad, width)
    widths = [
        max([measured(row[column]) for row in rows if column < len(row)])
        for column in range(max(map(len, rows), default=0))
    ]
    between, before = " " * gap, " " * indent
    return [before + between.join(map(filled, row, widths)).rstrip() for row in rows]


def _is_plain(rows: Iterable[Sequence[str]]) -> bool:
    """Whether each sign takes one cell: tables of ten thousand rows are made of texts that say so at once."""
    return "".join(["".join(row) for row in rows]).isascii()
