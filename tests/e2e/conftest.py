"""A project's folder for each end-to-end test, apart from everything that the user's machine says."""

from __future__ import annotations

from pathlib import Path

import pytest
from project_space import NewSpace, Space
from tiny_models import sd15

ROOT = Path(__file__).parents[2]

PAIR = """
[sources]
one = "one.safetensors"
two = "two.safetensors"

[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.3
output = "out/mix.safetensors"
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """What a process of its own needs, set for this one too."""
    for name in ("MERGEBUILD_STORE", "MERGEBUILD_MODELS", "FORCE_COLOR", "_MERGEBUILD_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    found = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "PYTHONPATH": str(ROOT)}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def new_space(tmp_path: Path, environment: dict[str, str]) -> NewSpace:
    """Make more projects, each in its own folder."""
    return lambda name: Space(tmp_path / name, environment)


@pytest.fixture
def space(new_space: NewSpace) -> Space:
    """An empty folder for a project."""
    return new_space("project")


@pytest.fixture
def pair(space: Space) -> Space:
    """A project with two fine-tunes of one model, and their mix."""
    space.model("one.safetensors", sd15(1))
    space.model("two.safetensors", sd15(2))
    space.write(PAIR)
    return space
