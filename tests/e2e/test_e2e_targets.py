"""What a target can say: methods, numbers per tensor, families, and the keys of every target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import pytest
import torch
from model_files import same_bits
from project_space import Space
from tiny_models import INTEGERS, NAMES, block_names, sd15, values, with_ema

UNET = "model.diffusion_model."
IN04 = block_names("IN04")[0]
M00 = f"{UNET}middle_block.0.in_layers.2.weight"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
VAE = "first_stage_model.encoder.conv_in.weight"

SOURCES = """
[sources]
one = "one.safetensors"
two = "two.safetensors"
three = "three.safetensors"
"""


@pytest.fixture
def trio(space: Space) -> Space:
    """A folder with three fine-tunes of one model."""
    for seed, name in enumerate(("one", "two", "three"), start=1):
        space.model(f"{name}.safetensors", sd15(seed))
    return space


def shares(space: Space, body: str) -> dict[str, Fraction]:
    """Return the proportions of a target with this body: of all its tensors, or of those of IN04."""
    space.write(f'{SOURCES}\n[targets.x]\noutput = "x.safetensors"\n{body}\n')
    lineage = space.json("lineage", "x")
    found = lineage["proportions"] or lineage["by_block"]["IN04"]
    return {source: Fraction(share) for source, share in found.items()}


def amounts(space: Space, number: str) -> dict[str, float]:
    """Return what `alpha` comes to in each tensor: the values of a mix of all zeros with all ones."""
    for source, constant in (("one", 0.0), ("two", 1.0)):
        model = {name: torch.full((2,), constant) for name in NAMES}
        space.model(f"{source}.safetensors", model)
    space.write(f'{SOURCES}\n[targets.x]\nmethod = "weighted_sum"\n{AB}alpha = {number}\noutput = "x.safetensors"\n')
    space.build()
    return {name: float(tensor[0]) for name, tensor in space.read("x.safetensors").items()}


def single(number: str) -> float:
    """Return a decimal as the float32 nearest to it."""
    return float(torch.tensor(float(number), dtype=torch.float32))


# Methods

AB = 'a = "one"\nb = "two"\n'
ABC = f'{AB}c = "three"\n'
METHODS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "weighted_sum": (f"{AB}alpha = 0.3", {"one": "0.7", "two": "0.3"}),
    "weighted_sum, extrapolating": (f"{AB}alpha = -0.8", {"one": "1.8", "two": "-0.8"}),
    "add_difference": (f"{ABC}alpha = 0.3", {"one": "1", "two": "0.3", "three": "-0.3"}),
    "sum_twice": (f"{ABC}alpha = 0.3\nbeta = 0.4", {"one": "0.42", "two": "0.18", "three": "0.4"}),
    "triple_sum": (f"{ABC}alpha = 0.3\nbeta = 0.4", {"one": "0.3", "two": "0.3", "three": "0.4"}),
    "linear": ('models = ["one", "two", "three"]\nweight = [1, 2, 3]', {"one": "1/6", "two": "1/3", "three": "1/2"}),
    "linear, one weight": ('models = ["one", "two"]\nweight = 7', {"one": "1/2", "two": "1/2"}),
    "linear, as it is": ('models = ["one", "two"]\nweight = [1, 2]\nnormalize = false', {"one": "1", "two": "2"}),
    "task_arithmetic": (
        'base = "one"\nmodels = ["two", "three"]\nweight = [0.5, 0.25]\nlambda = 2',
        {"one": "-0.5", "two": "1", "three": "0.5"},
    ),
    "task_arithmetic, normalized": (
        'base = "one"\nmodels = ["two", "three"]\nweight = [3, 1]\nnormalize = true',
        {"two": "3/4", "three": "1/4"},
    ),
    "block_mix": (
        'base = "one"\nmodels = ["two", { model = "three", weight = 0.2 }]\nweight = 0.3',
        {"one": "0.5", "two": "0.3", "three": "0.2"},
    ),
    "weighted_subtraction": (f"{AB}alpha = 0.5\nbeta = 0.5", {"one": "4/3", "two": "-1/3"}),
    "subtract": (AB, {"one": "1", "two": "-1"}),
    "add": (AB, {"one": "1", "two": "1"}),
    "scale": ('a = "one"\nalpha = 0.5', {"one": "0.5"}),
    "copy": ('a = "one"', {"one": "1"}),
    "scale_self": ('a = "one"\nalpha = 0.5', {"one": "0.5"}),
    "replace": (f"{AB}alpha = 0.5", {"two": "0.5"}),
}


@pytest.mark.parametrize("case", METHODS)
def test_the_linear_methods(trio: Space, case: str) -> None:
    """Each row of the catalog comes to its formula, exactly, and its file is the combination."""
    body, wanted = METHODS[case]
    method = case.partition(",")[0]

    found = shares(trio, f'method = "{method}"\ndtype = "float32"\n{body}')

    assert found == {source: Fraction(share) for source, share in wanted.items()}
    trio.build()
    models = {"one": sd15(1), "two": sd15(2), "three": sd15(3)}
    exact = sum(float(share) * models[source][IN04].double() for source, share in found.items())
    assert isinstance(exact, torch.Tensor)
    assert torch.allclose(trio.read("x.safetensors")[IN04].double(), exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("method", "kept"), [("scale_self", "one"), ("replace", "one")])
def test_norms_and_output_projections_are_not_scaled(trio: Space, method: str, kept: str) -> None:
    b = 'b = "two"\n' if method == "replace" else ""
    trio.write(f'{SOURCES}[targets.x]\nmethod = "{method}"\na = "one"\n{b}alpha = 0.5\noutput = "x.safetensors"\n')

    trio.build()

    result, one = trio.read("x.safetensors"), sd15(1)
    norms = [name for name in NAMES if "norm" in name]
    assert norms
    assert all(same_bits(result[name], one[name]) for name in norms)
    assert not same_bits(result[IN04], one[IN04])


# Formulas

FORMULAS = {
    "0.7*one + 0.3*two": {"one": "0.7", "two": "0.3"},
    "one + 0.5*(two - three)": {"one": "1", "two": "0.5", "three": "-0.5"},
    "(one + two)/2": {"one": "0.5", "two": "0.5"},
    "-one": {"one": "-1"},
    "one": {"one": "1"},
    "2*(one/3)*x": {"one": "1/6"},
    "x*one + (1 - x)*two": {"one": "0.25", "two": "0.75"},
    "one - two/4 + 'three'": {"one": "1", "two": "-1/4", "three": "1"},
    "one + two - one + one": {"one": "1", "two": "1"},
    "1e-1*one + 9e-1*two": {"one": "0.1", "two": "0.9"},
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas(trio: Space, formula: str) -> None:
    x = "x = 0.25" if "x*" in formula or "*x" in formula else ""

    found = shares(trio, f'formula = "{formula}"\n{x}')

    assert found == {source: Fraction(share) for source, share in FORMULAS[formula].items()}


def test_names_with_odd_signs_stand_in_quotes_in_a_formula(space: Space) -> None:
    space.model("one.safetensors", sd15(1))
    space.write(
        """
        [sources]
        "odd-name" = "one.safetensors"
        "v4.5 (pruned)" = "one.safetensors"
        [targets.x]
        formula = "'odd-name'/4 + 'v4.5 (pruned)'*0.75"
        output = "x.safetensors"
        """
    )

    assert space.json("lineage", "x")["proportions"] == {"odd-name": "1/4", "v4.5 (pruned)": "3/4"}
    space.build()
    assert same_bits(space.read("x.safetensors")[IN04], sd15(1)[IN04])


# Numbers per tensor

NUMBERS: Mapping[str, tuple[str, str, str]] = {
    "default": ("{ default = 0.3 }", IN04, "0.3"),
    "block": ("{ default = 0.3, IN04 = 0.9 }", IN04, "0.9"),
    "block without zero": ("{ default = 0.3, IN4 = 0.9 }", IN04, "0.9"),
    "range": ("{ default = 0.3, IN03-IN05 = 0.9 }", IN04, "0.9"),
    "range, not in it": ("{ default = 0.3, IN05-OUT11 = 0.9 }", IN04, "0.3"),
    "side": ("{ default = 0.3, IN = 0.9 }", IN04, "0.9"),
    "component": ("{ default = 0.3, text_encoder = 0.9 }", TEXT, "0.9"),
    "base": ("{ default = 0.3, BASE = 0.9 }", TEXT, "0.9"),
    "vae": ("{ default = 0.3, vae = 0.9 }", VAE, "0.9"),
    "VAE": ("{ default = 0.3, VAE = 0.9 }", VAE, "0.9"),
    "unet": ("{ default = 0.3, unet = 0.9 }", M00, "0.9"),
    "unet, not in it": ("{ default = 0.3, unet = 0.9 }", TEXT, "0.3"),
    "group": ("{ default = 0.3, norm = 0.9 }", TEXT, "0.9"),
    "later wins": ("{ default = 0.1, IN = 0.2, IN03-IN06 = 0.4, IN04 = 0.7 }", IN04, "0.7"),
    "glob": ('{ default = 0.3, "*.input_blocks.4.0.*" = 0.9 }', IN04, "0.9"),
    "regex": ("{ default = 0.3, 're:input_blocks\\.4\\.0' = 0.9 }", IN04, "0.9"),
    "tensor": (f'{{ default = 0.3, "{IN04}" = 0.9 }}', IN04, "0.9"),
    "mbw of 26": (f"{{ default = 0.3, mbw = {[index / 100 for index in range(26)]} }}", IN04, "0.05"),
    "mbw of 25": (f"{{ default = 0.3, mbw = {[index / 100 for index in range(25)]} }}", IN04, "0.04"),
    "mbw of 25, base": (f"{{ default = 0.3, mbw = {[index / 100 for index in range(25)]} }}", TEXT, "0.3"),
    "gradient, start": (
        "{ default = 0.3, unet = { gradient = [0.2, 0.8] } }", f"{UNET}input_blocks.0.0.weight", "0.2",
    ),
    "gradient, middle": ("{ default = 0.3, unet = { gradient = [0, 0.6] } }", M00, "0.3"),
    "sigmoid": ("{ sigmoid = 0.3 }", IN04, "0.216"),
    "sigmoid of a block": ("{ default = 0.5, IN04 = { sigmoid = 0.1 } }", IN04, "0.028"),
    "inverse sigmoid of a half": ("{ inverse_sigmoid = 0.5 }", IN04, "0.5"),
    "preset": ('{ default = 0.3, unet = { preset = "ALL_B" } }', IN04, "1"),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_per_tensor(space: Space, case: str) -> None:
    number, name, wanted = NUMBERS[case]

    assert amounts(space, number)[name] == single(wanted)


def test_the_inverse_sigmoid_is_computed_to_30_digits(trio: Space) -> None:
    """What is irrational is computed to 50 digits and rounded to 30."""
    found = shares(trio, f'method = "weighted_sum"\n{AB}alpha = {{ inverse_sigmoid = 0.3 }}')["two"]

    assert abs(float(found) - 0.363257) < 1e-6
    assert (10**30) % found.denominator == 0


def test_a_tensor_that_nothing_reaches_is_the_first_inputs(trio: Space) -> None:
    """Without `default`, only what the keys select is merged; the first input, also when its coefficient is 0."""
    trio.write(
        f"""{SOURCES}
[targets.x]
method = "triple_sum"
a = "three"
b = "two"
c = "one"
alpha = {{ IN04 = 0.4 }}
beta = {{ M00 = 1 }}
output = "x.safetensors"
"""
    )

    trio.build()

    result = trio.read("x.safetensors")
    assert same_bits(result[TEXT], sd15(3)[TEXT])
    assert same_bits(result[M00], sd15(1)[M00])
    assert not same_bits(result[IN04], sd15(3)[IN04])


def test_elemental_rules_reach_parts_of_blocks(space: Space) -> None:
    found = amounts(space, '{ default = 0.3, elemental = "IN04:attn2:0.9" }')

    for name, amount in found.items():
        is_reached = name in block_names("IN04") and "attn2" in name
        assert amount == single("0.9" if is_reached else "0.3"), name


def test_a_weight_per_model_and_per_block(trio: Space) -> None:
    trio.write(
        f'{SOURCES}\n[targets.x]\noutput = "x.safetensors"\nmethod = "block_mix"\nbase = "one"\n'
        'models = ["two", { model = "three", weight = { default = 0.5, IN04 = 0.7 } }]\nweight = 0.2\n'
    )

    by_block = trio.json("lineage", "x")["by_block"]

    assert by_block["IN04"] == {"one": "1/10", "two": "1/5", "three": "7/10"}
    assert by_block["M00"] == {"one": "3/10", "two": "1/5", "three": "1/2"}


def test_a_layout_of_the_users_own(space: Space) -> None:
    """Blocks and groups of `[layouts.NAME]` are selectors."""
    tensors = {f"stage.{number}.weight": values(f"s{number}", (8,), 1) for number in range(4)}
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    space.model("one.safetensors", tensors)
    space.model("two.safetensors", other)
    space.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [layouts.mine]
        detect = ["stage.0.weight"]
        blocks = [['^stage\\.(\\d+)\\.', "S{:02}"]]
        [targets.x]
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = { default = 0.5, S01-S02 = 1 }
        output = "x.safetensors"
        """
    )

    space.build()

    result = space.read("x.safetensors")
    assert same_bits(result["stage.1.weight"], other["stage.1.weight"])
    assert not same_bits(result["stage.3.weight"], other["stage.3.weight"])
    assert space.json("inspect", "x")["layout"] == "mine"


# Families

GRID = f"""{SOURCES}
[targets.grid]
foreach.alpha = [0.1, 0.30]
foreach.beta = {{ from = 1, to = 0.5, step = -0.25 }}
method = "sum_twice"
a = "one"
b = "two"
c = "three"
alpha = "${{alpha}}"
beta = "${{beta}}"
output = "out/grid-${{alpha}}-${{beta}}.safetensors"
"""


def test_members_have_one_name_however_they_are_written(trio: Space) -> None:
    """Axes in any order, numbers in any form: the same member, once."""
    trio.write(GRID)

    for name in ("grid@alpha=0.3,beta=0.5", "grid@beta=0.50,alpha=3e-1", "out/grid-0.3-0.5.safetensors"):
        built = trio.build(name)
        assert list(built.verdicts) == ["grid@alpha=0.3,beta=0.5"]
    assert len(list((trio / "out").iterdir())) == 1


def test_a_slice_names_fewer_axes_and_the_family_all(trio: Space) -> None:
    trio.write(GRID)

    assert list(trio.plan("grid@alpha=0.1").verdicts) == [
        "grid@alpha=0.1,beta=1", "grid@alpha=0.1,beta=0.75", "grid@alpha=0.1,beta=0.5",
    ]  # fmt: skip
    assert len(trio.plan("grid").verdicts) == 6
    assert len(trio.plan("grid@beta=0.75").verdicts) == 2
    assert len(trio.plan().verdicts) == 6


def test_a_range_includes_its_end_when_the_steps_meet_it(trio: Space) -> None:
    def members(axis: str) -> list[str]:
        trio.write(
            f'{SOURCES}[targets.f]\nforeach.x = {axis}\nformula = "x*one"\nx = "${{x}}"\n'
            'output = "f-${x}.safetensors"\n'
        )
        return [name.partition("=")[2] for name in trio.plan().verdicts]

    assert members("{ from = 0.1, to = 0.5, step = 0.1 }") == ["0.1", "0.2", "0.3", "0.4", "0.5"]
    assert members("{ from = 0, to = 1, step = 0.3 }") == ["0", "0.3", "0.6", "0.9"]
    assert members("{ from = 1, to = -1, step = -1 }") == ["1", "0", "-1"]
    assert members("[1.0, 2.50]") == ["1", "2.5"]


def test_a_member_is_an_input(trio: Space) -> None:
    """Also one that the list does not name; it is made for whoever reads it."""
    trio.write(
        GRID + '\n[targets.y]\nformula = "\'grid@alpha=0.148,beta=0.5\'/2 + one/2"\noutput = "y.safetensors"\n'
        '[targets.z]\nmethod = "copy"\na = "grid@alpha=0.1,beta=1"\noutput = "z.safetensors"\n'
    )

    built = trio.build("y", "z")

    assert built.verdicts == {
        "y": "built",
        "z": "restored",
        "grid@alpha=0.148,beta=0.5": "built",
        "grid@alpha=0.1,beta=1": "built",
    }
    assert trio.json("status")["orphans"] == []


def test_an_unknown_member_or_target_is_usage(trio: Space) -> None:
    trio.write(GRID)

    for name in ("girl", "grid@gamma=1", "grid@alpha=x", "out/none.safetensors", "grid@alpha=0.1,alpha=0.2"):
        (code,) = trio.refused("build", name, code=2).errors
        assert code in {"unknown-target", "unknown-member"}, name


def test_variables_compute(trio: Space) -> None:
    trio.write(
        f"""
[vars]
half = 0.5
third = "${{1/3}}"
name = "two"
{SOURCES}
[targets.x]
method = "triple_sum"
a = "one"
b = "${{name}}"
c = "three"
alpha = "${{half - 0.2}}"
beta = "${{(half + 0.1) * half}}"
output = "out/${{name}}-${{half}}.safetensors"
"""
    )

    assert trio.json("lineage", "x")["proportions"] == {"one": "2/5", "two": "3/10", "three": "3/10"}
    assert trio.build()["x"]["output"] == "out/two-0.5.safetensors"


def test_numbers_are_exact_decimals(trio: Space) -> None:
    """`0.1` is exactly 1/10, however many digits."""
    found = shares(trio, f'method = "weighted_sum"\n{AB}alpha = 0.1000000000000000000000000000000000001')

    assert found["two"] == Fraction("0.1000000000000000000000000000000000001")


# Keys of every target


def build_x(space: Space, body: str) -> dict[str, torch.Tensor]:
    space.write(f'{SOURCES}\n[targets.x]\noutput = "x.safetensors"\n{body}\n')
    space.build()
    return space.read("x.safetensors")


SUM = f'method = "weighted_sum"\n{AB}alpha = 1\n'


def test_merge_leaves_the_rest_as_the_first_inputs(trio: Space) -> None:
    result = build_x(trio, f'{SUM}merge = ["unet"]')

    assert same_bits(result[IN04], sd15(2)[IN04])
    assert same_bits(result[TEXT], sd15(1)[TEXT])


def test_drop_does_not_write(trio: Space) -> None:
    result = build_x(trio, f'{SUM}drop = ["vae", "*.position_ids"]')

    assert set(result) == {name for name in NAMES if not name.startswith("first_stage_model.")}


def test_a_tensor_that_another_input_lacks_stays_the_first_inputs(trio: Space) -> None:
    """Counted in `plan`, as are those that only another has; `missing = "error"` refuses with exit 9."""
    two = sd15(2)
    del two[IN04]
    two["only.here"] = torch.ones(2)
    trio.model("two.safetensors", two)

    result = build_x(trio, SUM)

    assert same_bits(result[IN04], sd15(1)[IN04])
    assert same_bits(result[M00], two[M00])
    assert "only.here" not in result
    told = trio.run("plan", "--set", "x.alpha=0.5").out
    assert "1 tensors that `two` lacks" in told or "1 tensor that `two` lacks" in told
    assert "only `two` has" in told
    trio.edit("alpha = 1", 'alpha = 1\nmissing = "error"')
    assert trio.refused("plan", code=9).errors == ["missing-tensors"]
    assert trio.refused("build", code=9).errors == ["missing-tensors"]


def test_ema_copies_are_dropped_with_a_notice(trio: Space) -> None:
    one = with_ema(sd15(1), 8)
    trio.model("one.safetensors", one)

    result = build_x(trio, SUM)

    assert set(result) == {*NAMES, INTEGERS}
    dropped = len(one) - len(result)
    assert f"{dropped} EMA tensors of `one`" in trio.run("plan", "--set", "x.alpha=0.5").out


def test_ema_keep_merges_them_too(trio: Space) -> None:
    one, two = with_ema(sd15(1), 8), with_ema(sd15(2), 9)
    trio.model("one.safetensors", one)
    trio.model("two.safetensors", two)

    result = build_x(trio, f'{SUM}ema = "keep"')

    assert set(result) == set(one)
    copy = next(name for name in one if name.startswith("model_ema.diffusion"))
    assert same_bits(result[copy], two[copy])
    assert same_bits(result["model_ema.num_updates"], one["model_ema.num_updates"])


def test_ema_use_takes_the_averages_for_the_weights(trio: Space) -> None:
    """The UNet's tensors are their EMA copies, in the copies' dtype; the rest is as it is."""
    one = with_ema(sd15(1), 8)
    trio.model("one.safetensors", one)

    result = build_x(trio, 'method = "copy"\na = "one"\nema = "use"')

    assert set(result) == {*NAMES, INTEGERS}
    copy = one["model_ema." + IN04.removeprefix("model.").replace(".", "")]
    assert same_bits(result[IN04], copy)
    assert same_bits(result[TEXT], one[TEXT])


def test_ema_use_of_one_input_alone(trio: Space) -> None:
    """An input without EMA copies gives its weights."""
    one = with_ema(sd15(1), 8, torch.float16)
    trio.model("one.safetensors", one)

    result = build_x(trio, f'{SUM}ema = "use"')

    assert same_bits(result[IN04], sd15(2)[IN04])


@pytest.mark.parametrize(
    ("metadata", "keys"),
    [
        ("minimal", {"format", "mergebuild"}),
        ("none", {"format"}),
        ("full", {"format", "mergebuild", "sd_merge_recipe", "sd_merge_models", "modelspec.*"}),
    ],
)
def test_metadata(trio: Space, metadata: str, keys: set[str]) -> None:
    build_x(trio, f'{SUM}metadata = "{metadata}"')

    found = trio.json("inspect", "x")["metadata"]
    assert {"modelspec.*" if key.startswith("modelspec.") else key for key in found} == keys


def test_includes_bring_sources_targets_and_variables(space: Space) -> None:
    """Paths in an included file are relative to it."""
    space.model("models/one.safetensors", sd15(1))
    space.model("parts/deep/two.safetensors", sd15(2))
    space.write(
        """
        [project]
        include = ["parts/more.toml"]
        [sources]
        one = "models/one.safetensors"
        [targets.x]
        formula = "m*one + (1 - m)*other"
        m = "${m}"
        output = "x.safetensors"
        """
    )
    space.write(
        """
        [vars]
        m = 0.25
        [sources]
        two = "deep/two.safetensors"
        [targets.other]
        method = "copy"
        a = "two"
        output = "made/other.safetensors"
        """,
        "parts/more.toml",
    )

    space.build()

    assert (space / "parts/made/other.safetensors").exists()
    assert space.json("lineage", "x")["proportions"] == {"one": "1/4", "two": "3/4"}


def test_a_name_declared_twice_by_an_include_is_an_error(pair: Space) -> None:
    pair.write('[project]\ninclude = ["more.toml"]\n' + (pair / "mergefile.toml").read_text())
    pair.write('[sources]\none = "other.safetensors"\n', "more.toml")

    assert pair.refused("plan", code=3).errors == ["duplicate-name"]


def test_project_default_is_what_a_bare_build_builds(pair: Space) -> None:
    pair.write(
        '[project]\ndefault = ["b"]\n'
        + (pair / "mergefile.toml").read_text()
        + '\n[targets.b]\nmethod = "copy"\na = "two"\noutput = "b.safetensors"\n'
    )

    assert list(pair.build().verdicts) == ["b"]
    assert not (pair / "out").exists()
    assert pair.states() == {"mix": "missing", "b": "up-to-date"}


@pytest.mark.parametrize("spell", [str.upper, str.title], ids=["upper", "title"])
def test_names_are_exact(pair: Space, spell: Callable[[str], str]) -> None:
    """A name in another case is another name."""
    pair.refused("build", spell("mix"), code=2)


def test_chains_may_be_long(pair: Space) -> None:
    """A thousand virtual steps fold into one."""
    text = (pair / "mergefile.toml").read_text().split("[targets")[0]
    text += '[targets.s0]\nformula = "one"\n'
    for number in range(1, 1000):
        text += f'[targets.s{number}]\nformula = "s{number - 1}/2 + two/2"\n'
    pair.write(text + '[targets.last]\nformula = "s999"\noutput = "last.safetensors"\n')

    lineage = pair.json("lineage", "last")

    assert Fraction(lineage["proportions"]["one"]) == Fraction(1, 2**999)
    assert pair.build().verdicts == {"last": "built"}
