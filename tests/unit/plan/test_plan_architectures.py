"""Inputs of different architectures are refused, and what else changes the meaning of their weights is told."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from lab import Lab

from mergebuild.errors import MergeBuildError, Problem

LLAMA = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}
LAYER, HEAD, EYE, BRIDGE = "layers.0.mlp.weight", "lm_head.weight", "visual.0.weight", "connector.weight"
MIX = """
[targets.m]
method = "weighted_sum"
a = "a"
b = "b"
alpha = 0.5
output = "m.safetensors"
"""


def put(lab: Lab, name: str, config: Mapping[str, object], *tensors: str) -> None:
    lab.model(name, file=f"{name}/model.safetensors", **{each: [1.0, 2.0] for each in tensors or (LAYER, HEAD)})
    lab.sources[name] = f"{name}/"
    (lab / name / "config.json").write_text(json.dumps(config))


def refused(lab: Lab) -> Problem:
    with pytest.raises(MergeBuildError) as caught:
        lab.build()
    assert caught.value.exit_code == 9
    (problem,) = caught.value.problems
    assert problem.code == "architectures-differ"
    return problem


def notices(lab: Lab) -> tuple[str, ...]:
    return lab.build().targets[0].notices


def test_another_model_type_is_refused_unless_the_target_says_so(lab: Lab) -> None:
    put(lab, "a", LLAMA)
    put(lab, "b", {**LLAMA, "model_type": "mistral"})
    lab.write(MIX)
    problem = refused(lab)
    assert problem.message == "the inputs of `m` are of different architectures: `llama` and `mistral`"
    assert problem.rows == ("a  a/config.json: `llama`", "b  b/config.json: `mistral`")
    assert problem.help is not None
    assert '`architectures = "allow"`' in problem.help
    (plan,) = lab.project.plan().targets
    assert (str(plan.verdict), plan.error) == ("blocked", problem)
    lab.write(MIX + 'architectures = "allow"\n')
    assert lab.build().ok


@pytest.mark.parametrize(
    "more",
    [
        "",
        'output = "m.safetensors"',  # a file target, as a virtual one
    ],
)
def test_what_is_below_a_target_counts_as_what_it_is_made_of(lab: Lab, more: str) -> None:
    put(lab, "a", LLAMA)
    put(lab, "b", {**LLAMA, "model_type": "mistral"})
    lab.write(
        f"""
        [targets.low]
        method = "scale"
        a = "b"
        alpha = 0.5
        {more}
        [targets.top]
        formula = "a + low"
        output = "top.safetensors"
        """
    )
    assert "`top`" in refused(lab).message


def test_what_was_allowed_below_a_target_is_not_asked_for_again(lab: Lab) -> None:
    put(lab, "a", LLAMA)
    put(lab, "b", {**LLAMA, "model_type": "mistral"})
    low = MIX.replace("targets.m", "targets.low").replace('output = "m.safetensors"', 'architectures = "allow"')
    lab.write(low + '[targets.top]\nformula = "2*low"\noutput = "top.safetensors"\n')
    assert lab.build().ok


@pytest.mark.parametrize(
    "change",
    [
        ("alpha = 0.5", "alpha = 0"),
        ("alpha = 0.5", 'alpha = { default = 0, "lm_head.weight" = 0 }'),
    ],
)
def test_an_input_that_nothing_is_taken_from_is_not_held_against_a_target(lab: Lab, change: tuple[str, str]) -> None:
    put(lab, "a", LLAMA)
    put(lab, "b", {**LLAMA, "model_type": "mistral"})
    lab.write(MIX.replace(*change))
    assert lab.build().ok


def test_a_configuration_is_that_of_an_architecture_too(lab: Lab) -> None:
    """That which is written beside weights says what they mean."""
    put(lab, "a", LLAMA)
    put(lab, "b", {**LLAMA, "model_type": "mistral"})
    text = '[targets.m]\nmethod = "copy"\na = "a"\nconfig = "b"\noutput = "m/"\n'
    lab.write(text)
    assert "`llama` and `mistral`" in refused(lab).message
    lab.write(text + 'architectures = "allow"\n')
    assert lab.build().ok
    put(lab, "b", {**LLAMA, "rope_theta": 5e5})
    lab.write(text)
    assert any("`rope_theta` 10000.0 and 500000.0" in each for each in notices(lab))


def test_only_the_parts_that_are_merged_are_compared(lab: Lab) -> None:
    """The language model of one that sees, with a language model; and never its eyes with other eyes."""
    eyes = {"model_type": "llava", "text_config": LLAMA, "vision_config": {"model_type": "clip_vision_model"}}
    put(lab, "a", eyes, LAYER, EYE)
    put(lab, "b", {**LLAMA, "model_type": "llama_text"}, LAYER)
    lab.write(MIX)
    (told,) = notices(lab)
    assert told.startswith("1 tensor that `b` lacks stays the first input's")
    put(lab, "b", {**eyes, "vision_config": {"model_type": "siglip_vision_model"}}, LAYER, EYE)
    lab.write(MIX.replace("0.5", "0.25"))
    assert "in the part `vision`: `clip_vision_model` and `siglip_vision_model`" in refused(lab).message
    lab.write(MIX.replace("alpha = 0.5", 'merge = ["layers*"]\nalpha = 0.5'))
    assert lab.build().ok
    put(lab, "b", {**eyes, "model_type": "llava_next"}, LAYER, BRIDGE)
    put(lab, "a", eyes, LAYER, BRIDGE)
    lab.write(MIX)
    assert "in the part `joint`: `llava` and `llava_next`" in refused(lab).message


def test_facts_that_differ_are_a_notice_with_both_values(lab: Lab) -> None:
    put(lab, "a", LLAMA)
    put(lab, "b", {**LLAMA, "rope_theta": 500000.0, "num_attention_heads": 2})
    lab.write(MIX)
    values = "`num_attention_heads` 4 and 2; `head_dim` 2 and 4; `rope_theta` 10000.0 and 500000.0"
    assert notices(lab) == (f"the configurations of `a` and `b` differ in what their weights mean: {values}",)
    lab.write(MIX.replace("0.5", "0"))
    assert notices(lab) == ()


def test_inputs_of_other_shapes_are_told_apart_by_their_architectures_first(lab: Lab) -> None:
    put(lab, "a", LLAMA)
    put(lab, "b", {**LLAMA, "model_type": "mistral"})
    lab.model("b", file="b/model.safetensors", **{LAYER: [1.0], HEAD: [1.0]})
    lab.sources["b"] = "b/"
    lab.write(MIX)
    assert "`llama` and `mistral`" in refused(lab).message
    lab.write(MIX + 'architectures = "allow"\n')
    with pytest.raises(MergeBuildError) as caught:
        lab.build()
    assert caught.value.problems[0].code == "shape-mismatch"


def test_a_configuration_that_names_no_architecture_is_none(lab: Lab) -> None:
    put(lab, "a", {"architectures": ["LlamaForCausalLM"]})
    put(lab, "b", {**LLAMA, "model_type": "mistral"})
    lab.write(MIX)
    assert lab.build().ok
