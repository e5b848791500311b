"""Families of small models: their parameters by canonical name, selectors, ties, and how programs spell them.

Imports no `mergebuild`: its rules must give the same as these tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from spellings import Called, Cut, Flat, Fused, Grouped, Spelling, Stacked, Step, Swapped, Turned

__all__ = ["CLIP", "FAMILIES", "UNET", "WRAPPERS", "Family"]

Shapes = dict[str, tuple[int, ...]]

_ALL_FORMS = ("file", "ckpt", "folder", "shards")


@dataclass(frozen=True)
class Family:
    """Models of one kind: names and shapes, and selectors with what they select."""

    shapes: Mapping[str, tuple[int, ...]]
    keys: Mapping[str, Callable[[str], bool]]
    """Selectors that select some but not all tensors, with functions that say which."""
    layers: Sequence[str] = ()
    """Names of blocks for `gradient`."""
    lora: str = ""
    """The name of the family of LoRAs for these models."""
    forms: tuple[str, ...] = ("file", "ckpt")
    components: tuple[str, ...] = ()
    spellings: Mapping[str, Spelling] = field(default_factory=dict)
    """The spellings besides canonical names."""
    ties: Mapping[str, str] = field(default_factory=dict)
    """Names that are tied in some models, with the parameter that each stands for there."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Names that are tied in all models, with the parameter that each stands for."""
    model_type: str = "llama"
    """The `model_type` in configurations."""
    is_whole: bool = False
    """Whether its spellings are only used for whole models."""


def _front(prefix: str, *, but: str = "") -> Called:
    """Return the step that adds a prefix to all names except those that begin with `but`."""
    return Called(((rf"^(?!{but})" if but else "^", prefix),))


WRAPPERS: Mapping[str, Spelling] = {
    "compiled": Spelling((_front("_orig_mod."),)),
    "parallel": Spelling((_front("module."),)),
    "spread": Spelling((Called(((r"^(\w+)\.(?!\w+$)", r"\1._fsdp_wrapped_module."),)),)),
}
"""The spellings of training programs, which add a prefix to canonical names."""


def _wrapped(spellings: Mapping[str, Spelling]) -> Mapping[str, Spelling]:
    """Return spellings, with those of `WRAPPERS`."""
    return {**spellings, **WRAPPERS}


def _glob(pattern: str) -> Callable[[str], bool]:
    return lambda name: fnmatchcase(name, pattern)


def _has(pattern: str) -> Callable[[str], bool]:
    return lambda name: re.search(pattern, name) is not None


def _llama() -> Family:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (8, 4)}
    for layer in range(2):
        inner = f"model.layers.{layer}."
        shapes |= {f"{inner}self_attn.{name}_proj.weight": (4, 4) for name in "qkvo"}
        shapes |= {f"{inner}mlp.{name}_proj.weight": (8, 4) for name in ("gate", "up")}
        shapes |= {f"{inner}mlp.down_proj.weight": (4, 8), f"{inner}input_layernorm.weight": (4,)}
    shapes |= {"model.norm.weight": (4,), "lm_head.weight": (8, 4)}
    keys = {
        "L00": _has(r"^model\.layers\.0\."),
        "L01": _has(r"^model\.layers\.1\."),
        "attn": _has(r"\.self_attn\."),
        "*.mlp.*": _glob("*.mlp.*"),
        "re:norm": _has("norm"),
        "embed": _has("embed_tokens"),
        "*q_proj*": _glob("*q_proj*"),
    }
    attention, mlp = "model.layers.{}.self_attn.", "model.layers.{}.mlp."
    qkv = tuple(f"{attention}{name}_proj.weight" for name in "qkv")
    gate_up = Fused((f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight"), f"{mlp}gate_up_proj.weight")
    phi3 = (Fused(qkv, f"{attention}qkv_proj.weight"), gate_up)
    bare = Called(((r"^model\.", ""),))
    old = Called(((r"^model\.", "language_model.model."), (r"^lm_head\.", "language_model.lm_head.")))
    new = Called(((r"^model\.", "model.language_model."),))
    internlm2 = (
        Grouped(qkv, "model.layers.{}.attention.wqkv.weight", 2),
        Called(
            (
                (r"\.embed_tokens\.", ".tok_embeddings."),
                (r"self_attn\.o_proj\.", "attention.wo."),
                (r"mlp\.gate_proj\.", "feed_forward.w1."),
                (r"mlp\.up_proj\.", "feed_forward.w3."),
                (r"mlp\.down_proj\.", "feed_forward.w2."),
                (r"input_layernorm\.", "attention_norm."),
                (r"^lm_head\.", "output."),
            )
        ),
    )
    spellings = {
        "bare": Spelling((bare,)),
        "old-eyes": Spelling((old,)),
        "new-eyes": Spelling((new,)),
        "yi": Spelling((Called(((r"\.input_layernorm\.", ".ln1."),)),)),
        "phi3": Spelling(phi3),
        "bare-phi3": Spelling((*phi3, bare)),
        "phi3-eyes": Spelling((*phi3, old)),
        "gate-up": Spelling((gate_up,)),
        "baichuan": Spelling((Fused(qkv, f"{attention}W_pack.weight"),)),
        "internlm2": Spelling(internlm2, ("folder", "shards"), (("num_attention_heads", 2),)),
    }
    return Family(
        shapes, keys, ("L00", "L01"), "lora-llama", _ALL_FORMS,
        spellings=_wrapped(spellings), ties={"lm_head.weight": "model.embed_tokens.weight"},
    )  # fmt: skip


def _moe() -> Family:
    """Return models with experts, as Mixtral."""
    shapes: Shapes = {"model.embed_tokens.weight": (8, 4)}
    for layer in range(2):
        inner, experts = f"model.layers.{layer}.", f"model.layers.{layer}.block_sparse_moe."
        shapes |= {f"{inner}self_attn.{name}_proj.weight": (4, 4) for name in "qkvo"}
        shapes[f"{experts}gate.weight"] = (2, 4)
        for number in range(2):
            shapes |= {f"{experts}experts.{number}.{name}.weight": (6, 4) for name in ("w1", "w3")}
            shapes[f"{experts}experts.{number}.w2.weight"] = (4, 6)
    shapes |= {"model.norm.weight": (4,), "lm_head.weight": (8, 4)}
    keys = {
        "L00": _has(r"^model\.layers\.0\."),
        "*experts*": _glob("*experts*"),
        "*self_attn*": _glob("*self_attn*"),
        "re:layers.1": _has(r"layers.1"),
    }
    experts = "model.layers.{}.block_sparse_moe.experts.#."
    theirs = "model.layers.{}.mlp.experts."
    gate = Called(((r"block_sparse_moe\.gate\.", "mlp.gate."),))

    def stacked(*, turned: bool) -> tuple[Step, ...]:
        return (
            Stacked((f"{experts}w1.weight", f"{experts}w3.weight"), f"{theirs}gate_up_proj", turned),
            Stacked((f"{experts}w2.weight",), f"{theirs}down_proj", turned),
            gate,
        )

    spellings = {
        "bare": Spelling((Called(((r"^model\.", ""),)),)),
        "stacked": Spelling(stacked(turned=False)),
        "stacked-transposed": Spelling(stacked(turned=True)),
    }
    return Family(
        shapes, keys, ("L00", "L01"), "", _ALL_FORMS,
        spellings=_wrapped(spellings), ties={"lm_head.weight": "model.embed_tokens.weight"}, model_type="mixtral",
        is_whole=True,
    )  # fmt: skip


def _gpt2() -> Family:
    shapes: Shapes = {"wte.weight": (8, 4), "wpe.weight": (6, 4)}
    for layer in range(2):
        inner = f"h.{layer}."
        shapes |= {
            f"{inner}ln_1.weight": (4,),
            f"{inner}attn.c_attn.weight": (4, 12),
            f"{inner}attn.c_attn.bias": (12,),
        }
        shapes |= {f"{inner}attn.c_proj.weight": (4, 4), f"{inner}mlp.c_fc.weight": (4, 8)}
    shapes |= {"ln_f.weight": (4,), "lm_head.weight": (8, 4)}
    keys = {"*attn*": _glob("*attn*"), "re:ln_": _has("ln_"), "*mlp.c_fc*": _glob("*mlp.c_fc*")}
    spellings = {"headed": Spelling((_front("transformer.", but="lm_head"),))}
    return Family(
        shapes, keys, (), "", _ALL_FORMS,
        spellings=_wrapped(spellings), ties={"lm_head.weight": "wte.weight"}, model_type="gpt2",
    )  # fmt: skip


def _bert() -> Family:
    words = "embeddings.word_embeddings.weight"
    shapes: Shapes = {
        words: (8, 4),
        "embeddings.position_embeddings.weight": (6, 4),
        "embeddings.LayerNorm.weight": (4,),
    }
    for layer in range(2):
        inner = f"encoder.layer.{layer}."
        shapes |= {f"{inner}attention.self.{name}.weight": (4, 4) for name in ("query", "key", "value")}
        shapes |= {f"{inner}intermediate.dense.weight": (8, 4), f"{inner}output.dense.weight": (4, 8)}
    shapes |= {"cls.predictions.transform.dense.weight": (4, 4), "cls.predictions.bias": (8,)}
    shapes |= {"cls.predictions.decoder.weight": (8, 4), "cls.predictions.decoder.bias": (8,)}
    keys = {"*attention*": _glob("*attention*"), "*.query.*": _glob("*.query.*"), "*dense*": _glob("*dense*")}
    spellings = {"headed": Spelling((_front("bert.", but="cls"),))}
    return Family(
        shapes, keys, (), "", _ALL_FORMS, spellings=_wrapped(spellings),
        ties={"cls.predictions.decoder.weight": words},
        copies={"cls.predictions.decoder.bias": "cls.predictions.bias"}, model_type="bert",
    )  # fmt: skip


def _t5() -> Family:
    shapes: Shapes = {
        "shared.weight": (8, 4),
        "encoder.embed_tokens.weight": (8, 4),
        "decoder.embed_tokens.weight": (8, 4),
    }
    for side, name in (("encoder", "SelfAttention"), ("decoder", "EncDecAttention")):
        inner = f"{side}.block.0.layer."
        shapes |= {f"{inner}0.SelfAttention.{each}.weight": (4, 4) for each in "qv"}
        shapes |= {f"{inner}1.{name}.k.weight": (4, 4), f"{inner}1.layer_norm.weight": (4,)}
        shapes[f"{side}.final_layer_norm.weight"] = (4,)
    shapes["lm_head.weight"] = (8, 4)
    keys = {
        "*Attention*": _glob("*Attention*"),
        "*encoder.block*": _glob("*encoder.block*"),
        "re:layer_norm": _has("layer_norm"),
    }
    spellings = {"classifier": Spelling((_front("transformer.", but="lm_head"),))}
    return Family(
        shapes, keys, (), "", _ALL_FORMS, spellings=_wrapped(spellings), ties={"lm_head.weight": "shared.weight"},
        copies={f"{side}.embed_tokens.weight": "shared.weight" for side in ("encoder", "decoder")}, model_type="t5",
    )  # fmt: skip


def _llava() -> Family:
    """Return language models with a vision tower, like LLaVA."""
    eye = "vision_tower.vision_model."
    shapes: Shapes = {"model.embed_tokens.weight": (8, 4)}
    for layer in range(2):
        inner = f"model.layers.{layer}."
        shapes |= {f"{inner}self_attn.{name}_proj.weight": (4, 4) for name in "qkvo"}
        shapes[f"{inner}input_layernorm.weight"] = (4,)
    shapes |= {"model.norm.weight": (4,), "lm_head.weight": (8, 4)}
    shapes |= {f"{eye}embeddings.patch_embedding.weight": (4, 3, 2, 2), f"{eye}pre_layrnorm.weight": (4,)}
    shapes |= {f"{eye}encoder.layers.0.self_attn.{name}_proj.weight": (4, 4) for name in "qk"}
    shapes |= {"multi_modal_projector.linear_1.weight": (4, 4), "multi_modal_projector.linear_1.bias": (4,)}
    keys = {
        "re:layers.0": _has(r"layers.0"),
        "re:layers.1": _has(r"layers.1"),
        "*embed_tokens*": _glob("*embed_tokens*"),
        "*q_proj*": _glob("*q_proj*"),
    }
    text = (r"^model\.", "language_model.model."), (r"^lm_head\.", "language_model.lm_head.")
    tower = (r"^vision_tower\.vision_model\.", "model.vision_tower.")
    spellings = {
        "before-4.52": Spelling((Called(text),)),
        "since-4.52": Spelling(
            (
                Called(
                    ((r"^model\.", "model.language_model."), (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."))
                ),
            )
        ),
        "transformers-5": Spelling(
            (
                Called(
                    (
                        (r"^model\.", "model.language_model."),
                        tower,
                        (r"^multi_modal_projector\.", r"model.multi_modal_projector."),
                    )
                ),
            )
        ),
        "authors": Spelling(
            (
                Called(
                    (
                        (r"^vision_tower\.", "model.vision_tower.vision_tower."),
                        (r"^multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
                    )
                ),
            )
        ),
    }
    return Family(
        shapes, keys, (), "", _ALL_FORMS, spellings=_wrapped(spellings),
        ties={"lm_head.weight": "model.embed_tokens.weight"}, model_type="llava",
    )  # fmt: skip


UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer.text_model."


def _sd1() -> Family:
    attention = "1.transformer_blocks.0."
    shapes: dict[str, tuple[int, ...]] = {
        f"{UNET}input_blocks.0.0.weight": (2, 4, 3, 3),
        f"{UNET}input_blocks.0.0.bias": (4,),
        f"{UNET}input_blocks.1.{attention}attn1.to_q.weight": (4, 4),
        f"{UNET}input_blocks.1.{attention}attn2.to_k.weight": (4, 6),
        f"{UNET}input_blocks.1.{attention}norm1.weight": (4,),
        f"{UNET}middle_block.{attention}attn1.to_out.0.weight": (4, 4),
        f"{UNET}middle_block.0.in_layers.2.weight": (4, 4, 3, 3),
        f"{UNET}output_blocks.3.{attention}attn2.to_k.weight": (4, 6),
        f"{UNET}output_blocks.3.{attention}ff.net.2.weight": (4, 8),
        f"{UNET}out.0.weight": (4,),
        f"{UNET}out.2.bias": (4,),
        f"{CLIP}embeddings.token_embedding.weight": (10, 4),
        f"{CLIP}encoder.layers.0.self_attn.q_proj.weight": (4, 4),
        f"{CLIP}encoder.layers.0.mlp.fc1.weight": (8, 4),
        f"{CLIP}final_layer_norm.weight": (4,),
        "first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3),
        "first_stage_model.decoder.conv_out.bias": (3,),
    }
    keys = {
        "IN01": _has(r"diffusion_model\.input_blocks\.1\."),
        "IN00-IN01": _has(r"diffusion_model\.input_blocks\.[01]\."),
        "M00": _has(r"diffusion_model\.middle_block\."),
        "OUT": _has(r"diffusion_model\.(?:output_blocks|out)\."),
        "text_encoder": _has(r"^cond_stage_model\."),
        "vae": _has(r"^first_stage_model\."),
        "*.attn2.*": _glob("*.attn2.*"),
        "re:norm": _has("norm"),
    }
    other_clip = (r"^cond_stage_model\.transformer\.", "text_encoders.clip_l.transformer.")
    vae = (r"^first_stage_model\.", "vae.")
    unet = (r"^model\.diffusion_model\.", "diffusion_model.")
    spellings = {
        "forge": Spelling((Called((other_clip, vae)),)),
        "comfy": Spelling((Called((unet, other_clip, vae)),)),
        "novelai": Spelling((Called(((r"\.transformer\.text_model\.", ".transformer."),)),)),
        "one-file-pipeline": Spelling((Called((unet, (r"^cond_stage_model\.transformer\.", "text_encoder."), vae)),)),
        "transformers-5": Spelling(
            (Called(((r"^cond_stage_model\.transformer\.text_model\.", "text_encoders.clip_l.transformer."), vae)),)
        ),
    }
    return Family(shapes, keys, (), "lora-sd1", ("file", "ckpt"), ("unet", "text_encoder", "vae"), _wrapped(spellings))


def _unet() -> Family:
    """Return UNets of two levels, in files of their own."""
    rows = {
        "input_blocks.0.0.weight": ("conv_in.weight", (4, 4, 3, 3)),
        "input_blocks.0.0.bias": ("conv_in.bias", (4,)),
        "time_embed.0.weight": ("time_embedding.linear_1.weight", (8, 4)),
        "input_blocks.1.0.in_layers.0.weight": ("down_blocks.0.resnets.0.norm1.weight", (4,)),
        "input_blocks.1.0.in_layers.2.weight": ("down_blocks.0.resnets.0.conv1.weight", (4, 4, 3, 3)),
        "input_blocks.1.1.proj_in.weight": ("down_blocks.0.attentions.0.proj_in.weight", (4, 4, 1, 1)),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            (4, 6),
        ),
        "input_blocks.2.0.op.weight": ("down_blocks.0.downsamplers.0.conv.weight", (4, 4, 3, 3)),
        "input_blocks.3.0.out_layers.3.weight": ("down_blocks.1.resnets.0.conv2.weight", (4, 4, 3, 3)),
        "middle_block.0.in_layers.2.weight": ("mid_block.resnets.0.conv1.weight", (4, 4, 3, 3)),
        "middle_block.1.transformer_blocks.0.attn1.to_q.weight": (
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight",
            (4, 4),
        ),
        "middle_block.2.emb_layers.1.weight": ("mid_block.resnets.1.time_emb_proj.weight", (4, 8)),
        "output_blocks.0.0.in_layers.2.weight": ("up_blocks.0.resnets.0.conv1.weight", (4, 8, 3, 3)),
        "output_blocks.0.1.conv.weight": ("up_blocks.0.upsamplers.0.conv.weight", (4, 4, 3, 3)),
        "output_blocks.1.0.skip_connection.weight": ("up_blocks.1.resnets.0.conv_shortcut.weight", (4, 8, 1, 1)),
        "output_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (
            "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            (4, 6),
        ),
        "out.0.weight": ("conv_norm_out.weight", (4,)),
        "out.2.weight": ("conv_out.weight", (4, 4, 3, 3)),
    }
    keys = {
        "IN01": _has(r"input_blocks\.1\."),
        "M00": _has("middle_block"),
        "*.attn2.*": _glob("*.attn2.*"),
        "re:transformer_blocks": _has("transformer_blocks"),
    }
    bare = Called(((r"^model\.diffusion_model\.", ""),))
    diffusers = Called(tuple((f"^{re.escape(name)}$", other) for name, (other, _) in rows.items()))
    spellings = {
        "bare": Spelling((bare,)),
        "comfy": Spelling((Called(((r"^model\.", ""),)),)),
        "diffusers": Spelling((bare, diffusers)),
        "one-file-pipeline": Spelling((bare, diffusers, _front("unet."))),
    }
    shapes = {UNET + name: shape for name, (_, shape) in rows.items()}
    return Family(shapes, keys, spellings=_wrapped(spellings), is_whole=True)


def _vae() -> Family:
    """Return autoencoders of two levels, in files of their own."""
    shapes: Shapes = {
        "encoder.conv_in.weight": (4, 3, 3, 3),
        "encoder.down.0.block.0.conv1.weight": (4, 4, 3, 3),
        "encoder.down.0.downsample.conv.weight": (4, 4, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.weight": (4, 4, 1, 1),
        "encoder.mid.block_1.norm1.weight": (4,),
        "encoder.mid.attn_1.q.weight": (4, 4, 1, 1),
        "encoder.mid.attn_1.q.bias": (4,),
        "encoder.norm_out.weight": (4,),
        "decoder.mid.attn_1.proj_out.weight": (4, 4, 1, 1),
        "decoder.mid.block_2.conv2.weight": (4, 4, 3, 3),
        "decoder.up.0.block.0.conv1.weight": (4, 4, 3, 3),
        "decoder.up.1.block.0.conv1.weight": (4, 4, 3, 3),
        "decoder.up.1.upsample.conv.weight": (4, 4, 3, 3),
        "decoder.conv_out.bias": (3,),
        "quant_conv.weight": (4, 4, 1, 1),
    }
    keys = {"*encoder.*": _glob("*encoder.*"), "*decoder.*": _glob("*decoder.*"), "*quant_conv*": _glob("*quant_conv*")}
    bare = Called(((r"^first_stage_model\.", ""),))

    def diffusers(query: str, out: str) -> tuple[Step, ...]:
        rows = (
            (r"encoder\.down\.(\d)\.block\.(\d)\.nin_shortcut", r"encoder.down_blocks.\1.resnets.\2.conv_shortcut"),
            (r"encoder\.down\.(\d)\.block\.(\d)\.", r"encoder.down_blocks.\1.resnets.\2."),
            (r"encoder\.down\.(\d)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
            (r"decoder\.up\.0\.block\.(\d)\.", r"decoder.up_blocks.1.resnets.\1."),
            (r"decoder\.up\.1\.block\.(\d)\.", r"decoder.up_blocks.0.resnets.\1."),
            (r"decoder\.up\.1\.upsample\.", r"decoder.up_blocks.0.upsamplers.0."),
            (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
            (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
            (r"\.mid\.attn_1\.q\.", f".mid_block.attentions.0.{query}."),
            (r"\.mid\.attn_1\.proj_out\.", f".mid_block.attentions.0.{out}."),
            (r"\.norm_out\.", ".conv_norm_out."),
        )
        return (Flat(r"\.attn_1\.(q|proj_out)\.weight$"), bare, Called(rows))

    spellings = {
        "bare": Spelling((bare,)),
        "forge": Spelling((bare, _front("vae."))),
        "diffusers": Spelling(diffusers("to_q", "to_out.0")),
        "old-diffusers": Spelling(diffusers("query", "proj_attn")),
        "one-file-pipeline": Spelling((*diffusers("to_q", "to_out.0"), _front("vae."))),
    }
    shapes = {f"first_stage_model.{name}": shape for name, shape in shapes.items()}
    return Family(shapes, keys, spellings=_wrapped(spellings), is_whole=True)


def _cut(ours: str, *theirs: str, shares: tuple[int, ...] = ()) -> tuple[Step, ...]:
    """Return the steps that cut a module's weight and bias."""
    return tuple(Cut(f"{ours}.{end}", tuple(f"{each}.{end}" for each in theirs), shares) for end in ("weight", "bias"))


def _prefixes(rows: Sequence[Step]) -> Mapping[str, Spelling]:
    """Return the spellings of an image transformer: with each known prefix, and as in diffusers."""
    return _wrapped(
        {
            "checkpoint": Spelling((_front("model.diffusion_model."),)),
            "comfy": Spelling((_front("diffusion_model."),)),
            "diffusers": Spelling(tuple(rows)),
            "one-file-pipeline": Spelling((*rows, _front("transformer."))),
        }
    )


def _flux() -> Family:
    shapes: Shapes = {"img_in.weight": (4, 4), "img_in.bias": (4,), "txt_in.weight": (4, 6)}
    shapes |= {"time_in.in_layer.weight": (4, 4), "vector_in.out_layer.weight": (4, 4)}
    for side in ("img", "txt"):
        inner = f"double_blocks.0.{side}_"
        shapes |= {
            f"{inner}mod.lin.weight": (24, 4),
            f"{inner}attn.qkv.weight": (12, 4),
            f"{inner}attn.qkv.bias": (12,),
        }
        shapes |= {f"{inner}attn.norm.{name}_norm.scale": (2,) for name in ("query", "key")}
        shapes |= {f"{inner}attn.proj.weight": (4, 4), f"{inner}mlp.0.weight": (8, 4)}
    inner = "single_blocks.0."
    shapes |= {f"{inner}linear1.weight": (28, 4), f"{inner}linear1.bias": (28,), f"{inner}linear2.weight": (4, 20)}
    shapes |= {f"{inner}modulation.lin.weight": (12, 4), f"{inner}norm.query_norm.scale": (2,)}
    shapes |= {"final_layer.linear.weight": (4, 4), "final_layer.adaLN_modulation.1.weight": (8, 4)}
    shapes["final_layer.adaLN_modulation.1.bias"] = (8,)
    keys = {
        "*double_blocks*": _glob("*double_blocks*"),
        "*img_attn*": _glob("*img_attn*"),
        "*.linear1.*": _glob("*.linear1.*"),
        "re:^final": _has("^final"),
    }
    double, single = "transformer_blocks.{}.", "single_transformer_blocks.{}."
    rows = (
        Swapped("adaLN_modulation"),
        *_cut("double_blocks.{}.img_attn.qkv", *(f"{double}attn.to_{each}" for each in "qkv")),
        *_cut("double_blocks.{}.txt_attn.qkv", *(f"{double}attn.add_{each}_proj" for each in "qkv")),
        *_cut(
            "single_blocks.{}.linear1",
            *(f"{single}attn.to_{each}" for each in "qkv"),
            f"{single}proj_mlp",
            shares=(1, 1, 1, 4),
        ),
        Called(
            (
                (r"^img_in\.", "x_embedder."),
                (r"^txt_in\.", "context_embedder."),
                (r"^time_in\.in_layer\.", "time_text_embed.timestep_embedder.linear_1."),
                (r"^vector_in\.out_layer\.", "time_text_embed.text_embedder.linear_2."),
                (r"^double_blocks\.(\d+)\.img_mod\.lin\.", r"transformer_blocks.\1.norm1.linear."),
                (r"^double_blocks\.(\d+)\.txt_mod\.lin\.", r"transformer_blocks.\1.norm1_context.linear."),
                (
                    r"^double_blocks\.(\d+)\.img_attn\.norm\.query_norm\.scale",
                    r"transformer_blocks.\1.attn.norm_q.weight",
                ),
                (
                    r"^double_blocks\.(\d+)\.img_attn\.norm\.key_norm\.scale",
                    r"transformer_blocks.\1.attn.norm_k.weight",
                ),
                (
                    r"^double_blocks\.(\d+)\.txt_attn\.norm\.query_norm\.scale",
                    r"transformer_blocks.\1.attn.norm_added_q.weight",
                ),
                (
                    r"^double_blocks\.(\d+)\.txt_attn\.norm\.key_norm\.scale",
                    r"transformer_blocks.\1.attn.norm_added_k.weight",
                ),
                (r"^double_blocks\.(\d+)\.img_attn\.proj\.", r"transformer_blocks.\1.attn.to_out.0."),
                (r"^double_blocks\.(\d+)\.txt_attn\.proj\.", r"transformer_blocks.\1.attn.to_add_out."),
                (r"^double_blocks\.(\d+)\.img_mlp\.0\.", r"transformer_blocks.\1.ff.net.0.proj."),
                (r"^double_blocks\.(\d+)\.txt_mlp\.0\.", r"transformer_blocks.\1.ff_context.net.0.proj."),
                (r"^single_blocks\.(\d+)\.linear2\.", r"single_transformer_blocks.\1.proj_out."),
                (r"^single_blocks\.(\d+)\.modulation\.lin\.", r"single_transformer_blocks.\1.norm.linear."),
                (r"^single_blocks\.(\d+)\.norm\.query_norm\.scale", r"single_transformer_blocks.\1.attn.norm_q.weight"),
                (r"^final_layer\.linear\.", "proj_out."),
                (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
            )
        ),
    )
    norms = Called(((r"_norm\.scale$", "_norm.weight"),))
    spellings = {
        **_prefixes(rows),
        "norms": Spelling((norms,)),
        "comfy-norms": Spelling((norms, _front("diffusion_model."))),
    }
    return Family(shapes, keys, spellings=spellings)


def _sd3() -> Family:
    shapes: Shapes = {"pos_embed": (1, 9, 4), "x_embedder.proj.weight": (4, 2, 2, 2), "context_embedder.weight": (4, 6)}
    shapes |= {"t_embedder.mlp.0.weight": (4, 4), "y_embedder.mlp.2.weight": (4, 4)}
    for block, rows_of_context in ((0, 24), (1, 8)):
        for side, rows in (("x", 24), ("context", rows_of_context)):
            inner = f"joint_blocks.{block}.{side}_block."
            shapes |= {f"{inner}attn.qkv.weight": (12, 4), f"{inner}attn.qkv.bias": (12,)}
            shapes |= {f"{inner}adaLN_modulation.1.weight": (rows, 4), f"{inner}adaLN_modulation.1.bias": (rows,)}
        shapes |= {f"joint_blocks.{block}.x_block.attn.ln_q.weight": (2,)}
        shapes |= {
            f"joint_blocks.{block}.x_block.mlp.fc1.weight": (8, 4),
            f"joint_blocks.{block}.x_block.attn.proj.weight": (4, 4),
        }
    shapes |= {"joint_blocks.0.context_block.attn.proj.weight": (4, 4), "final_layer.linear.weight": (4, 4)}
    shapes["final_layer.adaLN_modulation.1.weight"] = (8, 4)
    keys = {
        "*joint_blocks.0*": _glob("*joint_blocks.0*"),
        "*x_block*": _glob("*x_block*"),
        "*adaLN*": _glob("*adaLN*"),
        "re:^final": _has("^final"),
    }
    block = "transformer_blocks.{}.attn."
    rows = (
        Swapped(r"^final_layer\.adaLN_modulation|^joint_blocks\.1\.context_block\.adaLN"),
        *_cut("joint_blocks.{}.x_block.attn.qkv", *(f"{block}to_{each}" for each in "qkv")),
        *_cut("joint_blocks.{}.context_block.attn.qkv", *(f"{block}add_{each}_proj" for each in "qkv")),
        Called(
            (
                (r"^pos_embed$", "pos_embed.pos_embed"),
                (r"^x_embedder\.proj\.", "pos_embed.proj."),
                (r"^t_embedder\.mlp\.0\.", "time_text_embed.timestep_embedder.linear_1."),
                (r"^y_embedder\.mlp\.2\.", "time_text_embed.text_embedder.linear_2."),
                (r"^joint_blocks\.(\d+)\.x_block\.adaLN_modulation\.1\.", r"transformer_blocks.\1.norm1.linear."),
                (
                    r"^joint_blocks\.(\d+)\.context_block\.adaLN_modulation\.1\.",
                    r"transformer_blocks.\1.norm1_context.linear.",
                ),
                (r"^joint_blocks\.(\d+)\.x_block\.attn\.ln_q\.", r"transformer_blocks.\1.attn.norm_q."),
                (r"^joint_blocks\.(\d+)\.x_block\.attn\.proj\.", r"transformer_blocks.\1.attn.to_out.0."),
                (r"^joint_blocks\.(\d+)\.context_block\.attn\.proj\.", r"transformer_blocks.\1.attn.to_add_out."),
                (r"^joint_blocks\.(\d+)\.x_block\.mlp\.fc1\.", r"transformer_blocks.\1.ff.net.0.proj."),
                (r"^final_layer\.linear\.", "proj_out."),
                (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
            )
        ),
    )
    return Family(shapes, keys, spellings=_prefixes(rows))


def _sdxl() -> Family:
    attention, large = "1.transformer_blocks.0.", "conditioner.embedders.1.model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{UNET}label_emb.0.0.weight": (4, 6),
        f"{UNET}input_blocks.0.0.weight": (2, 4, 3, 3),
        f"{UNET}input_blocks.4.{attention}attn2.to_k.weight": (4, 8),
        f"{UNET}middle_block.{attention}attn1.to_q.weight": (4, 4),
        f"{UNET}output_blocks.0.{attention}norm2.weight": (4,),
        f"{UNET}out.2.weight": (2, 4, 3, 3),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (6,),
        f"{large}ln_final.weight": (4,),
        f"{large}token_embedding.weight": (10, 4),
        f"{large}positional_embedding": (7, 4),
        f"{large}text_projection": (4, 6),
        f"{large}transformer.resblocks.0.attn.in_proj_weight": (12, 4),
        f"{large}transformer.resblocks.0.attn.in_proj_bias": (12,),
        f"{large}transformer.resblocks.0.mlp.c_fc.weight": (8, 4),
        "first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3),
    }
    keys = {
        "IN": _has(r"diffusion_model\.(?:input_blocks|label_emb)\."),
        "M00": _has(r"diffusion_model\.middle_block\."),
        "text_encoder": _has(r"^conditioner\."),
        "*.attn?.*": _glob("*.attn?.*"),
    }
    layer = "transformer.resblocks.{}."
    text = "text_model.encoder.layers.{}."
    transformers = (
        Turned(r"\.text_projection$"),
        *(
            Cut(
                f"{large}{layer}attn.in_proj_{end}",
                tuple(f"{large}{text}self_attn.{each}_proj.{end}" for each in "qkv"),
            )
            for end in ("weight", "bias")
        ),
        Called(
            (
                (r"\.ln_final\.", ".text_model.final_layer_norm."),
                (r"\.token_embedding\.", ".text_model.embeddings.token_embedding."),
                (r"\.positional_embedding$", ".text_model.embeddings.position_embedding.weight"),
                (r"\.text_projection$", ".text_projection.weight"),
                (r"\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r".text_model.encoder.layers.\1.mlp.fc1."),
            )
        ),
    )
    small = r"^conditioner\.embedders\.0\.transformer\."
    forge = Called(
        (
            (small, "text_encoders.clip_l.transformer."),
            (r"^conditioner\.embedders\.1\.model\.", "text_encoders.clip_g.transformer."),
            (r"^first_stage_model\.", "vae."),
        )
    )
    pipeline = Called(
        (
            (r"^model\.diffusion_model\.", "diffusion_model."),
            (small, "text_encoder."),
            (r"^conditioner\.embedders\.1\.model\.", "text_encoder_2."),
        )
    )
    spellings = {
        "forge": Spelling((*transformers, forge)),
        "comfy": Spelling((Called(((r"^model\.diffusion_model\.", "diffusion_model."),)),)),
        "one-file-pipeline": Spelling((*transformers, pipeline)),
    }
    return Family(shapes, keys, (), "", ("file", "ckpt"), ("unet", "text_encoder", "vae"), _wrapped(spellings))


def _plain() -> Family:
    """Return models of no known architecture: some tensors longer than a chunk, one empty, one without dimensions."""
    shapes: dict[str, tuple[int, ...]] = {
        "net.0.weight": (9, 7),
        "net.0.bias": (9,),
        "net.1.weight": (3, 5, 4),
        "net.1.scale": (),
        "net.1.nothing": (0, 3),
        "tail.to_out.weight": (5, 5),
        "tail.steps": (3,),
    }
    keys = {"net.0.*": _glob("net.0.*"), "*.weight": _glob("*.weight"), r"re:net\.\d": _has(r"net\.\d")}
    return Family(shapes, keys, (), "", ("file", "ckpt", "folder"), spellings=_wrapped({}))


def _lora_llama() -> Family:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(2):
        for module in ("self_attn.q_proj", "mlp.down_proj"):
            rows, columns = (4, 4) if module.endswith("q_proj") else (4, 8)
            inner = f"base_model.model.model.layers.{layer}.{module}"
            shapes |= {f"{inner}.lora_A.weight": (2, columns), f"{inner}.lora_B.weight": (rows, 2)}
    return Family(shapes, {}, forms=("folder",))


def _lora_sd1() -> Family:
    shapes: dict[str, tuple[int, ...]] = {}
    modules = {
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (4, 6),
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0": (4, 4),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (8, 4),
    }
    for module, (rows, columns) in modules.items():
        shapes |= {f"{module}.lora_up.weight": (rows, 2), f"{module}.lora_down.weight": (2, columns)}
        shapes[f"{module}.alpha"] = ()
    return Family(shapes, {}, forms=("file", "ckpt"))


FAMILIES: Mapping[str, Family] = {
    "llama": _llama(),
    "moe": _moe(),
    "gpt2": _gpt2(),
    "bert": _bert(),
    "t5": _t5(),
    "llava": _llava(),
    "sd1": _sd1(),
    "unet": _unet(),
    "vae": _vae(),
    "flux": _flux(),
    "sd3": _sd3(),
    "sdxl": _sdxl(),
    "plain": _plain(),
    "lora-llama": _lora_llama(),
    "lora-sd1": _lora_sd1(),
}
