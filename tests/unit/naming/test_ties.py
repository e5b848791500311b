"""Names that are one parameter."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mergebuild.naming.canonical import Canonical, canonical
from mergebuild.naming.ties import says_tied

_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_LAYER = "model.layers.0.mlp.up_proj.weight"


def _found(*names: str, facts: Mapping[str, object] | None = None, **same_place: str) -> Canonical:
    """Return what a file of tensors of one shape holds."""
    places = {name.replace("__", "."): first.replace("__", ".") for name, first in same_place.items()}
    return canonical(dict.fromkeys((*names, _LAYER), (8, 4)), facts, places)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (None, None),
        ({}, None),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False, "model_type": "gemma"}, False),
        ({"tie_word_embeddings": "yes", "model_type": "llama"}, False),
        ({"model_type": "gemma2"}, True),
        ({"model_type": "nobody_knows"}, None),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, False),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, True),
        ({"model_type": "qwen2_vl", "tie_word_embeddings": True, "text_config": {"hidden_size": 4}}, True),
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True}}, True),
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, None),
        ({"text_config": None, "model_type": ["llama"]}, None),
    ],
)
def test_what_a_configuration_says_of_ties(facts: Mapping[str, object] | None, says: bool | None) -> None:
    assert says_tied(facts) is says


def test_a_head_that_is_lacking_is_the_embedding_unless_the_configuration_says_otherwise() -> None:
    for facts in (None, {"model_type": "gemma2"}, {"tie_word_embeddings": True}):
        found = _found(_EMBED, facts=facts)
        assert found.tied == {_HEAD: _EMBED}
        assert found.twice == {}
    assert _found(_EMBED, facts={"tie_word_embeddings": False}).tied == {}
    assert _found().tied == {}


def test_a_head_that_is_stored_too_is_one_parameter_where_it_is_said() -> None:
    for facts in (None, {"tie_word_embeddings": False}):
        found = _found(_EMBED, _HEAD, facts=facts)
        assert _HEAD in found.made
        assert found.tied == {}
    found = _found(_EMBED, _HEAD, facts={"tie_word_embeddings": True})
    assert list(found.made) == [_EMBED, _LAYER]
    assert (found.twice, found.tied) == ({_HEAD: _EMBED}, {_HEAD: _EMBED})
    # whatever the two are called
    found = canonical(
        {"language_model.model.layers.0.mlp.up_proj.weight": (8, 4), "language_model.lm_head.weight": (8, 4),
         "language_model.model.embed_tokens.weight": (8, 4)},
        {"text_config": {"tie_word_embeddings": True}},
    )  # fmt: skip
    assert found.twice == {"language_model.lm_head.weight": _EMBED}
    assert found.tied == {_HEAD: _EMBED}


def test_tensors_of_other_shapes_are_not_one() -> None:
    found = canonical({_EMBED: (8, 4), _HEAD: (9, 4), _LAYER: (8, 4)}, {"tie_word_embeddings": True})
    assert _HEAD in found.made
    assert found.tied == {}


def test_one_place_of_a_pickle_is_one_parameter() -> None:
    for facts in (None, {"tie_word_embeddings": False}):
        # the head comes first in the file
        found = _found(_HEAD, _EMBED, facts=facts, **{_EMBED.replace(".", "__"): _HEAD.replace(".", "__")})
        assert list(found.made) == [_EMBED, _LAYER]
        assert found.twice == {_HEAD: _EMBED}
        assert found.tied == {_HEAD: _EMBED}
        assert [cut.tensor for cut in found.copies[_HEAD].cuts] == [_HEAD]
    # and so is what no rule knows
    found = canonical({"a.weight": (3,), "b.weight": (3,), "c.weight": (3,)}, None, {"c.weight": "a.weight"})
    assert list(found.made) == ["a.weight", "b.weight"]
    assert (found.twice, found.tied) == ({"c.weight": "a.weight"}, {"c.weight": "a.weight"})


@pytest.mark.parametrize(
    ("names", "tied"),
    [
        ("transformer.wte.weight transformer.h.0.attn.c_attn.weight", "lm_head<wte"),
        ("wte.weight h.0.attn.c_attn.weight", "lm_head<wte"),
        ("transformer.word_embeddings.weight", "lm_head<word_embeddings"),
        ("model.decoder.embed_tokens.weight model.decoder.layers.0.fc1.weight", "lm_head<decoder.embed_tokens"),
        (
            "shared.weight encoder.block.0.layer.0.layer_norm.weight decoder.block.0.layer.2.DenseReluDense.wo.weight",
            "encoder.embed_tokens<shared decoder.embed_tokens<shared lm_head<shared",
        ),
        (
            "encoder.embed_tokens.weight encoder.block.0.layer.0.SelfAttention.q.weight",
            "encoder.embed_tokens<shared lm_head<shared",
        ),
        (
            "model.shared.weight model.encoder.layers.0.fc1.weight model.decoder.layers.0.fc1.weight",
            "encoder.embed_tokens<shared decoder.embed_tokens<shared lm_head<shared",
        ),
        (
            "text_encoders.t5xxl.transformer.shared.weight double_blocks.0.img_attn.proj.weight",
            "text_encoders.t5xxl.transformer.lm_head<text_encoders.t5xxl.transformer.shared",
        ),
        (
            "bert.embeddings.word_embeddings.weight cls.predictions.transform.dense.weight",
            "cls.predictions.decoder<embeddings.word_embeddings",
        ),
        ("bert.embeddings.word_embeddings.weight bert.pooler.dense.weight", ""),
        (
            "roberta.embeddings.word_embeddings.weight lm_head.dense.weight",
            "lm_head.decoder<embeddings.word_embeddings",
        ),
        (
            "distilbert.embeddings.word_embeddings.weight vocab_transform.weight",
            "vocab_projector<embeddings.word_embeddings",
        ),
        (
            "electra.embeddings.word_embeddings.weight generator_predictions.dense.weight",
            "generator_lm_head<embeddings.word_embeddings",
        ),
        (
            "albert.embeddings.word_embeddings.weight predictions.dense.weight",
            "predictions.decoder<embeddings.word_embeddings",
        ),
        ("backbone.embeddings.weight backbone.layers.0.mixer.in_proj.weight", "lm_head<embeddings"),
        ("model.embeddings.tok_embeddings.weight model.layers.0.attn.Wqkv.weight head.dense.weight",
         "decoder<model.embeddings.tok_embeddings"),
    ],
)  # fmt: skip
def test_ties_of_architectures(names: str, tied: str) -> None:
    found = canonical(dict.fromkeys(names.split(), (8, 4)))
    right = dict(pair.split("<") for pair in tied.split())
    assert found.tied == {f"{name}.weight": f"{of}.weight" for name, of in right.items()}


def test_what_is_always_tied_does_not_ask_the_configuration() -> None:
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    shapes = {**dict.fromkeys(names, (8, 4)), "encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4)}
    found = canonical(shapes, {"tie_word_embeddings": False})  # T5 v1.1
    assert found.twice == {names[1]: "shared.weight", names[2]: "shared.weight"}
    assert "lm_head.weight" in found.made
    found = canonical({**shapes, "cls.predictions.bias": (8,), "cls.predictions.decoder.bias": (8,)})
    assert found.tied["cls.predictions.decoder.bias"] == "cls.predictions.bias"


def test_names_of_one_place_are_tied_to_the_one_that_others_are_tied_to() -> None:
    """T5's head and embeddings are `shared`, also where an unknown name of the same storage comes before it."""
    names = (
        "unknown",
        "shared.weight",
        "encoder.embed_tokens.weight",
        "decoder.block.0.layer.0.SelfAttention.v.weight",
    )
    found = canonical(dict.fromkeys(names, (8, 4)), None, dict.fromkeys(names[:3], "unknown"))
    assert set(found.tied.values()) == {"shared.weight"} <= set(found.made)
    assert {"unknown", "encoder.embed_tokens.weight"} <= set(found.tied)
