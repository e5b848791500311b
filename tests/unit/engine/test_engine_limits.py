"""Laws of little memory: torch is tried where it may not fit, by a process that imports nothing of a stranger's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mergebuild.cli import process
from mergebuild.cli.settings import Settings
from mergebuild.engine import limits, torch_import
from mergebuild.errors import TargetError


def test_without_a_limit_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(limits, "memory_limit", lambda: None)
    assert limits.fits()


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may have little memory, as far as it is asked, and has no torch yet."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(limits, "memory_limit", lambda: 1 << 30)
    monkeypatch.setattr(limits, "_found", {})


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("end", ["os._exit(127)", "raise SystemError", "os.abort()", "raise MemoryError"])
def test_however_the_trial_ends_it_says_that_torch_does_not_fit(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(limits, "_TRIAL", f"import os\n{end}\n")
    assert not limits.fits()
    with pytest.raises(TargetError, match="torch does not fit into the memory that this process may have") as caught:
        torch_import.compute_module()
    assert caught.value.problems[0].code == "no-memory"


@pytest.mark.processes
@pytest.mark.usefixtures("limited")
def test_the_trial_is_made_once_and_imports_nothing_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert limits.fits()
    monkeypatch.setattr(limits, "_TRIAL", "")
    assert limits.fits()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("error", [SystemError("unknown opcode"), TypeError("'frame' object is not callable")])
def test_whatever_an_import_comes_to_under_a_limit_is_want_of_memory(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """And a bug without one."""

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "mergebuild.engine.compute":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "mergebuild.engine.compute", raising=False)
    monkeypatch.delattr("mergebuild.engine.compute", raising=False)
    with pytest.raises(type(error)):
        torch_import.compute_module()
    monkeypatch.setattr(limits, "memory_limit", lambda: 1 << 30)
    with pytest.raises(TargetError) as caught:
        torch_import.compute_module()
    assert caught.value.problems[0].code == "no-memory"


def test_want_of_memory_is_said_even_where_there_is_none_to_say_it_with(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("mergebuild.cli.failures.explained", fail)
    assert process._fail(MemoryError(), Settings()) == 1
    assert capfd.readouterr().err.startswith("error[no-memory]: there is not enough memory")
