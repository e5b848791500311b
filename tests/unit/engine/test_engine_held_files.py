"""Laws of the files that a pass maps: nobody writes to them meanwhile, and who wants to is not kept waiting."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mergebuild.engine.mappings import Mappings
from mergebuild.errors import SourceError
from mergebuild.system import platform

CUT = "import os, sys; os.truncate(sys.argv[1], 0)"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of two megabytes, on a system that hides nothing."""
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)
    found = tmp_path / "file"
    found.write_bytes(b"x" * (2 << 20))
    return found


def read_for_a_while(mappings: Mappings, path: Path) -> None:
    """Look at the end of a file again and again, as workers do."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert mappings.view(path, path.stat().st_size - 1, 1) == b"x"
        time.sleep(0.01)


@pytest.mark.processes
def test_a_file_that_is_cut_short_while_it_is_read_ends_the_reading(path: Path) -> None:
    """With an error, where a look behind its new end would end the process; who cuts it waits no longer than that."""
    with Mappings() as mappings:
        assert mappings.view(path, 0, 1) == b"x"
        other = subprocess.Popen([sys.executable, "-c", CUT, path])
        with pytest.raises(SourceError) as caught:
            read_for_a_while(mappings, path)
        assert path.stat().st_size
    assert caught.value.problems[0].code == "source-changed"
    assert str(path) in caught.value.problems[0].message
    assert other.wait(30) == 0
    assert path.stat().st_size == 0


def test_a_file_is_let_go_of_though_a_view_of_it_outlives_the_pass(path: Path) -> None:
    with Mappings() as mappings:
        view = mappings.view(path, 0, 1)
    assert not platform.has_writer(path)
    with path.open("r+b"):
        pass
    assert view == b"x"


def test_a_file_that_somebody_can_write_to_is_read_all_the_same(path: Path) -> None:
    """What was read is looked at again in the end, as where no file can be held."""
    with path.open("r+b") as file, Mappings() as mappings:
        assert mappings.view(path, 0, 1) == b"x"
        file.write(b"y")
        file.flush()
        assert mappings.view(path, 0, 1) == b"y"
