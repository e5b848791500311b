"""Inputs that are made where they are named: with LoRAs added, or rounded first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_texts import Fail, Load, shown

from mergebuild.recipe import Input, Recipe, Target
from mergebuild.recipe.graph import from_recipe
from mergebuild.recipe.inline import Rounded, WithLoras

SOURCES = """
[sources]
chat = "chat.safetensors"
style = "style.safetensors"
ink = "ink.safetensors"
"odd+name" = "odd.safetensors"
"chat+ink" = "baked.safetensors"
"""
FAMILIES = """
[targets.mix]
foreach.alpha = [0.5, 1000]
method = "scale"
a = "chat"
alpha = "${alpha}"
[targets.worn]
foreach.with = ["style", "ink"]
method = "add_lora"
base = "chat"
loras = ["${with}"]
"""


def copy_of(value: str) -> str:
    return f'{SOURCES}{FAMILIES}[targets.x]\nmethod = "copy"\na = {value}\noutput = "x.safetensors"\n'


def loras_of(target: Target) -> list[str]:
    return [each.ref for each in target.inputs]


@pytest.mark.parametrize(
    ("value", "base", "loras"),
    [
        ('"chat+style"', "chat", ["style"]),
        ('"chat + style + ink"', "chat", ["style", "ink"]),
        ('"odd+name+style"', "odd+name", ["style"]),
        ('"chat+ink+style"', "chat+ink", ["style"]),
        ('"mix@alpha=1e+3+style"', "mix@alpha=1000", ["style"]),
        ('"mix@alpha=0.5+style+ink"', "mix@alpha=0.5", ["style", "ink"]),
        ('{ model = "chat", loras = ["ink"] }', "chat", ["ink"]),
        ('{ model = "chat", loras = "ink" }', "chat", ["ink"]),
        ('{ model = "chat", loras = [{ lora = "ink", dtype = "float16" }] }', "chat", ["ink as float16"]),
        ('{ model = "chat+style", loras = ["ink"] }', "chat+style", ["ink"]),
        ('{ model = { model = "chat", dtype = "float16" }, loras = ["ink"] }', "chat as float16", ["ink"]),
    ],
)
def test_an_input_with_loras_is_a_target_that_adds_them(load: Load, value: str, base: str, loras: list[str]) -> None:
    """With strength 1, without an output, and like the target that a table would declare."""
    recipe = load(copy_of(value))
    made = recipe.target(recipe.target("x").inputs[0].ref)
    assert (made.method, loras_of(made)) == ("add_lora", [base, *loras])
    declared = load(
        SOURCES + '[targets.m]\nmethod = "add_lora"\nbase = "chat"\n' + f"loras = {['style', 'ink'][: len(loras)]}\n"
    ).target("m")
    assert (made.numbers, made.flags, made.words) == (declared.numbers, declared.flags, declared.words)
    assert (made.output, made.dtype, made.missing, made.ema) == (None, None, declared.missing, declared.ema)
    assert made.row is declared.row


@pytest.mark.parametrize("value", ["odd+name", "chat+ink", "mix@alpha=1e+3", "worn@with=style+ink"])
def test_a_name_that_exists_wins_whole(load: Load, value: str) -> None:
    """A `+` in a member's value is not cut, also where the family does not list the value."""
    ref = load(copy_of(f'"{value}"').replace('"ink"]', '"ink", "style+ink"]')).target("x").inputs[0].ref
    assert ref == {"mix@alpha=1e+3": "mix@alpha=1000"}.get(value, value)


def test_an_input_is_rounded_after_its_loras(load: Load) -> None:
    recipe = load(copy_of('{ model = "chat", loras = ["style"], dtype = "bfloat16" }'))
    rounded = recipe.target(recipe.target("x").inputs[0].ref)
    assert (rounded.method, rounded.dtype, rounded.output, rounded.folds) == ("copy", "bfloat16", None, False)
    assert recipe.target(rounded.inputs[0].ref).method == "add_lora"


def test_a_table_that_changes_nothing_is_the_input(load: Load) -> None:
    assert load(copy_of('{ model = "chat" }')).target("x").inputs[0].ref == "chat"


EVERYWHERE = f"""{SOURCES}
[targets.x]
method = "ties"
base = {{ model = "chat", dtype = "float16" }}
models = ["chat+style", {{ model = "ink+style", weight = 2 }}, {{ model = "chat", loras = ["style"], weight = 3 }}]
weight = 1
components.vae = "chat+style"
components.unet = {{ model = "chat", loras = ["style"], dtype = "float32" }}
config = "chat"
output = "x/"
[[targets.x.rules]]
tensors = ["attn"]
method = "weighted_sum"
a = {{ model = "chat", dtype = "float16" }}
b = "chat+style"
alpha = 0.5
[targets.y]
formula = "0.5*'chat+style' + 0.5*'odd+name' + chat+ink"
output = "y.safetensors"
[targets.z]
method = "add_lora"
base = "chat+style"
loras = ["ink", {{ lora = "style", strength = 0.5, dtype = "bfloat16" }}]
"""


def test_it_stands_wherever_an_input_does(load: Load) -> None:
    recipe = load(EVERYWHERE)
    x, y, z = (recipe.target(name) for name in "xyz")
    assert loras_of(x) == ["chat as float16", "chat+style", "ink+style", "chat+style"]
    assert [each.constant for each in x.numbers["weight"]] == [1, 2, 3]  # type: ignore[union-attr]
    assert [each.input and each.input.ref for each in x.components] == ["chat+style", "chat+style"]
    assert [each.dtype for each in x.components] == [None, "float32"]
    assert loras_of(x.rules[0].target) == ["chat as float16", "chat+style"]
    assert loras_of(y) == ["chat+style", "odd+name", "chat", "ink"]
    assert loras_of(z) == ["chat+style", "ink", "style as bfloat16"]
    assert [each.constant for each in z.numbers["strength"]] == [1, 0.5]  # type: ignore[union-attr]


def test_it_is_in_the_graph_and_in_no_list_of_targets(load: Load) -> None:
    recipe = load(EVERYWHERE)
    assert recipe.target_names() == ["x", "y", "z"]
    edges = {(each.source, each.target, each.role) for each in from_recipe(recipe).edges}
    assert {("chat", "chat+style", "base"), ("style", "chat+style", "loras[0]")} <= edges
    assert ("chat+style", "z", "base") in edges
    assert recipe.below("z") == ("chat+style", "style as bfloat16", "z")
    assert recipe.where("chat+style").place().line == 12  # where it is written first


def test_a_circle_through_it_is_found(fail: Fail) -> None:
    text = f'{SOURCES}[targets.x]\nmethod = "copy"\na = {{ model = "x", dtype = "float16" }}\n'
    assert "x -> x as float16 -> x" in shown(fail(text))


NAMES = st.text("ab+'@= ", min_size=1, max_size=4)


@given(st.builds(WithLoras, NAMES, st.lists(NAMES, min_size=1, max_size=3).map(tuple)),
       st.builds(WithLoras, NAMES, st.lists(NAMES, min_size=1, max_size=3).map(tuple)))  # fmt: skip
def test_other_parts_have_another_name(one: WithLoras, other: WithLoras) -> None:
    assert (one.name == other.name) == (one == other)


@given(st.builds(Rounded, NAMES, st.sampled_from(["float16", "bfloat16"])),
       st.builds(Rounded, NAMES, st.sampled_from(["float16", "bfloat16"])))  # fmt: skip
def test_another_dtype_or_input_has_another_name(one: Rounded, other: Rounded) -> None:
    assert (one.name == other.name) == (one == other)


def test_a_declared_name_is_no_inline_input(load: Load) -> None:
    """`chat+ink` is a source here; the table means the LoRA added to `chat`, which is another input."""
    recipe = load(copy_of('{ model = "chat", loras = ["ink"] }'))
    assert "chat+ink" in recipe.sources
    ref = recipe.target("x").inputs[0].ref
    assert ref != "chat+ink"
    assert loras_of(recipe.target(ref)) == ["chat", "ink"]


def test_members_that_are_read_later_have_theirs(load: Load) -> None:
    recipe: Recipe = load(
        f'{SOURCES}[targets.x]\nforeach.with = ["style", "ink"]\nmethod = "copy"\na = "odd+name+${{with}}"\n'
        'output = "x-${with}.safetensors"\n'
    )
    (given,) = recipe.target("x@with=ink").inputs
    assert given == Input("a", "'odd+name'+ink", given.where)
    assert loras_of(recipe.target(given.ref)) == ["odd+name", "ink"]
