"""The benchmarks are no part of the installed package: their folder is the repository's. Nothing is measured here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what makes times comparable: gigabytes of memory touched before each run, and disks written out.

    A run of the whole command, in a process of its own, has both.
    """
    from benchmarks import arms

    monkeypatch.setattr(arms, "even_out", lambda: None)
    monkeypatch.setattr(arms.os, "sync", lambda: None)
