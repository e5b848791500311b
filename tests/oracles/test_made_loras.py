"""LoRAs that we make do in peft and diffusers what they do in our own bake, and what their makers' formulas say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from client_models import build, llama, sd15, sdxl
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

EXTRACT = """
[sources]
base = "base/"
tuned = "tuned/"

[targets.lora]
method = "extract_lora"
base = "base"
a = "tuned"
rank = {rank}
output = "{output}"
{keys}

[targets.baked]
method = "add_lora"
base = "base"
loras = ["lora"]
output = "baked/"
"""


def extract(folder: Path, output: str, rank: str, *keys: str) -> None:
    build(folder, EXTRACT.format(output=output, rank=rank, keys="\n".join(keys)))


def assert_same(ours: Any, theirs: Any, before: Any, *, moved: int) -> None:
    """Hold all parameters to be those of another module, at least so many of them being new."""
    expected, old = theirs.state_dict(), before.state_dict()
    count = 0
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=2e-6, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        count += not torch.equal(expected[name], old[name])
    assert count >= moved


@pytest.mark.parametrize("rank", ["4", "1000", "{ default = 4, L01 = 2, head = 0 }"])
def test_peft_loads_what_we_extract(tmp_path: Path, rank: str) -> None:
    base, tuned = llama(1), llama(2)
    base.save_pretrained(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "tuned")
    extract(tmp_path, "lora/", rank)
    model = PeftModel.from_pretrained(llama(1), str(tmp_path / "lora"))
    merged = model.merge_and_unload()
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked", local_files_only=True)
    assert_same(baked, merged, base, moved=21)
    if rank == "1000":
        for name, tensor in merged.state_dict().items():
            if tensor.dim() == 2 and "embed" not in name:
                torch.testing.assert_close(tensor, tuned.state_dict()[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("make", "keys"), [(sd15, ()), (sd15, ("conv_rank = 3",)), (sdxl, ()), (sdxl, ("conv_rank = 3",))]
)
def test_diffusers_loads_what_we_extract(tmp_path: Path, make: Any, keys: tuple[str, ...]) -> None:
    base, tuned = (make(seed, tmp_path / "words") for seed in (1, 2))
    base.save_pretrained(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "tuned")
    extract(tmp_path, "lora.safetensors", "4", *keys)
    found = make(1, tmp_path / "words")
    found.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    parts = ["unet", "text_encoder", *(["text_encoder_2"] if make is sdxl else [])]
    found.fuse_lora(components=parts)
    found.unload_lora_weights()
    ours = type(base).from_pretrained(tmp_path / "baked", local_files_only=True)
    for name in parts:
        mine, theirs = getattr(ours, name), getattr(found, name)
        assert_same(mine, theirs, getattr(base, name), moved=60 if name == "unet" else 18)


MERGE = """
[sources]
one = "one/"
two = "two/"

[targets.m]
method = "merge_loras"
loras = ["one", "two"]
strength = [0.7, -0.4]
output = "{output}"
{keys}
"""


@pytest.mark.parametrize(("keys", "kind"), [("", "cat"), ("rank = 5", "svd")])
def test_adapters_are_put_together_as_peft_does(tmp_path: Path, keys: str, kind: str) -> None:
    """Compared by what they add: the factors of a decomposition may differ in sign."""
    both = (
        {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "up_proj"]},
        {"r": 3, "lora_alpha": 3, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "up_proj"]},
    )
    for name, options, seed in (("one", both[0], 3), ("two", both[1], 4)):
        model = get_peft_model(llama(1), LoraConfig(**options))
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for each, parameter in model.named_parameters():
                if "lora_" in each:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
        model.save_pretrained(tmp_path / name)
    build(tmp_path, MERGE.format(output="m/", keys=keys))
    model = PeftModel.from_pretrained(llama(1), str(tmp_path / "one"), adapter_name="one")
    model.load_adapter(str(tmp_path / "two"), adapter_name="two")
    more = {"svd_rank": 5} if kind == "svd" else {}
    model.add_weighted_adapter(["one", "two"], [0.7, -0.4], "both", combination_type=kind, **more)
    model.set_adapter("both")
    for name in ("one", "two"):
        model.delete_adapter(name)
    theirs = model.merge_and_unload()
    ours = PeftModel.from_pretrained(llama(1), str(tmp_path / "m")).merge_and_unload()
    assert_same(ours, theirs, llama(1), moved=9)


def test_what_we_write_is_complete(tmp_path: Path) -> None:
    """PEFT finds each of its tensors, and makes up none: those that it makes up would train from chance."""
    base, tuned = llama(1), llama(2)
    base.save_pretrained(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "tuned")
    extract(tmp_path, "lora/", "{ default = 4, L01 = 0 }")
    model = PeftModel.from_pretrained(llama(1), str(tmp_path / "lora"))
    names = {name.replace(".default", "") for name, _ in model.named_parameters() if "lora_" in name}
    assert names == set(load_file(tmp_path / "lora" / "adapter_model.safetensors"))
    model.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    for name, tensor in load_file(tmp_path / "lora" / "adapter_model.safetensors").items():
        assert torch.equal(again[name], tensor)
