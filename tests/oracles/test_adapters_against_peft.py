"""Adapters mean what peft takes them for: baked, copied and scaled, named as a folder and as a file.

What is right is what the trained model itself gives. Where low ranks are on one name of a tie, peft's own merge changes
both of it; so does ours, for an embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from client_models import build, llama, perturbed
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

RECIPE = """
[sources]
base = "base/"
adapter = "adapter/"
file = "adapter/adapter_model.safetensors"

[targets.baked]
method = "add_lora"
base = "base"
loras = ["adapter"]
output = "out/baked/"

[targets.from_file]
method = "add_lora"
base = "base"
loras = ["file"]
output = "out/from_file/"

[targets.virtual]
method = "copy"
a = "adapter"

[targets.chained]
method = "add_lora"
base = "base"
loras = ["virtual"]
output = "out/chained/"

[targets.copied]
method = "copy"
a = "adapter"
output = "out/copied/"

[targets.one_file]
method = "copy"
a = "adapter"
output = "out/one_file.safetensors"

[targets.through_a_file]
method = "add_lora"
base = "base"
loras = ["one_file"]
output = "out/through_a_file/"
"""
SCALED = """
[sources]
adapter = "adapter/"

[targets.scaled]
method = "scale"
a = "adapter"
alpha = 0.3
output = "out/scaled/"
"""

ATTENTION = ["q_proj", "v_proj"]
IDS = torch.arange(10)[None]

Make = Callable[[int], Any]


def tied(seed: int) -> Any:
    return llama(seed, tied=True)


def gpt2(seed: int) -> Any:
    """A model whose layers are stored the other way round, and whose head is its embedding."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, dtype="float32")
    return perturbed(GPT2LMHeadModel(config), seed)


def lora(*modules: str, **options: Any) -> LoraConfig:
    return LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": [*ATTENTION, *modules]} | options))


def of_gpt2(*modules: str, **options: Any) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=6, target_modules=["c_attn", "c_proj", *modules], fan_in_fan_out=True, **options)


def trained(folder: Path, make: Make, config: PeftConfig, words: int = 0) -> tuple[Any, Any]:
    """Save a model and an adapter for it; return the model that peft adapts, and the adapted one.

    `words`: how many the vocabulary has after some were added.
    """
    make(1).save_pretrained(folder / "base")
    start = make(1)
    noise = torch.Generator().manual_seed(3)
    if words:
        start.resize_token_embeddings(words, mean_resizing=False)
    model = get_peft_model(copy.deepcopy(start), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    model.eval().save_pretrained(folder / "adapter", save_embedding_layers=bool(words))
    return start, model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(IDS).logits
    return found


CASES: dict[str, tuple[Make, PeftConfig]] = {
    "plain": (llama, lora()),
    "rslora": (llama, lora(use_rslora=True)),
    "dora": (llama, lora(use_dora=True)),
    "patterns": (llama, lora(rank_pattern={"q_proj": 2}, alpha_pattern={r".*layers\.[0-1]\..*proj": 3})),
    "some layers": (llama, lora(layers_to_transform=[1])),
    "biases": (llama, lora(bias="lora_only")),
    "head": (llama, lora(modules_to_save=["lm_head"])),
    "head and embedding": (llama, lora(modules_to_save=["lm_head", "embed_tokens"])),
    "norms": (llama, lora(modules_to_save=["input_layernorm"])),
    "ranks on head and embedding": (llama, lora("embed_tokens", "lm_head")),
    "words": (llama, lora(trainable_token_indices=[3, 5])),
    "head of a tied model": (tied, lora(modules_to_save=["lm_head"])),
    "embedding of a tied model": (tied, lora(modules_to_save=["embed_tokens"])),
    "both of a tied model": (tied, lora(modules_to_save=["lm_head", "embed_tokens"])),
    "ranks on the head of a tied model": (tied, lora("lm_head")),
    "words of a tied model": (tied, lora(trainable_token_indices=[3, 5])),
    "gpt2": (gpt2, of_gpt2("c_fc")),
    "gpt2 dora": (gpt2, of_gpt2(use_dora=True)),
    "gpt2 head": (gpt2, of_gpt2(modules_to_save=["lm_head"])),
    "loha": (llama, LoHaConfig(r=4, alpha=6, target_modules=ATTENTION)),
    "lokr": (llama, LoKrConfig(r=4, alpha=6, target_modules=ATTENTION)),
    "ia3": (llama, IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
}


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_is_what_peft_takes_it_for(tmp_path: Path, case: str) -> None:
    make, config = CASES[case]
    start, model = trained(tmp_path, make, config)
    compare(tmp_path, start, logits(model))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (llama, {}),
        (llama, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        (llama, {"target_modules": [*ATTENTION, "embed_tokens", "lm_head"]}),
        (tied, {}),
    ],
    ids=str,
)
def test_words_that_were_added(tmp_path: Path, make: Make, options: dict[str, Any]) -> None:
    """The vocabulary of the base grows with the adapter's."""
    start, model = trained(tmp_path, make, lora(**options), words=308)
    compare(tmp_path, start, logits(model))
    assert AutoConfig.from_pretrained(tmp_path / "out" / "baked").vocab_size == 308


def compare(folder: Path, start: Any, wanted: Tensor) -> None:
    """Hold what we build against what the adapted model gives."""
    build(folder, RECIPE)
    for name in ("baked", "from_file", "chained", "through_a_file"):
        baked = AutoModelForCausalLM.from_pretrained(folder / "out" / name, local_files_only=True)
        torch.testing.assert_close(
            logits(baked), wanted, rtol=1e-5, atol=1e-5, msg=lambda text, of=name: f"{of}: {text}"
        )
    saved = PeftModel.from_pretrained(copy.deepcopy(start), str(folder / "adapter")).state_dict()
    again = PeftModel.from_pretrained(start, str(folder / "out" / "copied"))
    copied = again.state_dict()
    assert copied.keys() == saved.keys()
    assert [name for name, tensor in copied.items() if not torch.equal(tensor, saved[name])] == []
    # some processors add up in an order that depends on where in memory the weights are
    torch.testing.assert_close(logits(again), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ["plain", "rslora", "patterns", "gpt2", "loha", "lokr"])
def test_a_scaled_adapter_adds_so_many_times_as_much(tmp_path: Path, case: str) -> None:
    make, config = CASES[case]
    start, model = trained(tmp_path, make, config)
    build(tmp_path, SCALED)
    before = start.state_dict()
    whole = model.merge_and_unload().state_dict()
    scaled = PeftModel.from_pretrained(copy.deepcopy(start), str(tmp_path / "out" / "scaled")).merge_and_unload()
    for name, each in scaled.state_dict().items():
        torch.testing.assert_close(each, before[name] + 0.3 * (whole[name] - before[name]), rtol=1e-5, atol=1e-6)
