"""The configuration of a folder agrees with the tensors beside it, or the target is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch
from lab import Lab

from mergebuild.errors import MergeBuildError, Problem

CONFIG: Mapping[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "vocab_size": 32,
    "tie_word_embeddings": False,
}
COPY = '[targets.m]\nmethod = "copy"\na = "a"\noutput = "out/"\n'
MIX = '[targets.m]\nmethod = "weighted_sum"\na = "a"\nb = "b"\nalpha = 0.5\noutput = "out/"\n'
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def put(
    lab: Lab, name: str, config: Mapping[str, object] = CONFIG, *, vocab: int = 32, layers: int = 3, head: bool = True
) -> None:
    made = {EMBED: torch.rand(vocab, 8), "model.norm.weight": torch.rand(8)}
    for layer in range(layers):
        made[f"model.layers.{layer}.self_attn.q_proj.weight"] = torch.rand(8, 8)
        made[f"model.layers.{layer}.mlp.up_proj.weight"] = torch.rand(16, 8)
    if head:
        made[HEAD] = made[EMBED].clone() if config.get("tie_word_embeddings") else torch.rand(vocab, 8)
    lab.model(name, file=f"{name}/model.safetensors", **made)
    lab.sources[name] = f"{name}/"
    (lab / name / "config.json").write_text(json.dumps(config, indent=1))


def written(lab: Lab) -> dict[str, object]:
    """Build; return what the configuration says otherwise than `CONFIG`, dtype aside."""
    assert lab.build().ok
    found = json.loads((lab / "out/config.json").read_text())
    found.pop("torch_dtype")
    return {key: value for key, value in found.items() if CONFIG.get(key) != value}


def refused(lab: Lab) -> Problem:
    with pytest.raises(MergeBuildError) as caught:
        lab.build()
    (problem,) = caught.value.problems
    assert (caught.value.exit_code, problem.code) == (9, "configuration-differs")
    assert not (lab / "out").exists()
    (plan,) = lab.project.plan().targets
    assert (str(plan.verdict), plan.error) == ("blocked", problem)
    return problem


def test_a_configuration_that_fits_is_copied(lab: Lab) -> None:
    put(lab, "a")
    lab.write(COPY)
    assert written(lab) == {}


def test_layers_left_out_at_the_end_are_counted_no_more(lab: Lab) -> None:
    put(lab, "a")
    lab.write(COPY + 'drop = ["model.layers.2.*"]\n')
    assert written(lab) == {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}
    lab.write(COPY + 'drop = ["model.layers.1.*"]\n')
    (lab / "out").rename(lab / "elsewhere")
    assert refused(lab).message == (
        "the configuration of `a` does not fit the tensors of `m`:"
        " `model.layers` lacks 1 of its layers 0 to 2, and clients load them by number"
    )


def test_rows_follow_from_the_tensors_whatever_configuration_is_named(lab: Lab) -> None:
    put(lab, "a")
    put(lab, "b", {**CONFIG, "vocab_size": 34}, vocab=34)
    tokens = {"model": {"vocab": {f"t{number}": number for number in range(34)}}}
    (lab / "b/tokenizer.json").write_text(json.dumps(tokens))
    lab.write(MIX + 'merge = ["model.layers.*"]\nconfig = "b"\n')
    assert written(lab) == {}
    assert lab.project.plan().targets[0].notices == (
        "`vocab_size` of the configuration is written as 32 and not 34, as the tensors have it",
        "the tokenizer of `b` has 2 tokens from 32 on, and the embedding only 32 rows",
    )


def test_a_head_that_is_left_out_is_an_error_and_no_random_one(lab: Lab) -> None:
    put(lab, "a")
    lab.write(COPY + f'drop = ["{HEAD}"]\n')
    assert "would draw a random one" in refused(lab).message


@pytest.mark.parametrize("head", [True, False])
def test_a_tied_model_stays_tied_whether_or_not_its_files_have_the_head(lab: Lab, head: bool) -> None:
    put(lab, "a", {**CONFIG, "tie_word_embeddings": True}, head=head)
    lab.write(COPY)
    assert written(lab) == {"tie_word_embeddings": True}


def test_the_tie_follows_the_weights_that_are_written(lab: Lab) -> None:
    put(lab, "a", {**CONFIG, "tie_word_embeddings": True}, head=False)
    put(lab, "b")
    lab.write(COPY + 'config = "b"\n')
    assert written(lab) == {"tie_word_embeddings": True}
    lab.write(MIX)
    assert written(lab) == {}


def test_a_configuration_of_another_size_is_refused(lab: Lab) -> None:
    put(lab, "a")
    put(lab, "b", {**CONFIG, "hidden_size": 16})
    lab.model("b", file="b/model.safetensors", **{EMBED: torch.rand(32, 16)})
    lab.sources["b"] = "b/"
    lab.write(COPY + 'config = "b"\n')
    problem = refused(lab)
    assert f"`{HEAD}` is [32, 8], and the configuration says [32, 16]" in problem.message
    assert problem.rows[0] == f"`{EMBED}` is [32, 8], and the configuration says [32, 16]"
    assert problem.where is not None
    assert problem.help is not None


def test_a_configuration_in_other_names_is_of_the_same_parameters(lab: Lab) -> None:
    put(lab, "a")
    bare = {name.removeprefix("model."): torch.rand(*shape) for name, shape in shapes().items()}
    lab.model("b", file="b/model.safetensors", **bare)
    lab.sources["b"] = "b/"
    (lab / "b/config.json").write_text(json.dumps(CONFIG))
    lab.write(COPY + 'config = "b"\ndrop = ["model.layers.2.*"]\n')
    assert written(lab)["num_hidden_layers"] == 2


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {EMBED: (32, 8), "model.norm.weight": (8,), HEAD: (32, 8)}
    for layer in range(3):
        found[f"model.layers.{layer}.self_attn.q_proj.weight"] = (8, 8)
        found[f"model.layers.{layer}.mlp.up_proj.weight"] = (16, 8)
    return found
