"""A build asks no more of a store than its protocols: over one in memory it makes the bytes that it makes on disk."""

from __future__ import annotations

import shutil

import pytest
from lab import Lab

from mergebuild.build.builder import Builder
from mergebuild.build.options import BuilderOptions
from mergebuild.events import silent
from mergebuild.plan.planner import Planner
from mergebuild.recipe import load_recipe
from mergebuild.sources.sources import Sources
from mergebuild.testing.memory import MemoryStore

MIX = '[targets.{name}]\nmethod = "{method}"\na = "x"\nb = "{b}"\n{number}\noutput = "out/{output}"\n'
TEXT = "".join(
    MIX.format(name=name, method=method, b=b, number=number, output=output)
    for name, method, b, number, output in (
        ("plain", "weighted_sum", "y", "alpha = 0.25", "plain.safetensors"),
        ("twin", "weighted_sum", "y", "alpha = 0.25", "twin.safetensors"),
        ("curved", "slerp", "plain", "t = 0.5", "curved.safetensors"),
        ("many", "weighted_sum", "curved", "alpha = 0.5", "many/"),
        ("pickled", "weighted_sum", "y", "alpha = 0.75", "pickled.ckpt"),
    )
)


@pytest.fixture
def project(lab: Lab) -> Lab:
    lab.model("x", w=[1.0, 2.0, 3.0], v=[0.5, 0.25], same=[4.0])
    lab.model("y", w=[5.0, 6.0, 8.0], v=[1.0, 1.0], same=[4.0])
    lab.settle()
    lab.write(TEXT)
    return lab


def outputs(lab: Lab) -> dict[str, bytes]:
    """Return all that is in the folder of outputs, by path."""
    folder = lab / "out"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def build(lab: Lab, store: MemoryStore) -> dict[str, str]:
    """Build over a store in memory; return the verdicts."""
    recipe = load_recipe(lab / "mergefile.toml")
    sources = Sources(recipe.sources, store.ledger, folder=lab.root)
    planner = Planner(recipe, sources, store.shelf, store.ledger)
    plan = planner.plan(list(recipe.target_names()), hash_all=True)
    with Builder(sources, store, BuilderOptions(), silent, lambda _: None) as builder:
        results, exit_code = builder.run(plan)
    assert exit_code == 0
    return {each.target: str(each.verdict) for each in results}


def test_a_build_makes_the_same_over_a_store_in_memory(project: Lab) -> None:
    assert project.build().ok
    on_disk = outputs(project)
    shutil.rmtree(project / "out")
    store = MemoryStore(project / "memory")
    assert build(project, store) == {
        "plain": "built", "twin": "restored", "curved": "built", "many": "built", "pickled": "built"
    }  # fmt: skip
    assert outputs(project) == on_disk
    assert set(build(project, store).values()) == {"up-to-date"}
    project.write(TEXT.replace("alpha = 0.25", "alpha = 0.5", 1))
    assert build(project, store)["twin"] == "up-to-date"
    project.write(TEXT)
    assert build(project, store)["plain"] == "restored"
    assert outputs(project) == on_disk
