"""Attention layers are found by their tensors' names, and balancing one changes nothing in what it computes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from mergebuild.methods.kernels.attention import balance, scales_of
from mergebuild.methods.scopes.attention import Attention, attentions

Shapes = dict[str, tuple[int, ...]]


def balanced(layer: Attention, tensors: Mapping[str, Tensor], *, halfway: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a layer balanced, by name."""
    scales = scales_of(layer, tensors, halfway=halfway)
    return {name: balance(scales, name, tensors[name]) for name in layer.tensors}


CLIP = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn."
OPEN_CLIP = "conditioner.embedders.1.model.transformer.resblocks.3.attn."
VAE = "first_stage_model.decoder.mid.attn_1."
UNET = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0."


def clip(width: int = 128) -> Shapes:
    parts = ("q_proj", "k_proj", "v_proj", "out_proj")
    return {
        **{f"{CLIP}{part}.weight": (width, width) for part in parts},
        **{f"{CLIP}{part}.bias": (width,) for part in parts},
    }


def open_clip(width: int = 128) -> Shapes:
    return {
        f"{OPEN_CLIP}in_proj_weight": (3 * width, width),
        f"{OPEN_CLIP}in_proj_bias": (3 * width,),
        f"{OPEN_CLIP}out_proj.weight": (width, width),
        f"{OPEN_CLIP}out_proj.bias": (width,),
    }


def vae(width: int = 128) -> Shapes:
    parts = ("q", "k", "v", "proj_out", "norm")
    return {
        **{f"{VAE}{part}.weight": (width, width, 1, 1) for part in parts[:4]},
        **{f"{VAE}{part}.bias": (width,) for part in parts},
    }


def unet(width: int, context: int) -> Shapes:
    found: Shapes = {}
    for attention, source in (("attn1", width), ("attn2", context)):
        prefix = f"{UNET}{attention}."
        found |= {f"{prefix}to_q.weight": (width, width), f"{prefix}to_out.0.weight": (width, width)}
        found |= {f"{prefix}to_k.weight": (width, source), f"{prefix}to_v.weight": (width, source)}
        found[f"{prefix}to_out.0.bias"] = (width,)
    return found


LAYERS: Mapping[str, Shapes] = {
    "clip": clip(),
    "open clip": open_clip(),
    "vae": vae(),
    "sd1": unet(80, 768),
    "sdxl": unet(128, 2048),
}


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=source) * 0.1 for name, shape in shapes.items()}


def attended(layer: Attention, tensors: Mapping[str, Tensor], heads: int, places: int = 9) -> Tensor:
    """Return what a layer of so many heads makes of some inputs, all in float64, by the definition of attention."""
    exact = {name: value.double().flatten(1) if value.dim() > 1 else value.double() for name, value in tensors.items()}
    weights, biases = [], []
    for part, (weight, bias) in enumerate(
        ((layer.query, layer.query_bias), (layer.key, layer.key_bias), (layer.value, layer.value_bias))
    ):
        w = exact[weight]
        b = torch.zeros(len(w), dtype=torch.float64) if bias is None else exact[bias]
        weights.append(w.chunk(3)[part] if layer.fused else w)
        biases.append(b.chunk(3)[part] if layer.fused else b)
    source = torch.Generator().manual_seed(99)
    x = torch.randn(places, weights[0].shape[1], generator=source, dtype=torch.float64)
    y = torch.randn(places, weights[1].shape[1], generator=source, dtype=torch.float64)
    q, k, v = (
        (inputs @ w.T + b).reshape(places, heads, -1).transpose(0, 1)
        for inputs, w, b in zip((x, y, y), weights, biases, strict=True)
    )
    mixed = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
    return mixed.transpose(0, 1).reshape(places, -1) @ exact[layer.output].T


def heads_of(layer: Attention, shapes: Shapes) -> int:
    return 1 if "mid.attn_1" in layer.query else shapes[layer.output][1] // layer.width


@pytest.mark.parametrize("halfway", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_balanced_layer_computes_the_same(kind: str, halfway: bool) -> None:
    shapes = LAYERS[kind]
    for layer in attentions(shapes):
        tensors = drawn(shapes)
        found = balanced(layer, tensors, halfway=halfway)
        assert tuple(sorted(found)) == tuple(sorted(layer.tensors))
        assert all(found[name].shape == tensors[name].shape for name in found)
        assert all(value.dtype == torch.float32 for value in found.values())
        heads = heads_of(layer, shapes)
        before, after = attended(layer, tensors, heads), attended(layer, {**tensors, **found}, heads)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * float(before.abs().max()))
        assert not torch.equal(found[layer.output], tensors[layer.output])


def energies(layer: Attention, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return `W W^T` of queries, keys, values and O^T of each head, biases included."""
    exact = {name: value.double().flatten(1) if value.dim() > 1 else value.double() for name, value in tensors.items()}
    sides = []
    for part, (weight, bias) in enumerate(
        ((layer.query, layer.query_bias), (layer.key, layer.key_bias), (layer.value, layer.value_bias))
    ):
        side = exact[weight] if bias is None else torch.cat((exact[weight], exact[bias][:, None]), 1)
        sides.append(side.chunk(3)[part] if layer.fused else side)
    sides.append(exact[layer.output].T)
    heads = [side.reshape(-1, layer.width, side.shape[1]) for side in sides]
    return [head @ head.mT for head in heads]


@pytest.mark.parametrize("kind", LAYERS)
def test_energies_are_exchanged_or_made_equal(kind: str) -> None:
    shapes = LAYERS[kind]
    for layer in attentions(shapes):
        tensors = drawn(shapes)
        query, key, value, output = energies(layer, tensors)
        exchanged = energies(layer, {**tensors, **balanced(layer, tensors)})
        for found, wanted in zip(exchanged, (key, query, output, value), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
        once = {**tensors, **balanced(layer, tensors, halfway=True)}
        query, key, value, output = energies(layer, once)
        torch.testing.assert_close(query, key, rtol=0, atol=1e-4 * float(query.abs().max()))
        torch.testing.assert_close(value, output, rtol=0, atol=1e-4 * float(value.abs().max()))
        for name, again in balanced(layer, once, halfway=True).items():
            torch.testing.assert_close(again, once[name], rtol=0, atol=1e-4 * float(once[name].abs().max()))


def test_layers_of_all_kinds_are_found() -> None:
    shapes = {**clip(), **open_clip(), **vae(), **unet(320, 768), "model.diffusion_model.out.0.weight": (320,)}
    found = {layer.query: layer for layer in attentions(shapes)}
    assert {name: layer.width for name, layer in found.items()} == {
        f"{CLIP}q_proj.weight": 64,
        f"{OPEN_CLIP}in_proj_weight": 64,
        f"{VAE}q.weight": 64,
        f"{UNET}attn1.to_q.weight": 40,
        f"{UNET}attn2.to_q.weight": 40,
    }
    assert found[f"{OPEN_CLIP}in_proj_weight"].fused
    assert found[f"{UNET}attn1.to_q.weight"].query_bias is None
    assert f"{CLIP}out_proj.bias" not in found[f"{CLIP}q_proj.weight"].tensors


def test_heads_of_newer_unets_have_64_rows() -> None:
    assert {layer.width for layer in attentions(unet(640, 2048))} == {64}
    assert {layer.width for layer in attentions(unet(640, 1024))} == {64}


@pytest.mark.parametrize("missing", ["q_proj", "k_proj", "v_proj", "out_proj"])
def test_a_layer_that_lacks_a_tensor_is_none(missing: str) -> None:
    shapes = clip()
    del shapes[f"{CLIP}{missing}.weight"]
    assert not attentions(shapes)


def test_odd_layers_are_none() -> None:
    assert not attentions(clip(100))  # no whole heads
    llama = {f"model.layers.0.self_attn.{part}_proj.weight": (128, 128) for part in "qkvo"}
    assert not attentions(llama)  # rotary positions: channels of queries and keys can't be mixed
    assert not attentions({f"{OPEN_CLIP}in_proj_weight": (384, 128)})


def test_zeros_are_no_trouble() -> None:
    shapes = clip(64)
    (layer,) = attentions(shapes)
    found = balanced(layer, {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert not any(value.any() for value in found.values())
