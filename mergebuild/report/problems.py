"""Problems as text, in the form of the contract: what, where with the line and a caret, facts, help.

error[unknown-method]: target `orange` uses unknown method `weigted_sum`
  --> mergefile.toml:14:10
   |
14 | method = "weigted_sum"
   |          ^^^^^^^^^^^^^
  help: did you mean `weighted_sum`?  `mergebuild methods` shows all
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mergebuild.errors import Place, Problem
from mergebuild.report.columns import clean, width

__all__ = ["Paint", "problem_lines", "unpainted"]

Paint = Callable[[str, str], str]
"""(style, text) -> text; styles are `error`, `warning`, `help` and `place`."""

_LINE_CELLS = 110
"""Lines of a mergefile that take more cells of a terminal are shortened around the place."""

_BEFORE_CELLS = 60
"""How many characters of a shortened line are shown before the place."""


def unpainted(_style: str, text: str) -> str:
    """Return the text as it is."""
    return text


def problem_lines(problem: Problem, paint: Paint = unpainted) -> list[str]:
    """Return a problem as lines, each without a line break."""
    first, *more = clean(problem.message).splitlines() or [""]
    lines = [f"{paint('error', f'error[{problem.code}]')}: {first}", *(f"  {line}" for line in more)]
    if problem.where:
        lines += _place_lines(problem.where, paint)
    lines += (f"  {line}" for row in problem.rows for line in clean(row).splitlines())
    return lines + _help_lines(clean(problem.help).splitlines(), paint)


def _help_lines(lines: Iterable[str], paint: Paint) -> list[str]:
    return [f"  {paint('help', 'help')}: {line}" if not at else f"        {line}" for at, line in enumerate(lines)]


def _place_lines(place: Place, paint: Paint) -> list[str]:
    note = f"  {clean(place.note)}" if place.note else ""
    lines = [f"  {paint('place', '-->')} {clean(str(place))}{note}"]
    if not place.text or not place.line:
        return lines
    number = f"{place.line:>2}"
    empty = f"{' ' * len(number)} {paint('place', '|')}"
    shown, before, marked = _cut(place)
    lines += [empty, f"{paint('place', f'{number} |')} {shown}"]
    if place.column:
        # tabs stay tabs, so that the caret is below its character at any width of tabs
        space = "".join("\t" if each == "\t" else " " * width(each) for each in before)
        lines.append(f"{empty} {space}{paint('error', '^' * max(1, width(marked)))}")
    return lines


def _cut(place: Place) -> tuple[str, str, str]:
    """Return a place's line as shown, shortened if too long; the part before the place; the text of the place."""
    text = place.text.rstrip("\r\n")
    start = min(max(place.column - 1, 0), len(text))
    end = min(start + max(place.length, 1), len(text))
    before, marked, after = text[:start], text[start:end], text[end:]
    if width(text) > _LINE_CELLS:
        before = before if len(before) <= _BEFORE_CELLS else f"…{before[-_BEFORE_CELLS:]}"
        room = max(_LINE_CELLS - len(before), 20)
        tail = marked + after
        marked = marked[:room]
        after = tail[len(marked) : room] + ("…" if len(tail) > room else "")
    before, marked, after = clean(before), clean(marked), clean(after)
    return before + marked + after, before, marked
