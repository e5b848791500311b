"""Reordered models compute what they computed, and the orders found are the best ones.

The models are small copies of the real layers, run in float64 by the layers' definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations, product

import pytest
import torch
from test_kernels_attention import attended, clip, open_clip, unet
from torch import Tensor
from torch.nn import functional

from mergebuild.methods.kernels.permutation import Order, matched, moves, reordered
from mergebuild.methods.scopes.attention import attentions
from mergebuild.methods.scopes.channels import ChannelBlock, ChannelFamily, ChannelPart, blocks

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]

BLOCK = "model.diffusion_model.input_blocks.1.0."
LLAMA = "model.layers.0."
EMBED = "model.diffusion_model."


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=source) * 0.3 for name, shape in shapes.items()}


def some(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def residual_shapes() -> dict[str, tuple[int, ...]]:
    return {
        f"{BLOCK}in_layers.0.weight": (32,),
        f"{BLOCK}in_layers.2.weight": (96, 32, 3, 3),
        f"{BLOCK}in_layers.2.bias": (96,),
        f"{BLOCK}emb_layers.1.weight": (96, 20),
        f"{BLOCK}emb_layers.1.bias": (96,),
        f"{BLOCK}out_layers.0.weight": (96,),
        f"{BLOCK}out_layers.0.bias": (96,),
        f"{BLOCK}out_layers.3.weight": (32, 96, 3, 3),
        f"{BLOCK}out_layers.3.bias": (32,),
    }


def residual(t: Tensors) -> Tensor:
    hidden = functional.conv2d(some(2, 32, 5, 5), t[f"{BLOCK}in_layers.2.weight"], t[f"{BLOCK}in_layers.2.bias"])
    embedded = functional.linear(some(2, 20), t[f"{BLOCK}emb_layers.1.weight"], t[f"{BLOCK}emb_layers.1.bias"])
    hidden = hidden + embedded[:, :, None, None]
    hidden = functional.group_norm(hidden, 32, t[f"{BLOCK}out_layers.0.weight"], t[f"{BLOCK}out_layers.0.bias"])
    return functional.conv2d(functional.silu(hidden), t[f"{BLOCK}out_layers.3.weight"])


def feed_forward_shapes() -> dict[str, tuple[int, ...]]:
    prefix = "model.diffusion_model.middle_block.1.transformer_blocks.0.ff."
    return {
        f"{prefix}net.0.proj.weight": (24, 5),
        f"{prefix}net.0.proj.bias": (24,),
        f"{prefix}net.2.weight": (5, 12),
        f"{prefix}net.2.bias": (5,),
    }


def feed_forward(t: Tensors) -> Tensor:
    first, first_bias, second = (
        next(value for name, value in t.items() if name.endswith(end))
        for end in ("proj.weight", "proj.bias", "net.2.weight")
    )
    value, gate = functional.linear(some(4, 5), first, first_bias).chunk(2, -1)
    return functional.linear(value * functional.gelu(gate), second)


def embedding_shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for first, second in (("time_embed.0", "time_embed.2"), ("label_emb.0.0", "label_emb.0.2")):
        found |= {f"{EMBED}{first}.weight": (10, 4), f"{EMBED}{first}.bias": (10,)}
        found |= {f"{EMBED}{second}.weight": (10, 10), f"{EMBED}{second}.bias": (10,)}
    return found


def embedding(t: Tensors) -> Tensor:
    total = torch.zeros(3, 10, dtype=torch.float64)
    for first, second in (("time_embed.0", "time_embed.2"), ("label_emb.0.0", "label_emb.0.2")):
        hidden = functional.silu(functional.linear(some(3, 4), t[f"{EMBED}{first}.weight"], t[f"{EMBED}{first}.bias"]))
        total = total + functional.linear(hidden, t[f"{EMBED}{second}.weight"])
    return total


def text_shapes() -> dict[str, tuple[int, ...]]:
    clip_l = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp."
    clip_g = "conditioner.embedders.1.model.transformer.resblocks.0.mlp."
    return {
        f"{clip_l}fc1.weight": (12, 4),
        f"{clip_l}fc1.bias": (12,),
        f"{clip_l}fc2.weight": (4, 12),
        f"{clip_g}c_fc.weight": (12, 4),
        f"{clip_g}c_fc.bias": (12,),
        f"{clip_g}c_proj.weight": (4, 12),
    }


def text(t: Tensors) -> Tensor:
    names = sorted(t)
    total = torch.zeros(3, 4, dtype=torch.float64)
    for first_bias, first, second in (names[:3], names[3:]):
        total = total + functional.linear(
            functional.gelu(functional.linear(some(3, 4), t[first], t[first_bias])), t[second]
        )
    return total


def llama_shapes(heads: int = 4, groups: int = 2, width: int = 8) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{LLAMA}mlp.{name}_proj.weight": (14, 10) for name in ("gate", "up")}
    shapes[f"{LLAMA}mlp.down_proj.weight"] = (10, 14)
    for name, count in (("q", heads), ("k", groups), ("v", groups)):
        shapes |= {f"{LLAMA}self_attn.{name}_proj.weight": (count * width, 10)}
        shapes |= {f"{LLAMA}self_attn.{name}_proj.bias": (count * width,)}
    shapes[f"{LLAMA}self_attn.o_proj.weight"] = (10, heads * width)
    return shapes


def llama(t: Tensors, heads: int = 4, groups: int = 2, width: int = 8) -> Tensor:
    x, places = some(6, 10), 6
    q, k, v = (
        functional.linear(x, t[f"{LLAMA}self_attn.{name}_proj.weight"], t[f"{LLAMA}self_attn.{name}_proj.bias"])
        .reshape(places, count, width).transpose(0, 1)
        for name, count in (("q", heads), ("k", groups), ("v", groups))
    )  # fmt: skip
    angles = torch.arange(places)[:, None] * 10.0 ** -torch.arange(width // 2)[None, :]
    turns = torch.cat((angles, angles), 1).double()
    q, k = (each * turns.cos() + torch.cat((-each[..., width // 2 :], each[..., : width // 2]), -1) * turns.sin()
            for each in (q, k))  # fmt: skip
    k, v = (each.repeat_interleave(heads // groups, 0) for each in (k, v))
    mixed = (torch.softmax(q @ k.mT, -1) @ v).transpose(0, 1).reshape(places, -1)
    hidden = functional.silu(x @ t[f"{LLAMA}mlp.gate_proj.weight"].T) * (x @ t[f"{LLAMA}mlp.up_proj.weight"].T)
    return mixed @ t[f"{LLAMA}self_attn.o_proj.weight"].T + hidden @ t[f"{LLAMA}mlp.down_proj.weight"].T


def attention(t: Tensors) -> Tensor:
    shapes = {name: tuple(value.shape) for name, value in t.items()}
    return torch.stack(
        [attended(layer, t, shapes[layer.output][1] // layer.width).sum(0) for layer in attentions(shapes)]
    )


MODELS: Mapping[str, tuple[Shapes, Callable[[Tensors], Tensor], int]] = {
    "residual block": (residual_shapes(), residual, 1),
    "feed-forward": (feed_forward_shapes(), feed_forward, 1),
    "embeddings": (embedding_shapes(), embedding, 2),
    "text encoders": (text_shapes(), text, 2),
    "llama": (llama_shapes(), llama, 2),
    "clip attention": (clip(192), attention, 1),
    "open clip attention": (open_clip(192), attention, 1),
    "unet attention": (unet(80, 768), attention, 2),
}


def shuffled(block: ChannelBlock, seed: int) -> Order:
    source = torch.Generator().manual_seed(seed)
    channels = tuple(
        torch.stack(
            [torch.arange(f.size) if f.fixed else torch.randperm(f.size, generator=source) for _ in range(block.groups)]
        )
        for f in block.families
    )
    return Order(torch.randperm(block.groups, generator=source), channels)


def moved(block: ChannelBlock, order: Order, tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors of a block in another order."""
    along = moves(block, order, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    assert set(along) == set(block.tensors)
    return {name: reordered(tensors[name], along[name]) for name in block.tensors}


def applied(found: Mapping[ChannelBlock, Order], tensors: Tensors) -> dict[str, Tensor]:
    result = dict(tensors)
    for block, order in found.items():
        result |= moved(block, order, tensors)
    return result


@pytest.mark.parametrize("kind", MODELS)
def test_any_order_computes_the_same(kind: str) -> None:
    shapes, model, count = MODELS[kind]
    found = blocks(shapes, 8)
    assert len(found) == count
    tensors = {name: value.double() for name, value in drawn(shapes).items()}
    moved = applied({block: shuffled(block, seed) for seed, block in enumerate(found)}, tensors)
    assert any(not torch.equal(moved[name], tensors[name]) for name in tensors)
    torch.testing.assert_close(model(moved), model(tensors))


@pytest.mark.parametrize("kind", MODELS)
def test_a_shuffled_model_is_brought_back(kind: str) -> None:
    """Matched to what it was before, to the bit; and what is in order already stays."""
    shapes, _, _ = MODELS[kind]
    tensors, found = drawn(shapes), blocks(shapes, 8)
    moved = applied({block: shuffled(block, seed) for seed, block in enumerate(found)}, tensors)
    back = applied({block: matched(block, moved, tensors) for block in found}, moved)
    assert all(torch.equal(back[name], tensors[name]) for name in shapes)
    stay = applied({block: matched(block, tensors, tensors) for block in found}, tensors)
    assert all(torch.equal(stay[name], tensors[name]) for name in shapes)


@pytest.mark.parametrize("kind", MODELS)
def test_blocks_share_no_tensors(kind: str) -> None:
    """So none depends on the order of another, and each is solved alone."""
    shapes, _, _ = MODELS[kind]
    names = [name for block in blocks(shapes, 8) for name in block.tensors]
    assert len(names) == len(set(names))
    assert set(names) <= set(shapes)


def gained(block: ChannelBlock, order: Order, a: Tensors, b: Tensors) -> float:
    return sum(float((tensor.double() * b[name].double()).sum()) for name, tensor in moved(block, order, a).items())


@pytest.mark.parametrize("seed", range(6))
def test_nothing_gains_more(seed: int) -> None:
    """All orders of groups and of the channels in them are tried."""
    block = ChannelBlock(
        3,
        (
            ChannelFamily(2, (ChannelPart("x", 0), ChannelPart("y", 1))),
            ChannelFamily(2, (ChannelPart("y", 0, 1),)),
            ChannelFamily(4, (ChannelPart("z", 0),), fixed=True),
        ),
    )
    shapes: Shapes = {"x": (6, 3), "y": (7, 6), "z": (12,)}
    assert block.tensors == ("x", "y", "z")
    block = ChannelBlock(
        3,
        (
            ChannelFamily(2, (ChannelPart("x", 0), ChannelPart("w", 1))),
            ChannelFamily(2, (ChannelPart("y", 0, 1),)),
            block.families[2],
        ),
    )
    shapes = {**shapes, "w": (2, 6)}
    a, b = drawn(shapes, seed), drawn(shapes, seed + 100)
    best = gained(block, matched(block, a, b), a, b)
    inner = list(permutations(range(2)))
    tried = []
    for groups in permutations(range(3)):
        for chosen in product(inner, repeat=6):
            channels = (torch.tensor(chosen[:3]), torch.tensor(chosen[3:]), torch.arange(4).expand(3, 4))
            tried.append(gained(block, Order(torch.tensor(groups), channels), a, b))
    assert best == pytest.approx(max(tried), abs=1e-6)


def test_nothing_to_compare_leaves_all_as_it_is() -> None:
    shapes, _, _ = MODELS["residual block"]
    (block,) = blocks(shapes)
    tensors = drawn(shapes)
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    order = matched(block, tensors, zeros)
    assert torch.equal(order.groups, torch.arange(32))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in moved(block, order, tensors).items())


def test_without_the_size_of_heads_llama_s_attention_stays() -> None:
    assert len(blocks(llama_shapes())) == 1
    assert len(blocks(llama_shapes(), 8)) == 2
    assert len(blocks(llama_shapes(), 3)) == 1  # no whole heads
    assert blocks(llama_shapes(), 4) != blocks(llama_shapes(), 8)


def test_layers_of_other_shapes_are_left_alone() -> None:
    scaled = residual_shapes() | {f"{BLOCK}emb_layers.1.weight": (192, 20)}  # a scale and a shift
    assert not blocks(scaled)
    odd = residual_shapes() | {f"{BLOCK}in_layers.2.weight": (90, 32, 3, 3)}
    assert not blocks(odd)
    transposed = {"h.0.mlp.c_fc.weight": (8, 32), "h.0.mlp.c_proj.weight": (32, 8)}  # GPT-2's
    assert not blocks(transposed)
    short = feed_forward_shapes()
    short[next(iter(short))] = (23, 5)
    assert not blocks(short)
    assert not blocks({"x.mlp.fc1.weight": (12, 4), "x.mlp.fc2.weight": (4, 13)})
