"""Inputs that are made where they are named, and stacks of experts, by the commands that people type."""

from __future__ import annotations

import json

import pytest
from expert_models import expert_model
from lab import Lab
from project_space import Space
from tiny_models import sd15

MIX = """
[sources]
one = "one.safetensors"
two = "two.safetensors"
[targets.half]
method = "copy"
a = "one"
dtype = "bfloat16"
output = "half.safetensors"
[targets.mix]
method = "weighted_sum"
a = {}
b = "two"
alpha = 0.25
dtype = "float32"
output = "mix.safetensors"
"""
INLINE = '{ model = "one", dtype = "bfloat16" }'


@pytest.fixture
def two(space: Space) -> Space:
    for seed, name in enumerate(("one", "two")):
        space.model(f"{name}.safetensors", sd15(seed))
    return space


def test_a_rounded_input_is_shown_by_every_command(two: Space) -> None:
    two.write(MIX.format(INLINE))
    assert two.build("mix").verdicts == {"mix": "built"}
    assert two.run("lineage", "mix", "--json").json["rounded_at"] == ["one as bfloat16"]
    edges = two.run("graph", "--json").json["edges"]
    assert {"from": "one", "to": "one as bfloat16", "role": "a"} in edges
    assert {"from": "one as bfloat16", "to": "mix", "role": "a"} in edges
    listed = two.run("list", "targets", "--json").json["targets"]
    assert [each["name"] for each in listed] == ["half", "mix"]
    assert two.plan("mix").verdicts == {"mix": "up-to-date"}
    two.write(MIX.format('{ model = "one", dtype = "float16" }'))
    assert "a one as bfloat16 -> one as float16" in two.run("why", "mix").out


def test_it_is_the_file_that_it_would_be(two: Space) -> None:
    """In another mergefile, with a file of that dtype, nothing is computed."""
    two.write(MIX.format(INLINE))
    first = two.build("mix")["mix"]["artifact"]
    two.write(MIX.format('"half"').replace("mix.safetensors", "other.safetensors"))
    built = two.build("mix")
    assert (built["mix"]["artifact"], built["mix"]["verdict"]) == (first, "restored")


def test_an_input_may_be_set_on_the_command_line(two: Space) -> None:
    two.write(MIX.format('"one"'))
    plain = two.build("mix")["mix"]["artifact"]
    given = two.build("mix", "--set", f"mix.a={INLINE}")["mix"]
    assert (given["verdict"], given["artifact"] != plain) == ("built", True)


def test_experts_are_built_and_verified(space: Space) -> None:
    lab = Lab(space.root)
    for seed, name in enumerate(("base", "code", "tale")):
        expert_model(lab, name, seed)
    space.write(
        """
        [sources]
        base = "base/"
        code = "code/"
        tale = "tale/"
        [targets.experts]
        method = "moe"
        base = "base"
        models = ["code", { model = "tale", dtype = "bfloat16" }]
        gate = "random"
        seed = 7
        output = "out/experts/"
        """
    )
    assert space.build().verdicts == {"experts": "built"}
    assert json.loads((space / "out/experts/config.json").read_text())["model_type"] == "mixtral"
    assert space.build().verdicts == {"experts": "up-to-date"}
    assert space.run("verify", "--rebuild", "experts", "--json").json["ok"]
    tree = space.run("lineage", "experts").out
    assert "tale as bfloat16 (rounded to bfloat16): copy" in tree
