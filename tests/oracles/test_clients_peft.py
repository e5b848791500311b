"""An adapter that we bake gives the numbers of peft's own merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from client_models import build, llama
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

BAKE = """
[sources]
llama = "llama/"
adapter = "adapter/"

[targets.baked]
method = "add_lora"
base = "llama"
loras = ["adapter"]
strength = {strength}
output = "out/baked/"
"""

ATTENTION = ["q_proj", "v_proj"]


def adapted(folder: Path, **options: Any) -> tuple[Any, Any]:
    """Save a llama and an adapter for it, and return both as peft sees them."""
    base = llama(1)
    base.save_pretrained(folder / "llama")
    config = LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": ATTENTION} | options))
    model = get_peft_model(llama(1), config)
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(folder / "adapter")
    return base, model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": "all-linear"},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": [*ATTENTION, "embed_tokens"]},
    ],
    ids=str,
)
def test_a_baked_adapter_is_that_of_peft(tmp_path: Path, options: dict[str, Any]) -> None:
    base, model = adapted(tmp_path, **options)
    build(tmp_path, BAKE.format(strength=1))
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "baked", local_files_only=True)
    merged = model.merge_and_unload()
    before = base.state_dict()
    theirs = merged.state_dict()
    moved = 0
    for name, tensor in baked.state_dict().items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=2e-6, atol=2e-7, msg=lambda text, name=name: f"{name}: {text}"
        )
        moved += not torch.equal(tensor, before[name])
    assert moved >= 6
    ids = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(baked(ids).logits, merged(ids).logits, rtol=1e-5, atol=1e-5)


def test_strength_scales_the_adapter(tmp_path: Path) -> None:
    _, model = adapted(tmp_path)
    build(tmp_path, BAKE.format(strength=0.5))
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "baked", local_files_only=True)
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(0.5)
    merged = model.merge_and_unload().state_dict()
    for name, tensor in baked.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], rtol=2e-6, atol=2e-7)


def test_peft_applies_an_adapter_to_what_we_built(tmp_path: Path) -> None:
    """Nothing but the weights differs: baked twice, and applied by peft to a baked model, is the same."""
    _, model = adapted(tmp_path)
    build(tmp_path, BAKE.format(strength=1))
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "baked", local_files_only=True)
    twice = PeftModel.from_pretrained(baked, str(tmp_path / "adapter")).merge_and_unload()
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(2)
    merged = model.merge_and_unload().state_dict()
    for name, tensor in twice.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-5, atol=1e-6)
