"""A mergefile's contents as Python values are the recipe that their text would be, and mistakes name their keys."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import Lab

import mergebuild
from mergebuild.errors import MergeBuildError, RecipeError, UsageError
from mergebuild.project.project import load
from mergebuild.recipe import load_recipe, recipe_of

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*/mergefile.toml"))


def mix(**changes: Any) -> dict[str, Any]:
    target = {"method": "weighted_sum", "a": "x", "b": "y", "alpha": 0.3, "output": "mix.safetensors"} | changes
    return {"sources": {"x": "x.safetensors", "y": "y.safetensors"}, "targets": {"mix": target}}


def problems(contents: Any, **words: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(MergeBuildError) as found:
        load(contents, **words)
    return [(each.code, each.message, str(each.where)) for each in found.value.problems]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("parse_float", [float, Decimal])
def test_values_are_the_recipe_that_their_text_is(path: Path, parse_float: Callable[[str], Any]) -> None:
    text = load_recipe(path)
    given = recipe_of(tomllib.loads(path.read_text(), parse_float=parse_float), path.parent)
    assert given.target_names() == text.target_names()
    assert given.resolve(()) == text.resolve(())
    assert {name: given.target(name) for name in given.target_names()} == {
        name: text.target(name) for name in text.target_names()
    }
    assert (given.sources, given.project, given.outputs()) == (text.sources, text.project, text.outputs())


def test_a_mix_of_values_builds_where_its_root_is(lab: Lab) -> None:
    lab.model("x", w=[1.0, 2.0])
    lab.model("y", w=[2.0, 4.0])
    project = mergebuild.load(mix(alpha=0.5), root=lab.root)
    assert project.build().ok
    assert lab.values("mix.safetensors") == [1.5, 3.0]
    assert [str(each.verdict) for each in project.build().targets] == ["up-to-date"]
    assert not (lab / ".mergebuild/stamps").exists()
    assert not (lab / "mergefile.toml").exists()


def test_a_mergefile_beside_it_is_another_project(lab: Lab) -> None:
    """Its outputs are no orphans of values that do not name them, and the other way round."""
    lab.model("x", w=[1.0, 2.0])
    lab.model("y", w=[2.0, 4.0])
    lab.write('[targets.own]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = 0.25\noutput = "own.safetensors"\n')
    lab.build()
    project = mergebuild.load(mix(), root=lab.root)
    project.build()
    assert project.status().orphans == lab.project.status().orphans == ()
    project.clean(orphans=True)
    lab.project.gc()
    project.gc()
    assert {path.name for path in lab.root.glob("*.safetensors")} >= {"own.safetensors", "mix.safetensors"}
    assert lab.verdicts() == {"own": "up-to-date"}


def test_paths_are_of_the_current_folder_by_default(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.root)
    assert load(mix()).recipe.root == lab.root


@pytest.mark.parametrize("alpha", [0.3, Decimal("0.3"), np.float64(0.3), "${m}"])
def test_numbers_are_the_decimals_that_they_show(alpha: object) -> None:
    contents = {"vars": {"m": 0.3}, **mix(alpha=alpha)}
    text = {"vars": {"m": Decimal("0.3")}, **mix(alpha=Decimal("0.3"))}
    assert load(contents).recipe.target("mix") == load(text).recipe.target("mix")


def test_paths_and_tuples_may_be_given_too() -> None:
    contents = mix(alpha={"default": 0.5, "IN04": np.int64(1)})
    contents["sources"]["x"] = Path("models") / "x.safetensors"
    contents["targets"]["sum"] = {
        "method": "linear",
        "models": ("x", "y"),
        "weight": (0.5, 0.5),
        "output": "s.safetensors",
    }
    assert load(contents).target_names() == ["mix", "sum"]


def test_overrides_and_variables_change_values_and_not_what_was_given() -> None:
    contents = {"vars": {"m": 0.3}, **mix(alpha="${m}")}
    first = load(contents, variables={"m": 0.4}).recipe.target("mix")
    second = load(contents, overrides=["mix.alpha=0.4"]).recipe.target("mix")
    assert first.numbers == second.numbers
    assert contents == {"vars": {"m": 0.3}, **mix(alpha="${m}")}


def test_a_mistake_names_its_keys() -> None:
    assert problems(mix(alhpa=0.3)) == [("unknown-key", "target `mix` has unknown key `alhpa`", "targets.mix.alhpa")]


def test_all_mistakes_are_told_at_once() -> None:
    contents = mix(method="weigthed_sum", alpha=math.nan)
    contents["sources"]["y"] = 3
    found = problems(contents)
    assert {(code, where) for code, _, where in found} == {
        ("wrong-type", "sources.y"),
        ("bad-number", "targets.mix.alpha"),
        ("unknown-method", "targets.mix.method"),
    }


def test_what_toml_has_no_word_for_is_told_by_its_keys() -> None:
    contents = mix(alpha={"IN04": None}, rules=[{"tensors": "*", "alpha": 1j}])
    contents["targets"][5] = {}
    contents["targets"]["v 2"] = {"a": {"x"}}
    assert problems(contents) == [
        ("wrong-type", "`targets.mix.alpha.IN04` is `None`", "targets.mix.alpha.IN04"),
        ("wrong-type", "`targets.mix.rules[0].alpha` is of the type `complex`", "targets.mix.rules[0].alpha"),
        ("wrong-type", "the key `5` is of the type `int`", "targets"),
        ("wrong-type", "`targets.'v 2'.a` is of the type `set`", "targets.'v 2'.a"),
    ]


def test_text_that_no_file_could_hold_is_told() -> None:
    contents = mix()
    contents["sources"]["x"] = "\ud800"
    assert problems(contents) == [("wrong-type", "`sources.x` is no text of Unicode", "sources.x")]


def test_what_holds_itself_comes_to_an_end() -> None:
    contents = mix()
    contents["targets"]["mix"]["alpha"] = contents
    assert [code for code, _, _ in problems(contents)] == ["too-deep"]


def test_far_too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergebuild.recipe.given._MOST_VALUES", 5)
    assert [code for code, _, _ in problems(mix())] == ["too-much-text"]


def test_an_override_is_its_own_place() -> None:
    assert problems(mix(), overrides=["mix.alpha=x"])[0][2].startswith("--set")


def test_a_file_has_a_root_of_its_own(lab: Lab) -> None:
    lab.write("")
    with pytest.raises(UsageError, match="`root` goes with values"):
        load(lab / "mergefile.toml", root=lab.root)


def test_what_it_includes_is_a_file_below_its_root(lab: Lab) -> None:
    (lab / "more.toml").write_text('[sources]\nx = "x.safetensors"\ny = "y.safetensors"\n')
    contents = {"project": {"include": ["more.toml"]}, "targets": mix()["targets"]}
    assert load(contents, root=lab.root).source_names() == ["x", "y"]
    (lab / "more.toml").write_text("nonsense")
    with pytest.raises(RecipeError) as found:
        load(contents, root=lab.root)
    assert str(found.value.problems[0].where).startswith("more.toml:1")
