"""Writes mergefiles and loads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_texts import Fail, Load

from mergebuild.errors import MergeBuildError, Problem
from mergebuild.recipe import Recipe, load_recipe


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
