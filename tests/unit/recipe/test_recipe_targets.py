"""What a right mergefile means."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_texts import ORANGE, SOURCES, Fail, Load

from mergebuild.errors import UsageError
from mergebuild.layouts.presets import PRESETS
from mergebuild.methods.catalog import METHODS
from mergebuild.recipe import Constant, Elemental, Gradient, Mbw, NumberPerTensor, Preset, Recipe, Target, load_recipe
from mergebuild.recipe.preset_names import PRESET_NAMES

CONTRACT = """
[project]
name    = "orange-mix"
default = ["orange"]
link = "hard"
history = "10GB"

[defaults]
dtype = "float16"

[vars]
m = 0.3

[sources]
opk    = "models/orientalPunkMix.safetensors"
merong = { path = "merongmix.ckpt", sha256 = "SHA", url = "https://models.example/m" }
odd-name = "~/odd.safetensors"

[targets.base_mix]
method = "weighted_sum"
a = "opk"
b = "merong"
alpha = 0.5

[targets.orange]
method = "add_difference"
a = "base_mix"
b = "merong"
c = "opk"
output = "out/orange.safetensors"
[targets.orange.alpha]
default = "${m}"
IN00-IN05 = 0.5
attn = 0.7
text_encoder = 0

[targets.skills]
method  = "task_arithmetic"
base    = "opk"
models  = ["merong", { model = "orange", weight = { default = 0.5, attn = 0.7 } }]
weight  = [0.6, 0.4]
output  = "out/skills.safetensors"
dtype   = "source"

[targets.plain]
formula = "0.7*opk + x*(merong - base_mix) - 'odd-name'/4"
x = { default = 0, OUT = 0.3 }
output  = "out/plain.safetensors"

[targets.mix]
foreach.alpha = { from = 0.1, to = 0.5, step = 0.1 }
method = "weighted_sum"
a = "opk"
b = "merong"
alpha  = "${alpha}"
output = "out/mix-${alpha}.safetensors"
""".replace("SHA", "9AB2" * 16)


def numbers(found: NumberPerTensor | tuple[NumberPerTensor, ...]) -> dict[str, object]:
    assert isinstance(found, NumberPerTensor)
    return {rule.key: rule.value.number if isinstance(rule.value, Constant) else rule.value for rule in found.rules}


def refs(target: Target) -> list[tuple[str, str]]:
    return [(one.role, one.ref) for one in target.inputs]


# -- the contract's example


@pytest.fixture
def contract(load: Load) -> Recipe:
    return load(CONTRACT)


def test_the_contracts_mergefile_lists_its_targets_and_outputs(contract: Recipe, tmp_path: Path) -> None:
    members = [f"mix@alpha=0.{tenth}" for tenth in range(1, 6)]
    assert contract.target_names() == ["base_mix", "orange", "skills", "plain", *members]
    assert contract.resolve([]) == ("orange",)
    assert contract.outputs() == {tmp_path / f"out/{name}.safetensors": target for name, target in [
        ("orange", "orange"), ("skills", "skills"), ("plain", "plain"),
        *((f"mix-0.{tenth}", f"mix@alpha=0.{tenth}") for tenth in range(1, 6)),
    ]}  # fmt: skip
    assert contract.families == ("mix",)


def test_the_contracts_sources_and_options_are_read(contract: Recipe, tmp_path: Path) -> None:
    merong = contract.sources["merong"]
    assert (merong.path, merong.sha256, merong.url) == ("merongmix.ckpt", "9ab2" * 16, "https://models.example/m")
    assert merong.folder == contract.root == tmp_path
    assert contract.sources["odd-name"].path == f"{Path.home()}/odd.safetensors"
    project = contract.project
    assert (project.name, project.default, project.link) == ("orange-mix", ("orange",), "hard")
    assert project.history_bytes == 10**10
    assert contract.files == (tmp_path / "mergefile.toml",)


def test_pins_are_read_in_any_case_and_several_at_once(load: Load) -> None:
    pins = f'sha256 = "sha256:{"9A" * 32}", autov2 = "9A9A9a9a9a", autov3 = "{"7B" * 6}"'
    sources = load(
        f'[sources]\na = {{ path = "x", {pins} }}\nb = {{ path = "x", autov3 = "{"7b" * 32}" }}\nc = "x"'
    ).sources
    assert sources["a"].pins == {"sha256": "9a" * 32, "autov2": "9a" * 5, "autov3": "7b" * 6}
    assert sources["b"].pins == {"autov3": "7b" * 32}
    assert sources["c"].pins == {}


def test_a_virtual_target_has_no_output_and_no_dtype(contract: Recipe) -> None:
    target = contract.target("base_mix")
    assert target.is_virtual
    assert (target.output, target.output_path, target.dtype) == (None, None, None)
    assert refs(target) == [("a", "opk"), ("b", "merong")]
    alpha = target.numbers["alpha"]
    assert isinstance(alpha, NumberPerTensor)
    assert alpha.constant == Fraction(1, 2)


def test_a_number_per_tensor_keeps_its_rules_in_order(contract: Recipe, tmp_path: Path) -> None:
    target = contract.target("orange")
    assert list(numbers(target.numbers["alpha"]).items()) == [
        ("default", Fraction(3, 10)), ("IN00-IN05", Fraction(1, 2)), ("attn", Fraction(7, 10)),
        ("text_encoder", Fraction(0)),
    ]  # fmt: skip
    assert refs(target) == [("a", "base_mix"), ("b", "merong"), ("c", "opk")]
    assert target.dtype == "float16"
    assert target.output_path == tmp_path / "out/orange.safetensors"


def test_a_number_beside_a_model_wins_over_the_list(contract: Recipe) -> None:
    target = contract.target("skills")
    assert refs(target) == [("base", "opk"), ("models[0]", "merong"), ("models[1]", "orange")]
    weights = target.numbers["weight"]
    assert isinstance(weights, tuple)
    assert [numbers(weight) for weight in weights] == [
        {"default": Fraction(3, 5)},
        {"default": Fraction(1, 2), "attn": Fraction(7, 10)},
    ]
    assert numbers(target.numbers["lambda"]) == {"default": Fraction(1)}
    assert target.flags == {"normalize": False}
    assert target.dtype == "source"


def test_a_formula_has_its_models_and_numbers(contract: Recipe) -> None:
    target = contract.target("plain")
    assert target.method == "formula"
    assert target.formula is not None
    assert refs(target) == [(name, name) for name in ("opk", "merong", "base_mix", "odd-name")]
    assert target.formula.models == tuple(one.ref for one in target.inputs)
    assert target.formula.coefficients({"x": Fraction(3, 10)}) == (
        Fraction(7, 10), Fraction(3, 10), Fraction(-3, 10), Fraction(-1, 4),
    )  # fmt: skip
    assert numbers(target.numbers["x"]) == {"default": Fraction(0), "OUT": Fraction(3, 10)}


# -- targets


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_of_the_catalog_can_be_written(load: Load, method: str) -> None:
    """With its inputs and the parameters that have no default; the others and all flags are filled in."""
    row = METHODS[method]
    inputs = [f'{role} = ["opk", "merong"]' if role == row.listed else f'{role} = "opk"' for role in row.inputs]
    values = {"integer": 7, "gate": '{ model = "opk" }'}
    given = [f"{one.name} = {values.get(one.kind, 0.25)}" for one in row.parameters if one.default is None]
    text = "\n".join([SOURCES, "[targets.t]", f'method = "{method}"', *inputs, *given])
    target = load(text).target("t")
    assert set(target.numbers) == {one.name for one in row.parameters if one.kind == "number"}
    assert target.flags == {one.name: one.default for one in row.parameters if one.kind == "flag"}
    words = [one for one in row.parameters if one.kind in ("word", "integer")]
    assert target.words == {one.name: 7 if one.default is None else one.default for one in words}
    for one in row.parameters:
        if one.per == "model" and one.kind == "number":
            found = target.numbers[one.name]
            assert isinstance(found, tuple)
            assert len(found) == 2


def test_the_keys_of_every_target_are_read(load: Load) -> None:
    keys = (
        'merge = ["unet", "re:attn"]\ndrop = "vae"\nmissing = "error"\nema = "use"\nnonfinite = "allow"\n'
        'metadata = "full"\nseed = 7\ncache = false\ndtype = "bfloat16"\n'
    )
    target = load(SOURCES + ORANGE + keys).target("orange")
    assert target.merge is not None
    assert [one.text for one in target.merge] == ["unet", "re:attn"]
    assert [one.text for one in target.drop] == ["vae"]
    assert (target.missing, target.ema, target.nonfinite, target.metadata) == ("error", "use", "allow", "full")
    assert (target.cache, target.dtype) == (False, "bfloat16")


def test_what_is_not_given_has_its_default(load: Load) -> None:
    target = load(SOURCES + ORANGE).target("orange")
    assert (target.merge, target.drop, target.words) == (None, (), {})
    assert (target.missing, target.ema, target.nonfinite, target.metadata) == ("keep", "drop", "error", "minimal")
    assert (target.cache, target.dtype) == (True, "source")


def test_one_number_serves_all_models(load: Load) -> None:
    text = (
        '[targets.t]\nmethod = "linear"\nmodels = ["opk", "merong", "odd-name"]\nweight = { default = 1, attn = 2 }\n'
    )
    weights = load(SOURCES + text).target("t").numbers["weight"]
    assert isinstance(weights, tuple)
    assert [numbers(weight) for weight in weights] == [{"default": 1, "attn": 2}] * 3


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("{ gradient = [0, 0.5, 1] }", Gradient((Fraction(0), Fraction(1, 2), Fraction(1)))),
        ("{ sigmoid = 0.3 }", Constant(Fraction("0.216"))),
        ("{ inverse_sigmoid = 0.5 }", Constant(Fraction(1, 2))),
        ('{ preset = "GRAD_V" }', Preset("GRAD_V")),
        ('{ preset = "GRAD_V", from = 0.2, to = 0.8 }', Preset("GRAD_V", Fraction(1, 5), Fraction(4, 5))),
        ("-1.5", Constant(Fraction(-3, 2))),
        ('"${2 * 0.75}"', Constant(Fraction(3, 2))),
    ],
)
def test_a_value_alone_is_the_default_and_may_stand_behind_any_selector(
    load: Load, written: str, value: object
) -> None:
    recipe = load(
        SOURCES
        + ORANGE.replace("0.5", written)
        + ORANGE.replace("orange", "two").replace("0.5", f"{{ IN = {written} }}")
    )
    for name, key in (("orange", "default"), ("two", "IN")):
        found = recipe.target(name).numbers["alpha"]
        assert isinstance(found, NumberPerTensor)
        assert [(rule.key, rule.value) for rule in found.rules] == [(key, value)]


def test_rules_that_select_by_their_value_are_read(load: Load) -> None:
    written = (
        '{ mbw = [0, 0.5], preset = "ALL_B", elemental = "OUT03 OUT04-OUT06:attn2:0.5, NOT IN01:NOT attn proj:1e-1" }'
    )
    found = load(SOURCES + ORANGE.replace("0.5", written)).target("orange").numbers["alpha"]
    assert isinstance(found, NumberPerTensor)
    assert [(rule.key, rule.value) for rule in found.rules] == [
        ("mbw", Mbw((Fraction(0), Fraction(1, 2)))),
        ("preset", Preset("ALL_B")),
        ("elemental", Elemental(("OUT03", "OUT04-OUT06"), False, ("attn2",), False, Fraction(1, 2))),
        ("elemental", Elemental(("IN01",), True, ("attn", "proj"), True, Fraction(1, 10))),
    ]


def test_the_names_of_presets_are_those_of_the_curves() -> None:
    assert set(PRESETS) == PRESET_NAMES


def test_keys_and_values_may_hold_variables(load: Load) -> None:
    text = (
        '[vars]\nblock = "IN04"\nbase = "${name}k"\nname = "op"\nhalf = 0.5\n'
        '[sources]\n"${name}k" = "${name}.safetensors"\n'
        '[targets."mix-${half}"]\nmethod = "scale"\na = "${base}"\nalpha = { "${block}" = "${1 - half}" }\n'
    )
    recipe = load(text)
    assert recipe.sources["opk"].path == "op.safetensors"
    target = recipe.target("mix-0.5")
    assert refs(target) == [("a", "opk")]
    assert numbers(target.numbers["alpha"]) == {"IN04": Fraction(1, 2)}


@given(st.decimals(min_value=-100, max_value=100, places=6))
def test_a_decimal_of_the_file_is_that_fraction(tmp_path_factory: pytest.TempPathFactory, number: object) -> None:
    path = tmp_path_factory.mktemp("recipe") / "mergefile.toml"
    path.write_text(SOURCES + ORANGE.replace("0.5", str(number)))
    alpha = load_recipe(path).target("orange").numbers["alpha"]
    assert isinstance(alpha, NumberPerTensor)
    assert alpha.constant == Fraction(str(number))


def test_a_layout_of_the_users_own_is_handed_on_as_plain_values(load: Load) -> None:
    text = '[vars]\nn = 3\n[layouts.tiny]\nblocks = [["re:^a", "B${n}"]]\nlayers = 4\nshare = 0.5\nwhole = "${n}"\n'
    layout = load(text).layouts["tiny"]
    assert layout.table == {"blocks": [["re:^a", "B3"]], "layers": 4, "share": Fraction(1, 2), "whole": 3}
    assert str(layout.where.place("layers")) == "mergefile.toml:5:10"


def test_windows_texts_are_read(load: Load, tmp_path: Path) -> None:
    """A byte order mark and CRLF change nothing."""
    text = (SOURCES + ORANGE).replace("\n", "\r\n")
    target = load("\ufeff" + text).target("orange")
    assert target.output_path == tmp_path / "out/orange.safetensors"


# -- what is asked for


FAMILIES = (
    SOURCES
    + """
[targets.one]
method = "copy"
a = "mix@alpha=0.30"
[targets.mix]
foreach.alpha = [0.1, 0.30, 1.0]
method = "weighted_sum"
a = "opk"
b = "merong"
alpha = "${alpha}"
output = "out/mix-${alpha}.safetensors"
[targets.grid]
foreach = { style = ["ink", "oil"], beta = { from = 0.5, to = 1, step = 0.5 } }
method = "scale"
a = "opk"
alpha = "${beta}"
output = "out/${style}-${beta}.safetensors"
[targets.single]
foreach.n = [1]
method = "scale"
a = "opk"
alpha = "${n}"
[targets.user]
method = "copy"
a = "single"
"""
)
GRID = ["grid@style=ink,beta=0.5", "grid@style=ink,beta=1", "grid@style=oil,beta=0.5", "grid@style=oil,beta=1"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["one"], ["one"]),
        (["mix"], ["mix@alpha=0.1", "mix@alpha=0.3", "mix@alpha=1"]),
        (["mix@alpha=0.30"], ["mix@alpha=0.3"]),
        (["mix@ alpha = 3e-1 "], ["mix@alpha=0.3"]),
        (["mix@alpha=0.148"], ["mix@alpha=0.148"]),
        (["grid"], GRID),
        (["grid@style=oil"], GRID[2:]),
        (["grid@beta=1.0"], [GRID[1], GRID[3]]),
        (["grid@beta=0.50,style=ink"], GRID[:1]),
        (["grid@beta=7"], ["grid@style=ink,beta=7", "grid@style=oil,beta=7"]),
        (["grid@style=wash,beta=1"], ["grid@style=wash,beta=1"]),
        (["mix@alpha=1", "mix", "one", "one"], ["mix@alpha=1", "mix@alpha=0.1", "mix@alpha=0.3", "one"]),
        (["out/mix-0.1.safetensors"], ["mix@alpha=0.1"]),
        (["./out/../out/ink-1.safetensors"], [GRID[1]]),
        ([], ["mix@alpha=0.1", "mix@alpha=0.3", "mix@alpha=1", *GRID]),
    ],
)  # fmt: skip
def test_what_a_user_types_becomes_canonical_names(load: Load, asked: list[str], found: list[str]) -> None:
    assert load(FAMILIES).resolve(asked) == tuple(found)


def test_an_output_is_found_from_where_the_user_is(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load(FAMILIES)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert recipe.resolve(["mix-0.1.safetensors"]) == ("mix@alpha=0.1",)
    assert recipe.resolve([str(tmp_path / "out/mix-1.safetensors")]) == ("mix@alpha=1",)


@pytest.mark.parametrize(
    ("asked", "code", "help_"),
    [
        ("mixx", "unknown-target", "did you mean `mix`?  `mergebuild list` shows all"),
        ("opk", "unknown-target", 'a source is not built; name a target, or write one with `method = "copy"`'),
        ("mix@beta=1", "unknown-member", "its axes: `alpha`"),
        ("mix@alpha", "unknown-member", "a member is named such as `mix@alpha=0.1`"),
        ("mix@alpha=x", "unknown-member", "such as `alpha=0.1`"),
        ("mix@alpha=0.1,alpha=0.1", "unknown-member", "a member is named such as `mix@alpha=0.1`"),
        ("one@alpha=1", "unknown-member", "a family has `foreach`"),
        ("out/mix-0.2.safetensors", "unknown-target",
         "did you mean `out/mix-0.3.safetensors`?  it is the output of no target"),
        ("unlike/all.ckpt", "unknown-target", "it is the output of no target"),
        ("", "unknown-target", "`mergebuild list` shows all"),
    ],
)  # fmt: skip
def test_what_names_no_target_is_a_usage_error(load: Load, asked: str, code: str, help_: str) -> None:
    recipe = load(FAMILIES)
    with pytest.raises(UsageError) as caught:
        recipe.resolve(["one", asked])
    assert [(problem.code, problem.help) for problem in caught.value.problems] == [(code, help_)]


def test_a_member_is_one_target_however_it_is_spelled(load: Load) -> None:
    recipe = load(FAMILIES)
    assert recipe.target("mix@alpha=0.30") is recipe.target("mix@alpha=0.3")
    assert refs(recipe.target("one")) == [("a", "mix@alpha=0.3")]
    assert refs(recipe.target("user")) == [("a", "single@n=1")]
    grid = recipe.target("grid@beta=1.0,style=oil")
    assert (grid.name, grid.output) == (GRID[3], "out/oil-1.safetensors")


def test_a_member_that_the_list_does_not_name_is_made(load: Load, tmp_path: Path) -> None:
    recipe = load(FAMILIES)
    target = recipe.target("mix@alpha=0.148")
    assert numbers(target.numbers["alpha"]) == {"default": Fraction("0.148")}
    assert target.output_path == tmp_path / "out/mix-0.148.safetensors"
    assert "mix@alpha=0.148" not in recipe.target_names()
    assert target.output_path not in recipe.outputs()


@pytest.mark.parametrize("name", ["nothing", "mix", "opk", "grid@style=ink"])
def test_a_target_is_asked_for_by_a_name_that_means_one(load: Load, name: str) -> None:
    with pytest.raises(UsageError):
        load(FAMILIES).target(name)


def test_a_member_found_wrong_when_it_is_made_is_wrong_each_time(load: Load) -> None:
    text = SOURCES + (
        '[targets.f]\nforeach.n = [1, 2]\nmethod = "scale"\na = "opk"\nalpha = "${1/(3 - n)}"\n'
        '[targets.g]\nforeach.n = [1]\nmethod = "copy"\na = "f@n=${n + 2}"\n'
    )
    with pytest.raises(Exception, match="division by 0"):
        load(text)
    recipe = load(text.replace("f@n=${n + 2}", "f@n=${n + 1}"))
    for _ in range(2):
        with pytest.raises(Exception, match="division by 0"):
            recipe.target("g@n=2")


@given(
    st.fractions(min_value=-5, max_value=5, max_denominator=20).map(lambda number: Fraction(round(number * 100), 100)),
    st.integers(min_value=0, max_value=400),
    st.sampled_from(["0.1", "0.001", "-0.3", "7", "0.07"]),
    st.fractions(min_value=0, max_value=Fraction(99, 100)),
)
def test_a_range_never_drifts_and_never_passes_its_end(
    tmp_path_factory: pytest.TempPathFactory, first: Fraction, steps: int, step: str, short: Fraction
) -> None:
    """Every member is first + i * step exactly; the end is a member exactly when the steps meet it."""
    size = Fraction(step)
    last = first + (steps + Fraction(round(short * 10), 10) * (short < 1)) * size
    path = tmp_path_factory.mktemp("recipe") / "mergefile.toml"
    foreach = f'{{ from = "${{{first}}}", to = "${{{last}}}", step = {step} }}'
    path.write_text(f'{SOURCES}[targets.f]\nforeach.x = {foreach}\nmethod = "scale"\na = "opk"\nalpha = "${{x}}"\n')
    recipe = load_recipe(path)
    members = [Fraction(name.partition("=")[2]) for name in recipe.target_names()]
    assert members == [first + number * size for number in range(len(members))]
    assert abs(last - members[-1]) < abs(size)
    assert (last - members[-1]) * size >= 0
    assert len(members) == (last - first) // size + 1


@pytest.mark.slow
def test_a_hundred_thousand_members_are_listed_and_one_more_is_refused(load: Load) -> None:
    text = SOURCES + (
        "[targets.f]\nforeach.x = { from = 1, to = 1000, step = 1 }\nforeach.y = { from = 1, to = 100, step = 1 }\n"
        'method = "scale"\na = "opk"\nalpha = "${x/y}"\noutput = "out/${x}-${y}.safetensors"\n'
    )
    recipe = load(text)
    assert len(recipe.resolve([])) == len(recipe.outputs()) == 100_000
    assert numbers(recipe.target("f@x=1,y=3").numbers["alpha"]) == {"default": Fraction(1, 3)}


def test_a_chain_of_thousands_is_no_deep_one(load: Load) -> None:
    chain = "".join(
        f'[targets.t{n}]\nmethod = "copy"\na = "{"opk" if n == 2999 else f"t{n + 1}"}"\n' for n in range(3000)
    )
    recipe = load(SOURCES + chain)
    assert refs(recipe.target("t0")) == [("a", "t1")]
    assert len(recipe.target_names()) == 3000


# -- several files


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_an_included_file_adds_sources_targets_and_vars_relative_to_itself(load: Load, tmp_path: Path) -> None:
    write(
        tmp_path / "styles/more.toml",
        '[project]\ninclude = ["deep/er.toml"]\n[vars]\nk = 0.25\n[sources]\nink = "ink.safetensors"\n',
    )
    write(
        tmp_path / "styles/deep/er.toml",
        '[targets.t]\nmethod = "scale"\na = "opk"\nalpha = "${k}"\noutput = "../o.safetensors"\n',
    )
    recipe = load('[project]\ninclude = ["styles/more.toml", "styles/deep/er.toml"]\n' + SOURCES)
    assert recipe.sources["ink"].folder == tmp_path / "styles"
    assert recipe.target("t").output_path == tmp_path / "styles/o.safetensors"
    assert numbers(recipe.target("t").numbers["alpha"]) == {"default": Fraction(1, 4)}
    assert recipe.files == (
        tmp_path / "mergefile.toml",
        tmp_path / "styles/more.toml",
        tmp_path / "styles/deep/er.toml",
    )
    assert str(recipe.where("t").place()) == "styles/deep/er.toml:1"


# -- the command line's edits


def test_set_changes_a_variable(load: Load) -> None:
    text = "[vars]\nm = 0.3\nn = '${m}'\n" + SOURCES + ORANGE.replace("0.5", '"${n}"')
    assert numbers(load(text, "m=0.4").target("orange").numbers["alpha"]) == {"default": Fraction(2, 5)}


@pytest.mark.parametrize(
    ("before", "overrides", "after"),
    [
        ("0.5", ["orange.alpha=0.4"], {"default": "0.4"}),
        ("0.5", ["orange.alpha.IN04=0.4"], {"default": "0.5", "IN04": "0.4"}),
        ("0.5", ["orange.alpha=0.25", "orange.alpha.IN04=0.4"], {"default": "0.25", "IN04": "0.4"}),
        ("{ IN04 = 0.1, attn = 0.2 }", ["orange.alpha.IN04=0.4"], {"IN04": "0.4", "attn": "0.2"}),
        ("{ IN04 = 0.1, attn = 0.2 }", ["orange.alpha.IN4=0.4"], {"IN04": "0.4", "attn": "0.2"}),
        ("{ attn = 0.2 }", ['orange.alpha."*.attn2.*"=0.4'], {"attn": "0.2", "*.attn2.*": "0.4"}),
        ("{ sigmoid = 0.5 }", ["orange.alpha.IN04=0.4"], {"default": "0.5", "IN04": "0.4"}),
        ("0.5", ["orange.alpha={ default = 0.1, OUT = 1 }"], {"default": "0.1", "OUT": "1"}),
        ("0.5", ["orange.alpha=${1/4}"], {"default": "0.25"}),
    ],
)
def test_set_edits_a_number_as_an_editor_would(
    load: Load, before: str, overrides: list[str], after: dict[str, str]
) -> None:
    recipe = load(SOURCES + ORANGE.replace("0.5", before), *overrides)
    expected = [(key, Fraction(value)) for key, value in after.items()]
    assert list(numbers(recipe.target("orange").numbers["alpha"]).items()) == expected


def test_set_takes_what_is_not_toml_as_a_string(load: Load, tmp_path: Path) -> None:
    recipe = load(SOURCES + ORANGE, "orange.output=out/new name.safetensors", "orange.b=odd-name")
    assert recipe.target("orange").output_path == tmp_path / "out/new name.safetensors"
    assert refs(recipe.target("orange"))[1] == ("b", "odd-name")


def test_set_reaches_into_lists_families_and_names_with_dots(load: Load) -> None:
    text = SOURCES + (
        '[targets."v1.5"]\nmethod = "linear"\nmodels = ["opk", "merong"]\nweight = [0.6, 0.4]\n'
        '[targets.f]\nforeach.x = [1, 2]\nmethod = "scale"\na = "opk"\nalpha = "${x}"\n'
    )
    recipe = load(text, "v1.5.weight.1.attn=0.9", "v1.5.models.0.weight=1", "f.foreach.x=[3]")
    weights = recipe.target("v1.5").numbers["weight"]
    assert isinstance(weights, tuple)
    assert [numbers(weight) for weight in weights] == [
        {"default": 1},
        {"default": Fraction(2, 5), "attn": Fraction(9, 10)},
    ]
    assert recipe.target_names() == ["v1.5", "f@x=3"]


def test_given_variables_replace_those_of_the_file(load: Load) -> None:
    text = "[vars]\nm = 0.3\nname = 'x'\n" + SOURCES + ORANGE.replace("0.5", '"${m}"')
    recipe = load(text, variables={"m": 0.1, "name": "y"})
    assert numbers(recipe.target("orange").numbers["alpha"]) == {"default": Fraction(1, 10)}
    both = load(text, "m=0.7", variables={"m": 0.1})
    assert numbers(both.target("orange").numbers["alpha"]) == {"default": Fraction(7, 10)}


def test_a_source_may_be_named_before_its_file_is_there(load: Load, tmp_path: Path) -> None:
    """Nothing of a source is looked at but its text."""
    assert not (tmp_path / "opk.safetensors").exists()
    assert load(SOURCES).sources["opk"].path == "opk.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["mergefile.toml"]


# -- methods of one's own


def test_a_method_of_ones_own_is_a_row(load: Load, tmp_path: Path) -> None:
    """Its kinds follow from its defaults; the file is relative to the mergefile that names it."""
    write(tmp_path / "styles/blend.py", "print('never')\r\n")
    write(
        tmp_path / "styles/more.toml",
        '[methods.blend]\nfile = "blend.py"\ninputs = ["base", "a", "models"]\noptional = ["a"]\n'
        "[methods.blend.parameters]\nalpha = {}\ngamma = 0.5\nstrict = true\nplain = { kind = 'flag' }\n"
        'seed = { kind = "integer", default = 3 }\n'
        'weight = { per = "model", low = 0, high = 2, summary = "how much" }\n'
        'mode = { choices = ["soft", "hard"], default = "hard" }\n',
    )
    recipe = load(
        '[project]\ninclude = ["styles/more.toml"]\n'
        + SOURCES
        + '[targets.t]\nmethod = "blend"\nbase = "opk"\nmodels = ["merong"]\nalpha = 1\nweight = 0.5\n'
    )
    row = recipe.own_methods["blend"]
    assert (row.inputs, row.optional, row.exact) == (("base", "a", "models"), ("a",), False)
    found = {each.name: (each.kind, each.per, each.default) for each in row.parameters}
    assert found == {
        "alpha": ("number", "target", None),
        "gamma": ("number", "target", Fraction(1, 2)),
        "strict": ("flag", "target", True),
        "plain": ("flag", "target", False),
        "seed": ("integer", "target", Fraction(3)),
        "weight": ("number", "model", None),
        "mode": ("word", "target", "hard"),
    }
    assert row.parameters[5].low == 0
    assert row.parameters[5].high == 2
    program = row.makes.program
    assert program is not None
    assert (program.file, program.text) == ("styles/blend.py", "print('never')\n")
    assert recipe.files[-1] == tmp_path / "styles/blend.py"
    target = recipe.target("t")
    assert target.row is row
    assert [each.role for each in target.inputs] == ["base", "models[0]"]
    assert (target.flags, target.words) == ({"strict": True, "plain": False}, {"seed": 3, "mode": "hard"})


def test_what_is_no_text_is_no_program(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "blend.py").write_bytes(b"\xff")
    for file in ("blend.py", "."):
        (problem,) = fail(f'[methods.blend]\nfile = "{file}"\ninputs = ["a"]\n')
        assert problem.code == "no-program"


def test_programs_are_those_that_making_a_target_runs(load: Load, tmp_path: Path) -> None:
    """Through virtual targets and rules, but not through files."""
    (tmp_path / "x.py").write_text("")
    names = ("one", "two", "three")
    methods = "".join(f'[methods.{name}]\nfile = "x.py"\ninputs = ["a"]\n' for name in names)
    recipe = load(
        SOURCES
        + methods
        + '[targets.file]\nmethod = "one"\na = "opk"\noutput = "f.safetensors"\n'
        + '[targets.virtual]\nmethod = "two"\na = "file"\n'
        + '[targets.last]\nformula = "virtual / 2"\noutput = "l.safetensors"\n'
        + '[[targets.last.rules]]\ntensors = ["attn"]\nmethod = "three"\na = "virtual"\n'
        + '[targets.none]\nmethod = "copy"\na = "file"\n'
    )
    found = {name: [row.name for row in recipe.programs(name)] for name in ("file", "virtual", "last", "none")}
    assert found == {"file": ["one"], "virtual": ["two"], "last": ["three", "two"], "none": []}
