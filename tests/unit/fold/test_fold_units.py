"""LoRAs are extracted for the modules of a client, which may be several parameters, or the transpose of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
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
    told = next(each for each in lab.project.plan().targets if each.target == "adapter").notices
    (notice,) = told
    assert "6 parameters lie in stacks" in notice
    assert "experts" in notice


def _ties(*tensors: Tensor) -> Tensor:
    """Return the sum of task vectors of a base and others, each trimmed to half of its elements, by sign."""
    base, *others = (each.double() for each in tensors)
    deltas = []
    for other in others:
        delta = other - base
        kept = delta.abs().flatten().topk(delta.numel() // 2).indices
        mask = torch.zeros(delta.numel(), dtype=torch.bool).index_fill(0, kept, True).view_as(delta)
        deltas.append(delta * mask)
    stacked = torch.stack(deltas)
    sign = stacked.sum(0).sign()
    agreeing = stacked * (stacked.sign() == sign)
    return base + agreeing.sum(0) / agreeing.ne(0).sum(0).clamp(min=1)


def _models(tmp_path: Path, spelled: str) -> tuple[Lab, list[dict[str, Tensor]]]:
    """Write a base and two models, those that `spelled` has an F for with one tensor for three; return all split."""
    lab, models = Lab(tmp_path), []
    at = "model.layers.0.self_attn."
    for number, name in enumerate(("base", "one", "two")):
        torch.manual_seed(number)
        parts = [torch.randn(8, 6) * 3, torch.randn(4, 6), torch.randn(4, 6) / 3]
        out = torch.randn(6, 8)
        models.append({f"{at}{part}_proj.weight": value for part, value in zip("qkvo", (*parts, out), strict=True)})
        fused = {f"{at}qkv_proj.weight": torch.cat(parts), f"{at}o_proj.weight": out}
        (lab / name).mkdir()
        save_file(fused if spelled[number] == "F" else models[-1], lab / name / "model.safetensors")
        (lab / name / "config.json").write_text('{"model_type": "phi3"}')
        lab.sources[name] = f"{name}/"
    return lab, models


_TIES = """
[targets.merged]
method = "ties"
base = "base"
models = ["one", "two"]
weight = [1.0, 1.0]
density = 0.5
output = "out/"
"""


@pytest.mark.parametrize("spelled", ["FFF", "FSF", "FSS", "SSS", "SFF", "SFS"])
def test_the_unit_of_a_statistic_is_the_tensor_as_the_first_input_stores_it(tmp_path: Path, spelled: str) -> None:
    lab, models = _models(tmp_path, spelled)
    lab.write(_TIES)
    assert lab.verdicts() == {"merged": "built"}
    found = load_file(lab / "out/model.safetensors")
    at = "model.layers.0.self_attn."
    names = [f"{at}{part}_proj.weight" for part in "qkv"]
    if spelled[0] == "F":
        whole = _ties(*(torch.cat([model[name] for name in names]) for model in models))
        torch.testing.assert_close(found[f"{at}qkv_proj.weight"].double(), whole, rtol=0, atol=1e-5)
    else:
        for name in names:
            torch.testing.assert_close(
                found[name].double(), _ties(*(model[name] for model in models)), rtol=0, atol=1e-5
            )
    assert len(found) == (2 if spelled[0] == "F" else 4)
    assert lab.verdicts() == {"merged": "up-to-date"}


def test_what_was_made_of_whole_tensors_merges_with_those_that_are_split(tmp_path: Path) -> None:
    lab, models = _models(tmp_path, "FSS")
    lab.write(
        _TIES.replace('output = "out/"\n', "")
        + '[targets.half]\nmethod = "weighted_sum"\na = "merged"\nb = "one"\nalpha = 0.5\noutput = "half/"\n'
    )
    assert lab.verdicts("half") == {"half": "built"}
    at = "model.layers.0.self_attn."
    whole = [torch.cat([model[f"{at}{part}_proj.weight"] for part in "qkv"]) for model in models]
    right = (_ties(*whole) + whole[1].double()) / 2
    found = load_file(lab / "half/model.safetensors")
    torch.testing.assert_close(found[f"{at}qkv_proj.weight"].double(), right, rtol=0, atol=1e-5)


def test_numbers_of_what_is_taken_whole_are_given_by_the_name_that_it_has(tmp_path: Path) -> None:
    lab, models = _models(tmp_path, "FSS")
    numbers = 'weight = [{ default = 1.0, "*.qkv_proj.*" = 0.0 }, { default = 1.0, "attn" = 0.0 }]'
    lab.write(_TIES.replace("weight = [1.0, 1.0]", numbers))
    assert lab.verdicts() == {"merged": "built"}
    at = "model.layers.0.self_attn."
    found = load_file(lab / "out/model.safetensors")
    fused = torch.cat([models[0][f"{at}{part}_proj.weight"] for part in "qkv"])
    torch.testing.assert_close(found[f"{at}qkv_proj.weight"], fused, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["weighted_sum", "ties"])
def test_every_order_and_spelling_of_linear_methods_is_one_artifact(tmp_path: Path, method: str) -> None:
    """Of others it is so where the first input is spelled alike."""
    artifacts = set()
    for spelled in ("SSS", "SFF", "SFS") + (("FFF", "FSF") if method == "weighted_sum" else ()):
        folder = tmp_path / spelled
        folder.mkdir()
        lab, _ = _models(folder, spelled)
        sums = '[targets.merged]\nmethod = "weighted_sum"\na = "base"\nb = "one"\nalpha = 0.25\noutput = "out/"\n'
        lab.write(_TIES if method == "ties" else sums)
        (found,) = lab.build().targets
        artifacts.add(found.artifact)
    assert len(artifacts) == 1
