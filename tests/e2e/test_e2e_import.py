"""`mergebuild import`, on the command line."""

from __future__ import annotations

import json
import tomllib

import pytest
from model_folders import sharded
from project_space import Space
from tiny_models import llama

RECIPE = """\
merge_method: linear
models:
  - {model: org/one, parameters: {weight: 0.25}}
  - {model: org/two, parameters: {weight: 0.75}}
parameters: {int8_mask: true}
dtype: float16
"""


def test_a_recipe_is_printed_and_written_only_where_no_file_is(space: Space) -> None:
    space.write(RECIPE, "recipe.yml")
    printed = space.run("import", "recipe.yml").out
    assert space.run("import", "recipe.yml", "-o", "mergefile.toml").out == "wrote mergefile.toml\n"
    assert (space / "mergefile.toml").read_text() == printed
    assert "mergefile-exists" in space.refused("import", "recipe.yml", "-o", "mergefile.toml", code=2).err


def test_what_is_written_plans_but_for_missing_sources_and_then_builds(space: Space) -> None:
    space.write(RECIPE, "recipe.yml")
    space.run("import", "recipe.yml", "-o", "mergefile.toml")
    assert space.plan(code=4)["recipe"]["verdict"] == "blocked"
    sharded(space / "one", llama(1))
    sharded(space / "two", llama(2))
    assert space.build()["recipe"]["verdict"] == "built"


def test_json_has_what_was_written_and_what_could_not_be_mapped(space: Space) -> None:
    space.write(RECIPE, "good.yml")
    space.write(RECIPE + "chat_template: auto\n", "some.yml")
    good = space.json("import", "good.yml", "-o", "good.toml")
    assert good == {"ok": True, "written": "good.toml", "unmapped": []}
    some = space.json("import", "some.yml", "-o", "some.toml", code=11)
    assert (some["ok"], some["written"], [*some]) == (False, "some.toml", ["ok", "written", "unmapped"])
    assert [[*lost] for lost in some["unmapped"]] == [["where", "message"]]
    assert some["unmapped"][0]["where"] == "some.yml: chat_template"
    assert "# not imported: `chat_template`" in (space / "some.toml").read_text()
    printed = space.json("import", "good.yml")["written"]
    assert printed == (space / "good.toml").read_text()


def test_what_could_not_be_mapped_is_on_stderr_and_what_is_passed_over_too(space: Space) -> None:
    space.write(RECIPE + "chat_template: auto\n", "some.yml")
    said = space.run("import", "some.yml", code=11).err.splitlines()
    assert said[0].startswith("some.yml: parameters.int8_mask: ")
    assert said[1].startswith("some.yml: chat_template: not imported: ")


def test_models_are_found_by_name_in_the_folders_that_are_named(space: Space) -> None:
    sharded(space / "models/org/one", llama(1))
    space.write(RECIPE, "recipe.yml")
    found = tomllib.loads(space.run("import", "recipe.yml", "--models", "models").out)["sources"]
    assert found["one"]["path"] == "models/org/one/"
    assert found["two"]["path"] == "two/"


def test_filters_that_fit_no_tensor_are_left_out_where_the_model_is_there(space: Space) -> None:
    for seed, name in enumerate(("one", "two"), 1):
        sharded(space / name, llama(seed))
    filters = "[{filter: experts, value: 1}, {filter: mlp, value: 0.5}, {filter: down_proj, value: 0.1}, {value: 0.2}]"
    space.write(
        "merge_method: slerp\nbase_model: org/one\nmodels: [{model: org/one}, {model: org/two}]\n"
        f"parameters: {{t: {filters}}}\n",
        "recipe.yml",
    )
    run = space.run("import", "recipe.yml", "-o", "mergefile.toml")
    keys = tomllib.loads((space / "mergefile.toml").read_text())["targets"]["recipe"]
    assert keys["t"] == {"default": 0.2, "*mlp*": 0.5}
    assert "experts" in run.err
    assert "down_proj" in run.err
    space.build()


def test_a_folder_is_its_recipes_and_that_of_a_merge_its_own(space: Space) -> None:
    space.write(RECIPE, "recipes/a.yml")
    space.write(RECIPE, "recipes/b.yaml")
    space.write("hello", "recipes/notes.txt")
    assert [*tomllib.loads(space.run("import", "recipes").out)["targets"]] == ["a", "b"]
    space.write(RECIPE, "merged/mergekit_config.yml")
    space.write(json.dumps({"model_type": "llama"}), "merged/config.json")
    assert [*tomllib.loads(space.run("import", "merged").out)["targets"]] == ["merge"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("merge_method: x\na: !!python/object/apply:os.system ['touch hacked']\n", 3, "bad-yaml"),
        ("merge_method: x\na: &a [*a]\n", 3, "bad-yaml"),
        ("merge_method: x\na: " + "[" * 100_000, 3, "bad-yaml"),
        ("merge_method: linear\nmodels: []\n", 3, "bad-recipe"),
        ('merge_method: linear\nmodels: [{model: "a\\0b\\n[targets.x]", parameters: {weight: 1}}]\n', 0, ""),
        (f"merge_method: passthrough\nmodels: [{{model: {'x' * 5000}/y}}]\n", 0, ""),
        (f"Z = {'x' * 5000} + y, 0.3\n", 0, ""),
        (
            "base_model: a\nexperts: [{source_model: a}, {source_model: b}]\ngate_mode: random\nexperts_per_token: 0\n",
            3,
            "bad-recipe",
        ),
        ("hello\n", 2, "no-recipe"),
    ],
)
def test_hostile_recipes_are_clear_errors_and_nothing_runs(space: Space, text: str, code: int, said: str) -> None:
    space.write(text, "recipe.yml")
    before = space.tree()
    run = space.run("import", "recipe.yml", code=code)
    assert said in run.err
    assert space.tree() == before
    if code == 0:
        assert len(tomllib.loads(run.out)["targets"]) == 1


def test_a_file_that_is_missing_is_named(space: Space) -> None:
    assert "`nothing.yml` can't be read" in space.refused("import", "nothing.yml", code=2).err


def test_a_bare_build_makes_what_all_recipes_make(space: Space) -> None:
    """One kind of recipe names default targets, the other does not: a file of neither is passed over."""
    (space / "board.txt").write_text("step = a + b, 0.3\nlast = __O1__ + b, 0.5, fp16, safetensors\n")
    (space / "mix.yml").write_text("merge_method: linear\nmodels: [{model: x, parameters: {weight: 1}}]\n")
    for files in (("board.txt", "mix.yml"), ("mix.yml", "board.txt")):
        made = tomllib.loads(space.run("import", *files).out)
        assert sorted(made["project"]["default"]) == ["last", "mix"]
        assert "output" not in made["targets"]["step"]
    assert "project" not in tomllib.loads(space.run("import", "mix.yml").out)


def test_a_model_without_a_recipe_is_told_to_carry_none(space: Space) -> None:
    space.model("plain.safetensors", llama(0))
    assert "`plain.safetensors` is no recipe: it carries none" in space.run("import", "plain.safetensors", code=2).err
