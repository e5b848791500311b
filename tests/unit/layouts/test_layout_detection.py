"""Which layout a header has."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from layout_headers import AtPath, every_real_layout, real, shapes

from mergebuild.errors import RecipeError
from mergebuild.layouts import BUILT_IN, built_in, detect, list_layouts, user_layout
from mergebuild.layouts.blocks import block_id, drawn_together, expand
from mergebuild.recipe.model import LayoutText

UNET = "model.diffusion_model."
MILLION = 10**6

# millions of parameters, as methods.md has them
# fmt: off
SD15_SIZES = {
    "IN01": 4.8, "IN02": 4.8, "IN03": 0.9, "IN04": 15.7, "IN05": 17.4, "IN06": 3.7, "IN07": 59.3, "IN08": 65.9,
    "IN09": 14.7, "IN10": 31.1, "IN11": 31.1, "M00": 97.0, "OUT00": 49.2, "OUT01": 49.2, "OUT02": 63.9,
    "OUT03": 83.9, "OUT04": 83.9, "OUT05": 90.5, "OUT06": 26.0, "OUT07": 21.9, "OUT08": 23.5, "OUT09": 7.0,
    "OUT10": 5.9, "IN00": 0.01 + 2.05, "OUT11": 5.9 + 0.01, "VAE": 83.65,
}
SDXL_SIZES = {
    "IN04": 27.4, "IN05": 29.0, "IN07": 375, "IN08": 382, "M00": 413, "OUT00": 400, "OUT01": 400, "OUT02": 407,
    "OUT03": 37.6, "OUT04": 33.5, "OUT05": 35.2, "VAE": 83.65, "BASE": 123.06 + 694.66,
}
# fmt: on
LLAMA_SIZES = {"embed": 65.5, "head": 65.5, "L00": 44.0, "L21": 44.0}


def flux(prefix: str) -> dict[str, tuple[int, ...]]:
    names = ["img_in.weight", "txt_in.weight", "time_in.in_layer.weight", "vector_in.in_layer.weight"]
    names += [f"double_blocks.{i}.{one}" for i in range(19) for one in ("img_attn.qkv.weight", "txt_mlp.0.weight")]
    names += [f"single_blocks.{i}.{one}" for i in range(38) for one in ("linear1.weight", "norm.key_norm.scale")]
    return {prefix + name: (8, 8) for name in (*names, "final_layer.linear.weight")}


@every_real_layout
def test_a_real_header_has_its_layout(name: str) -> None:
    found = detect(shapes(name), {})
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("sizes_of", [("sd15", SD15_SIZES), ("sdxl", SDXL_SIZES), ("llama", LLAMA_SIZES)])
def test_blocks_have_the_published_number_of_parameters(sizes_of: tuple[str, dict[str, float]]) -> None:
    name, sizes = sizes_of
    counted: Counter[str | None] = Counter()
    for tensor, shape in shapes(name).items():
        counted[built_in(name).block(tensor)] += math.prod(shape)
    for block, millions in sizes.items():
        assert counted[block] / MILLION == pytest.approx(millions, abs=0.6 if millions > 99 else 0.06)


@every_real_layout
def test_every_tensor_of_a_real_header_is_in_one_of_the_layouts_blocks(name: str) -> None:
    layout = built_in(name)
    blocks = {layout.block(tensor) for tensor in real(name)}
    assert None not in blocks
    families = {f"{block_id(str(block))[0]}*" for block in blocks}
    assert {str(block) for block in blocks if block not in layout.order} == (
        set() if name != "llama" else {f"L{i:02}" for i in range(22)}
    )
    assert "L*" in families or name != "llama"


def test_components_have_the_known_number_of_tensors() -> None:
    for name, counts in {
        "sd15": {"unet": 686, "text_encoder": 197, "vae": 248, "ema": 688, "scheduler": 12},
        "sdxl": {"unet": 1680, "text_encoder": 587, "vae": 248},
        "llama": {"transformer": 201},
    }.items():
        assert Counter(built_in(name).component(tensor) for tensor in real(name)) == counts


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_unet_alone_has_the_layout_with_its_prefix_and_without(name: str) -> None:
    unet = {tensor: shape for tensor, shape in shapes(name).items() if tensor.startswith(UNET)}
    bare = {tensor.removeprefix(UNET): shape for tensor, shape in unet.items()}
    layout = built_in(name)
    assert detect(unet, {}) is layout
    assert detect(bare, {}) is layout
    assert all(layout.block(tensor) == layout.block(tensor.removeprefix(UNET)) for tensor in unet)
    assert {layout.component(tensor) for tensor in bare} == {"unet"}


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_text_encoders_alone_have_the_layout(name: str) -> None:
    texts = {t: shape for t, shape in shapes(name).items() if t.startswith(("cond_stage_model.", "conditioner."))}
    assert detect(texts, {}) is built_in(name)


def test_a_unet_that_looks_at_text_of_width_1024_is_sd2() -> None:
    wide = {
        name: (*shape[:1], 1024) if "attn2.to_k" in name or "attn2.to_v" in name else shape
        for name, shape in shapes("sd15").items()
        if name.startswith(UNET)
    }
    assert detect(wide, {}) is built_in("sd2")
    assert detect(wide | {"cond_stage_model.model.ln_final.weight": (1024,)}, {}) is built_in("sd2")


def test_an_inpainting_unet_is_its_own_kind_still() -> None:
    wide = shapes("sd15") | {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}
    assert detect(wide, {}) is built_in("sd15")


def test_the_refiner_is_no_layout_that_we_know() -> None:
    refiner = {f"{UNET}label_emb.0.0.weight": (8, 8), f"{UNET}input_blocks.9.0.in_layers.0.weight": (8,)}
    assert detect(refiner, {}) is None


@pytest.mark.parametrize("prefix", ["", UNET])
def test_flux_is_found_with_and_without_prefix(prefix: str) -> None:
    tensors = flux(prefix)
    layout = detect(tensors, {})
    assert layout is built_in("flux")
    texts = ["text_encoders.clip_l.transformer.x.weight", "text_encoders.t5xxl.transformer.x.weight", "vae.x.weight"]
    blocks = ("CLIP", "T5", "IN", *expand(["D00-D18", "S00-S37"]), "OUT", "VAE")
    assert layout.blocks([*texts, *tensors]) == blocks
    assert layout.mbw_of(61) == blocks[:-1]


@pytest.mark.parametrize("prefix", ["", UNET])
def test_the_joint_blocks_of_sd3_are_its_inputs(prefix: str) -> None:
    tensors = {f"{prefix}joint_blocks.{i}.x_block.attn.qkv.weight": (8, 8) for i in range(24)}
    layout = detect(tensors, {})
    assert layout is built_in("sd3")
    assert layout.blocks([*tensors, f"{prefix}final_layer.linear.weight"]) == ("BASE", *expand(["IN00-IN23"]))


@pytest.mark.parametrize(
    ("template", "embed", "head"),
    [
        ("h.{}.attn.c_attn.weight", "wte.weight", "ln_f.weight"),
        ("transformer.h.{}.mlp.c_fc.weight", "transformer.wpe.weight", "lm_head.weight"),
        ("bert.encoder.layer.{}.attention.self.query.weight", "bert.embeddings.LayerNorm.weight", "cls.bias"),
        ("gpt_neox.layers.{}.mlp.x.weight", "gpt_neox.embed_in.weight", "embed_out.weight"),
        ("encoder.block.{}.layer.0.SelfAttention.q.weight", "shared.weight", "encoder.final_layer_norm.weight"),
        ("blocks.{}.attn.qkv.weight", "patch_embed.proj.weight", "head.weight"),
    ],
)
def test_any_model_with_numbered_layers_has_layers(template: str, embed: str, head: str) -> None:
    tensors = {template.format(i): (4, 4) for i in range(12)} | {embed: (4, 4), head: (4, 4)}
    layout = detect(tensors, {})
    assert layout is built_in("transformer")
    assert layout.layers(list(tensors)) == expand(["L00-L11"])
    assert (layout.block(embed), layout.block(head)) == ("embed", "head")


@pytest.mark.parametrize(
    "names",
    [
        ["h.0.x", "h.2.x"],
        ["h.1.x", "h.2.x"],
        ["h.0.x"],
        ["weight", "bias"],
        ["decoder.up.0.block.0.conv1.weight", "decoder.up.0.block.1.conv1.weight"],
        [],
    ],
)
def test_what_has_no_gapless_layers_from_0_has_no_layout(names: list[str]) -> None:
    assert detect(dict.fromkeys(names, (2,)), {}) is None


def user(detect: object, name: str = "mine") -> LayoutText:
    return LayoutText(name, {"detect": detect, "blocks": [[r"input_blocks\.(\d+)", "X{}"]]}, AtPath(f"layouts.{name}"))


@pytest.mark.parametrize(
    ("markers", "fits"),
    [
        ([f"{UNET}input_blocks.0.0.weight"], True),
        ([f"{UNET}input_blocks.0.0.weight", "nowhere.*"], False),
        ([f"{UNET}input_*", "*.attn2.to_k.weight"], True),
        ({f"{UNET}input_blocks.0.0.weight": [320, 4, 3, 3]}, True),
        ({f"{UNET}input_blocks.0.0.weight": [320, 9, 3, 3]}, False),
        ({f"{UNET}input_blocks.0.0.weight": [320, "*", 3, 3]}, True),
        ({f"{UNET}input_blocks.0.0.weight": [320, "*", 3]}, False),
        ([{"nowhere": "*"}, {f"{UNET}out.?.weight": "*"}], True),
    ],
)
def test_a_users_layout_is_asked_before_ours(markers: object, fits: bool) -> None:
    """All names must be there, of their shapes; of an array of tables one is enough; `*` is any length."""
    found = detect(shapes("sd15"), {"mine": user(markers)})
    assert found is not None
    assert found.name == ("mine" if fits else "sd15")


def test_the_first_of_the_users_layouts_that_fits_is_taken() -> None:
    layouts = {name: user(["model.*"], name) for name in ("one", "two")}
    found = detect(shapes("sd15"), layouts)
    assert found is user_layout(layouts["one"])


def test_a_users_layout_that_is_not_sound_is_refused_when_it_is_asked() -> None:
    with pytest.raises(RecipeError, match="is not a shape"):
        detect(shapes("sd15"), {"mine": user({"x": "wide"})})


@pytest.mark.parametrize("name", BUILT_IN)
def test_our_own_layouts_are_sound(name: str) -> None:
    assert built_in(name).name == name


def test_layouts_are_listed_with_their_blocks() -> None:
    listed = {layout.name: layout.blocks for layout in list_layouts({"mine": user(["x"])})}
    assert list(listed) == ["mine", *BUILT_IN]
    assert listed["mine"] == ("X*",)
    assert listed["sdxl"] == ("BASE", "IN00-IN08", "M00", "OUT00-OUT08", "VAE")
    assert listed["llama"] == ("embed", "L*", "head", "BASE")
    assert [layout.name for layout in list_layouts({"llama": user(["x"], "llama")})].count("llama") == 1


def test_blocks_are_drawn_together_only_where_they_are_neighbours() -> None:
    assert drawn_together(["BASE", "IN00", "IN01", "IN03", "M00"]) == ("BASE", "IN00-IN01", "IN03", "M00")
