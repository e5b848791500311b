"""Stacks of experts: tensors of models under other names, and routers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from example_counts import examples
from expert_models import LAYERS, WORDS, expert_model, gates, stacked
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from lab import Lab
from model_files import same_bits, write_model
from torch import Tensor

from mergebuild.errors import MergeBuildError, Problem
from mergebuild.results.build import TargetResult

ROUTER = "model.layers.{}.block_sparse_moe.gate.weight"
Models = dict[str, dict[str, Tensor]]


def moe(models: str = '["a", "b"]', gate: str = '"random"', more: str = "seed = 1\n", name: str = "moe") -> str:
    return (
        f'[targets.{name}]\nmethod = "moe"\nbase = "base"\nmodels = {models}\ngate = {gate}\n{more}output = "{name}/"\n'
    )


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def models(lab: Lab) -> Models:
    return {name: expert_model(lab, name, seed) for seed, name in enumerate(("base", "a", "b", "c"))}


@pytest.fixture
def tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of tokenizers that splits at blanks; the numbers are in the file."""

    class Words:
        def __init__(self, text: str) -> None:
            self.known: dict[str, int] = json.loads(text)["model"]["vocab"]
            self.is_plain = [False, False]

        def no_padding(self) -> None:
            self.is_plain[0] = True

        def no_truncation(self) -> None:
            self.is_plain[1] = True

        def encode(self, text: str, *, add_special_tokens: bool) -> Any:
            assert all(self.is_plain)
            assert not add_special_tokens
            return SimpleNamespace(ids=[self.known[word] for word in text.replace("<s>", "<s> ").split()])

    fake = ModuleType("tokenizers")
    fake.Tokenizer = SimpleNamespace(from_str=Words)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokenizers", fake)


def tokenizer(lab: Lab, words: dict[str, int] = WORDS, name: str = "base", bos: object = "<s>") -> None:
    (lab / name / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": words}}))
    (lab / name / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos}))


def built(lab: Lab, name: str = "moe") -> TargetResult:
    (found,) = [each for each in lab.build(name).targets if each.target == name]
    assert found.error is None
    return found


def error(lab: Lab, text: str) -> Problem:
    lab.write(text)
    with pytest.raises(MergeBuildError) as raised:
        lab.build("moe")
    return raised.value.problems[0]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)


def test_experts_are_copied_under_mixtrals_names(lab: Lab, models: Models) -> None:
    lab.write(moe())
    assert built(lab).tensors_computed == LAYERS
    made = dict(lab.read("moe/model.safetensors"))
    gate = {layer: made[ROUTER.format(layer)] for layer in range(LAYERS)}
    assert equal(made, stacked(models["base"], [models["a"], models["b"]], gate))
    assert len({each.numpy().tobytes() for each in gate.values()}) == LAYERS  # each layer has its own


def test_the_configuration_is_of_mixtral(lab: Lab, models: Models) -> None:
    """What it leaves to defaults that are not Mixtral's is said."""
    lab.write(moe(more="seed = 1\nexperts_per_token = 1\n"))
    built(lab)
    config = json.loads((lab / "moe/config.json").read_text())
    assert config["architectures"] == ["MixtralForCausalLM"]
    wanted = {
        "model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1, "num_hidden_layers": LAYERS,
        "intermediate_size": 12, "num_key_value_heads": 2, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted


def test_a_tied_base_makes_a_tied_stack(lab: Lab) -> None:
    base = expert_model(lab, "base", 1, tied=True)
    expert_model(lab, "a", 2)
    lab.write(moe('["a", "base"]'))
    built(lab)
    made = lab.read("moe/model.safetensors")
    assert "lm_head.weight" not in made
    assert same_bits(made["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert json.loads((lab / "moe/config.json").read_text())["tie_word_embeddings"] is True


def test_experts_have_the_dtypes_of_the_base(lab: Lab) -> None:
    expert_model(lab, "base", 1, dtype=torch.bfloat16)
    other = expert_model(lab, "a", 2)
    lab.write(moe('["a", "base"]'))
    built(lab)
    made = lab.read("moe/model.safetensors")
    assert {each.dtype for each in made.values()} == {torch.bfloat16}
    found = made["model.layers.0.block_sparse_moe.experts.0.w1.weight"]
    assert same_bits(found, other["model.layers.0.mlp.gate_proj.weight"].bfloat16())


def test_another_expert_changes_its_tensors_and_the_routers(lab: Lab, models: Models) -> None:
    """And a draw is an expert's own: the gate of the first one stays."""
    lab.write(moe())
    built(lab)
    before = {layer: lab.read("moe/model.safetensors")[ROUTER.format(layer)] for layer in range(LAYERS)}
    lab.write(moe('["a", "b", "c"]'))
    assert built(lab).tensors_computed == LAYERS
    made = lab.read("moe/model.safetensors")
    assert all(same_bits(made[ROUTER.format(layer)][:2], each) for layer, each in before.items())
    gate = {layer: made[ROUTER.format(layer)] for layer in range(LAYERS)}
    assert equal(dict(made), stacked(models["base"], [models["a"], models["b"], models["c"]], gate))
    lab.write(moe('["a", "c"]').replace("seed = 1", "seed = 2"))
    assert built(lab).tensors_computed == LAYERS


def test_gates_of_prompts_follow_from_the_embedding(lab: Lab, models: Models, tokenizers: None) -> None:
    """Of all layers alike, so they are made once."""
    tokenizer(lab)
    lab.write(
        moe(
            '[{ model = "a", prompts = ["write code", "code"], negative_prompts = ["tell a story"] },'
            ' { model = "b", prompts = "song" }]',
            '"prompts"',
            "",
        )
    )
    assert built(lab).tensors_computed == 1
    wanted = gates(
        models["base"]["model.embed_tokens.weight"], [(["write code", "code"], ["tell a story"]), (["song"], [])]
    )
    made = lab.read("moe/model.safetensors")
    for layer in range(LAYERS):
        torch.testing.assert_close(made[ROUTER.format(layer)], wanted, rtol=0, atol=1e-7)


def test_gates_follow_from_tokens_and_not_from_texts(lab: Lab, models: Models, tokenizers: None) -> None:
    """Another tokenizer with the same tokens for them makes the same gates, and one with others makes others."""
    tokenizer(lab)
    text = moe('[{ model = "a", prompts = ["code a"] }, { model = "b", prompts = ["song"] }]', '"prompts"', "")
    lab.write(text.replace('output = "moe/"', 'output = "moe.safetensors"'))
    first = built(lab).artifact
    lab.settle()
    tokenizer(lab, {**WORDS, "more": 7}, bos={"content": "<s>"})
    assert built(lab).artifact == first
    lab.settle()
    tokenizer(lab, {**WORDS, "code": 8})
    assert built(lab).artifact != first


def test_gates_may_be_a_sources(lab: Lab, models: Models) -> None:
    given = {ROUTER.format(layer): torch.randn(2, 8) for layer in range(LAYERS)}
    write_model(lab / "gates.safetensors", given)
    lab.sources["gates"] = "gates.safetensors"
    lab.write(moe(gate='{ model = "gates" }', more=""))
    assert built(lab).tensors_computed == 0
    made = lab.read("moe/model.safetensors")
    assert all(same_bits(made[name], each) for name, each in given.items())


def test_inputs_may_be_targets_and_inline(lab: Lab, models: Models) -> None:
    """A stack without an output is read as any other target; its configuration goes with it."""
    mixed = '[targets.mix]\nmethod = "weighted_sum"\na = "a"\nb = "b"\nalpha = 0.5\n'
    lab.write(
        mixed
        + moe('["mix", { model = "b", dtype = "bfloat16" }]').replace('output = "moe/"\n', "")
        + '[targets.half]\nmethod = "copy"\na = "moe"\noutput = "half/"\ndtype = "float32"\n'
    )
    assert built(lab, "half").tensors_computed == LAYERS + 2 * 3 * LAYERS
    made = lab.read("half/model.safetensors")
    name, matrix = "model.layers.1.block_sparse_moe.experts.{}.w2.weight", "model.layers.1.mlp.down_proj.weight"
    one, other = (models[each][matrix] for each in "ab")
    assert same_bits(made[name.format(0)], one + 0.5 * (other - one))
    assert same_bits(made[name.format(1)], other.bfloat16().float())
    assert json.loads((lab / "half/config.json").read_text())["model_type"] == "mixtral"


def test_what_mixtral_does_not_have_is_refused(lab: Lab, models: Models) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    write_model(lab / "base" / "model.safetensors", {**models["base"], name: torch.zeros(8)})
    found = error(lab, moe())
    assert (found.code, found.message) == (
        "no-experts",
        f"`{name}` of `base` is nothing that Mixtral has, and `moe` is a stack of experts",
    )


def test_models_that_do_not_fit_are_refused(lab: Lab, models: Models) -> None:
    expert_model(lab, "wide", 5, inner=16)
    assert error(lab, moe('["a", "wide"]')).code == "shape-mismatch"
    expert_model(lab, "deep", 5, layers=LAYERS + 1)
    found = error(lab, moe('["a", "deep"]'))
    assert (found.code, found.message) == (
        "no-experts",
        "`deep` has `model.layers.3.mlp.down_proj.weight`, unlike `base`, and `moe` is a stack of experts",
    )
    expert_model(lab, "flat", 5, layers=LAYERS - 1)
    assert "lacks `model.layers.2.mlp" in error(lab, moe('["a", "flat"]')).message


def test_another_architecture_is_refused(lab: Lab, models: Models) -> None:
    expert_model(lab, "base", 1, kind="qwen3")
    for name in "ab":
        expert_model(lab, name, 2, kind="qwen3")
    found = error(lab, moe())
    assert found.code == "configuration-differs"
    assert "it is of `qwen3`, and stacks of experts are made of `llama` and `mistral`" in found.message


def test_a_slice_or_a_rule_is_no_stack_of_experts(lab: Lab, models: Models) -> None:
    key = 'method = "moe", base = "base", models = ["a", "b"], gate = "random", seed = 1'
    for text in (f'slices = [{{ {key}, layers = "L00-L01" }}]', f'rules = [{{ {key}, tensors = ["attn"] }}]'):
        start = "[targets.moe]\n" + ('method = "copy"\na = "base"\n' if "rules" in text else "")
        assert error(lab, f'{start}output = "moe/"\n{text}\n').code == "bad-experts"


def test_gates_that_do_not_fit_are_refused(lab: Lab, models: Models) -> None:
    write_model(lab / "gates.safetensors", {ROUTER.format(layer): torch.randn(3, 8) for layer in range(LAYERS)})
    lab.sources["gates"] = "gates.safetensors"
    found = error(lab, moe(gate='{ model = "gates" }', more=""))
    assert (found.code, found.message) == (
        "no-gates",
        f"`{ROUTER.format(0)}` of `gates` is float32 [3, 8], and `moe` needs [2, 8]: a vector for each expert",
    )


def test_without_the_library_the_extra_is_named(lab: Lab, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer(lab)
    text = moe('[{ model = "a", prompts = ["code"] }, { model = "b", prompts = ["song"] }]', '"prompts"', "")
    found = error(lab, text)
    assert (found.code, found.help) == ("no-tokenizers", "`pip install 'mergebuild[tokenizers]'`")


def test_a_base_without_a_tokenizer_and_tokens_beyond_its_rows_are_refused(
    lab: Lab, models: Models, tokenizers: None
) -> None:
    text = moe('[{ model = "a", prompts = ["code"] }, { model = "b", prompts = ["song"] }]', '"prompts"', "")
    assert error(lab, text).code == "no-tokenizer"
    tokenizer(lab, {**WORDS, "song": 20})
    found = error(lab, text)
    assert (found.code, found.message) == (
        "bad-prompts",
        "prompts of `moe` have the token 20, and the embedding only 20 rows",
    )


@pytest.mark.parametrize(
    ("prompts", "named"),
    [
        ('prompts = [""]', "have no token of the base's tokenizer"),
        ('prompts = ["code song"], negative_prompts = ["song", "code"]', "have the same tokens as its"),
    ],
)
def test_prompts_that_come_to_nothing_are_refused(
    lab: Lab, models: Models, tokenizers: None, prompts: str, named: str
) -> None:
    """A gate of zeros would choose its expert wherever the others are of no use."""
    tokenizer(lab, bos=None)
    found = error(lab, moe(f'[{{ model = "a", prompts = ["code"] }}, {{ model = "b", {prompts} }}]', '"prompts"', ""))
    assert found.code == "bad-prompts"
    assert f"the `prompts` of models[1] of `moe` {named}" in found.message


@examples(20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_steps_and_a_fresh_build_give_the_same(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any changes of experts, seeds and dtypes: on top of what was there, together with others, and fresh and alone."""
    lab, fresh = (Lab(tmp_path_factory.mktemp(name)) for name in ("lab", "fresh"))
    for each in (lab, fresh):
        for seed, name in enumerate(("base", "a", "b", "c")):
            expert_model(each, name, seed, layers=1)

    def drawn(name: str) -> str:
        experts = data.draw(st.lists(st.sampled_from(["base", "a", "b", "c"]), min_size=2, max_size=4), "experts")
        seed, dtype = data.draw(st.integers(0, 2), "seed"), data.draw(st.sampled_from(["source", "bfloat16"]), "dtype")
        return moe(json.dumps(experts), more=f'seed = {seed}\ndtype = "{dtype}"\n', name=name)

    for _ in range(2):
        text = drawn("moe")
        lab.write(text + drawn("other"))
        result = lab.build("other", "moe")
        assert result.ok
    fresh.write(text)
    fresh.build("moe")
    found = sorted(path.name for path in (lab / "moe").iterdir())
    assert found == sorted(path.name for path in (fresh / "moe").iterdir())
    assert all((lab / "moe" / name).read_bytes() == (fresh / "moe" / name).read_bytes() for name in found)
