"""Models that hold several parameters in one tensor merge with those that do not, and are written as the first is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from lab import Lab
from safetensors.torch import load_file, save_file
from torch import Tensor

_CONFIG = {"num_hidden_layers": 1, "vocab_size": 7, "hidden_size": 6, "num_attention_heads": 4}
_LAYER = "model.layers.0."


def _single(seed: int, experts: int) -> dict[str, Tensor]:
    """Return a layer with every parameter by itself."""
    torch.manual_seed(seed)
    shapes = {"self_attn.q_proj": (8, 6), "self_attn.k_proj": (4, 6), "self_attn.v_proj": (4, 6),
              "self_attn.o_proj": (6, 8), "mlp.gate": (max(experts, 1), 6)}  # fmt: skip
    for number in range(experts):
        at = f"mlp.experts.{number}."
        shapes |= {f"{at}gate_proj": (5, 6), f"{at}up_proj": (5, 6), f"{at}down_proj": (6, 5)}
    return {f"{_LAYER}{name}.weight": torch.randn(shape) for name, shape in shapes.items()}


def _qkv(model: Mapping[str, Tensor]) -> list[Tensor]:
    return [model[f"{_LAYER}self_attn.{each}_proj.weight"] for each in "qkv"]


def _in_order(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {
        name: value
        for name, value in model.items()
        if not name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    }
    return found | {f"{_LAYER}self_attn.qkv_proj.weight": torch.cat(_qkv(model))}


def _in_groups(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rows = torch.cat([each.reshape(2, -1, 6) for each in _qkv(model)], 1).reshape(-1, 6)
    out, gate = model[f"{_LAYER}self_attn.o_proj.weight"], f"{_LAYER}mlp.gate.weight"
    return {f"{_LAYER}attention.wqkv.weight": rows, f"{_LAYER}attention.wo.weight": out, gate: model[gate]}


def _stacked(model: Mapping[str, Tensor], *, turned: bool = False, by_turns: bool = False) -> dict[str, Tensor]:
    at = f"{_LAYER}mlp.experts."
    gate, up, down = (
        [model[f"{at}{number}.{word}_proj.weight"] for number in range(3)] for word in ("gate", "up", "down")
    )
    both = [torch.stack(pair, 1).reshape(10, 6) if by_turns else torch.cat(pair) for pair in zip(gate, up, strict=True)]
    stacks = {f"{at}gate_up_proj": torch.stack(both), f"{at}down_proj": torch.stack(down)}
    if turned:
        stacks = {name: value.transpose(1, 2).contiguous() for name, value in stacks.items()}
    if by_turns:
        stacks[f"{at}gate_up_proj_bias"] = torch.arange(30.0).reshape(3, 10)
    return {name: value for name, value in model.items() if ".experts." not in name} | stacks


def _gpt_oss(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _stacked(model, turned=True, by_turns=True)


@pytest.mark.parametrize(
    ("spell", "experts", "model_type"),
    [
        (_in_order, 0, "phi3"),
        (_in_groups, 0, "internlm2"),
        (_stacked, 3, "qwen3_moe"),
        (lambda model: _stacked(model, turned=True), 3, "qwen3_vl_moe"),
        (_gpt_oss, 3, "gpt_oss"),
    ],
)
@pytest.mark.parametrize("method", ["weighted_sum", "copy"])
def test_each_order_of_inputs_is_written_as_the_first_input_is(
    tmp_path: Path,
    spell: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    experts: int,
    model_type: str,
    method: str,
) -> None:
    lab = Lab(tmp_path)
    one, other = _single(1, experts), _single(2, experts)
    extra = {name: value for name, value in spell(other).items() if name.endswith("_bias")}
    for name, tensors in (("a", spell(one)), ("b", other)):
        (lab / name).mkdir()
        save_file(tensors, lab / name / "model.safetensors")
        (lab / name / "config.json").write_text(json.dumps({**_CONFIG, "model_type": model_type}))
    numbers = "" if method == "copy" else 'alpha = 0.5\nb = "{}"\n'
    lab.sources = {"a": "a/", "b": "b/"}
    lab.write(
        "".join(
            f'[targets.{name}]\nmethod = "{method}"\na = "{first}"\noutput = "{name}/"\n' + numbers.format(second)
            for name, first, second in (("ab", "a", "b"), ("ba", "b", "a"))
        )
    )
    assert set(lab.verdicts().values()) == {"built"}
    half = {name: (one[name] + other[name]) / 2 for name in one}
    right = (
        {"ab": spell(half) | extra, "ba": half} if method == "weighted_sum" else {"ab": spell(one) | extra, "ba": other}
    )
    for name, wanted in right.items():
        found = load_file(lab / name / "model.safetensors")
        assert found.keys() == wanted.keys()
        for tensor, value in wanted.items():
            torch.testing.assert_close(found[tensor], value, rtol=0, atol=1e-6)
    assert set(lab.verdicts().values()) == {"up-to-date"}
