"""Laws of what builds give to the engine: a value that can be sent elsewhere, and does the same there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from real_passes import PROJECTS, Run, passed_through

from mergebuild.engine.run import PassResult
from mergebuild.engine.work import Pass
from mergebuild.events import silent

ELSEWHERE = """
import pickle, sys
from mergebuild.engine.run import run_pass
from mergebuild.events import silent

work = pickle.load(open(sys.argv[1], "rb"))
run_pass(work, threads=2, emit=silent, targets=())
"""


def moved(work: Pass, folder: Path) -> Pass:
    """Return a pass that writes into another folder."""
    outputs = enumerate(work.outputs)
    return replace(work, outputs=tuple(each._replace(path=folder / str(number)) for number, each in outputs))


def contents(work: Pass) -> list[bytes]:
    return [output.path.read_bytes() for output in work.outputs]


@pytest.mark.parametrize("kind", PROJECTS)
def test_a_pass_that_was_pickled_does_the_same(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The same bytes, and the same said of them."""
    passes: list[Pass] = []

    def twice(run: Run, work: Pass, options: dict[str, Any]) -> PassResult:
        copied = moved(pickle.loads(pickle.dumps(work)), tmp_path / f"pass-{len(passes)}")
        assert replace(copied, outputs=work.outputs) == work
        found = run(copied, **(options | {"emit": silent}))
        done = run(work, **options)
        assert contents(copied) == contents(work)
        assert replace(found, waited=0.0) == replace(done, waited=0.0)
        passes.append(work)
        return done

    PROJECTS[kind](lab, monkeypatch)
    lab.settle()
    with passed_through(monkeypatch, twice):
        assert lab.build(threads=2).ok
    assert passes
    assert any(work.unseen for work in passes) == (kind == "first sight")
    assert any(work.operates for work in passes) == (kind in ("operations", "surveys", "loras", "rounded"))
    surveys = {"surveys": {"cosine_a", "rebasin"}, "rounded": {"cosine_a"}}
    assert {survey.method.name for work in passes for survey in work.surveys} == surveys.get(kind, set())
    assert len(passes) > 1 or kind not in ("surveys", "loras")


@pytest.mark.processes
def test_a_pass_is_done_by_another_process(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> None:
    """Methods of the catalog travel by name, a user's own with its text."""
    sent = tmp_path / "sent"
    files: list[list[bytes]] = []

    def send(run: Run, work: Pass, options: dict[str, Any]) -> PassResult:
        sent.write_bytes(pickle.dumps(moved(work, tmp_path / "there")))
        done = run(work, **options)
        files.append(contents(work))
        return done

    PROJECTS["operations"](lab, monkeypatch)
    with passed_through(monkeypatch, send):
        assert lab.build().ok
    command = [sys.executable, "-c", ELSEWHERE, str(sent)]
    subprocess.run(command, check=True, env={**os.environ, **environment})
    assert files == [contents(pickle.loads(sent.read_bytes()))]
