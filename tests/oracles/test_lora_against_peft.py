"""What PEFT merges into the weights of small modules, against the base and our delta.

PEFT computes in float32 and in its own order, so equality is to a few roundings of float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import peft
import pytest
import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mergebuild.errors import SourceError
from mergebuild.lora import match, needs
from mergebuild.methods.kernels.lora import delta

WORDS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Stored(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


class Small(nn.Module):
    """One module of each kind that PEFT adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 20)
        self.square = nn.Linear(16, 16, bias=False)
        self.conv = nn.Conv2d(8, 12, 3)
        self.point = nn.Conv2d(12, 8, 1)
        self.turned = Conv1D(18, 10)
        self.turned_square = Conv1D(14, 14)
        self.words = nn.Embedding(30, 10)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x


PLAIN = ["linear", "square"]
CONVOLUTIONS = ["conv", "point"]
TURNED = ["turned", "turned_square"]
EVERY = [*PLAIN, *CONVOLUTIONS]

CASES: Mapping[str, Any] = {
    "lora": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=EVERY),
    "lora with an alpha and a rank for some": lambda: LoraConfig(
        r=4, lora_alpha=6, target_modules=EVERY, rank_pattern={"conv": 2, "^linear": 3}, alpha_pattern={r"squ\w{3}": 5}
    ),
    "rslora": lambda: LoraConfig(r=3, lora_alpha=5, target_modules=EVERY, use_rslora=True),
    "dora": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=EVERY, use_dora=True),
    "dora with rslora": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=PLAIN, use_dora=True, use_rslora=True),
    "conv1d": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=TURNED, fan_in_fan_out=True),
    "conv1d with dora": lambda: LoraConfig(
        r=4, lora_alpha=6, target_modules=TURNED, fan_in_fan_out=True, use_dora=True
    ),
    "conv1d beside linear": lambda: LoraConfig(
        r=4, lora_alpha=6, target_modules=["linear", "turned"], fan_in_fan_out=True
    ),
    "embedding": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=["words"]),
    "embedding with dora": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=["words"], use_dora=True),
    "bias of the second factor": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=["linear"], lora_bias=True),
    "biases": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=PLAIN, bias="all"),
    "modules to save": lambda: LoraConfig(r=4, target_modules=PLAIN, modules_to_save=["head", "norm"]),
    "loha": lambda: LoHaConfig(r=3, alpha=5, target_modules=EVERY),
    "loha with a core": lambda: LoHaConfig(r=3, alpha=5, target_modules=EVERY, use_effective_conv2d=True),
    "lokr": lambda: LoKrConfig(r=2, alpha=5, target_modules=EVERY),
    "lokr with both factored": lambda: LoKrConfig(r=1, alpha=5, target_modules=EVERY, decompose_both=True),
    "lokr with neither factored": lambda: LoKrConfig(r=30, alpha=5, target_modules=EVERY),
    "lokr with a core": lambda: LoKrConfig(
        r=1, alpha=5, target_modules=EVERY, use_effective_conv2d=True, decompose_both=True
    ),
    "lokr with a rank for some": lambda: LoKrConfig(
        r=30, alpha=5, target_modules=EVERY, rank_pattern={"conv": 20}, alpha_pattern={"conv": 7}
    ),
    "ia3": lambda: IA3Config(target_modules=EVERY, feedforward_modules=["square", "point"]),
    "ia3 of conv1d": lambda: IA3Config(target_modules=TURNED, feedforward_modules=["turned"], fan_in_fan_out=True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", list(WORDS), ids=str)
@pytest.mark.parametrize("name", CASES)
def test_peft_merges_the_same(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    base = Small()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    config = CASES[name]()
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for each in model.parameters():
            if each.requires_grad:
                each.copy_((each + torch.randn(each.shape) * 0.3).to(dtype))
    adapter = {key: value.to(dtype) for key, value in peft.get_peft_model_state_dict(model).items()}
    settings = json.loads(json.dumps(config.to_dict(), default=sorted))
    merged = model.merge_and_unload().state_dict()

    found = match(
        {key: Stored(WORDS[value.dtype], tuple(value.shape)) for key, value in adapter.items()},
        {key: tuple(value.shape) for key, value in before.items()},
        settings,
    )

    assert not found.unmatched
    changed = {key for key in before if not torch.equal(before[key], merged[key])}
    assert set(found.deltas) >= changed
    for key, wanted in merged.items():
        ours = before[key].clone()
        for each in found.deltas.get(key, ()):
            factors = {role: adapter[tensor] for role, tensor in each.factors}
            facts = dict(each.facts)
            weight = before[key] if needs(each.family, facts) != "nothing" else None
            ours += delta(each.family, factors, facts, before[key].shape, weight)
        torch.testing.assert_close(ours, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("begun", ["pissa", "olora"])
def test_what_changes_the_base_first_is_refused(begun: str) -> None:
    settings = LoraConfig(r=2, target_modules=["linear"], init_lora_weights=begun).to_dict()
    with pytest.raises(SourceError, match=begun):
        match({}, {}, json.loads(json.dumps(settings, default=sorted)))
