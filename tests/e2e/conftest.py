"""A project's folder for each end-to-end test, apart from everything that the user's machine says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
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


@pytest.fixture
def large(space: Space) -> Space:
    """A project with thirty outputs of 3.2 MB, whose build takes long enough to be ended in the middle."""
    for name, value in (("one", 1.0), ("two", 2.0)):
        tensors = {"weight": torch.full((2, 400_000), value), "other": torch.ones(64, 64) * value}
        space.model(f"{name}.safetensors", tensors)
    space.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.mix]
        foreach.alpha = { from = 0.005, to = 0.15, step = 0.005 }
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = "${alpha}"
        output = "out/mix-${alpha}.safetensors"
        """
    )
    return space
