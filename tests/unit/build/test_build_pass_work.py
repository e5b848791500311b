"""Laws of a wave: each tensor is a step, one more place of a step, or a copy, and is read from where it lies now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lab import Lab
from mergefiles import target_table

from mergebuild.build.pass_work import Wave, Whereabouts
from mergebuild.engine.work import Pass
from mergebuild.plan.planner import Planner
from mergebuild.recipe import load_recipe
from mergebuild.results.build import Verdict
from mergebuild.sources.sources import Sources
from mergebuild.store import DiskStore


def target(name: str, formula: str, *more: str) -> str:
    """Return a target with an output of its own name."""
    return target_table(name, *more, formula=formula)


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """Two sources that share one tensor."""
    lab.model("x", w=[1.0, 2.0, 3.0], v=[0.0, 0.0], same=[4.0], i=torch.tensor([1]))
    lab.model("y", w=[5.0, 6.0, 7.0], v=[1.0, 1.0], same=[4.0], i=torch.tensor([2]))
    lab.settle()
    return lab


@contextmanager
def planned(lab: Lab, *names: str) -> Iterator[tuple[Wave, Pass]]:
    """Give the wave of targets that must be built, in the order of work, and its pass."""
    recipe = load_recipe(lab / "mergefile.toml")
    store = DiskStore(lab / ".mergebuild", project="mergefile.toml")
    sources = Sources(recipe.sources, store.ledger, folder=lab.root)
    planner = Planner(recipe, sources, store.shelf, store.ledger)
    plan = planner.plan([planner.goal_of(name) for name in names], hash_all=True)
    assert not plan.errors
    wave = Wave(Whereabouts(sources, store.shelf, plan.origins))
    for number, file in enumerate(file for file in plan.files if file.verdict is Verdict.BUILD):
        wave.add(file, Path(f"temporary-{number}"))
    try:
        (work,) = wave.passes({}, lambda depth: Path(f"between-{depth}"))
        yield wave, work
    finally:
        store.close()


def test_tensors_are_steps_or_copies(pair: Lab) -> None:
    """What differs is computed; what both have, and integers, are copied."""
    pair.write(target("a", "x/2 + y/2"))
    with planned(pair, "a") as (wave, work):
        assert [file.computed for file in wave.files] == [2]
        assert sorted(copy.location.size for copy in work.copies) == [4, 8]
        assert [file.bytes_read for file in wave.files] == [2 * 12 + 2 * 8 + 4 + 8]
        assert {leaf.location.path.name for leaf in work.leaves.values()} == {"x.safetensors", "y.safetensors"}
        assert wave.artifacts() == set()


def test_an_equal_target_is_more_places_of_the_same_steps(pair: Lab) -> None:
    """Nothing is computed or read for the second; its own difference is."""
    pair.write(target("a", "x/2 + y/2") + target("b", "k*y + h*x", "h = 0.5", "k = { default = 0.5, v = 1 }"))
    with planned(pair, "a", "b") as (wave, work):
        assert [file.computed for file in wave.files] == [2, 1]
        places = sorted(len(step.places) for step in work.steps.values())
        assert places == [1, 1, 2]
        assert wave.files[1].bytes_read == 2 * 8 + 4 + 8


def test_a_target_that_reads_another_of_the_wave_reads_its_steps(pair: Lab) -> None:
    """In the order of work; no leaf stands for what a step makes, and each byte of a source counts once."""
    pair.write(target("a", "x/2 + y/2") + target("b", "a/2 + x/4"))
    with planned(pair, "b") as (wave, work):
        made = list(work.steps)
        for number, step in enumerate(work.steps.values()):
            for digest, _ in step.terms:
                assert digest in work.leaves or digest in made[:number]
        assert not work.leaves.keys() & work.steps.keys()
        at_hand = wave.whereabouts.at_hand()
        assert at_hand == wave.whereabouts.source_paths()
        assert wave.source_bytes() == 0
        at_hand.clear()
        assert wave.source_bytes() == 2 * (12 + 8) + 4 + 8


def test_what_an_artifact_holds_is_copied_from_there(pair: Lab) -> None:
    """And the artifact is one to look at again when the pass is over."""
    pair.write(target("a", "x/2 + y/2"))
    pair.build()
    pair.write(target("a", "x/2 + y/2") + target("b", "h*x + h*y", "h = { default = 0.5, v = 0.25 }"))
    with planned(pair, "b") as (wave, work):
        assert [file.computed for file in wave.files] == [1]
        assert wave.artifacts() == {pair / "a.safetensors"}
        assert {copy.location.path for copy in work.copies} == {pair / "a.safetensors"}
        assert 12 in [copy.location.size for copy in work.copies]


def test_what_is_not_finite_is_not_taken_from_an_artifact(lab: Lab) -> None:
    """Unless the target allows it, or copies the tensor as it is."""
    lab.model("x", w=[1.0, float("nan")], v=[1.0])
    lab.model("y", w=[3.0, 4.0], v=[2.0])
    lab.settle()
    allowed = 'nonfinite = "allow"'
    lab.write(target("a", "x/2 + y/2", allowed))
    lab.build()
    lab.write(target("a", "x/2 + y/2", allowed) + target("b", "h*x + h*y", "h = { default = 0.5, v = 0.25 }"))
    with planned(lab, "b") as (wave, _):
        assert [file.computed for file in wave.files] == [2]
        assert wave.artifacts() == set()
    lab.write(target("a", "x/2 + y/2", allowed) + target("b", "a", 'drop = ["v"]'))
    with planned(lab, "b") as (wave, _):
        assert [file.computed for file in wave.files] == [0]
        assert wave.artifacts() == {lab / "a.safetensors"}


def test_an_intermediate_tensor_is_made_of_what_there_is(lab: Lab) -> None:
    """One target combines what another reads from a file that is not there yet; what both make of it is one tensor."""
    lab.model("a", w=[1.0, 2.0])
    lab.model("b", w=[3.0, -1.0])
    lab.model("c", w=[0.5, 0.25])
    parts = [
        '[targets.m]\nmethod = "copy"\na = "a"\noutput = "m.safetensors"\n',
        '[targets.f]\nmethod = "copy"\na = "a"\nmetadata = "none"\noutput = "f.safetensors"\n',
        '[targets.v]\nmethod = "scale"\na = "a"\nalpha = 0.5\n',
        '[targets.s]\nmethod = "scale"\na = "a"\nalpha = 0.5\noutput = "s.safetensors"\n',
    ]
    for name in "mfvs":
        parts.append(f'[targets.d{name}]\nmethod = "slerp"\na = "{name}"\nb = "b"\nt = 0.3\n')
        parts.append(f'[targets.n{name}]\nmethod = "add"\na = "c"\nb = "d{name}"\noutput = "n{name}.safetensors"\n')
    lab.write("".join(parts))
    assert lab.build("nm", "nf", "nv", "ns").exit_code == 0
    assert lab.values("nv.safetensors") == lab.values("ns.safetensors")
