"""The engine calls nothing of the rooms above it: all it needs is in the pass, all it tells is events."""

from __future__ import annotations

import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from lab import Lab
from real_passes import PROJECTS, Run, passed_through

from mergebuild.engine.run import PassResult
from mergebuild.engine.work import Pass
from mergebuild.events import silent

ROOT = Path(__file__).parents[3]


def above_engine() -> set[str]:
    """Return the rooms above the engine, and those beside it, by the layers that `lint-imports` holds."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [[room.strip("() ") for room in line.split("|")] for line in contracts[0]["layers"]]
    (own,) = [index for index, rooms in enumerate(layers) if "engine" in rooms]
    return {room for rooms in layers[: own + 1] for room in rooms} - {"engine"}


@contextmanager
def noted_rooms(rooms: dict[str, set[str]]) -> Iterator[None]:
    """Note the functions of ours that are called meanwhile, in this thread and in those that begin, by their rooms."""

    def note(frame: FrameType, event: str, _argument: object) -> None:
        package, _, name = str(frame.f_globals.get("__name__", "")).partition(".")
        if event == "call" and package == "mergebuild" and frame.f_code.co_name != "<module>":  # which is an import
            rooms.setdefault(name.partition(".")[0], set()).add(f"{name}.{frame.f_code.co_qualname}")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PROJECTS)
def test_a_pass_calls_no_function_of_a_room_above(lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Of a pass of every kind; progress is told to whoever listens, here to nobody."""
    rooms: dict[str, set[str]] = {}

    def noted(run: Run, work: Pass, options: dict[str, Any]) -> PassResult:
        with noted_rooms(rooms):
            return run(work, **(options | {"emit": silent}))

    PROJECTS[kind](lab, monkeypatch)
    with passed_through(monkeypatch, noted):
        assert lab.build(threads=3).ok
    assert {"engine", "system"} <= rooms.keys()
    assert {"build", "plan", "fold", "project"} < above_engine()
    assert {room: functions for room, functions in rooms.items() if room in above_engine()} == {}
