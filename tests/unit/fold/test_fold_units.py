"""LoRAs are extracted for the modules of a client, which may be several parameters, or the transpose of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from lab import Lab
from safetensors.torch import load_file, save_file
from torch import Tensor

_PEFT = "base_model.model."
_MERGEFILE = """
[targets.adapter]
method = "extract_lora"
base = "base"
a = "tuned"
rank = 32
output = "adapter/"

[targets.baked]
method = "add_lora"
base = "base"
loras = ["adapter"]
output = "baked/"
"""


def _extracted(tmp_path: Path, base: Mapping[str, Tensor], **config: object) -> tuple[Lab, dict[str, Tensor]]:
    """Extract what moved the matrices of a model, and add it again; return what was moved."""
    lab = Lab(tmp_path)
    torch.manual_seed(1)
    tuned = {name: value + 0.1 * torch.randn(value.shape) if value.ndim > 1 else value for name, value in base.items()}
    for name, tensors in (("base", dict(base)), ("tuned", tuned)):
        (lab / name).mkdir()
        save_file(tensors, lab / name / "model.safetensors")
        (lab / name / "config.json").write_text(json.dumps(config))
        lab.sources[name] = f"{name}/"
    lab.write(_MERGEFILE)
    return lab, tuned


def _assert_baked(lab: Lab, tuned: Mapping[str, Tensor], *left: str) -> set[str]:
    """Build, hold the result to be the tuned model but for what is left, and return the modules of the adapter."""
    assert set(lab.verdicts().values()) == {"built"}
    baked, base = load_file(lab / "baked/model.safetensors"), load_file(lab / "base/model.safetensors")
    for name, value in tuned.items():
        right = base[name] if name in left else value
        torch.testing.assert_close(baked[name], right, rtol=0, atol=1e-5, msg=name)
    names = load_file(lab / "adapter/adapter_model.safetensors")
    return {name.removeprefix(_PEFT).partition(".lora_")[0] for name in names}


def test_what_a_client_has_in_one_module_is_one(tmp_path: Path) -> None:
    layer = "model.layers.0."
    base = {
        f"{layer}self_attn.qkv_proj.weight": torch.randn(16, 6),
        f"{layer}self_attn.o_proj.weight": torch.randn(6, 8),
        f"{layer}mlp.gate_up_proj.weight": torch.randn(10, 6),
    }
    lab, tuned = _extracted(tmp_path, base, model_type="phi3", architectures=["Phi3ForCausalLM"])
    assert _assert_baked(lab, tuned) == {name.removesuffix(".weight") for name in base}


def test_heads_in_groups_are_one_module(tmp_path: Path) -> None:
    layer = "model.layers.0."
    base = {f"{layer}attention.wqkv.weight": torch.randn(16, 6), f"{layer}attention.wo.weight": torch.randn(6, 8)}
    lab, tuned = _extracted(tmp_path, base, model_type="internlm2", num_attention_heads=4)
    assert _assert_baked(lab, tuned) == {f"{layer}attention.wqkv", f"{layer}attention.wo"}


def test_matrices_of_gpt2_are_transposed_in_modules(tmp_path: Path) -> None:
    base = {"h.0.attn.c_attn.weight": torch.randn(6, 18), "h.0.attn.c_proj.weight": torch.randn(6, 6)}
    lab, tuned = _extracted(tmp_path, base, model_type="gpt2", architectures=["GPT2LMHeadModel"])
    assert _assert_baked(lab, tuned) == {f"transformer.h.0.attn.{name}" for name in ("c_attn", "c_proj")}
    assert json.loads((lab / "adapter/adapter_config.json").read_text())["fan_in_fan_out"] is True
    adapter = load_file(lab / "adapter/adapter_model.safetensors")
    assert adapter[f"{_PEFT}transformer.h.0.attn.c_attn.lora_A.weight"].shape == (6, 6)


def test_stacks_are_no_modules_and_named(tmp_path: Path) -> None:
    layer = "model.layers.0."
    stacks = {
        f"{layer}mlp.experts.gate_up_proj": torch.randn(2, 10, 6), f"{layer}mlp.experts.down_proj": torch.randn(2, 6, 5)
    }  # fmt: skip
    base = {f"{layer}self_attn.q_proj.weight": torch.randn(8, 6), **stacks}
    lab, tuned = _extracted(tmp_path, base, model_type="qwen3_moe")
    assert _assert_baked(lab, tuned, *stacks) == {f"{layer}self_attn.q_proj"}
    (notice,) = next(each for each in lab.project.plan().targets if each.target == "adapter").notices
    assert "6 parameters lie in stacks" in notice
    assert "experts" in notice
