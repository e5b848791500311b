"""Files that are not whole are taken away when the process has to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

ENDS = """
import sys, threading
from mergebuild.system import scratch
before, during, after = sys.argv[1:]
with scratch.noted([before]):
    pass
with scratch.noted([during, during + "-never-made", during + "-folder"]):
    scratch.remove_all()
    late = threading.Thread(target=lambda: scratch.noted([after]).__enter__(), daemon=True)
    late.start()
    late.join(0.2)
    print(late.is_alive(), flush=True)
    import os
    os._exit(0)
"""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in ("before", "during", "after")]
    for path in found:
        path.write_text("half")
    (tmp_path / "during-folder").mkdir()
    (tmp_path / "during-folder" / "within").write_text("half")
    return found


@pytest.mark.processes
def test_what_is_noted_is_removed_and_nothing_can_be_noted_after(paths: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS, *map(str, paths)],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert done.stdout == "True\n"
    assert [path.exists() for path in paths] == [True, False, True]
    assert not paths[1].with_name("during-folder").exists()
