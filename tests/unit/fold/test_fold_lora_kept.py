"""LoRAs where models are meant: copied and scaled as what they are, refused elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from model_files import same_bits, write_model
from tiny_models import full_checkpoint
from torch import Tensor

from mergebuild.errors import MergeBuildError
from mergebuild.formats.header import read_header

Q = "model.layers.0.self_attn.q_proj"
V = "model.layers.1.self_attn.v_proj"
PEFT = "base_model.model."


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def peft(lab: Lab) -> Lab:
    """A model, and two adapters for it; the scales of each stand in its configuration."""
    lab.model("base", **{f"{module}.weight": random(8, 6, seed=at) for at, module in enumerate((Q, V))})
    for name, alpha in (("one", 16), ("two", 2)):
        adapter(lab, name, lora_alpha=alpha)
    return lab


def adapter(lab: Lab, name: str, more: Mapping[str, Tensor] | None = None, **config: Any) -> None:
    """Write a folder of PEFT as a source."""
    tensors = {
        f"{PEFT}{module}.lora_{end}.weight": random(*shape, seed=len(name) + at)
        for at, module in enumerate((Q, V))
        for end, shape in (("A", (4, 6)), ("B", (8, 4)))
    }
    write_model(lab / name / "adapter_model.safetensors", tensors | dict(more or {}))
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]} | config
    (lab / name / "adapter_config.json").write_text(json.dumps(config))
    lab.sources[name] = f"{name}/"


@pytest.fixture
def kohya(lab: Lab) -> Lab:
    for seed, name in enumerate(("one", "two")):
        lab.model(
            name,
            **{
                "lora_unet_a.lora_up.weight": random(10, 3, seed=seed),
                "lora_unet_a.lora_down.weight": random(3, 6, seed=seed + 5),
                "lora_unet_a.alpha": torch.tensor(1.0009765625),
            },
        )
    return lab


def target(name: str, method: str, *more: str, **keys: Any) -> str:
    """Return the text of a target."""
    lines = [f"[targets.{name}]", f'method = "{method}"', *(f"{key} = {json.dumps(keys[key])}" for key in keys), *more]
    return "\n".join(lines) + "\n"


def built(lab: Lab, text: str) -> None:
    lab.write(text)
    result = lab.build()
    assert result.exit_code == 0, [each.error for each in result.targets]


def refusal(lab: Lab, text: str) -> MergeBuildError:
    lab.write(text)
    with pytest.raises(MergeBuildError) as caught:
        lab.build()
    return caught.value


# Refused


@pytest.mark.parametrize("lora", ["peft", "kohya"])
@pytest.mark.parametrize(
    "text",
    [
        target("m", "weighted_sum", a="one", b="two", alpha=0.5, output="m.safetensors"),
        target("m", "linear", models=["one", "two"], weight=[1, 1], output="m.safetensors"),
        target("m", "ties", base="one", models=["two"], weight=[1], density=0.5, output="m.safetensors"),
        target("m", "add", a="one", b="two"),
        target("m", "slerp", a="one", b="two", t=0.5, output="m.safetensors"),
        target("m", "scale_self", a="one", alpha=2, output="m.safetensors"),
        target("m", "extract_lora", base="one", a="two", rank=2, output="m.safetensors"),
        target("m", "add_lora", base="one", loras=["two"], output="m.safetensors"),
        target("v", "copy", a="one") + target("m", "add", a="v", b="v", output="m.safetensors"),
        target("v", "merge_loras", loras=["one"]) + target("m", "add", a="v", b="v", output="m.safetensors"),
        target("v", "resize_lora", a="one", rank=1, output="v.safetensors")
        + target("m", "add", a="v", b="v", output="m.safetensors"),
    ],
    ids=lambda text: text.split('"')[1] + str(text.count("[targets")),
)
def test_methods_on_models_refuse_loras(request: pytest.FixtureRequest, lora: str, text: str) -> None:
    """Their tensors are parts of products: a sum of parts is no part of the sum."""
    error = refusal(
        request.getfixturevalue(lora),
        text if "output" in text else text + target("w", "copy", a="m", output="w.safetensors"),
    )
    assert (error.exit_code, [each.code for each in error.problems]) == (3, ["lora-as-model"])
    assert all(name in error.problems[0].help for name in ("`add_lora`", "`merge_loras`", "`resize_lora`"))


def test_the_refusal_names_the_lora_and_what_to_do(kohya: Lab) -> None:
    kohya.model("model", **{"w.weight": random(2, 2)})
    (problem,) = refusal(
        kohya, target("m", "weighted_sum", a="model", b="two", alpha=0.5, output="m.safetensors")
    ).problems
    assert problem.message == "`two` is a LoRA, and `weighted_sum` of target `m` is for models"
    assert problem.where is not None
    assert problem.where.text == 'b = "two"'
    assert problem.help == (
        "`add_lora` bakes LoRAs into a model, `merge_loras` puts them together, `resize_lora` changes their rank; "
        "`copy` and `scale` keep what they mean"
    )
    formula = '[targets.m]\nformula = "0.5 * one + 0.5 * two"\noutput = "m.safetensors"\n'
    (problem,) = refusal(kohya, formula).problems
    assert problem.message == "`one` is a LoRA, and the formula of target `m` is for models"


def test_no_rule_and_no_component_is_a_lora(kohya: Lab) -> None:
    kohya.model("model", **full_checkpoint("sd15", 1))
    whole = target("m", "copy", a="model", output="m.safetensors")
    rule = '[[targets.m.rules]]\ntensors = ["attn"]\nmethod = "weighted_sum"\na = "model"\nb = "one"\nalpha = 1\n'
    part = '[targets.m.components]\nvae = "one"\n'
    assert refusal(kohya, whole + rule).problems[0].code == "lora-as-model"
    assert refusal(kohya, whole + part).problems[0].code == "lora-as-model"
    kept = target("m", "copy", a="one", output="m.safetensors")
    assert refusal(kohya, kept + rule.replace('"model"', '"one"')).problems[0].code == "bad-rule"
    assert refusal(kohya, kept + part).problems[0].code == "bad-rule"


# Copied


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_an_alpha_is_never_rounded(kohya: Lab, dtype: str) -> None:
    built(kohya, target("m", "copy", a="one", dtype=dtype, output="m.safetensors"))
    made, one = kohya.read("m.safetensors"), kohya.read("one.safetensors")
    assert same_bits(made["lora_unet_a.alpha"], one["lora_unet_a.alpha"])
    assert made["lora_unet_a.lora_up.weight"].dtype == getattr(torch, dtype)
    assert list(made) == list(one)


def test_a_copy_of_a_folder_is_that_adapter(peft: Lab) -> None:
    """Its configuration is kept word for word, and what belongs to it beside."""
    (peft / "one" / "tokenizer.json").write_text("{}")
    (peft / "one" / "README.md").write_text("mine")
    before = {"use_rslora": True, "base_model_name_or_path": "../base", "alpha_pattern": {"q_proj": 3}, "odd": [None]}
    adapter(peft, "one", lora_alpha=16, **before)
    built(peft, target("m", "copy", a="one", dtype="bfloat16", output="m/"))
    assert sorted(path.name for path in (peft / "m").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "mergebuild.json", "tokenizer.json",
    ]  # fmt: skip
    config = json.loads((peft / "m" / "adapter_config.json").read_text())
    assert config == json.loads((peft / "one" / "adapter_config.json").read_text())
    assert peft.read("m/adapter_model.safetensors")[f"{PEFT}{Q}.lora_A.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("metadata", ["minimal", "none", "full"])
def test_a_copy_in_one_file_says_what_it_means(peft: Lab, metadata: str) -> None:
    built(peft, target("m", "copy", a="one", metadata=metadata, output="m.safetensors"))
    said = read_header(peft / "m.safetensors").metadata["lora_adapter_metadata"]
    assert json.loads(said) == json.loads((peft / "one" / "adapter_config.json").read_text())
    peft.sources["again"] = "m.safetensors"
    add = target("n", "add_lora", base="base", loras=["one"], output="n.safetensors")
    built(peft, add + target("o", "add_lora", base="base", loras=["again"], output="o.safetensors"))
    assert (peft / "n.safetensors").read_bytes()[8:] != b""
    assert all(same_bits(each, peft.read("o.safetensors")[name]) for name, each in peft.read("n.safetensors").items())


def test_a_file_without_room_for_its_meaning_is_refused(peft: Lab) -> None:
    (problem,) = refusal(peft, target("m", "copy", a="one", output="m.ckpt")).problems
    assert (problem.code, problem.message) == (
        "bad-output",
        "`output` of target `m` is a `.ckpt`, which has no room for what a LoRA's tensors mean",
    )
    assert problem.help == "let it end in `.safetensors`, or in `/` for a folder of PEFT"


def test_a_lora_with_other_names_is_no_folder(kohya: Lab) -> None:
    assert refusal(kohya, target("m", "copy", a="one", output="m/")).problems[0].code == "bad-output"


def test_an_alpha_that_peft_does_not_know_makes_no_folder(lab: Lab) -> None:
    """It would be left out there, and the rank taken for it."""
    tensors = {f"{PEFT}x.lora_A.weight": random(2, 3), f"{PEFT}x.lora_B.weight": random(4, 2)}
    lab.model("one", **tensors, **{f"{PEFT}x.alpha": torch.tensor(1.0)})
    assert refusal(lab, target("m", "copy", a="one", output="m/")).problems[0].code == "bad-output"
    built(lab, target("m", "copy", a="one", output="m.safetensors"))
    assert "lora_adapter_metadata" not in read_header(lab / "m.safetensors").metadata


CONFIGS: tuple[dict[str, Any], ...] = (
    {"lora_alpha": 16},
    {"lora_alpha": 16, "use_rslora": True},
    {"alpha_pattern": {"q_proj": 3}},
    {"lora_alpha": 16, "modules_to_save": ["head"]},
    {"lora_alpha": 2, "use_dora": True},
)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("output", ["", "v.safetensors", "v/"])
def test_a_copy_is_added_as_the_lora_itself(peft: Lab, config: dict[str, Any], output: str) -> None:
    """The same tensors, by digest: virtual or written, as a folder or a file."""
    more: dict[str, Tensor] = {}
    if "modules_to_save" in config:
        peft.model("base", **peft.read("base.safetensors"), **{"head.weight": random(3, 6)})
        more = {f"{PEFT}head.weight": random(3, 6, seed=9)}
    if "use_dora" in config:
        more = {f"{PEFT}{module}.lora_magnitude_vector": random(8, seed=7) for module in (Q, V)}
    adapter(peft, "one", more, **config)
    copy = target("v", "copy", f'output = "{output}"' if output else "", a="one")
    sums = (
        target(name, "add_lora", base="base", loras=[lora], strength=0.7, output=f"{name}.safetensors")
        for name, lora in (("direct", "one"), ("chained", "v"))
    )
    built(peft, copy + "".join(sums))
    direct, chained = (peft.read(f"{name}.safetensors") for name in ("direct", "chained"))
    assert all(same_bits(each, chained[name]) for name, each in direct.items())
    artifacts = {
        read_header(peft / f"{name}.safetensors").metadata["mergebuild"][:60] for name in ("direct", "chained")
    }
    assert len(artifacts) == 1


@examples(8)
@given(
    config=st.fixed_dictionaries(
        {"lora_alpha": st.integers(-4, 40), "use_rslora": st.booleans()},
        optional={"alpha_pattern": st.just({r".*\.[a-z]_proj": 3}), "use_dora": st.just(True)},
    ),
    chain=st.lists(st.sampled_from(["", "v{}.safetensors", "v{}/"]), min_size=1, max_size=3),
    strength=st.sampled_from(["1", "0.3", "-2"]),
)
def test_any_chain_of_copies_is_added_as_the_lora_itself(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], chain: list[str], strength: str
) -> None:
    """Virtual, as files and as folders, one after another."""
    lab = Lab(tmp_path_factory.mktemp("chain"))
    lab.model("base", **{f"{module}.weight": random(8, 6, seed=at) for at, module in enumerate((Q, V))})
    vectors = {f"{PEFT}{module}.lora_magnitude_vector": random(8, seed=7) for module in (Q, V)}
    adapter(lab, "one", vectors if "use_dora" in config else None, **config)
    text, last = "", "one"
    for number, output in enumerate(chain):
        text += target(f"v{number}", "copy", f'output = "{output.format(number)}"' if output else "", a=last)
        last = f"v{number}"
    for name, lora in (("direct", "one"), ("chained", last)):
        more = f'strength = {strength}\noutput = "{name}.safetensors"'
        text += target(name, "add_lora", more, base="base", loras=[lora])
    built(lab, text)
    direct, chained = (lab.read(f"{name}.safetensors") for name in ("direct", "chained"))
    assert all(same_bits(each, chained[name]) for name, each in direct.items())


def test_a_changed_alpha_reaches_all_that_is_made_of_it(peft: Lab) -> None:
    """Though no tensor of the LoRA changed."""
    text = target("m", "copy", a="one", output="m.safetensors") + target("f", "copy", a="one", output="f/")
    text += target("n", "add_lora", base="base", loras=["m"], output="n.safetensors")
    built(peft, text)
    peft.settle()
    before = peft.read("n.safetensors")[f"{Q}.weight"]
    base = peft.read("base.safetensors")[f"{Q}.weight"]
    adapter(peft, "one", lora_alpha=32)
    peft.settle()
    assert set(peft.verdicts().values()) == {"built", "restored"}  # one of the copies is the other
    torch.testing.assert_close(peft.read("n.safetensors")[f"{Q}.weight"] - base, 2 * (before - base))
    assert json.loads((peft / "f" / "adapter_config.json").read_text())["lora_alpha"] == 32
    assert set(peft.verdicts().values()) == {"up-to-date"}
    adapter(peft, "one", lora_alpha=1)
    assert [each.text for each in peft.project.why("f").changes] == [
        "input one: contents changed", "input one: adapter_config.json changed",
    ]  # fmt: skip


def test_modules_are_dropped_whole(peft: Lab) -> None:
    built(peft, target("m", "copy", 'drop = ["*v_proj*"]', a="one", output="m.safetensors"))
    assert list(peft.read("m.safetensors")) == [f"{PEFT}{Q}.lora_A.weight", f"{PEFT}{Q}.lora_B.weight"]
    everything = target("m", "copy", 'drop = ["*"]', a="one", output="m.safetensors")
    assert refusal(peft, everything).problems[0].code == "nothing-left"


# Scaled


@pytest.mark.parametrize("output", ["", "v.safetensors", "v/"])
def test_a_scaled_lora_adds_so_many_times_as_much(peft: Lab, output: str) -> None:
    scale = target("v", "scale", f'output = "{output}"' if output else "", a="one", alpha=-0.5)
    add = target("n", "add_lora", base="base", loras=["one"], strength=-0.5, output="n.safetensors")
    built(peft, scale + add + target("o", "add_lora", base="base", loras=["v"], output="o.safetensors"))
    for name, each in peft.read("n.safetensors").items():
        torch.testing.assert_close(peft.read("o.safetensors")[name], each)
    if output == "v/":
        assert json.loads((peft / "v" / "adapter_config.json").read_text())["lora_alpha"] == 16


def test_numbers_reach_modules_by_the_weights_that_they_change(peft: Lab) -> None:
    """Those that none reaches stay as they are."""
    text = target("m", "scale", 'alpha = { "*layers.0.*" = 3 }', a="one", output="m.safetensors")
    built(peft, text)
    made, one = peft.read("m.safetensors"), peft.read("one/adapter_model.safetensors")
    up, other = f"{PEFT}{Q}.lora_B.weight", f"{PEFT}{V}.lora_B.weight"
    torch.testing.assert_close(made[up], 3 * one[up])
    assert all(same_bits(made[name], one[name]) for name in one if name != up)
    assert same_bits(made[other], one[other])
    built(peft, target("m", "scale", 'merge = ["L01"]', a="one", alpha=2, output="m.safetensors"))
    made = peft.read("m.safetensors")
    assert same_bits(made[up], one[up])
    torch.testing.assert_close(made[other], 2 * one[other])


def test_what_can_not_be_scaled_is_named(peft: Lab) -> None:
    adapter(peft, "one", {f"{PEFT}{Q}.lora_magnitude_vector": random(8)}, use_dora=True)
    error = refusal(peft, target("m", "scale", a="one", alpha=0.5, output="m.safetensors"))
    (problem,) = error.problems
    assert (error.exit_code, problem.code) == (9, "lora-not-scalable")
    assert problem.message == (
        f"target `m` scales `{PEFT}{Q}.lora_magnitude_vector` of a LoRA by 1/2, and the weight is decomposed (DoRA)"
    )
    assert problem.help == "copy it, and give `strength` to the `add_lora` that adds it"
    built(peft, target("m", "scale", a="one", alpha=1, output="m.safetensors"))


# Made


def test_factors_that_were_made_say_that_their_alpha_is_their_rank(peft: Lab) -> None:
    """In a file of PEFT's names, which has no configuration beside it."""
    text = target("m", "merge_loras", loras=["one", "two"], metadata="none", output="m.safetensors")
    built(peft, text)
    said = json.loads(read_header(peft / "m.safetensors").metadata["lora_adapter_metadata"])
    assert (said["r"], said["lora_alpha"], said["peft_type"]) == (8, 8, "LORA")
    peft.sources["again"] = "m.safetensors"
    both = target("n", "add_lora", base="base", loras=["one", "two"], output="n.safetensors")
    built(peft, both + target("o", "add_lora", base="base", loras=["again"], output="o.safetensors"))
    for name, each in peft.read("n.safetensors").items():
        torch.testing.assert_close(peft.read("o.safetensors")[name], each)


def test_a_copy_of_what_is_made_means_the_same(peft: Lab) -> None:
    made = target("v", "merge_loras", loras=["one"], strength=0.5) + target("m", "copy", a="v", output="m/")
    add = target("n", "add_lora", base="base", loras=["one"], strength=0.5, output="n.safetensors")
    built(peft, made + add + target("o", "add_lora", base="base", loras=["m"], output="o.safetensors"))
    config = json.loads((peft / "m" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    for name, each in peft.read("n.safetensors").items():
        torch.testing.assert_close(peft.read("o.safetensors")[name], each)
