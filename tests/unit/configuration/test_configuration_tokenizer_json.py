"""`tokenizer.json` is read with checks, cut, and written with more tokens.

Files that are none are in `e2e/test_e2e_tokenizers.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.configuration.tokenizer_json import (
    AddedToken,
    TokenizerJson,
    TokenizerJsonError,
    read_tokenizer_json,
)


def made(vocab: object, added: Mapping[str, int] | None = None, **model: object) -> TokenizerJson:
    entries = [{"id": number, "content": token, "special": True} for token, number in (added or {}).items()]
    document = {"added_tokens": entries, "model": {"type": "BPE", "vocab": vocab, **model}}
    return read_tokenizer_json(json.dumps(document).encode())


def test_tokens_are_in_the_order_of_their_numbers() -> None:
    found = made({"b": 1, "a": 0}, {"<t>": 3, "<s>": 2, "a": 0})
    assert list(found.ids.items()) == [("a", 0), ("b", 1), ("<s>", 2), ("<t>", 3)]
    assert list(found.added) == ["a", "<s>", "<t>"]
    assert (found.count, found.kind) == (4, "BPE")


def test_a_list_of_tokens_with_scores_is_in_their_order() -> None:
    assert made([["a", -1.5], ["b", 0.0]], type="Unigram").ids == {"a": 0, "b": 1}


@given(st.lists(st.text(max_size=3), unique=True, min_size=1), st.randoms())
def test_the_order_of_keys_does_not_matter(tokens: list[str], random: object) -> None:
    vocab = {token: number for number, token in enumerate(tokens)}
    try:
        found = made(vocab)
    except TokenizerJsonError:
        assert any("\ud800" <= sign <= "\udfff" for token in tokens for sign in token)
        return
    random.shuffle(tokens)  # type: ignore[attr-defined]
    assert list(made({token: vocab[token] for token in tokens}).ids.items()) == list(found.ids.items())


def test_what_is_cut_takes_its_merges_along() -> None:
    merges = ["a b", ["ab", "c"], "b c"]
    found = made({"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "abc": 5}, merges=merges).cut(4)
    assert list(found.ids) == ["a", "b", "c", "bc"]
    assert found.document["model"]["merges"] == ["b c"]
    assert found.cut(4) is found


def test_added_tokens_are_cut_of_any_type() -> None:
    found = made([["a", 0.0]], {"<s>": 1}, type="Unigram")
    assert list(found.cut(1).ids) == ["a"]
    assert found.cut(1).document["added_tokens"] == []


def test_only_bpe_can_be_cut() -> None:
    with pytest.raises(
        TokenizerJsonError, match="has tokens beyond the rows of its model, and only those of type BPE can be cut"
    ):
        made([["a", 0.0], ["b", 0.0]], type="Unigram").cut(1)


def test_new_tokens_get_the_next_numbers() -> None:
    found = made({"a": 0, "b": 1}, {"<s>": 2}).with_added([AddedToken("x"), AddedToken("b", special=True)])
    assert found.ids == {"a": 0, "b": 1, "<s>": 2, "x": 3}
    assert [each["id"] for each in found.document["added_tokens"]] == [1, 2, 3]
    assert read_tokenizer_json(found.encoded()).ids == found.ids
    assert read_tokenizer_json(found.encoded()).added == found.added
    assert found.with_added([AddedToken("x")]) is found


def test_numbers_that_are_left_out_are_refused_where_they_count() -> None:
    found = made({"a": 0, "b": 2})
    with pytest.raises(TokenizerJsonError, match="gives the number 1 to no token, and others above it"):
        found.with_added([AddedToken("x")])
