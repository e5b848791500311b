"""Laws of folding: chains of linear targets are one exact combination, however they were reached."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from example_counts import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from lab import Lab
from model_files import as_bytes, write_model

from mergebuild.errors import MergeBuildError, MismatchError, RecipeError
from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Slot
from mergebuild.recipe import load_recipe
from mergebuild.sources.sources import Sources
from mergebuild.testing.memory import MemoryStore

SOURCES = ("p", "q", "r")
NUMBERS = st.integers(-30, 30).map(lambda number: Fraction(number, 20))

Vector = Mapping[str, Fraction]


def combined(*parts: tuple[Fraction, Vector]) -> dict[str, Fraction]:
    """Return a sum of vectors over sources and file targets: the independent model."""
    total: dict[str, Fraction] = {}
    for factor, vector in parts:
        for name, share in vector.items():
            total[name] = total.get(name, Fraction(0)) + factor * share
    return {name: share for name, share in total.items() if share}


def decimal(number: Fraction) -> str:
    return f"{float(number):.2f}"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[str, dict[str, dict[str, Fraction]]]:
    """Return a mergefile of a few linear targets over each other, and the vector of each by the model."""
    vectors: dict[str, dict[str, Fraction]] = {name: {name: Fraction(1)} for name in SOURCES}
    expected: dict[str, dict[str, Fraction]] = {}
    text = "[sources]\n" + "".join(f'{name} = "{name}.safetensors"\n' for name in SOURCES)
    for index in range(draw(st.integers(1, 6))):
        inputs = [draw(st.sampled_from(sorted(vectors))) for _ in range(3)]
        a, b, c = (vectors[each] for each in inputs)
        x, y = draw(NUMBERS), draw(NUMBERS)
        given_ = f'a = "{inputs[0]}"\nb = "{inputs[1]}"\n'
        match draw(st.sampled_from("weighted_sum add_difference sum_twice task_arithmetic formula linear".split())):
            case "weighted_sum":
                body = f'method = "weighted_sum"\n{given_}alpha = {decimal(x)}\n'
                made = combined((1 - x, a), (x, b))
            case "add_difference":
                body = f'method = "add_difference"\n{given_}c = "{inputs[2]}"\nalpha = {decimal(x)}\n'
                made = combined((Fraction(1), a), (x, b), (-x, c))
            case "sum_twice":
                body = f'method = "sum_twice"\n{given_}c = "{inputs[2]}"\nalpha = {decimal(x)}\nbeta = {decimal(y)}\n'
                made = combined((1 - y, combined((1 - x, a), (x, b))), (y, c))
            case "task_arithmetic":
                body = (
                    f'method = "task_arithmetic"\nbase = "{inputs[0]}"\nmodels = ["{inputs[1]}", "{inputs[2]}"]\n'
                    f"weight = [{decimal(x)}, {decimal(y)}]\nlambda = 0.5\n"
                )
                made = combined((Fraction(1), a), (x / 2, combined((Fraction(1), b), (Fraction(-1), a))),
                                (y / 2, combined((Fraction(1), c), (Fraction(-1), a))))  # fmt: skip
            case "formula":
                body = (
                    f'formula = "{inputs[0]}*{decimal(abs(x))} - k*({inputs[1]} - {inputs[2]}/4)"\nk = {decimal(y)}\n'
                )
                made = combined((abs(x), a), (-y, b), (y / 4, c))
            case _:
                body = (
                    f'method = "linear"\nmodels = ["{inputs[0]}", "{inputs[1]}"]\n'
                    f"weight = [{decimal(abs(x))}, {decimal(abs(y) + 1)}]\n"
                )
                total = abs(x) + abs(y) + 1
                made = combined((abs(x) / total, a), ((abs(y) + 1) / total, b))
        name = f"t{index}"
        is_file = draw(st.booleans())
        text += f"[targets.{name}]\n{body}" + (f'output = "{name}.safetensors"\n' if is_file else "")
        expected[name] = made
        vectors[name] = {name: Fraction(1)} if is_file else made
    return text, expected


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for index, name in enumerate(SOURCES):
        write_model(folder / f"{name}.safetensors", {"w": torch.full((2,), float(index)), "i": torch.tensor([index])})
    return folder


def folder_of(root: Path, text: str) -> Folding:
    """Return the folder of a mergefile's text."""
    (root / "mergefile.toml").write_text(text)
    recipe = load_recipe(root / "mergefile.toml")
    return Folding(recipe, Sources(recipe.sources, MemoryStore(root / "no-store"), folder=root))


@examples(80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs())
def test_coefficients_are_exact_over_any_graph(models: Path, drawn: tuple[str, dict[str, dict[str, Fraction]]]) -> None:
    """Virtual targets fold away, files stay slots, and every coefficient is the model's to the last digit."""
    text, expected = drawn
    folder = folder_of(models, text)
    for name, vector in expected.items():
        form = folder.blueprint(name).forms["w"]
        assert {slot.owner: share for slot, share in form.terms} == vector
        assert all(share for _, share in form.terms), "a coefficient of 0 stayed"
        assert list(form.terms) == sorted(form.terms)


def test_a_long_chain_folds_without_drift(models: Path) -> None:
    """Forty weighted sums in a row are the exact power."""
    text = "[sources]\n" + "".join(f'{name} = "{name}.safetensors"\n' for name in SOURCES)
    for index in range(40):
        below = f"t{index - 1}" if index else "p"
        text += f'[targets.t{index}]\nmethod = "weighted_sum"\na = "{below}"\nb = "q"\nalpha = 0.1\n'
    form = folder_of(models, text).blueprint("t39").forms["w"]
    assert dict(form.terms) == {Slot("p"): Fraction(9, 10) ** 40, Slot("q"): 1 - Fraction(9, 10) ** 40}


def chained(method: str, numbers: str, count: int) -> str:
    """Return virtual targets above each other, `t0` at the bottom."""
    text = "[sources]\n" + "".join(f'{name} = "{name}.safetensors"\n' for name in SOURCES)
    for index in range(count):
        below = f"t{index - 1}" if index else "p"
        text += f'[targets.t{index}]\nmethod = "{method}"\na = "{below}"\nb = "q"\n{numbers}\n'
    return text


@pytest.mark.parametrize(
    ("method", "numbers", "most", "code"),
    [("weighted_sum", f"alpha = 0.{'3' * 300}", 10, "too-many-digits"), ("slerp", "t = 0.5", 100, "too-deep")],
)
def test_a_chain_has_an_end(models: Path, method: str, numbers: str, most: int, code: str) -> None:
    """Each linear target adds digits to all that follow, and each other one waits for those below it."""
    folder = folder_of(models, chained(method, numbers, most + 2))
    assert folder.blueprint(f"t{most - 1}").forms
    with pytest.raises(RecipeError) as caught:
        folder.blueprint(f"t{most + 1}")
    assert [problem.code for problem in caught.value.problems] == [code]


def test_integers_are_the_first_inputs(models: Path) -> None:
    """Integer tensors are never merged; they come through virtual targets unchanged."""
    text = (
        '[sources]\np = "p.safetensors"\nq = "q.safetensors"\n'
        '[targets.v]\nmethod = "weighted_sum"\na = "q"\nb = "p"\nalpha = 1\n'
        '[targets.t]\nmethod = "weighted_sum"\na = "v"\nb = "p"\nalpha = 0.5\n'
    )
    forms = folder_of(models, text).blueprint("t").forms
    assert forms["i"].lone == Slot("q")
    assert forms["w"].lone == Slot("p")


# To the bytes


PERMUTED = ["0.5*p + 0.3*q + 0.2*r", "0.2*r + 0.5*p + 0.3*q", "0.3*q + 0.2*r + 0.5*p", "p + 0.3*(q - p) + 0.2*(r - p)"]


def test_order_of_merging_does_not_matter_to_the_byte(lab: Lab) -> None:
    """One combination, written four ways and reached through a chain, is one file."""
    torch.manual_seed(1)
    for name in SOURCES:
        lab.model(name, w=torch.randn(1000), v=torch.randn(10).half())
    text = "".join(
        f'[targets.t{index}]\nformula = "{formula}"\noutput = "t{index}.safetensors"\n'
        for index, formula in enumerate(PERMUTED)
    )
    text += '[targets.pq]\nmethod = "weighted_sum"\na = "p"\nb = "q"\nalpha = 0.375\n'
    text += '[targets.chain]\nmethod = "weighted_sum"\na = "pq"\nb = "r"\nalpha = 0.2\noutput = "chain.safetensors"\n'
    lab.write(text)
    assert len({each.artifact for each in lab.build().targets}) == 1
    files = {(lab / f"{name}.safetensors").read_bytes() for name in ("t0", "t1", "t2", "t3", "chain")}
    assert len(files) == 1


NAN = torch.tensor([0x7FC00001, 0xFFC12345 - 2**32, 0x7F800000, 0x3F800000], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize(
    "body",
    [
        'method = "copy"\na = "p"',
        'method = "weighted_sum"\na = "p"\nb = "q"\nalpha = 0',
        'method = "weighted_sum"\na = "q"\nb = "p"\nalpha = 1',
        'method = "add_difference"\na = "p"\nb = "q"\nc = "q"\nalpha = 0.7',
        'formula = "p + 0.7*q - 0.7*same"',
        'formula = "0.25*p + 0.75*twin"',
    ],
)
def test_a_lone_one_is_that_tensor_byte_for_byte(lab: Lab, body: str) -> None:
    """NaN payloads and all, since nothing is computed; by a coefficient of 0, by cancelling, by equal content."""
    lab.model("p", w=NAN)
    lab.model("twin", w=NAN, v=[1.0])
    lab.model("q", w=[1.0, 2.0, 3.0, 4.0])
    lab.model("same", w=[1.0, 2.0, 3.0, 4.0])
    lab.write(f'[targets.t]\n{body}\noutput = "t.safetensors"\n')
    (found,) = lab.build().targets
    assert found.tensors_computed == 0
    assert as_bytes(lab.read("t.safetensors")["w"]) == as_bytes(NAN)


def test_a_coefficient_of_zero_drops_its_inputs_values(lab: Lab) -> None:
    """0 * NaN is nothing at all, and the first input still gives tensor set and dtype."""
    lab.model("p", w=torch.tensor([float("nan"), 1.0], dtype=torch.float16), i=torch.tensor([7]))
    lab.model("q", w=[0.1, 2.0], i=torch.tensor([8]))
    lab.write('[targets.t]\nmethod = "weighted_sum"\na = "p"\nb = "q"\nalpha = 1\noutput = "t.safetensors"\n')
    assert lab.build().ok
    found = lab.read("t.safetensors")
    assert found["w"].dtype is torch.float16
    assert found["w"].tolist() == torch.tensor([0.1, 2.0]).half().tolist()
    assert found["i"].tolist() == [7]


def test_a_file_is_read_rounded_and_a_virtual_target_exact(lab: Lab) -> None:
    """Whoever reads a target with an output reads its rounded values, also in the same pass."""
    lab.model("p", w=[1.0])
    lab.model("q", w=[1.0 + 2**-12])
    mix = '[targets.{}]\nmethod = "weighted_sum"\na = "p"\nb = "q"\nalpha = 0.5\n{}\n'
    top = '[targets.{}]\nmethod = "weighted_sum"\na = "{}"\nb = "q"\nalpha = 0.5\n'
    top += 'output = "{}.safetensors"\ndtype = "float32"\n'
    lab.write(
        mix.format("file", 'output = "file.safetensors"\ndtype = "float16"')
        + mix.format("virtual", "")
        + top.format("through_file", "file", "f")
        + top.format("through_virtual", "virtual", "v")
    )
    lab.build()
    assert lab.values("f.safetensors") == [1.0 + 2**-13]
    assert lab.values("v.safetensors") == [1.0 + 2**-12 * 0.75]


# What does not fit


def error_of(lab: Lab, text: str) -> MergeBuildError:
    lab.write(text)
    with pytest.raises(MergeBuildError) as caught:
        lab.build()
    assert not (lab / "t.safetensors").exists()
    return caught.value


SUM = '[targets.t]\nmethod = "weighted_sum"\na = "p"\nb = "q"\nalpha = {}\noutput = "t.safetensors"\n'


def test_shapes_that_differ_are_a_mismatch_and_out_of_reach_they_are_not(lab: Lab) -> None:
    lab.model("p", w=[1.0, 2.0], v=[1.0])
    lab.model("q", w=[1.0, 2.0, 3.0], v=[3.0])
    assert isinstance(error_of(lab, SUM.format("0.5")), MismatchError)
    lab.write(SUM.format("{ v = 0.5 }"))
    assert lab.build().ok
    assert lab.values("t.safetensors", "v") == [2.0]
    assert lab.values("t.safetensors", "w") == [1.0, 2.0]


def test_less_than_half_in_common_is_a_mismatch(lab: Lab) -> None:
    lab.model("p", a=[1.0], b=[1.0], c=[1.0])
    lab.model("q", a=[1.0], x=[1.0], y=[1.0])
    assert error_of(lab, SUM.format("0.5")).problems[0].code == "too-little-in-common"


def test_what_another_input_lacks_stays_and_what_only_it_has_is_left_out(lab: Lab) -> None:
    lab.model("p", a=[1.0], b=[1.0], only=[5.0])
    lab.model("q", a=[3.0], b=[3.0], extra=[9.0])
    lab.write(SUM.format("0.5"))
    (found,) = lab.build().targets
    assert lab.read("t.safetensors").keys() == {"a", "b", "only"}
    assert lab.values("t.safetensors", "only") == [5.0]
    assert found.notices == (
        "1 tensor that `q` lacks stays the first input's: 4 B (33 % of `p`), `only`",
        "1 tensor that only `q` has is left out: 4 B (33 % of `q`), `extra`",
        "`q` lacks as many tensors as only it has: `only` and its `extra` may be two names for one",
    )
    (lab / "t.safetensors").unlink()
    assert error_of(lab, SUM.format("0.5") + 'missing = "error"\n').exit_code == 9


def test_a_number_that_divides_by_zero_is_an_error_of_the_mergefile(lab: Lab) -> None:
    lab.model("p", w=[1.0])
    lab.model("q", w=[1.0])
    text = '[targets.t]\nmethod = "linear"\nmodels = ["p", "q"]\nweight = [1, -1]\noutput = "t.safetensors"\n'
    assert isinstance(error_of(lab, text), RecipeError)


def test_ema_copies_are_dropped_kept_or_used(lab: Lab) -> None:
    names = {
        "model.diffusion_model.w": torch.tensor([1.0]),
        "model_ema.diffusion_modelw": torch.tensor([2.0]),
        "model.diffusion_model.v": torch.tensor([3.0]),
    }
    lab.model("p", **names)
    text = '[targets.t]\nmethod = "copy"\na = "p"\noutput = "t.safetensors"\nema = "{}"\n'
    for ema, size, value in (("drop", 2, 1.0), ("keep", 3, 1.0), ("use", 2, 2.0)):
        lab.write(text.format(ema))
        assert lab.build().ok
        found = lab.read("t.safetensors")
        assert len(found) == size
        assert found["model.diffusion_model.w"].tolist() == [value]
        assert found["model.diffusion_model.v"].tolist() == [3.0]


FAMILY = """
[targets.half]
foreach.alpha = [0, 0.25, 0.5, 1]
method = "weighted_sum"
a = "p"
b = "q"
[targets.half.alpha]
{rules}
[targets.whole]
foreach.alpha = [0, 0.25, 0.5, 1]
method = "add_difference"
a = "half@alpha=${{alpha}}"
b = "q"
c = "r"
alpha = {{ default = 0.5, v = "${{alpha}}" }}
output = "whole-${{alpha}}.safetensors"
dtype = "float16"
drop = "u*"
"""


@pytest.mark.parametrize("rules", ['default = "${alpha}"', 'w = "${alpha}"\nv = 0.25', 'default = 0.5\nw = "${alpha}"'])
def test_members_of_a_family_share_what_does_not_follow_from_their_numbers(lab: Lab, rules: str) -> None:
    """And each is what it is alone: forms, tensors, what its inputs lack."""
    lab.model("p", w=[1.0], v=[2.0], u1=[3.0])
    lab.model("q", w=[1.0], v=[2.0], more=[3.0])
    lab.model("r", w=[1.0], v=[2.0])
    lab.write(FAMILY.format(rules=rules))
    text = (lab / "mergefile.toml").read_text()
    together = folder_of(lab.root, text)
    for family in ("half", "whole"):
        members = [f"{family}@alpha={alpha}" for alpha in ("0", "0.25", "0.5", "1")]
        found = [together.blueprint(name) for name in members]
        assert len({id(each.forms.kinds) for each in found}) == 1
        assert len({id(each.specs) for each in found}) == 1
        for each, name in zip(found, members, strict=True):
            alone = folder_of(lab.root, text).blueprint(name)
            assert (dict(each.forms), dict(each.specs)) == (dict(alone.forms), dict(alone.specs))
            assert (each.notes(), each.owners) == (alone.notes(), alone.owners)
        assert len({each.forms["w"] for each in found}) == 4
        assert found[0].forms == found[0].forms != found[1].forms


KIN = """
method = "add_difference"
a = "p"
b = "q"
c = "r"
alpha = {{ default = {alpha}, v = {other} }}
output = "{name}.safetensors"
dtype = "float16"
"""


def test_members_that_are_kin_are_each_what_a_target_alone_is(lab: Lab) -> None:
    """Kin in a blueprint have the same slots too: a coefficient of 0 takes one out."""
    lab.model("p", w=[1.0], v=[2.0], u=[3.0])
    lab.model("q", w=[1.0], v=[2.0], more=[3.0])
    lab.model("r", w=[1.0], v=[2.0])
    numbers = ("0.5", "0.75", "0", "0.25", "1", "0")
    family = KIN.format(alpha='"${alpha}"', other='"${1 - alpha}"', name="f-${alpha}")
    lab.write(f"[targets.f]\nforeach.alpha = [{', '.join(numbers[:-1])}]{family}")
    together = folder_of(lab.root, (lab / "mergefile.toml").read_text())
    kin = {}
    for number in numbers:
        found = together.blueprint(f"f@alpha={number}")
        kin[number] = found.kin
        lab.write(f"[targets.f]{KIN.format(alpha=number, other=str(1 - float(number)), name='f')}")
        alone = folder_of(lab.root, (lab / "mergefile.toml").read_text()).blueprint("f")
        assert (dict(found.forms), dict(found.specs)) == (dict(alone.forms), dict(alone.specs))
        assert (found.layout, found.source_specs, found.notes()) == (alone.layout, alone.source_specs, alone.notes())
        assert found.forms.slots == alone.forms.slots
        assert alone.kin is None
    assert kin["0.75"] is kin["0.25"] is not None
    assert kin["0"] is not kin["0.75"]
    assert kin["1"] not in (kin["0"], kin["0.75"])


def test_targets_that_differ_in_more_than_numbers_share_nothing(lab: Lab) -> None:
    """Another method, formula, selection or flag is another way to be made."""
    lab.model("p", w=[1.0], v=[2.0])
    lab.model("q", w=[1.0], v=[2.0])
    ways = ["formula = 'p/2 + k*q'", "formula = 'p/2 - k*q'", "formula = 'p/2 + k*q'\ndrop = 'v'"]
    ways += ["formula = 'p/2 + k*q'\nmerge = 'v'"]
    text = "".join(f"[targets.t{index}]\n{way}\nk = 0.25\n" for index, way in enumerate(ways))
    text += "".join(
        f"[targets.l{flag}]\nmethod = 'linear'\nmodels = ['p', 'q']\nweight = 0.25\nnormalize = {flag}\n"
        for flag in ("true", "false")
    )
    lab.write(text)
    folder = folder_of(lab.root, (lab / "mergefile.toml").read_text())
    forms = [dict(folder.blueprint(name).forms) for name in ("t0", "t1", "t2", "t3", "ltrue", "lfalse")]
    assert [[share for _, share in each["w"].terms] for each in forms] == [
        [Fraction(1, 2), Fraction(1, 4)], [Fraction(1, 2), Fraction(-1, 4)], [Fraction(1, 2), Fraction(1, 4)],
        [Fraction(1)], [Fraction(1, 2)] * 2, [Fraction(1, 4)] * 2,
    ]  # fmt: skip
    assert "v" not in forms[2]


# What targets have in common is theirs alone


def digests_of(lab: Lab, *targets: str) -> dict[str, tuple[str, str | None]]:
    """Return what a plan of these targets, made by a planner of its own, says that each is."""
    return {each.target: (str(each.verdict), each.artifact) for each in lab.project.plan(targets).targets}


def test_targets_that_leave_out_other_inputs_are_planned_apart(lab: Lab) -> None:
    """Planned together = planned alone, in either order: the inputs' roles are part of how a target is made."""
    lab.model("x", w=[1.0, 2.0])
    lab.model("y", w=[3.0, 5.0])
    (lab / "mine.py").write_text(
        "from mergebuild.kernels import Kernel\n\n\ndef mine(call, chunks, start, state):\n"
        "    return chunks[0] + chunks[1] * (1 if call.arguments['has_b'] else 10)\n\n\n"
        "KERNELS = {'mine': Kernel(mine)}\n"
    )
    table = '[methods.mine]\nfile = "mine.py"\ninputs = ["a", "b", "c"]\noptional = ["b", "c"]\nexact = true\n'
    bodies = {
        "with_b": 'method = "mine"\na = "x"\nb = "y"\noutput = "b.safetensors"\n',
        "with_c": 'method = "mine"\na = "x"\nc = "y"\noutput = "c.safetensors"\n',
    }
    lab.write(table + "".join(f"[targets.{name}]\n{body}" for name, body in bodies.items()))
    alone = digests_of(lab, "with_b") | digests_of(lab, "with_c")
    assert len(set(alone.values())) == 2
    assert digests_of(lab, "with_b", "with_c") == digests_of(lab, "with_c", "with_b") == alone
    lab.project.trust()
    assert lab.verdicts() == {"with_b": "built", "with_c": "built"}
    assert (lab.values("b.safetensors"), lab.values("c.safetensors")) == ([4.0, 7.0], [31.0, 52.0])


EMA_AND_IDS = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.ones(4),
    "model.diffusion_model.output_blocks.0.0.weight": torch.ones(4),
    "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(4),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.ones(4),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77.0).reshape(1, 77) + 0.3,
}


@pytest.mark.parametrize("order", list(itertools.permutations(("drop", "keep", "use"))))
def test_settings_of_ema_are_planned_apart(lab: Lab, order: tuple[str, ...]) -> None:
    """Over one checkpoint whose position ids are repaired: together = alone, in each order."""
    lab.model("a", **EMA_AND_IDS)
    lab.model("b", **{name: 2 * each for name, each in EMA_AND_IDS.items()})
    body = 'method = "weighted_sum"\na = "a"\nb = "b"\nalpha = 0.25\n'
    lab.write("".join(f'[targets.{ema}]\n{body}ema = "{ema}"\noutput = "{ema}.safetensors"\n' for ema in order))
    alone = {name: found for ema in order for name, found in digests_of(lab, ema).items()}
    assert digests_of(lab, *order) == alone
    assert set(lab.verdicts().values()) == {"built"}
    assert len(lab.read("keep.safetensors")) == len(lab.read("drop.safetensors")) + 1
    assert lab.values("use.safetensors", "model.diffusion_model.input_blocks.0.0.weight") == [0.0] * 4


@pytest.mark.parametrize("between", ["", 'output = "y.safetensors"\n'])
def test_a_tensor_of_a_later_input_is_as_that_input_makes_it(lab: Lab, between: str) -> None:
    """`fallback` takes what the first input lacks from the second, which makes its tensors in more ways."""
    names = [
        f"model.layers.{layer}.{part}.weight" for layer in range(3) for part in ("self_attn.q_proj", "mlp.up_proj")
    ]
    for source, value in (("a", 1.0), ("b", 2.0), ("c", 5.0)):
        lab.model(source, **dict.fromkeys(names, torch.tensor([value])))
    lab.write(
        '[targets.x]\nmethod = "weighted_sum"\na = "a"\nb = "b"\nalpha = 0.5\ndrop = "mlp"\n'
        '[targets.y]\nmethod = "weighted_sum"\na = "b"\nb = "c"\nalpha = { default = 0.5, L01 = 0.25, L02 = 0.75 }\n'
        f'{between}[targets.t]\nmethod = "fallback"\na = "x"\nb = "y"\noutput = "t.safetensors"\n'
    )
    assert lab.verdicts("t")["t"] == "built"
    found = {name: values.tolist() for name, values in lab.read("t.safetensors").items()}
    assert [found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(3)] == [[3.5], [2.75], [4.25]]
    assert [found[f"model.layers.{layer}.self_attn.q_proj.weight"] for layer in range(3)] == [[1.5]] * 3


def test_a_rule_leaves_what_its_first_input_lacks_to_the_target(lab: Lab) -> None:
    """`fallback` unites its inputs' tensors; a rule's method begins with the first input's."""
    lab.model("a", w=[1.0], x=[1.0])
    lab.model("b", w=[3.0], x=[3.0], y=[5.0])
    lab.write(
        '[targets.t]\nmethod = "fallback"\na = "a"\nb = "b"\noutput = "t.safetensors"\n'
        '[[targets.t.rules]]\ntensors = ["x", "y"]\nmethod = "weighted_sum"\nalpha = 0.5\n'
    )
    assert lab.verdicts() == {"t": "built"}
    assert {name: lab.values("t.safetensors", name) for name in "wxy"} == {"w": [1.0], "x": [2.0], "y": [5.0]}


def test_vocabularies_of_other_sizes_are_called_that(lab: Lab) -> None:
    for name, rows in (("p", 3), ("q", 4)):
        embedding = {
            "model.embed_tokens.weight": torch.zeros(rows, 2),
            "model.layers.0.mlp.up_proj.weight": torch.ones(2),
        }
        lab.model(name, **embedding)
    problem = error_of(lab, SUM.format("0.5")).problems[0]
    assert problem.code == "shape-mismatch"
    assert problem.message == (
        "the vocabularies of the inputs of `t` differ: `model.embed_tokens.weight` has 3 and 4 rows"
    )
