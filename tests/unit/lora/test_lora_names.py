"""A LoRA finds its module under every name that a known tool gives it."""

from __future__ import annotations

import pytest
from lora_files import flux, kohya, peft, real, stored

from mergebuild.errors import SourceError
from mergebuild.lora import Match, match

UNET = "model.diffusion_model."


def only(found: Match) -> tuple[str, tuple[int, int] | None, str]:
    """Return the one tensor that is changed, which rows of it, and how."""
    assert not found.unmatched
    ((tensor, (delta,)),) = found.deltas.items()
    return tensor, delta.rows, delta.family


@pytest.mark.parametrize(
    "module",
    [
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0",
        "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "unet.base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0",
    ],
)
def test_of_sd15_s_unet(module: str) -> None:
    found = match(kohya(module, 320, (320,)), real("sd15"))
    assert only(found) == (UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.weight", None, "lora")


@pytest.mark.parametrize(
    ("ending", "wanted"),
    [
        (".lora.{}.weight", "to_q"),
        (".lora_linear_layer.{}.weight", "to_q"),
        (".processor.to_q_lora.{}.weight", None),
        (".processor.to_out_lora.{}.weight", None),
    ],
)
def test_of_early_diffusers(ending: str, wanted: str | None) -> None:
    attention = "unet.mid_block.attentions.0.transformer_blocks.0.attn2"
    module = attention if wanted is None else f"{attention}.{wanted}"
    plain = kohya("x", 1280, (1280,))
    file = {module + ending.format(way): plain[f"x.lora_{way}.weight"] for way in ("up", "down")}
    tensor, rows, _ = only(match(file, real("sd15")))
    assert tensor.startswith(UNET + "middle_block.1.transformer_blocks.0.attn2.to_")
    assert rows is None


@pytest.mark.parametrize(
    ("module", "tensor", "out", "row"),
    [
        ("down_blocks_0_resnets_1_conv1", "input_blocks.2.0.in_layers.2", 320, (320, 3, 3)),
        ("down_blocks_1_resnets_0_conv_shortcut", "input_blocks.4.0.skip_connection", 640, (320, 1, 1)),
        ("down_blocks_0_downsamplers_0_conv", "input_blocks.3.0.op", 320, (320, 3, 3)),
        ("mid_block_resnets_1_time_emb_proj", "middle_block.2.emb_layers.1", 1280, (1280,)),
        ("up_blocks_0_upsamplers_0_conv", "output_blocks.2.1.conv", 1280, (1280, 3, 3)),
        ("up_blocks_1_upsamplers_0_conv", "output_blocks.5.2.conv", 1280, (1280, 3, 3)),
        ("up_blocks_3_attentions_2_proj_in", "output_blocks.11.1.proj_in", 320, (320, 1, 1)),
        ("time_embedding_linear_1", "time_embed.0", 1280, (320,)),
    ],
)
def test_of_sd15_s_blocks(module: str, tensor: str, out: int, row: tuple[int, ...]) -> None:
    found = match(kohya(f"lora_unet_{module}", out, row), real("sd15"))
    assert only(found) == (f"{UNET}{tensor}.weight", None, "lora")


@pytest.mark.parametrize(
    "module",
    [
        "lora_te_text_model_encoder_layers_3_mlp_fc1",
        "lora_te1_text_model_encoder_layers_3_mlp_fc1",
        "text_encoder.text_model.encoder.layers.3.mlp.fc1",
        "text_encoder.encoder.layers.3.mlp.fc1",
        "base_model.model.text_model.encoder.layers.3.mlp.fc1",
    ],
)
def test_of_sd15_s_text_encoder(module: str) -> None:
    found = match(kohya(module, 3072, (768,)), real("sd15"))
    assert only(found)[0] == "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"


@pytest.mark.parametrize(
    "module",
    [
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    ],
)
def test_of_sdxl_s_unet_in_both_namings(module: str) -> None:
    found = match(kohya(module, 640, (2048,)), real("sdxl"))
    assert only(found)[0] == UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    "prefix",
    [
        "lora_te2_text_model_encoder_layers_7_self_attn_{}_proj",
        "text_encoder_2.text_model.encoder.layers.7.self_attn.{}_proj",
    ],
)
def test_sdxl_s_second_text_encoder_has_its_projections_in_one_tensor(prefix: str) -> None:
    name = "conditioner.embedders.1.model.transformer.resblocks.7.attn.in_proj_weight"
    for at, which in enumerate("qkv"):
        found = match(kohya(prefix.format(which), 1280, (1280,)), real("sdxl"))
        assert only(found) == (name, (at * 1280, (at + 1) * 1280), "lora")
    file = {}
    for which in "vqk":
        file |= kohya(prefix.format(which), 1280, (1280,))
    (deltas,) = match(file, real("sdxl")).deltas.values()
    assert {delta.rows for delta in deltas} == {(0, 1280), (1280, 2560), (2560, 3840)}


def test_its_projection_is_turned() -> None:
    found = match(peft("text_encoder_2.text_projection", 1280, 1280), real("sdxl"))
    assert only(found)[0] == "conditioner.embedders.1.model.text_projection"
    assert dict(found.deltas["conditioner.embedders.1.model.text_projection"][0].facts)["transposed"] is True


def test_a_name_of_two_text_encoders_is_ambiguous() -> None:
    assert only(match(kohya("lora_te1_text_model_encoder_layers_3_mlp_fc1", 3072, (768,)), real("sdxl")))
    with pytest.raises(SourceError, match="two things") as caught:
        match(peft("text_model.encoder.layers.3.mlp.fc1", 3072, 768), real("sdxl"))
    assert caught.value.problems[0].code == "lora-ambiguous"


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("adapter", ["", ".default"])
def test_of_a_language_model(prefix: str, adapter: str) -> None:
    module = "model.layers.5.mlp.down_proj"
    into, out = real("llama")[f"{module}.weight"][::-1]
    file = peft(prefix + module, out, into)
    file = {name.replace(".weight", f"{adapter}.weight"): info for name, info in file.items()}
    assert only(match(file, real("llama"), {"peft_type": "LORA"}))[0] == f"{module}.weight"


def test_of_a_model_that_nobody_knows() -> None:
    model = {"tower.stage_2.mix.weight": (6, 5), "tower.gate": (6, 5)}
    assert only(match(kohya("tower.stage_2.mix", 6, (5,)), model))[0] == "tower.stage_2.mix.weight"
    assert only(match(kohya("tower.gate", 6, (5,)), model))[0] == "tower.gate"


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("module", "tensor", "rows", "out", "into"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "double_blocks.0.img_attn.qkv", None, 24, 8),
        ("diffusion_model.double_blocks.0.txt_mlp.0", "double_blocks.0.txt_mlp.0", None, 32, 8),
        ("transformer.transformer_blocks.0.attn.to_q", "double_blocks.0.img_attn.qkv", (0, 8), 8, 8),
        ("transformer.transformer_blocks.0.attn.to_k", "double_blocks.0.img_attn.qkv", (8, 16), 8, 8),
        ("transformer.transformer_blocks.0.attn.add_v_proj", "double_blocks.0.txt_attn.qkv", (16, 24), 8, 8),
        ("lora_transformer_transformer_blocks_0_attn_to_out_0", "double_blocks.0.img_attn.proj", None, 8, 8),
        ("transformer.transformer_blocks.0.attn.to_add_out", "double_blocks.0.txt_attn.proj", None, 8, 8),
        ("transformer.transformer_blocks.0.norm1_context.linear", "double_blocks.0.txt_mod.lin", None, 48, 8),
        ("lycoris_transformer_blocks_0_ff_net_0_proj", "double_blocks.0.img_mlp.0", None, 32, 8),
        ("transformer.transformer_blocks.0.ff_context.net.2", "double_blocks.0.txt_mlp.2", None, 8, 32),
        ("transformer.single_transformer_blocks.0.attn.to_v", "single_blocks.0.linear1", (16, 24), 8, 8),
        ("transformer.single_transformer_blocks.0.proj_mlp", "single_blocks.0.linear1", (24, 56), 32, 8),
        ("transformer.single_transformer_blocks.0.proj_out", "single_blocks.0.linear2", None, 8, 40),
        ("transformer.single_transformer_blocks.0.norm.linear", "single_blocks.0.modulation.lin", None, 24, 8),
        ("transformer.x_embedder", "img_in", None, 8, 4),
        ("transformer.context_embedder", "txt_in", None, 8, 6),
        ("transformer.time_text_embed.timestep_embedder.linear_1", "time_in.in_layer", None, 8, 5),
        ("transformer.time_text_embed.text_embedder.linear_2", "vector_in.out_layer", None, 8, 8),
        ("transformer.proj_out", "final_layer.linear", None, 4, 8),
    ],
)
def test_of_flux(
    prefix: str, module: str, tensor: str, rows: tuple[int, int] | None, out: int, into: int
) -> None:  # fmt: skip
    model = {prefix + name: shape for name, shape in flux().items()}
    assert only(match(peft(module, out, into), model)) == (f"{prefix}{tensor}.weight", rows, "lora")


def test_flux_s_last_modulation_has_its_halves_the_other_way_round() -> None:
    found = match(peft("transformer.norm_out.linear", 16, 8), flux())
    (deltas,) = found.deltas.values()
    assert [(delta.rows, dict(delta.facts)["offset"]) for delta in deltas] == [((0, 8), 8), ((8, 16), 0)]


def test_the_text_encoders_beside_a_transformer() -> None:
    t5 = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"
    clip = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    model = {**flux(), t5: (16, 12), clip: (32, 8)}
    for module in (
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q",
    ):
        assert only(match(peft(module, 16, 12), model))[0] == t5
    for module in ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"):
        assert only(match(peft(module, 32, 8), model))[0] == clip


def sites(found: Match) -> list[tuple[str, tuple[int, int] | None, object]]:
    """Return which tensors are changed, which rows of each, and from which row on of what the LoRA makes."""
    assert not found.unmatched
    return [
        (tensor, delta.rows, dict(delta.facts).get("offset"))
        for tensor, deltas in found.deltas.items()
        for delta in deltas
    ]


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize(
    "module",
    [
        "lora_unet_double_blocks_0_img_attn_qkv",
        "diffusion_model.double_blocks.0.img_attn.qkv",
        "double_blocks.0.processor.qkv_lora1",
    ],
)
def test_of_flux_in_diffusers_names_by_a_lora_in_its_authors(prefix: str, module: str) -> None:
    block = f"{prefix}transformer_blocks.0.attn"
    model = {f"{block}.{name}.weight": (8, 8) for name in ("to_q", "to_k", "to_v", "add_q_proj")}
    model[f"{prefix}single_transformer_blocks.0.proj_mlp.weight"] = (32, 8)
    file = peft(module, 24, 8)
    if "processor" in module:
        file = {name.replace(".lora_A", ".down").replace(".lora_B", ".up"): info for name, info in file.items()}
    assert sites(match(file, model)) == [
        (f"{block}.to_{which}.weight", None, offset) for which, offset in (("k", 8), ("q", 0), ("v", 16))
    ]


def test_xlabs_reaches_the_attention_of_single_blocks() -> None:
    file = {
        name.replace("x.lora_", "single_blocks.0.processor.qkv_lora."): info
        for name, info in kohya("x", 24, (8,)).items()
        if "alpha" not in name
    }
    assert only(match(file, flux())) == ("single_blocks.0.linear1.weight", (0, 24), "lora")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("module", "tensor", "rows", "out", "into"),
    [
        ("transformer.transformer_blocks.0.attn.to_k", "joint_blocks.0.x_block.attn.qkv", (8, 16), 8, 8),
        (
            "lora_transformer_transformer_blocks_0_attn_add_q_proj",
            "joint_blocks.0.context_block.attn.qkv", (0, 8), 8, 8,
        ),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", "joint_blocks.0.x_block.attn.qkv", None, 24, 8),
        ("transformer.transformer_blocks.0.ff.net.2", "joint_blocks.0.x_block.mlp.fc2", None, 8, 32),
    ],
)  # fmt: skip
def test_of_sd3(prefix: str, module: str, tensor: str, rows: tuple[int, int] | None, out: int, into: int) -> None:
    model = {
        f"{prefix}joint_blocks.0.{block}.{name}.weight": shape
        for block in ("x_block", "context_block")
        for name, shape in {"attn.qkv": (24, 8), "mlp.fc2": (8, 32)}.items()
    }
    assert only(match(peft(module, out, into), model)) == (f"{prefix}{tensor}.weight", rows, "lora")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "module."])
@pytest.mark.parametrize(
    "module",
    [
        "lora_unet_stack_3_mix", "lora_transformer_stack_3_mix", "diffusion_model.stack.3.mix",
        "transformer.stack.3.mix", "base_model.model.stack.3.mix", "lycoris_stack_3_mix",
    ],
)  # fmt: skip
def test_of_a_transformer_that_nobody_knows(prefix: str, module: str) -> None:
    model = {f"{prefix}stack.3.mix.weight": (6, 5)}
    assert only(match(peft(module, 6, 5), model))[0] == f"{prefix}stack.3.mix.weight"


@pytest.mark.parametrize(
    "module",
    [
        "text_encoders.clip_l.transformer.text_model.encoder.layers.3.self_attn.q_proj",
        "text_encoder.text_model.encoder.layers.3.self_attn.to_q",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.3.self_attn.q_proj",
    ],
)
def test_of_sdxl_s_first_text_encoder(module: str) -> None:
    name = "conditioner.embedders.0.transformer.text_model.encoder.layers.3.self_attn.q_proj.weight"
    assert only(match(kohya(module, 768, (768,)), real("sdxl")))[0] == name


def test_new_norms_of_flux_s_authors_take_the_place_of_the_model_s() -> None:
    name = "double_blocks.0.img_attn.norm.query_norm.scale"
    found = match(stored({name: (4,)}), {**flux(), name.replace("scale", "weight"): (4,)})
    assert only(found) == (name.replace("scale", "weight"), None, "replace")
