"""What is extracted from a model of transformers, PEFT puts on that model: its modules are those that are in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from client_models import build
from peft import PeftModel
from safetensors.torch import load_file, save_file
from test_names_against_transformers import MAKERS
from transformers.pytorch_utils import Conv1D

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

_MERGEFILE = """
[sources]
base = "base/"
tuned = "tuned/"

[targets.adapter]
method = "extract_lora"
base = "base"
a = "tuned"
rank = 64
output = "adapter/"
"""


def _tuned(model: Any, seed: int) -> Any:
    """Return a model whose matrices are others."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not model.get_output_embeddings():
                module.weight.add_(0.02 * torch.randn(module.weight.shape, generator=noise))
    return model


def _without_prefix(folder: Path, prefix: str) -> None:
    """Store a model as its base model by itself was published."""
    path = folder / "model.safetensors"
    save_file({name.removeprefix(prefix): value for name, value in load_file(path).items()}, path, {"format": "pt"})


_PREFIXES = {"gpt2": "transformer.", "bloom": "transformer.", "opt": "model.", "bert": "bert.", "whisper": "model."}


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        *((name, False) for name in ("llama", "qwen2", "phi3", "gpt_neox", "t5", "roberta", "llava", "gemma3")),
        *((name, bare) for name in _PREFIXES for bare in (False, True)),
    ],
)
def test_peft_puts_it_on_the_model(tmp_path: Path, name: str, bare: bool) -> None:
    base, tuned = MAKERS[name](1), _tuned(MAKERS[name](1), 2)
    for folder, model in (("base", base), ("tuned", tuned)):
        model.save_pretrained(tmp_path / folder)
    if bare:
        for folder in ("base", "tuned"):
            _without_prefix(tmp_path / folder, _PREFIXES[name])
    build(tmp_path, _MERGEFILE)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    applied = PeftModel.from_pretrained(type(base).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    merged = applied.merge_and_unload().state_dict()
    right = tuned.state_dict()
    for key, value in right.items():
        torch.testing.assert_close(merged[key], value, rtol=0, atol=2e-4, msg=key)
