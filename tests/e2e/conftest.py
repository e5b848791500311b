"""A project's folder for each end-to-end test, apart from everything that the user's machine says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from project_space import PAIR, NewSpace, Space
from tiny_models import sd15


@pytest.fixture
def new_space(tmp_path: Path, environment: Mapping[str, str]) -> NewSpace:
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
