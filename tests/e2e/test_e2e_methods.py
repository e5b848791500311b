"""Every method that is not linear, from the mergefile to the file: what is built is what the kernel makes.

Those that must know several tensors first have `test_e2e_model_wide.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from kernel_driver import run as run_kernel
from mergefiles import target_table
from model_files import same_bits
from project_space import Space
from tiny_models import INTEGERS, NAMES, block_names, sd15
from torch import Tensor

from mergebuild.build.options import BuilderOptions
from mergebuild.engine.makers import kernel_of
from mergebuild.methods.catalog import METHODS, Method
from mergebuild.methods.compiled.catalog import compiled_method
from mergebuild.methods.compiled.method import CompiledMethod
from mergebuild.methods.kernels.kernel import Argument, Call, Kernel
from mergebuild.methods.kernels.linear import combine
from mergebuild.methods.making import CatalogKernel

OPERATIONS = [name for name, row in METHODS.items() if isinstance(row.makes, CatalogKernel) and not row.makes.surveys]
"""But those of LoRAs, whose tensors have other names and shapes: `tests/unit/methods/test_lora_methods.py`."""
RANDOM = [name for name in OPERATIONS if METHODS[name].parameter("seed") is not None]
MODELS = ("one", "two", "three", "four")
DAMAGED = block_names("IN04")[0]
_GIVEN: Mapping[str, object] = {"weight": [0.4, 0.6], "seed": 7}
"""What has no default in the catalog; any other number is 0.3."""


def arguments_of(method: Method, changed: Mapping[str, object]) -> dict[str, object]:
    """Return all that must be given, as it stands in a mergefile."""
    found: dict[str, object] = {}
    for parameter in method.parameters:
        if parameter.name in changed:
            found[parameter.name] = changed[parameter.name]
        elif parameter.default is None:
            found[parameter.name] = _GIVEN.get(parameter.name, 0.3)
    return found


def inputs_of(method: Method, *, leave_out: Sequence[str] = ()) -> dict[str, object]:
    """Return inputs by role: the sources in order, two for `models`."""
    names = iter(MODELS)
    found: dict[str, object] = {}
    for role in method.inputs:
        if role not in leave_out:
            found[role] = [next(names), next(names)] if role == "models" else next(names)
    return found


def listed(inputs: Mapping[str, object]) -> list[str]:
    """Return the sources in the kernel's order."""
    return [name for each in inputs.values() for name in (each if isinstance(each, list) else [each])]


@pytest.fixture
def models(space: Space) -> dict[str, dict[str, Tensor]]:
    """Four fine-tunes of one model, in files."""
    found = {name: sd15(seed) for seed, name in enumerate(MODELS)}  # the first is what the others are tunes of
    for name, tensors in found.items():
        space.model(f"{name}.safetensors", tensors)
    return found


def write(space: Space, *targets: str) -> None:
    sources = "".join(f'{name} = "{name}.safetensors"\n' for name in MODELS)
    space.write(f"[sources]\n{sources}\n" + "\n".join(targets))


def made(method: Method, name: str, inputs: Sequence[Tensor], given: Mapping[str, object], roles: Any) -> Tensor:
    """Return what the kernel makes of whole tensors in float32."""
    arguments: dict[str, Argument] = {}
    for parameter in method.parameters:
        value: Any = given.get(parameter.name, parameter.default)
        count = len(roles["models"]) if "models" in roles else 1
        if parameter.kind in ("number", "integer"):
            each = value if isinstance(value, list) else [value] * count
            exact = tuple(Fraction(str(number)) for number in each)
            arguments[parameter.name] = exact if parameter.per == "model" else exact[0]
        else:
            arguments[parameter.name] = value
    arguments |= method.makes.layout_arguments("sd15")
    arguments |= {f"has_{role}": role in roles for role in method.optional}
    call = Call(name, tuple(inputs[0].shape), arguments)
    return run_kernel(kernel_of(method), call, [each.float() for each in inputs], None)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_tensor_is_what_the_kernel_makes(space: Space, models: Any, name: str) -> None:
    """Rounded once; integers are the first input's."""
    method = METHODS[name]
    given, inputs = arguments_of(method, {}), inputs_of(method)
    write(space, target_table("mix", method=name, **inputs, **given))
    built = space.build()
    found = space.read("mix.safetensors")
    sources = [models[each] for each in listed(inputs)]
    assert found.keys() == sources[0].keys()
    changed = method.makes.taken_up(dict.fromkeys(NAMES, ()), {})
    for tensor in changed:
        expected = made(method, tensor, [each[tensor] for each in sources], given, inputs).to(found[tensor].dtype)
        assert same_bits(found[tensor], expected.reshape(found[tensor].shape)), tensor
    assert all(same_bits(found[each], sources[0][each]) for each in {INTEGERS, *NAMES} - {*changed})
    assert built["mix"]["tensors_computed"] == len(changed)
    assert space.build().verdicts == {"mix": "up-to-date"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_chunks_and_threads_change_no_byte(
    space: Space, models: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the work is cut."""
    assert models
    method = METHODS[name]
    write(space, target_table("mix", method=name, **inputs_of(method), **arguments_of(method, {})))
    space.build()
    expected = space.bytes("mix.safetensors")
    options = BuilderOptions
    for chunk, threads in ((64, 1), (1000, 3)):

        def cut(*args: Any, chunk: int = chunk, **kwargs: Any) -> Any:
            return options(*args, **{**kwargs, "chunk": chunk})

        monkeypatch.setattr("mergebuild.build.options.BuilderOptions", cut)
        space.run("clean", "--yes")
        (space / "mix.safetensors").unlink(missing_ok=True)
        space.run("gc")
        assert space.build("-j", str(threads)).verdicts == {"mix": "built"}
        assert space.bytes("mix.safetensors") == expected


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_says_all_about_chance(space: Space, models: Any, name: str) -> None:
    """The same bytes in another project; others with another seed."""
    assert models
    method = METHODS[name]
    changed: dict[str, object] = {"density": 0.5} if method.parameter("density") else {}
    changed |= {"approximate": True, "rank": 2} if method.parameter("approximate") and method.parameter("rank") else {}
    changed |= {"approximate": True} if method.parameter("approximate") else {}
    texts = [
        target_table(
            f"with{number}", method=name, **inputs_of(method), **{**arguments_of(method, changed), "seed": seed}
        )
        for number, seed in enumerate((7, 8))
    ]
    write(space, *texts)
    space.build()
    one, other = (space.bytes(f"with{number}.safetensors") for number in range(2))
    assert one != other


def test_a_number_of_one_block_costs_that_block(space: Space, models: Any) -> None:
    """The others' tensors are taken from the file that there is."""
    assert models
    write(
        space,
        target_table(
            "mix", method="ties", **inputs_of(METHODS["ties"]), weight=0.5, density={"default": 0.5, "IN04": 0.4}
        ),
    )
    space.build()
    space.edit("IN04 = 0.4", "IN04 = 0.3")
    assert space.build()["mix"]["tensors_computed"] == len(block_names("IN04"))


def test_what_no_number_reaches_is_the_first_inputs(space: Space, models: Any) -> None:
    """As for every method: an amount without a default."""
    write(space, target_table("mix", method="slerp", a="one", b="two", t={"IN04": 0.5}))
    found = space.build()["mix"]
    assert found["tensors_computed"] == len(block_names("IN04"))
    tensors = space.read("mix.safetensors")
    rest = set(NAMES) - set(block_names("IN04"))
    assert all(same_bits(tensors[name], models["one"][name]) for name in rest)


def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the tensors whose statistics are taken from now on, by torch or by compiled kernels."""
    found: list[str] = []

    def noting(form: Any) -> Any:
        statistic = form.statistic

        def noted(call: Call, inputs: int) -> Any:
            found.append(call.tensor)
            return statistic.begin(call, inputs)

        return replace(form, statistic=replace(statistic, begin=noted))

    def watched(method: Method) -> Kernel:
        kernel: Kernel = noting(kernel_of(method))
        return kernel

    def watched_form(name: str) -> CompiledMethod | None:
        form = compiled_method(name)
        return form if form is None or form.statistic is None else noting(form)

    monkeypatch.setattr("mergebuild.engine.makers.kernel_of", watched)
    monkeypatch.setattr("mergebuild.engine.capable.compiled_method", watched_form)
    return found


SWEPT: Mapping[str, str] = {
    "slerp": "t",
    "norm_direction": "alpha",
    "nuslerp": "weight",
    "multislerp": "weight",
    "ties": "lambda",
    "breadcrumbs": "weight",
    "della": "lambda",
}
"""Numbers that the statistic of their method does not depend on."""


@pytest.mark.parametrize("name", SWEPT)
def test_a_sweep_takes_its_statistics_once(
    space: Space, models: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """For all members, and for the next build with other numbers."""
    assert models
    seen = looks(monkeypatch)
    number = ["${x}", 0.6] if SWEPT[name] == "weight" else "${x}"
    given = arguments_of(METHODS[name], {SWEPT[name]: number, "density": 0.5, "epsilon": 0.2})
    write(
        space,
        target_table("mix", method=name, **inputs_of(METHODS[name]), **{**given, "output": "mix-${x}.safetensors"}),
    )
    space.edit("[targets.mix]\n", "[targets.mix]\nforeach.x = [0.2, 0.3, 0.4]\n")
    assert len(space.build().verdicts) == 3
    assert sorted(seen) == sorted(NAMES)
    space.edit("0.4]", "0.4, 0.5]")
    assert space.build()["mix@x=0.5"]["tensors_computed"] == len(NAMES)
    assert len(seen) == len(NAMES)


def test_a_virtual_operation_is_read_unrounded(space: Space, models: Any) -> None:
    """By a linear method, and by another operation; it is written nowhere."""
    write(
        space,
        target_table("between", method="slerp", a="one", b="two", t=0.3, output=None),
        target_table("sum", method="weighted_sum", a="between", b="three", alpha=0.25),
        target_table("max", method="max", a="between", b="three"),
    )
    built = space.build("sum", "max")
    assert built.verdicts == {"sum": "built", "max": "built"}
    found_sum, found_max = space.read("sum.safetensors"), space.read("max.safetensors")
    slerp = METHODS["slerp"]
    for name in NAMES:
        one, two, three = (models[each][name].float() for each in MODELS[:3])
        between = made(slerp, name, [one, two], {"t": 0.3}, {"a": "one", "b": "two"})
        total = combine(between, [three.clone()], [0.25], torch.empty_like(one), torch.empty_like(one))
        assert same_bits(found_sum[name], total.to(found_sum[name].dtype)), name
        assert same_bits(found_max[name], torch.maximum(between, three).to(found_max[name].dtype)), name


def test_an_operation_reads_combinations_unrounded(space: Space, models: Any) -> None:
    """Of a virtual linear target, in float32."""
    write(
        space,
        target_table("between", method="weighted_sum", a="one", b="two", alpha=0.25, output=None),
        target_table("mix", method="max", a="between", b="three"),
    )
    space.build()
    found = space.read("mix.safetensors")
    for name in NAMES:
        one, two, three = (models[each][name].float() for each in MODELS[:3])
        between = combine(one, [two.clone()], [0.25], torch.empty_like(one), torch.empty_like(one))
        assert same_bits(found[name], torch.maximum(between, three).to(found[name].dtype)), name


def test_a_file_between_is_read_rounded(space: Space, models: Any) -> None:
    """As if it had been read from the disk, though it is made in the same pass."""
    write(
        space,
        target_table("between", method="slerp", a="one", b="two", t=0.3),
        target_table("mix", method="max", a="between", b="three"),
    )
    space.build("mix")
    between, found = space.read("between.safetensors"), space.read("mix.safetensors")
    for name in NAMES:
        expected = torch.maximum(between[name].float(), models["three"][name].float())
        assert same_bits(found[name], expected.to(found[name].dtype)), name


def test_a_method_without_a_value_is_told_by_tensor(space: Space) -> None:
    """Nothing is published."""
    name = "model.diffusion_model.out.0.weight"
    space.model("one.safetensors", {name: torch.tensor([1.0, 2.0, 3.0])})
    space.model("two.safetensors", {name: torch.tensor([-1.0, -2.0, -3.0])})
    space.model("three.safetensors", {name: torch.tensor([0.0, 0.0, 0.0])})
    space.model("four.safetensors", {name: torch.tensor([0.0, 0.0, 0.0])})
    write(space, target_table("mix", method="multislerp", models=["one", "two"], weight=0.5))
    outcome = space.run("build", "--json", code=1)
    (found,) = outcome.json["targets"]
    assert (found["verdict"], found["error"]["code"]) == ("failed", "undefined")
    assert name in outcome.err
    assert not (space / "mix.safetensors").exists()


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_a_difference_too_large_for_its_scale_is_told_by_tensor(space: Space, method: str) -> None:
    """Exit 1, and which model's, as for values that are not finite."""
    values = torch.linspace(-1, 1, 64).view(8, 8)
    far = values.clone()
    far[2, 2] = 3e38
    space.model("one.safetensors", {"w": -far, "v": values})
    space.model("two.safetensors", {"w": far, "v": 2 * values})
    table = target_table("mix", method=method, base="one", models=["two"], weight=1, density=0.5, rescale="l1")
    write(space, table)
    outcome = space.run("build", "--json", code=1)
    (found,) = outcome.json["targets"]
    assert (found["verdict"], found["error"]["code"]) == ("failed", "undefined")
    assert "w: the difference of model 1 from the base overflows float32, so that it has no scale" in outcome.err
    assert not (space / "mix.safetensors").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["slerp", "ties", "sce", "arcee_fusion", "top_k_tensor_sum", "smooth_add", "rotate"])
def test_what_must_know_a_tensor_whole_knows_nothing_of_one_that_is_not_finite(
    space: Space, models: Any, name: str, value: float
) -> None:
    """Exit 1 and the source, or NaN throughout where that is allowed; the other tensors are as ever."""
    damaged = {key: tensor.clone() for key, tensor in models["two"].items()}
    damaged[DAMAGED].view(-1)[1] = value
    space.model("two.safetensors", damaged)
    method = METHODS[name]
    write(space, target_table("mix", method=name, **inputs_of(method), **arguments_of(method, {"density": 0.3})))
    outcome = space.run("build", "--json", code=1)
    (found,) = outcome.json["targets"]
    assert (found["verdict"], found["error"]["code"]) == ("failed", "nonfinite")
    assert f"{DAMAGED}: " in outcome.err
    assert "(1 in `two`)" in outcome.err
    write(
        space,
        target_table(
            "mix", method=name, **inputs_of(method), nonfinite="allow", **arguments_of(method, {"density": 0.3})
        ),
    )
    space.build()
    result = space.read("mix.safetensors")
    assert {key for key, tensor in result.items() if not bool(tensor.float().isfinite().all())} == {DAMAGED}
    assert bool(result[DAMAGED].isnan().all())


def test_a_tensor_too_large_to_have_whole_is_told_before_work(
    space: Space, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bytes that it needs; nothing is written."""
    assert models
    monkeypatch.setattr("mergebuild.system.platform.memory_bytes", lambda: 1000)
    write(space, target_table("mix", method="crossover", a="one", b="two", alpha=0.5))
    outcome = space.run("build", "--json", code=1)
    (found,) = outcome.json["targets"]
    assert (found["verdict"], found["error"]["code"]) == ("failed", "too-large")
    assert "bytes of memory for" in outcome.err
    assert not list(space.root.glob(".mix*"))
    assert not (space / "mix.safetensors").exists()


REFUSED: Mapping[str, tuple[str, str]] = {
    "no seed": (
        target_table("mix", method="dare_ties", base="one", models=["two"], weight=1, density=0.5),
        "missing-key",
    ),
    "an unknown word": (target_table("mix", method="slerp", a="one", b="two", t=0.5, magnitude="loud"), "bad-value"),
    "too few models": (target_table("mix", method="model_stock", base="one", models=["two"]), "wrong-count"),
    "out of range": (target_table("mix", method="geometric", a="one", b="two", alpha=1.5), "out-of-range"),
    "no variant": (target_table("mix", method="max", a="one", b="two", compat="mergekit"), "not-in-this-version"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_method_cannot_take_is_said_before_work(space: Space, models: Any, kind: str) -> None:
    """As a mistake of the mergefile."""
    assert models
    text, code = REFUSED[kind]
    write(space, text)
    assert code in space.refused("build", code=3).errors


def test_lineage_of_what_is_not_linear_is_a_tree(space: Space, models: Any) -> None:
    """There are no proportions."""
    assert models
    write(space, target_table("mix", method="slerp", a="one", b="two", t=0.5))
    assert space.json("lineage", "mix")["linear"] is False
    assert "slerp" in space.run("lineage", "mix").out


def test_why_names_what_changed(space: Space, models: Any) -> None:
    """Numbers and words alike."""
    assert models
    write(space, target_table("mix", method="slerp", a="one", b="two", t=0.5, magnitude="raw"))
    space.build()
    space.edit("t = 0.5", "t = 0.25")
    space.edit('magnitude = "raw"', 'magnitude = "lerp"')
    assert sorted(space.reasons("mix")) == ["magnitude raw -> lerp", "t 0.5 -> 0.25"]


def test_what_a_file_lacks_is_taken_from_another(space: Space, models: Any) -> None:
    """All of it, as it is: nothing is computed."""
    one, two = models["one"], models["two"]
    unet = {name: tensor for name, tensor in one.items() if name.startswith("model.diffusion_model.")}
    space.model("three.safetensors", unet)
    write(space, target_table("whole", method="fallback", a="three", b="two"))
    built = space.build()
    found = space.read("whole.safetensors")
    assert found.keys() == one.keys()
    assert all(same_bits(tensor, (unet if name in unet else two)[name]) for name, tensor in found.items())
    assert built["whole"]["tensors_computed"] == 0


def test_adjusting_changes_its_tensors_alone(space: Space, models: Any) -> None:
    """Others are the source's bytes; the layout tells whose colors they are."""
    write(space, target_table("fine", method="adjust", a="one", cont=2, bri=1))
    built = space.build()
    found = space.read("fine.safetensors")
    changed = {name for name in NAMES if not same_bits(found[name], models["one"][name])}
    known = METHODS["adjust"].makes.taken_up(dict.fromkeys(NAMES, ()), {})
    assert changed <= {*known}
    assert built["fine"]["tensors_computed"] == len(known)


def test_rules_give_tensors_another_method(space: Space, models: Any) -> None:
    """The later rule wins; one without a method has other numbers of the target's own; the rest is the target's."""
    write(
        space,
        target_table("mix", method="weighted_sum", a="one", b="two", alpha=0.25)
        + '[[targets.mix.rules]]\ntensors = ["IN", "M00"]\nmethod = "slerp"\nt = 0.3\n'
        + '[[targets.mix.rules]]\ntensors = ["IN04"]\nalpha = 0.75\n'
        + '[[targets.mix.rules]]\ntensors = ["OUT03"]\nformula = "one + 0.5*(two - three)"\n',
        target_table("quarter", method="weighted_sum", a="one", b="two", alpha=0.25),
        target_table("most", method="weighted_sum", a="one", b="two", alpha=0.75),
        target_table("turned", method="slerp", a="one", b="two", t=0.3),
        target_table("added", method="add_difference", a="one", b="two", c="three", alpha=0.5),
    )
    built = space.build()
    found = {name: space.read(f"{name}.safetensors") for name in ("mix", "quarter", "most", "turned", "added")}
    of = dict.fromkeys(NAMES, "quarter")
    of |= {name: "turned" for name in NAMES if re.search(r"input_blocks|middle_block|time_embed", name)}
    of |= dict.fromkeys(block_names("IN04"), "most") | dict.fromkeys(block_names("OUT03"), "added")
    for name in NAMES:
        assert same_bits(found["mix"][name], found[of[name]][name]), name
    assert built["mix"]["tensors_computed"] + built["quarter"]["tensors_computed"] >= len(NAMES)
    space.edit("alpha = 0.75\n[[", "alpha = 0.5\n[[")
    assert "rules[1].alpha 0.75 -> 0.5" in space.reasons("mix")
    assert space.build("mix")["mix"]["tensors_computed"] == len(block_names("IN04"))


RULES: Mapping[str, tuple[str, str]] = {
    "no tensors": ("alpha = 0.5", "missing-key"),
    "nothing selected": ('tensors = ["IN44"]\nalpha = 0.5', "selector-matches-nothing"),
    "an output": ('tensors = ["IN04"]\noutput = "x.safetensors"', "unknown-key"),
    "another first input": ('tensors = ["IN04"]\nmethod = "copy"\na = "two"', "bad-rule"),
    "an unknown method": ('tensors = ["IN04"]\nmethod = "tis"', "unknown-method"),
    "nothing decided": ('tensors = ["IN04"]\nalpha = 1\n[[targets.mix.rules]]\ntensors = ["IN"]\nalpha = 0',
                        "selector-overridden"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RULES)
def test_rules_that_cannot_be(space: Space, models: Any, kind: str) -> None:
    """As mistakes of the mergefile."""
    assert models
    text, code = RULES[kind]
    whole = target_table("mix", method="weighted_sum", a="one", b="two", alpha=0.5)
    write(space, f"{whole}[[targets.mix.rules]]\n{text}\n")
    assert code in space.refused("build", code=3).errors
