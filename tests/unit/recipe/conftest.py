"""Writes mergefiles, loads them, and shows their problems as a reader would see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mergebuild.errors import MergeBuildError, Problem
from mergebuild.recipe import Recipe, load_recipe

SOURCES = '[sources]\nopk = "opk.safetensors"\nmerong = "merong.safetensors"\nodd-name = "odd.safetensors"\n'
"""Lines 1 to 4."""
ORANGE = (
    '[targets.orange]\nmethod = "weighted_sum"\na = "opk"\nb = "merong"\nalpha = 0.5\noutput = "out/orange.safetensors"\n'
)
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


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a text as `mergefile.toml`."""

    def loaded(text: str, *overrides: str, variables: dict[str, object] | None = None) -> Recipe:
        path = tmp_path / "mergefile.toml"
        path.write_text(text, encoding="utf-8", newline="")
        return load_recipe(path, overrides=overrides, variables=variables)

    return loaded


@pytest.fixture
def fail(load: Load) -> Fail:
    """Load a text that is wrong, and return its problems."""

    def failed(text: str, *overrides: str, code: int = 3, variables: dict[str, object] | None = None) -> list[Problem]:
        with pytest.raises(MergeBuildError) as caught:
            load(text, *overrides, variables=variables)
        assert caught.value.exit_code == code
        return list(caught.value.problems)

    return failed
