"""Language models under every spelling: the same parameters, by name, shape and value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import accumulate
from math import prod
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.formats.gathering import gather
from mergebuild.formats.header import Piece
from mergebuild.naming import view_of
from mergebuild.naming.canonical import canonical, is_constant

Model = Mapping[str, np.ndarray]
Facts = Mapping[str, object] | None


class Sizes(NamedTuple):
    """How large a model is."""

    heads: int
    groups: int
    head: int
    inner: int
    experts: int


_SIZES = st.builds(
    lambda per_group, groups, head, inner, experts: Sizes(per_group * groups, groups, head, inner, experts),
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3),
)  # fmt: skip
_HIDDEN = 5


def parameters_of(stored: Model, facts: Facts = None) -> dict[str, np.ndarray]:
    """Return a file's parameters by canonical name, gathered byte by byte from what is stored."""
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in stored.items()}
    begins = dict(zip(arrays, accumulate((each.nbytes for each in arrays.values()), initial=0), strict=False))
    data = memoryview(b"".join(each.tobytes() for each in arrays.values()))
    found = {}
    for name, renamed in canonical({name: each.shape for name, each in arrays.items()}, facts).made.items():
        pieces = []
        for cut in renamed.cuts:
            shape = arrays[cut.tensor].shape
            strides = tuple(prod(shape[place + 1 :]) for place in range(len(shape)))
            view = view_of(cut, shape, strides)
            pieces.append(Piece(0, begins[cut.tensor] + 4 * view.begin, view.shape, view.strides))
        made = gather(pieces, lambda _: data, 4, 0, prod(renamed.shape))
        found[name] = np.frombuffer(made, dtype=np.float32).reshape(renamed.shape)
    return found


def assert_same(found: Model, right: Model) -> None:
    """Check that two models have the same parameters, in any order."""
    assert found.keys() == right.keys()
    for name in right:
        np.testing.assert_array_equal(found[name], right[name], name)


def counted(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return tensors whose numbers are all different."""
    begins = accumulate((prod(shape) for shape in shapes.values()), initial=0)
    return {
        name: np.arange(begin, begin + prod(shape), dtype=np.float32).reshape(shape)
        for (name, shape), begin in zip(shapes.items(), begins, strict=False)
    }


def llama(sizes: Sizes, experts: str = "") -> dict[str, np.ndarray]:
    """Return a model of two layers in canonical names; `experts`: how those are called, where it has some."""
    wide, narrow = sizes.heads * sizes.head, sizes.groups * sizes.head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (7, _HIDDEN)}
    for layer in range(2):
        at = f"model.layers.{layer}."
        for part, rows in (("q", wide), ("k", narrow), ("v", narrow)):
            shapes[f"{at}self_attn.{part}_proj.weight"] = (rows, _HIDDEN)
            shapes[f"{at}self_attn.{part}_proj.bias"] = (rows,)
        shapes[f"{at}self_attn.o_proj.weight"] = (_HIDDEN, wide)
        shapes[f"{at}input_layernorm.weight"] = shapes[f"{at}post_attention_layernorm.weight"] = (_HIDDEN,)
        if not experts:
            shapes |= _feed_forward(f"{at}mlp.", ("gate_proj", "up_proj", "down_proj"), sizes)
        for number in range(sizes.experts if experts else 0):
            words = ("w1", "w3", "w2") if experts == "block_sparse_moe" else ("gate_proj", "up_proj", "down_proj")
            shapes |= _feed_forward(f"{at}{experts}.experts.{number}.", words, sizes)
    return counted(shapes | {"model.norm.weight": (_HIDDEN,), "lm_head.weight": (7, _HIDDEN)})


def _feed_forward(at: str, words: tuple[str, str, str], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    gate, up, down = words
    wide = (sizes.inner, _HIDDEN)
    return {f"{at}{gate}.weight": wide, f"{at}{up}.weight": wide, f"{at}{down}.weight": wide[::-1]}


def joined(
    model: Model, pattern: str, parts: str, whole: str, join: Callable[..., np.ndarray]
) -> dict[str, np.ndarray]:
    """Return a model whose tensors that fit `pattern`, by its group `part` in the order of `parts`, are one.

    The other groups are what `whole` is filled with.
    """
    found: dict[str, np.ndarray] = {}
    fused: dict[str, dict[str, np.ndarray]] = {}
    for name, array in model.items():
        if match := re.fullmatch(pattern, name):
            said = match.groupdict()
            fused.setdefault(whole.format(**said), {})[said["part"] + said.get("number", "")] = array
        else:
            found[name] = array
    return found | {name: join(*_in_order(some, parts.split())) for name, some in fused.items()}


def _in_order(some: Mapping[str, np.ndarray], parts: list[str]) -> list[np.ndarray]:
    return [some[key] for part in parts for key in sorted(key for key in some if re.fullmatch(rf"{part}\d*", key))]


def _renamed(model: Model, *pairs: tuple[str, str]) -> dict[str, np.ndarray]:
    found = dict(model)
    for old, new in pairs:
        found = {re.sub(old, new, name): array for name, array in found.items()}
    return found


_QKV = r"(?P<at>.*)self_attn\.(?P<part>[qkv])_proj\.(?P<end>weight|bias)"
_GATE_UP = r"(?P<at>.*)mlp\.(?P<part>gate|up)_proj\.weight"


def _stacked(parts: int, *, by_turns: bool = False, transposed: bool = False) -> Callable[..., np.ndarray]:
    """Return how experts are stacked: all of the first part, then all of the second."""

    def join(*arrays: np.ndarray) -> np.ndarray:
        count = len(arrays) // parts
        made = []
        for number in range(count):
            some = [arrays[place * count + number] for place in range(parts)]
            one = np.stack(some, 1).reshape(-1, *some[0].shape[1:]) if by_turns else np.concatenate(some)
            made.append(one.T if transposed else one)
        return np.stack(made)

    return join


def _in_groups(sizes: Sizes) -> Callable[..., np.ndarray]:
    def join(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        rows = [each.reshape(sizes.groups, -1, *each.shape[1:]) for each in (q, k, v)]
        return np.concatenate(rows, 1).reshape(-1, *q.shape[1:])

    return join


def _stack(model: Model, where: str, words: str, into: str, **how: bool) -> dict[str, np.ndarray]:
    """Stack the experts of a model, which are called `words`, into tensors that `into` is the beginning of."""
    gate, up, down = words.split()
    at = rf"(?P<at>.*){where}\.experts\.(?P<number>\d+)\."
    first = joined(
        model, rf"{at}(?P<part>{gate}|{up})\.weight", f"{gate} {up}", f"{{at}}{into}.gate_up_proj", _stacked(2, **how)
    )
    turned = {"transposed": how.get("transposed", False)}
    return joined(first, rf"{at}(?P<part>{down})\.weight", down, f"{{at}}{into}.down_proj", _stacked(1, **turned))


# Prefixes


@pytest.mark.parametrize(
    ("text", "head", "tower"),
    [
        ("model.", "", ""),
        ("", "", ""),
        ("language_model.model.", "language_model.", ""),
        ("model.language_model.", "", "model."),
        ("language_model.", "", ""),
        ("model.text_model.", "", "model."),
        ("text_model.model.", "text_model.", ""),
        ("model.language_model.model.", "model.language_model.", "model."),
        ("model.model.language_model.", "model.", "model.model."),
        ("llm.model.", "llm.", ""),
        ("thinker.model.", "thinker.", "thinker."),
        ("vlm.model.language_model.", "vlm.", "vlm.model."),
        ("vlm.language_model.model.", "vlm.language_model.", "vlm."),
        ("module._orig_mod.model.", "module._orig_mod.", "module._orig_mod."),
        ("base_model.model.model.language_model.", "base_model.model.", "base_model.model.model."),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        "visual.blocks.0.attn.qkv",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
        "multi_modal_projector.linear_1",
    ],
)
def test_the_text_part_of_every_model_has_the_names_of_a_language_model(
    text: str, head: str, tower: str, kind: str
) -> None:
    right = llama(Sizes(2, 1, 2, 3, 1)) | {f"{kind}.weight": np.ones((2, 3), np.float32)}
    stored = _renamed(
        right, (r"^model\.", text), (r"^lm_head", f"{head}lm_head"), (rf"^{re.escape(kind)}", tower + kind)
    )
    assert_same(parameters_of(stored), right)


def test_layers_of_other_models_are_none_of_a_language_model() -> None:
    shapes = {"layers.0.self_attn.q_proj.weight": (4, 4), "x_embedder.weight": (4, 4), "norm.weight": (4,)}
    assert list(canonical(shapes).made) == list(shapes)


def test_two_language_models_in_one_file_are_not_mixed_up() -> None:
    found = canonical({
        "thinker.model.layers.0.mlp.up_proj.weight": (4, 4), "talker.model.layers.0.mlp.up_proj.weight": (2, 2),
    })  # fmt: skip
    assert list(found.made) == ["model.layers.0.mlp.up_proj.weight", "talker.model.layers.0.mlp.up_proj.weight"]


# Fused and split


@given(_SIZES)
def test_canonical_names_are_canonical(sizes: Sizes) -> None:
    for experts in ("", "mlp", "block_sparse_moe", "feed_forward"):
        model = llama(sizes, experts)
        assert_same(parameters_of(model), model)


@given(_SIZES)
def test_queries_keys_and_values_in_one(sizes: Sizes) -> None:
    model = llama(sizes)
    fused = joined(model, _QKV, "q k v", "{at}self_attn.qkv_proj.{end}", lambda *some: np.concatenate(some))
    fused = joined(fused, _GATE_UP, "gate up", "{at}mlp.gate_up_proj.weight", lambda *some: np.concatenate(some))
    assert_same(parameters_of(fused), model)
    assert_same(parameters_of(_renamed(fused, (r"^model\.", "model.language_model."))), model)
    assert_same(parameters_of(_renamed(fused, ("_proj", "_proj.base_layer"))), model)


@given(st.integers(1, 4), st.integers(1, 4))
def test_three_equal_parts_of_baichuan(heads: int, head: int) -> None:
    model = llama(Sizes(heads, heads, head, 3, 1))
    fused = joined(model, _QKV, "q k v", "{at}self_attn.W_pack.{end}", lambda *some: np.concatenate(some))
    assert_same(parameters_of(fused), model)


@given(_SIZES)
def test_heads_in_groups_of_internlm2(sizes: Sizes) -> None:
    model = llama(sizes)
    fused = joined(model, _QKV, "q k v", "{at}attention.wqkv.{end}", _in_groups(sizes))
    fused = _renamed(
        fused, ("embed_tokens", "tok_embeddings"), ("^lm_head", "output"), (r"self_attn\.o_proj", "attention.wo"),
        (r"mlp\.gate_proj", "feed_forward.w1"), (r"mlp\.up_proj", "feed_forward.w3"),
        (r"mlp\.down_proj", "feed_forward.w2"), ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attention_norm"),
    )  # fmt: skip
    facts = {"num_attention_heads": sizes.heads}
    assert_same(parameters_of(fused, facts), model)
    within = _renamed(fused, (r"^model\.", "language_model.model."), ("^output", "language_model.output"))
    assert_same(parameters_of(within, {"llm_config": facts}), model)
    # without the number of heads they stay together
    assert parameters_of(fused)["model.layers.0.attention.wqkv.weight"].size


@given(_SIZES, st.booleans())
def test_stacked_experts(sizes: Sizes, transposed: bool) -> None:
    for where, words in (("mlp", "gate_proj up_proj down_proj"), ("feed_forward", "gate_proj up_proj down_proj")):
        model = llama(sizes, where)
        facts = {"model_type": "qwen3_moe"}
        stacked = _stack(model, where, words, f"{where}.experts", transposed=transposed)
        assert_same(parameters_of(stacked, facts), model)
    mixtral = llama(sizes, "block_sparse_moe")
    stacked = _stack(mixtral, "block_sparse_moe", "w1 w3 w2", "mlp.experts", transposed=transposed)
    assert_same(parameters_of(stacked, {"model_type": "mixtral"}), mixtral)
    assert_same(parameters_of(stacked), mixtral)


@given(_SIZES)
def test_gate_and_up_by_turns_of_gpt_oss(sizes: Sizes) -> None:
    model = llama(sizes, "mlp")
    at, biases = "model.layers.0.mlp.experts", {}
    for number in range(sizes.experts):
        for word, rows in (("gate_proj", sizes.inner), ("up_proj", sizes.inner), ("down_proj", _HIDDEN)):
            biases[f"{at}.{number}.{word}.bias"] = (rows,)
    right = model | {name: array + 1000 for name, array in counted(biases).items()}
    stacked = _stack(model, "mlp", "gate_proj up_proj down_proj", "mlp.experts", by_turns=True, transposed=True)
    gates, ups, downs = (
        [right[f"{at}.{number}.{word}.bias"] for number in range(sizes.experts)]
        for word in ("gate_proj", "up_proj", "down_proj")
    )
    stacked[f"{at}.gate_up_proj_bias"] = _stacked(2, by_turns=True)(*gates, *ups)
    stacked[f"{at}.down_proj_bias"] = np.stack(downs)
    assert_same(parameters_of(stacked, {"model_type": "gpt_oss"}), right)


def test_shapes_that_do_not_fit_are_left_whole() -> None:
    shapes = {
        "model.layers.0.self_attn.qkv_proj.weight": (13, 5),
        "model.layers.0.self_attn.o_proj.weight": (5, 8),
        "model.layers.1.self_attn.qkv_proj.weight": (12, 5),
        "model.layers.2.mlp.gate_up_proj.weight": (5, 5),
    }
    assert list(canonical(shapes).made) == list(shapes)


# Other models


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("transformer.", "wte.weight h.0.attn.c_attn.weight h.0.ln_1.bias"),
        ("transformer.", "word_embeddings.weight h.0.self_attention.query_key_value.weight"),
        ("transformer.", "blocks.0.attn.Wqkv.weight norm_f.weight"),
        ("transformer.", "encoder.block.0.layer.0.SelfAttention.q.weight shared.weight"),
        ("model.", "decoder.layers.0.self_attn.q_proj.weight decoder.embed_positions.weight"),
        ("model.", "encoder.layers.0.fc1.weight encoder.conv1.weight decoder.layers.0.fc1.weight"),
        ("bert.", "encoder.layer.0.attention.self.query.weight embeddings.word_embeddings.weight pooler.dense.bias"),
        ("roberta.", "encoder.layer.0.attention.self.query.weight embeddings.word_embeddings.weight"),
        ("distilbert.", "transformer.layer.0.attention.q_lin.weight embeddings.word_embeddings.weight"),
        ("gpt_neox.", "layers.0.attention.query_key_value.weight layers.0.input_layernorm.weight embed_in.weight"),
        ("backbone.", "layers.0.mixer.A_log embeddings.weight norm_f.weight"),
        ("vit.", "encoder.layer.0.attention.attention.query.weight embeddings.cls_token"),
        ("wav2vec2.", "encoder.layers.0.attention.q_proj.weight feature_extractor.conv_layers.0.conv.weight"),
    ],
)
def test_the_prefix_of_a_base_model_is_taken_off_and_heads_keep_their_names(prefix: str, names: str) -> None:
    stored = [*(prefix + name for name in names.split()), "classifier.weight"]
    found = canonical(dict.fromkeys(stored, (4, 4)))
    assert list(found.made) == [*names.split(), "classifier.weight"]
    assert [renamed.cuts[0].tensor for renamed in found.made.values()] == stored
    again = canonical(dict.fromkeys(found.made, (4, 4)))
    assert list(again.made) == list(found.made)
    assert again.family == found.family


def test_two_base_models_in_one_file_keep_their_prefixes() -> None:
    names = ["bert.encoder.layer.0.output.dense.weight", "vit.encoder.layer.0.output.dense.weight"]
    assert list(canonical(dict.fromkeys(names, (4, 4))).made) == names


def test_chatglm_and_the_first_qwen_have_the_names_of_a_llama() -> None:
    layer = "transformer.encoder.layers.0."
    shapes = {
        "transformer.embedding.word_embeddings.weight": (9, 4),
        f"{layer}self_attention.query_key_value.weight": (8, 4),
        f"{layer}self_attention.dense.weight": (4, 4),
        f"{layer}mlp.dense_h_to_4h.weight": (12, 4),
        "transformer.encoder.final_layernorm.weight": (4,),
        "transformer.output_layer.weight": (9, 4),
    }
    made = canonical(shapes).made
    layer = "model.layers.0."
    assert {name: renamed.shape for name, renamed in made.items()} == {
        "model.embed_tokens.weight": (9, 4), f"{layer}self_attn.q_proj.weight": (4, 4),
        f"{layer}self_attn.k_proj.weight": (2, 4), f"{layer}self_attn.v_proj.weight": (2, 4),
        f"{layer}self_attn.o_proj.weight": (4, 4), f"{layer}mlp.gate_proj.weight": (6, 4),
        f"{layer}mlp.up_proj.weight": (6, 4), "model.norm.weight": (4,), "lm_head.weight": (9, 4),
    }  # fmt: skip
    qwen = {
        "transformer.h.0.mlp.w1.weight": (4, 4),
        "transformer.h.0.mlp.w2.weight": (4, 4),
        "transformer.ln_f.weight": (4,),
    }
    cuts = {renamed.cuts[0].tensor: name for name, renamed in canonical(qwen).made.items()}
    assert cuts["transformer.h.0.mlp.w2.weight"] == f"{layer}mlp.gate_proj.weight"
    assert cuts["transformer.ln_f.weight"] == "model.norm.weight"


def test_experts_in_one_long_tensor_of_dbrx() -> None:
    at = "transformer.blocks.0.ffn"
    model = counted(
        {f"{at}.experts.mlp.w1": (6, 4), f"{at}.experts.mlp.w2": (6, 4), f"{at}.router.layer.weight": (3, 4)}
    )
    found = parameters_of(model)
    at = "blocks.0.ffn.experts.mlp"
    np.testing.assert_array_equal(found[f"{at}.1.w1.weight"], model[f"transformer.{at}.w1"][2:4])
    np.testing.assert_array_equal(found[f"{at}.2.w2.weight"], model[f"transformer.{at}.w2"][4:6].T)


@pytest.mark.parametrize(
    ("name", "shape", "constant"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (8,), True),
        ("h.0.attn.bias", (1, 1, 16, 16), True),
        ("h.0.attn.bias", (16,), False),
        ("h.0.attn.masked_bias", (), True),
        ("h.0.my_attn.masked_bias", (), False),
        ("layers.0.attention.bias", (1, 1, 16, 16), True),
        ("alphas_cumprod", (1000,), True),
        ("model.norm.weight", (4,), False),
    ],
)
def test_buffers_that_follow_from_the_architecture_are_constants(
    name: str, shape: tuple[int, ...], constant: bool
) -> None:
    assert is_constant(name, shape) is constant
