"""A project that answers what a test wants, and the program run in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from program_under_test import FakeProject, Mergebuild, Outcome

from mergebuild.cli import run
from mergebuild.project import project as project_module


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeProject:
    """A fake project behind a mergefile in an empty folder, which is the current one."""
    fake = FakeProject()

    def load(
        path: Path, *, overrides: Sequence[str] = (), variables: Mapping[str, object] | None = None
    ) -> FakeProject:
        fake.path, fake.overrides, fake.variables = path, overrides, variables
        return fake

    monkeypatch.setattr(project_module, "load", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mergefile.toml").touch()
    return fake


@pytest.fixture
def mergebuild(capsys: pytest.CaptureFixture[str]) -> Mergebuild:
    """Run one command line."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run(arguments)
        return Outcome(code, *capsys.readouterr())

    return call
