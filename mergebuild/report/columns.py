"""Text on a terminal: its width, columns, and characters that must not be sent to it.

Names come from files of strangers, so control characters (with them, escape sequences) are spelled out, never sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["clean", "pad", "table", "width"]

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
# marks that change the reading direction: text after them is displayed in another order than it has
_CONTROLS |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def clean(text: str) -> str:
    """Return text with control characters spelled out; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():  # nearly all lines; faster than translating them
        return text
    return text.translate(_CONTROLS)


def width(text: str) -> int:
    """Return how many cells of a terminal the text takes: 2 for East Asian wide characters, 0 for combining ones."""
    if text.isascii():
        return len(text)
    import unicodedata  # here, as most runs print only ASCII

    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def pad(text: str, cells: int) -> str:
    """Return text with spaces appended until it is `cells` wide."""
    return text + " " * (cells - width(text))


def table(rows: Iterable[Sequence[str]], *, gap: int = 2, indent: int = 0) -> list[str]:
    """Return rows as lines with aligned columns. Rows may have different numbers of columns."""
    rows = [tuple(row) for row in rows]
    filled, measured = (str.ljust, len) if _is_plain(rows) else (pad, width)
    widths = [
        max([measured(row[column]) for row in rows if column < len(row)])
        for column in range(max(map(len, rows), default=0))
    ]
    between, before = " " * gap, " " * indent
    return [before + between.join(map(filled, row, widths)).rstrip() for row in rows]


def _is_plain(rows: Iterable[Sequence[str]]) -> bool:
    """Return whether all texts are ASCII, so that each character takes one cell. Tested at once: tables may be long."""
    return "".join(["".join(row) for row in rows]).isascii()
