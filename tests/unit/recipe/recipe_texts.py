"""Texts that many tests begin from, and how problems are written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mergebuild.errors import Problem
from mergebuild.recipe import Recipe

SOURCES = '[sources]\nopk = "opk.safetensors"\nmerong = "merong.safetensors"\nodd-name = "odd.safetensors"\n'
"""Lines 1 to 4."""
ORANGE = """\
[targets.orange]
method = "weighted_sum"
a = "opk"
b = "merong"
alpha = 0.5
output = "out/orange.safetensors"
"""
"""Lines 5 to 10 behind the sources."""

Load = Callable[..., Recipe]
Fail = Callable[..., list[Problem]]


def shown(problems: Sequence[Problem]) -> str:
    """Return problems as golden text: code, place, the marked text, message, help."""
    lines: list[str] = []
    for problem in problems:
        where = problem.where
        marked = where.text[where.column - 1 : where.column - 1 + where.length] if where and where.text else ""
        note = where.note if where else ""
        lines.append(" ".join(part for part in (f"[{problem.code}]", str(where or "-"), note, marked) if part))
        lines.append(f"  {problem.message}")
        lines.extend(f"  | {row}" for row in problem.rows)
        if problem.help:
            lines.append(f"  ? {problem.help}")
    return "\n".join(lines)
