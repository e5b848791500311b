"""Calls go down the import layers, as imports do: a lower room that calls a higher one hides that in a callback.

A plan and a build of one `copy` target run under a profiler; each call of a function of ours is compared with the
nearest function of ours below it on the stack. Progress callbacks are what `events` is for, and are left out.
"""

from __future__ import annotations

import re
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from lab import Lab

import mergebuild
from mergebuild.cli import run
from mergebuild.events import Event

PACKAGE = Path(mergebuild.__file__).parent
DESIGN = PACKAGE.parent / "docs" / "design.md"
LAYERS = {
    room.strip(): height
    for contract in tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    if contract["name"] == "imports run downward"
    for height, rooms in enumerate(reversed(contract["layers"]))
    for room in rooms.split("|")
}


def layer(frame: FrameType) -> tuple[int, str] | None:
    """Return how high the function of a frame is, and its name; None where it is not ours."""
    file = Path(frame.f_code.co_filename)
    if not file.is_relative_to(PACKAGE):
        return None
    inside = file.relative_to(PACKAGE)
    room = inside.parts[0].removesuffix(".py")
    return (LAYERS[room], f"{inside.as_posix()}:{frame.f_code.co_qualname}") if room in LAYERS else None


def is_progress(frame: FrameType) -> bool:
    """Whether a function is a progress callback: it takes an event."""
    code = frame.f_code
    return code.co_argcount > 0 and isinstance(frame.f_locals.get(code.co_varnames[code.co_argcount - 1]), Event)


class Climbs:
    """Counts the calls from a lower layer into a higher one."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or frame.f_code.co_name == "<genexpr>":  # an argument that is computed when it is asked for
            return
        here, below = layer(frame), frame.f_back
        while here is not None and below is not None and (there := layer(below)) is None:
            below = below.f_back
        if here is None or below is None or there is None:
            return
        self.calls += 1
        if here[0] > there[0] and not is_progress(frame):
            self.found[there[1], here[1]] += 1


@contextmanager
def watched() -> Iterator[Climbs]:
    climbs = Climbs()
    threading.setprofile(climbs)
    sys.setprofile(climbs)
    try:
        yield climbs
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.mark.parametrize("small", [1 << 28, 0], ids=["hashed first", "hashed while it is merged"])
def test_no_call_climbs_a_layer(lab: Lab, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergebuild.plan.describe.SMALL", small)
    lab.model("x", w=[1.0, 2.0, 3.0])
    lab.write('[targets.t]\nmethod = "copy"\na = "x"\noutput = "t.safetensors"\n')
    project = lab.project
    with watched() as climbs:
        project.plan(["t"])
        result = project.build(["t"])
    assert result.ok
    assert climbs.calls > 1000
    assert climbs.found == Counter()


def test_a_target_walks_as_the_design_says(lab: Lab) -> None:
    """The nine hops of docs/design.md are functions, called in that order."""
    hops = re.findall(r"^\| \d+ \| `([\w./]+:[\w.]+)` \|", DESIGN.read_text(), re.MULTILINE)
    assert len(hops) == 9
    lab.model("x", w=[1.0, 2.0, 3.0])
    lab.write('[targets.t]\nmethod = "copy"\na = "x"\noutput = "t.safetensors"\n')
    order: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (here := layer(frame)) is not None and here[1] in hops and here[1] not in order:
            order.append(here[1])

    sys.setprofile(note)
    try:
        code = run(["-C", str(lab.root), "build", "t"])
    finally:
        sys.setprofile(None)
    assert code == 0
    assert order == hops
