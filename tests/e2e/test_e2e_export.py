"""`export` on the command line: the text, `-o`, `--json`, and what it refuses."""

from __future__ import annotations

import json

import pytest
from model_folders import sharded
from project_space import Space
from tiny_models import llama

CHAIN = """
[sources]
one = "one.safetensors"
two = "two.safetensors"
[targets.step]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.30
[targets.last]
method = "add_difference"
a = "step"
b = "two"
c = "one"
alpha = 1.5
output = "out/last.safetensors"
dtype = "float16"
"""
LINES = (
    "step = one.safetensors + two.safetensors, 0.3, safetensors\n"
    "last = __O1__ + two.safetensors + one.safetensors, 1.5, fp16, safetensors\n"
)


@pytest.fixture
def chain(pair: Space) -> Space:
    pair.write(CHAIN)
    return pair


def test_the_recipe_is_the_answer(chain: Space) -> None:
    assert chain.run("export", "last", "--as", "merge-board").out == LINES
    assert chain.json("export", "last", "--as", "merge-board") == {
        "ok": True, "target": "last", "as": "merge-board", "written": None, "text": LINES,
    }  # fmt: skip


def test_an_output_names_its_target(chain: Space) -> None:
    assert chain.run("export", "out/last.safetensors", "--as", "merge-board").out == LINES


def test_a_file_is_written_once_and_never_over_another(chain: Space) -> None:
    told = chain.run("export", "last", "--as", "merge-board", "-o", "recipe.txt")
    assert (told.out, (chain / "recipe.txt").read_text()) == ("wrote recipe.txt\n", LINES)
    refused = chain.refused("export", "last", "--as", "merge-board", "-o", "recipe.txt", code=2)
    assert refused.errors == ["file-exists"]


def test_all_that_can_not_be_said_is_told_with_its_place_and_nothing_is_written(chain: Space) -> None:
    chain.edit("alpha = 0.30\n", 'alpha = { attn = 0.3 }\noutput = "out/step.safetensors"\nmerge = ["attn"]\n')
    refused = chain.refused("export", "last", "--as", "merge-board", "-o", "recipe.txt", code=11)
    assert [(each["message"], each["where"]) for each in refused.json["errors"]] == [
        ("target `step` has `merge`, for which export to Merge Board has no word", "mergefile.toml:10:1"),
        ("`step` is a file, whose rounded values `last` reads", "mergefile.toml:9:1"),
        ("`alpha` of target `step` is a table, and Merge Board has one number for all tensors", "mergefile.toml:8:1"),
    ]
    assert not (chain / "recipe.txt").exists()


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("export", "none", "--as", "mecha"), 2, "unknown-target"),
        (("export", "last", "--as", "yaml"), 2, "usage"),
        (("export", "last"), 2, "usage"),
    ],
)
def test_wrong_words_are_errors_of_usage(chain: Space, words: tuple[str, ...], code: int, error: str) -> None:
    assert chain.refused(*words, code=code).errors == [error]


def test_a_recipe_that_depends_on_tensors_needs_its_sources(chain: Space) -> None:
    """Merge Board's lines do not: they are of the text alone."""
    (chain / "two.safetensors").unlink()
    assert chain.run("export", "last", "--as", "merge-board").out == LINES
    chain.refused("export", "last", "--as", "mecha", code=4)


def test_a_family_is_exported_member_by_member(pair: Space) -> None:
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.mix]
        foreach.x = [0.1, 0.2]
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = "${x}"
        output = "out/mix-${x}.safetensors"
        dtype = "float16"
        """
    )
    line = "mix-0.2 = one.safetensors + two.safetensors, 0.2, fp16, safetensors\n"
    assert pair.run("export", "mix@x=0.2", "--as", "merge-board").out == line
    assert pair.refused("export", "mix", "--as", "merge-board", code=2).errors == ["several-targets"]


@pytest.mark.parametrize("format", ["merge-board", "mbw"])
def test_what_is_imported_again_is_built_as_the_same_artifact(chain: Space, format: str) -> None:
    chain.edit(
        '[targets.last]\nmethod = "add_difference"\na = "step"', '[targets.last]\nmethod = "add_difference"\na = "one"'
    )
    made = chain.build("last")["last"]["artifact"]
    chain.run("export", "last", "--as", format, "-o", "again.txt")
    chain.run("import", "again.txt", "-o", "back.toml")
    (found,) = chain.json("build", "-f", "back.toml")["targets"]
    assert (found["artifact"], found["verdict"]) == (made, "restored")


def test_a_recipe_of_mergekit_has_folders_and_comes_from_here(space: Space) -> None:
    for number, name in enumerate(("base", "chat")):
        sharded(space / f"hf/{name}", llama(number))
    space.write(
        """
        [sources]
        base = "hf/base/"
        chat = "hf/chat"
        [targets.mix]
        method = "slerp"
        a = "base"
        b = "chat"
        t = { default = 0.5, mlp = 0.25, L01 = { gradient = [0.5] } }
        output = "out/mix/"
        dtype = "bfloat16"
        """
    )
    found = space.run("export", "mix", "--as", "mergekit").out
    assert found == (
        "merge_method: slerp\nbase_model: ./hf/base\nmodels:\n  - model: ./hf/base\n  - model: ./hf/chat\n"
        "parameters:\n  t:\n    - filter: layers.1.\n      value: [0.5]\n    - filter: mlp\n      value: 0.25\n"
        "    - value: 0.5\ndtype: float32\nout_dtype: bfloat16\n"
    )
    assert json.loads(space.run("export", "mix", "--as", "mergekit", "--json").out)["text"] == found
