"""What would explain that two files have few names in common."""

from __future__ import annotations

import pytest

from mergebuild.naming.canonical import is_first_layer
from mergebuild.naming.difference import explained

LAYERS = [f"layers.{number}.{each}.weight" for number in range(4) for each in ("attn.q_proj", "attn.k_proj", "mlp.up")]


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (
            LAYERS,
            [f"net.{name}" for name in LAYERS],
            "names begin with nothing in the one and with `net.` in the other",
        ),
        (
            [f"a.b.{name}" for name in LAYERS],
            [f"c.{name}" for name in LAYERS],
            "names begin with `a.b.` in the one and with `c.` in the other",
        ),
        (
            ["m.experts.gate_up_proj", "m.experts.down_proj"],
            ["m.experts.0.w1.weight", "m.experts.1.w1.weight"],
            "the first has experts stacked in one tensor, the second has them one by one",
        ),
        (
            LAYERS,
            ["h.0.attn.qkv.weight", "h.1.attn.qkv.weight"],
            "the second has queries, keys and values fused in one tensor, the first has them apart",
        ),
        (["a.gate_proj.weight"], ["a.gate_up_proj.weight"], "the second has gate and up fused in one tensor"),
        (LAYERS, ["x.weight"], ""),
        ([], LAYERS, ""),
    ],
)
def test_a_known_difference_is_told(ours: list[str], theirs: list[str], told: str) -> None:
    assert explained(ours, theirs).startswith(told)
    assert bool(explained(ours, theirs)) == bool(told)


def test_a_prefix_that_few_names_have_explains_nothing() -> None:
    others = [f"x.{number}.odd" for number in range(20)]
    renamed = [f"net.{name}" for name in LAYERS[:3]]
    assert explained([*LAYERS, *others], [*renamed, *(f"y.{number}.even" for number in range(20))]) == ""


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.0.0.weight", "img_in.weight", "model.diffusion_model.img_in.weight",
        "x_embedder.proj.weight", "model.diffusion_model.patch_embedding.weight", "unet.conv_in.weight",
        "conv_in.weight",
    ],
)  # fmt: skip
def test_layers_that_take_an_image_are_known(name: str) -> None:
    assert is_first_layer(name)
    assert not is_first_layer(name.replace(".weight", ".bias"))


@pytest.mark.parametrize(
    "name",
    [
        "first_stage_model.encoder.conv_in.weight", "decoder.conv_in.weight", "vae.encoder.conv_in.weight",
        "txt_in.weight",
        "model.diffusion_model.input_blocks.10.0.weight", "in.weight",
    ],
)  # fmt: skip
def test_others_are_not(name: str) -> None:
    assert not is_first_layer(name)
