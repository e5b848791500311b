"""Stacks of experts against mergekit's own: what transformers makes of both folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from mergebuild.project.project import load

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

TEXTS = ["write code that adds numbers", "tell a story of a fox", "sing a song about rain", "prove that it is so"]
EXPERTS: list[dict[str, Any]] = [
    {"source_model": "a", "positive_prompts": [TEXTS[0], "code"], "negative_prompts": [TEXTS[1]]},
    {"source_model": "b", "positive_prompts": [TEXTS[1]]},
    {"source_model": "base", "positive_prompts": TEXTS[2:], "negative_prompts": ["code", TEXTS[0]]},
]


@pytest.fixture(params=["llama", "mistral"])
def models_of(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three models of one architecture, with random weights, and the tokenizer of the base."""
    sizes = {
        "vocab_size": 200, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        if request.param == "llama":
            model: Any = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
        else:
            model = MistralForCausalLM(MistralConfig(**sizes, sliding_window=8))
        model.to(torch.float32).save_pretrained(tmp_path / name)
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"]))
    PreTrainedTokenizerFast(
        tokenizer_object=trained, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(tmp_path / "base")
    return tmp_path


def by_mergekit(root: Path, gate: str) -> Any:
    """Return the model that mergekit makes."""
    from mergekit.merge import MergeOptions  # its imports warn
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.scripts.moe import build

    experts = [{**each, "source_model": str(root / each["source_model"])} for each in EXPERTS]
    text = {"base_model": str(root / "base"), "gate_mode": gate, "dtype": "float32", "experts": experts}
    config = MoEMergeConfig.model_validate(text)
    build(config, str(root / "theirs"), MergeOptions(), allow_all_same=True)
    return loaded(root / "theirs")


def by_us(root: Path, gate: str, more: str = "") -> Any:
    """Return the model that we make."""
    items = [
        f'{{ model = "{each["source_model"]}", prompts = {json.dumps(each["positive_prompts"])}'
        + (f", negative_prompts = {json.dumps(each['negative_prompts'])}" if "negative_prompts" in each else "")
        + " }"
        for each in EXPERTS
    ]
    (root / "mergefile.toml").write_text(
        '[sources]\nbase = "base/"\na = "a/"\nb = "b/"\ngates = "theirs/"\n'
        f'[targets.moe]\nmethod = "moe"\nbase = "base"\nmodels = [{", ".join(items)}]\ngate = {gate}\n{more}'
        'dtype = "float32"\noutput = "ours/"\n'
    )
    result = load(root / "mergefile.toml").build(["moe"])
    assert result.ok
    return loaded(root / "ours")


def loaded(folder: Path) -> Any:
    """Return a model as transformers loads it; nothing of it may be missing, or left over."""
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    tokens = torch.arange(40).view(2, 20) * 3 % 200
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


def routers(model: Any) -> dict[str, torch.Tensor]:
    return {name: each for name, each in model.state_dict().items() if name.endswith("mlp.gate.weight")}


def test_gates_of_prompts_are_those_of_cheap_embeddings(models_of: Path) -> None:
    """The last bits may differ: sums of float32 there, of float64 here."""
    theirs, ours = by_mergekit(models_of, "cheap_embed"), by_us(models_of, '"prompts"')
    assert ours.config.architectures == ["MixtralForCausalLM"]
    for key in ("num_local_experts", "num_experts_per_tok", "rms_norm_eps", "num_key_value_heads", "rope_parameters"):
        assert getattr(ours.config, key) == getattr(theirs.config, key), key
    assert routers(ours).keys() == routers(theirs).keys() != set()
    for name, gate in routers(theirs).items():
        torch.testing.assert_close(routers(ours)[name], gate, rtol=0, atol=2e-7)
    rest = {name for name in theirs.state_dict() if name not in routers(theirs)}
    assert all(torch.equal(ours.state_dict()[name], theirs.state_dict()[name]) for name in rest)
    if ours.config.sliding_window is not None:  # mergekit drops the window of the base, which we keep
        assert ours.config.sliding_window == 8
        ours.config.sliding_window = None
        ours.save_pretrained(models_of / "open")
        ours = loaded(models_of / "open")
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-5)


def test_random_gates_have_the_same_form(models_of: Path) -> None:
    theirs, ours = by_mergekit(models_of, "random"), by_us(models_of, '"random"', "seed = 1\n")
    shapes = {name: each.shape for name, each in theirs.state_dict().items()}
    assert {name: each.shape for name, each in ours.state_dict().items()} == shapes
    drawn = torch.cat([each.flatten() for each in routers(ours).values()])
    assert abs(drawn.mean().item()) < 0.2
    assert abs(drawn.std().item() - 1) < 0.2
    assert logits(ours).isfinite().all()


def test_gates_of_a_source_are_its_own(models_of: Path) -> None:
    """With mergekit's gates the logits are mergekit's."""
    theirs = by_mergekit(models_of, "random")
    ours = by_us(models_of, '{ model = "gates" }', 'architectures = "allow"\n')
    for name, gate in routers(theirs).items():
        assert torch.equal(routers(ours)[name], gate)
