"""Lineage is the exact share of every source, through virtual targets and files, per block where shares differ."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import pytest
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab

from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Blueprint, Form, Forms, Kinds, Slot, Spec
from mergebuild.fold.lineage import lineage, proportions, summarize
from mergebuild.fold.naming import table
from mergebuild.layouts import built_in
from mergebuild.recipe import Target, load_recipe
from mergebuild.sources.sources import Sources
from mergebuild.testing.memory import MemoryStore

UNET = "model.diffusion_model."
NAMES = [
    f"{UNET}input_blocks.4.1.transformer_blocks.0.attn1.to_k.weight",
    f"{UNET}input_blocks.4.0.in_layers.2.weight",
    f"{UNET}input_blocks.4.0.in_layers.2.bias",
    f"{UNET}middle_block.0.in_layers.2.weight",
    "first_stage_model.quant_conv.weight",
    "another",
]
SUM = '[targets.{}]\nmethod = "weighted_sum"\na = "{}"\nb = "{}"\nalpha = {}\n{}\n'


@pytest.fixture
def three(lab: Lab) -> Lab:
    for name in "xyz":
        lab.model(name, w=[1.0], v=[2.0])
    return lab


def test_shares_go_through_files_and_virtual_targets(three: Lab) -> None:
    three.write(
        SUM.format("file", "x", "y", 0.3, 'output = "file.safetensors"')
        + SUM.format("virtual", "file", "z", 0.5, "")
        + SUM.format("top", "virtual", "x", 0.2, 'output = "top.safetensors"')
    )
    found = three.project.lineage("top")
    assert found.linear
    assert found.proportions == {"x": "12/25", "y": "3/25", "z": "2/5"}
    assert found.rounded_at == ("file",)
    assert three.project.lineage("virtual").proportions == {"x": "7/20", "y": "3/20", "z": "1/2"}


def test_shares_that_differ_have_no_sum(three: Lab) -> None:
    three.write(SUM.format("t", "x", "y", "{ default = 0.5, v = 0.25 }", 'output = "t.safetensors"'))
    found = three.project.lineage("t")
    assert found.proportions is None
    assert {share for shares in found.by_block.values() for share in shares.items()} == {
        ("x", "1/2"), ("y", "1/2"), ("x", "3/4"), ("y", "1/4"),
    }  # fmt: skip


def test_what_cancels_is_in_nothing(three: Lab) -> None:
    three.write('[targets.t]\nformula = "x + 0.3*(y - z) + 0.3*z"\noutput = "t.safetensors"\n')
    assert three.project.lineage("t").proportions == {"x": "1", "y": "3/10"}


def test_shares_go_through_files_whose_tensors_have_other_names(three: Lab) -> None:
    """What a file is made of is asked for by the file's name of a tensor, not by the reader's."""
    three.write(
        SUM.format("file", "x", "y", "{ default = 0.5, v = 0.25 }", 'output = "file.safetensors"')
        + SUM.format("top", "file", "z", 0.5, 'output = "top.safetensors"')
    )
    recipe = load_recipe(three.root / "mergefile.toml")
    folding = Folding(recipe, Sources(recipe.sources, MemoryStore(three.root), folder=three.root))
    top = folding.blueprint("top")
    swapped = Slot("file", table({"v": "w", "w": "v"}))
    palette = tuple(
        Form(tuple((swapped if slot.owner == "file" else slot, share) for slot, share in form.terms))
        for form in top.forms.palette
    )
    folding._blueprints["top"] = top._replace(forms=Forms(top.forms.kinds, palette))
    found = lineage(folding, recipe, "top")
    assert found.by_block == {
        "*": {"x": "1/4", "y": "1/4", "z": "1/2"}, "w": {"x": "3/8", "y": "1/8", "z": "1/2"},
    }  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), min_size=1),
    st.lists(st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1)]), min_size=8, max_size=8),
)
@examples(150)
def test_proportions_by_kinds_are_those_of_the_tensors(kinds: dict[str, int], numbers: list[Fraction]) -> None:
    """What is remembered of one member of a family says the right thing of the next."""
    order = {kind: index for index, kind in enumerate(dict.fromkeys(kinds.values()))}
    of = {name: order[kind] for name, kind in kinds.items()}
    specs = {name: Spec("float32", (1,), is_float=True) for name in of}
    shared = Kinds(of, specs)
    layout = built_in("sd15")
    for start in (0, 4, 0):
        shares = [tuple((each, number) for each in "xy" if (number := numbers[start + at])) for at in range(len(order))]
        palette = tuple(Form(tuple((Slot(owner), share) for owner, share in each)) for each in shares)
        blueprint = Blueprint(cast("Target", None), layout, specs, specs, Forms(shared, palette), {}, {}, {})
        names = {owner: owner for owner in blueprint.owners}
        assert proportions(blueprint, names) == summarize({name: shares[kind] for name, kind in of.items()}, layout)
