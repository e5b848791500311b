"""What is a LoRA, by the names of its tensors."""

from __future__ import annotations

import pytest
from lora_files import Stored, flux, joined, kohya, peft, real

from mergebuild.lora import is_lora, is_number, lacks_scale

PEFT = "base_model.model."


@pytest.mark.parametrize(
    "file",
    [
        kohya("lora_unet_x", 4, (4,)),
        peft("transformer.x", 4, 4),
        peft(f"{PEFT}x", 4, 4),
        {"lora_unet_x.diff": None, "lora_unet_x.diff_b": None},
        {"lora_unet_x.w_norm": None, "lora_unet_x.b_norm": None},
        {"x.hada_w1_a": None, "x.hada_w1_b": None, "x.hada_w2_a": None, "x.hada_w2_b": None, "x.alpha": None},
        {"x.lokr_w1": None, "x.lokr_w2": None},
        {"lora_unet_x.weight": None, "lora_unet_x.on_input": None},
        {f"{PEFT}x.ia3_l": None},
        {"lora_unet_x.oft_blocks": None},
        joined([peft("transformer.x", 4, 4), peft("transformer.y", 4, 4)]) | {"transformer.norm.weight": None},
        peft(f"{PEFT}x", 4, 4) | {f"{PEFT}norm{number}.weight": None for number in range(9)},
        joined([peft(f"{PEFT}wte", 4, 4)]) | {f"{PEFT}wte.base_layer.weight": None},
    ],
    ids=lambda file: next(iter(file)),
)  # fmt: skip
def test_loras_of_all_families(file: dict[str, Stored | None]) -> None:
    assert is_lora(file)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["model.layers.0.self_attn.q_proj.weight"],
        real("sd15"),
        flux(),
        [f"{PEFT}model.layers.0.self_attn.q_proj.weight"],
        [f"layers.0.q.{end}.weight" for end in ("base_layer", "lora_A.speech", "lora_B.speech", "lora_A.vision")],
        ["x.weight", "y.weight", "x.alpha", "double_blocks.0.img_attn.norm.key_norm.scale"],
        ["a.to_q_lora.up.weight", "a.to_q_lora.down.weight", *(f"b.{number}.weight" for number in range(5))],
    ],
    ids=["nothing", "llama", "sd15", "flux", "a wrapped model", "factors beside weights", "scales", "a few factors"],
)
def test_models(names: list[str]) -> None:
    """A model may hold the factors of adapters beside its weights."""
    assert not is_lora(names)


def test_a_bare_adapter_of_peft_does_not_say_its_scale() -> None:
    file = peft(f"{PEFT}x", 4, 4)
    assert lacks_scale(file)
    assert lacks_scale({f"{PEFT}x.lokr_w1": None, f"{PEFT}x.lokr_w2": None})
    assert not lacks_scale({**file, f"{PEFT}x.alpha": None})
    assert not lacks_scale({f"{PEFT}x.weight": None})
    assert not lacks_scale(kohya("lora_unet_x", 4, (4,)))


def test_numbers_that_are_no_weights() -> None:
    names = ["x.alpha", "x.scale", "x.on_input", "x.lora_up.weight", "x.weight", "x.dora_scale", "x"]
    assert [name for name in names if is_number(name)] == ["x.alpha", "x.scale", "x.on_input"]
