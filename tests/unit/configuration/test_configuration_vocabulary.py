"""Which tensors have a row for each token."""

from __future__ import annotations

import pytest

from mergebuild.configuration.vocabulary import embedding_of, head_of, is_embedding, is_of_tokens


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight",
        "transformer.wte.weight",
        "wte.weight",
        "shared.weight",
        "bert.embeddings.word_embeddings.weight",
        "gpt_neox.embed_in.weight",
        "backbone.embeddings.weight",
        "text_model.embeddings.token_embedding.weight",
    ],
)
def test_embeddings_of_tokens_are_known(name: str) -> None:
    assert is_embedding(name)
    assert is_of_tokens(name)


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "language_model.lm_head.weight",
        "embed_out.weight",
        "proj_out.weight",
        "cls.predictions.decoder.weight",
        "cls.predictions.bias",
        "output.weight",
    ],
)
def test_heads_have_rows_of_tokens_too(name: str) -> None:
    assert not is_embedding(name)
    assert is_of_tokens(name)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "embeddings.position_embeddings.weight",
        "model.norm.weight",
        "transformer.wpe.weight",
        "encoder.layer.0.output.weight",
        "vision_model.embeddings.weight",
    ],
)
def test_others_have_none(name: str) -> None:
    assert not is_of_tokens(name)


def test_of_several_the_nearest_to_the_root_is_the_models() -> None:
    names = ["encoder.embed_tokens.weight", "shared.weight", "lm_head.weight", "talker.lm_head.weight"]
    assert (embedding_of(names), head_of(names)) == ("shared.weight", "lm_head.weight")
    assert (embedding_of([]), head_of(["a"])) == (None, None)
