"""A head is tied only where it is the embedding, and none is left for clients to draw."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mergebuild.configuration.text import Path
from mergebuild.configuration.ties import Heads, agreed, said

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BOTH = {EMBED: b"e", HEAD: b"h"}
TIE = ("tie_word_embeddings",)
CAUSAL = {"architectures": ["LlamaForCausalLM"]}


def changes(
    config: Mapping[str, object],
    written: Mapping[str, bytes],
    donor: Mapping[str, bytes] | None = None,
    first: Mapping[str, object] | None = None,
    *,
    equal: bool = False,
) -> Mapping[Path, object]:
    made = agreed(config, Heads(written, donor or written, donor or written, first or config, equal))
    assert not made.contradiction, made.contradiction
    return made.changes


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"tie_word_embeddings": True, "model_type": "llama"}, True),
        ({"model_type": "llama"}, False),
        ({"model_type": "gemma"}, True),
        ({"model_type": "llava", "text_config": {"tie_word_embeddings": True}}, True),
        ({"model_type": "unheard-of", "text_config": {"model_type": "gemma2"}}, True),
        ({"model_type": "unheard-of"}, None),
        ({"tie_word_embeddings": "yes"}, None),
    ],
)
def test_what_is_said_or_usual(config: Mapping[str, object], expected: bool | None) -> None:
    assert said(config) is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"tie_word_embeddings": True}, {TIE: False}),
        ({"tie_word_embeddings": False}, {}),
        ({}, {TIE: False}),
        ({"text_config": {"tie_word_embeddings": True}}, {TIE: False, ("text_config", *TIE): False}),
        ({"text_config": {"model_type": "gemma3_text"}}, {TIE: False, ("text_config", *TIE): False}),
        ({"text_config": {"model_type": "llama"}}, {TIE: False}),
    ],
)
def test_a_head_of_its_own_is_not_tied(config: Mapping[str, object], expected: Mapping[Path, object]) -> None:
    assert changes(config, BOTH) == expected


@pytest.mark.parametrize(
    "written",
    [
        {EMBED: b"e", HEAD: b"e"},
        {HEAD: b"h"},
        {"shared.weight": b"e", "decoder.embed_tokens.weight": b"x", HEAD: b"e"},
        {"bert.embeddings.word_embeddings.weight": b"e"},
    ],
)
def test_what_does_not_say_otherwise_stays(written: Mapping[str, bytes]) -> None:
    assert changes({"tie_word_embeddings": True}, written) == {}


def test_a_tied_model_needs_no_head() -> None:
    assert changes({"tie_word_embeddings": True, **CAUSAL}, {EMBED: b"e"}) == {}
    assert changes({"model_type": "gemma", **CAUSAL}, {EMBED: b"e"}, BOTH) == {}


def test_a_head_that_was_the_embedding_may_be_left_out() -> None:
    config = {"tie_word_embeddings": False, **CAUSAL}
    assert changes(config, {EMBED: b"e"}, BOTH, equal=True) == {TIE: True}


def test_the_tie_of_the_model_whose_weights_are_written_counts() -> None:
    """The configuration is of another, which is not tied."""
    config = {"tie_word_embeddings": False, **CAUSAL}
    assert changes(config, {EMBED: b"e"}, BOTH, {"tie_word_embeddings": True}) == {TIE: True}


@pytest.mark.parametrize("config", [{"tie_word_embeddings": False, **CAUSAL}, {"model_type": "llama"}, {}])
def test_a_head_that_is_left_out_is_no_random_one(config: Mapping[str, object]) -> None:
    made = agreed(config, Heads({EMBED: b"e"}, BOTH, BOTH, config, equal=False))
    assert made.contradiction.startswith(f"the head `{HEAD}` is not written")


def test_a_model_whose_class_has_no_head_needs_none() -> None:
    config = {"tie_word_embeddings": False, "architectures": ["LlamaForSequenceClassification"]}
    assert changes(config, {EMBED: b"e"}, BOTH) == {}


def test_a_head_that_no_input_has_is_told_of() -> None:
    config = {"tie_word_embeddings": False, **CAUSAL}
    made = agreed(config, Heads({EMBED: b"e"}, {EMBED}, {EMBED}, config, equal=False))
    assert not made.contradiction
    assert "no input has a head" in made.notice
    assert agreed(CAUSAL, Heads({EMBED: b"e"}, {EMBED}, {EMBED}, CAUSAL, equal=False)).notice == ""
