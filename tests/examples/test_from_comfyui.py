"""What docs/from-comfyui.md shows: each recipe imports as it says, builds, and is what a calculation by hand makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from comfy_patches import TEXT, UNET, lora_file
from model_files import read_model, write_model
from tiny_models import sd15
from torch import Tensor

from mergebuild.exchange.importing import import_recipes
from mergebuild.project.project import load

PAGE = (Path(__file__).parents[2] / "docs/from-comfyui.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"\n`([\w.]+)`:\n\n```\w+\n(.*?)```\n\n```toml\n(.*?)```", PAGE, re.DOTALL)

Tensors = Mapping[str, Tensor]

_MODULE = "middle_block.1.transformer_blocks.0.attn2.to_k"
_MODULES = {
    f"{UNET}{_MODULE}.weight": f"lora_unet_mid_block_attentions_0_{_MODULE[15:].replace('.', '_')}",
    f"{TEXT}transformer.text_model.encoder.layers.0.mlp.fc1.weight": "lora_te_text_model_encoder_layers_0_mlp_fc1",
}


def _lora(name: str, m: Mapping[str, Tensors]) -> Tensor:
    photo, anime = m["photo"][name], m["anime"][name]
    if name.startswith(UNET):
        return 0.7 * photo + 0.3 * (anime + 0.6 * m["ink"].get(name, 0.0))
    if name.startswith(TEXT):
        return 0.5 * photo + 0.5 * (anime + 0.4 * m["ink"].get(name, 0.0))
    return anime


def _blocks(name: str, m: Mapping[str, Tensors]) -> Tensor:
    inner = name.removeprefix(UNET)
    share = 0.0 if inner.startswith(("input", "time_embed")) else 0.5 if inner.startswith("middle") else 0.75
    return (1 - share) * m["photo"][name] + share * m["anime"][name]


def _difference(name: str, m: Mapping[str, Tensors]) -> Tensor:
    photo, anime, base = (m[each][name] for each in ("photo", "anime", "base"))
    return photo + 0.8 * (anime - base) if name.startswith(UNET) else photo


def _ties(name: str, m: Mapping[str, Tensors]) -> Tensor:
    base = m["base"][name]
    kept = []
    for each in ("photo", "anime"):
        delta = m[each][name].float() - base.float()
        order = delta.abs().flatten().argsort(descending=True, stable=True)
        mask = torch.zeros(delta.numel())
        mask[order[: int(0.4 * delta.numel())]] = 1
        kept.append(delta.double() * mask.reshape(delta.shape))
    signs = sum(torch.sign(each) for each in kept).sign()
    agree = [(torch.sign(each) == signs) & (signs != 0) for each in kept]
    count = sum(each.double() for each in agree)
    total = sum(each * mask for each, mask in zip(kept, agree, strict=True))
    return base + 0.9 * total / count.clamp(min=1)


def _mask(name: str, m: Mapping[str, Tensors]) -> Tensor:
    a, b, c = (m[each][name] for each in ("photo", "anime", "base"))
    near, far = (b - a).abs(), (b - c).abs()
    return a + 0.8 * 1.8 * torch.nan_to_num(near / (near + far)) * (b - c)


MADE: Mapping[str, Callable[[str, Mapping[str, Tensors]], Tensor]] = {
    "lora.json": _lora,
    "blocks.json": _blocks,
    "difference.json": _difference,
    "ties.mecha": _ties,
    "mask.mecha": _mask,
}


def test_all_recipes_of_the_page_are_tested() -> None:
    assert [file for file, _, _ in SHOWN] == list(MADE)


@pytest.mark.parametrize(("file", "text", "wanted"), SHOWN, ids=[each[0] for each in SHOWN])
def test_a_recipe_imports_as_the_page_says_and_builds(tmp_path: Path, file: str, text: str, wanted: str) -> None:
    (tmp_path / file).write_text(text)
    made = import_recipes([tmp_path / file], tmp_path)
    assert made.text == wanted
    assert made.unmapped == ()
    models = {name: sd15(seed, base=9) for seed, name in enumerate(("photo", "anime"), 1)} | {"base": sd15(9, base=9)}
    for name, tensors in models.items():
        write_model(tmp_path / f"{name}.safetensors", tensors)
    lora, differences = lora_file(_MODULES, models["anime"], 5)
    write_model(tmp_path / "ink.safetensors", lora)
    (tmp_path / "mergefile.toml").write_text(made.text)
    (result,) = [each for each in load(tmp_path / "mergefile.toml").build(()).targets if each.output]
    exact = {name: {key: each.double() for key, each in tensors.items()} for name, tensors in models.items()}
    for name, tensor in read_model(tmp_path / str(result.output)).items():
        if tensor.is_floating_point():
            expected = MADE[file](name, exact | {"ink": differences})
            step = torch.finfo(torch.float16).eps * expected.abs().clamp(min=2**-14)
            assert ((tensor.double() - expected).abs() <= step).all(), name
