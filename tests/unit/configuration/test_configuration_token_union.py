"""Unions of tokenizers, against the rules as written (`support/token_models.py`)."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from token_models import TokenModel, united

from mergebuild.configuration.token_union import UnionInput, union_of
from mergebuild.configuration.tokenizer_json import read_tokenizer_json

TOKENS = st.lists(st.sampled_from("abcdefghijkl"), unique=True, min_size=1, max_size=8)
ADDED = st.lists(st.sampled_from(["<s>", "</s>", "<t>", "<u>"]), unique=True, max_size=3)


@st.composite
def models(draw: st.DrawFn) -> TokenModel:
    tokens, added = draw(TOKENS), draw(ADDED)
    rows = len(tokens) + len(added)
    return TokenModel(tokens, added, rows=draw(st.integers(max(1, rows - 3), rows + 3)))


def input_of(name: str, model: TokenModel) -> UnionInput:
    return UnionInput(name, read_tokenizer_json(json.dumps(model.document).encode()), model.rows or len(model.every))


@given(st.lists(models(), min_size=1, max_size=4))
def test_a_union_has_the_tokens_that_the_rules_say(given_models: list[TokenModel]) -> None:
    found = union_of([input_of(f"m{at}", model) for at, model in enumerate(given_models)])
    assert list(found.tokenizer.ids.items()) == [(token, at) for at, token in enumerate(united(given_models))]
    again = read_tokenizer_json(found.tokenizer.encoded())
    assert (again.ids, again.added) == (found.tokenizer.ids, found.tokenizer.added)


@given(models(), st.integers(2, 4))
def test_a_union_with_itself_is_that_tokenizer(model: TokenModel, times: int) -> None:
    one = input_of("m", model)
    found = union_of([one] * times).tokenizer
    assert list(found.ids) == model.every[: model.rows]
    if model.rows >= len(model.every):
        assert found is one.tokenizer


def test_the_first_definition_of_an_added_token_counts() -> None:
    one, other = TokenModel(["a"], ["<s>"]), TokenModel(["a", "<s>"], ["<t>"])
    document = json.loads(json.dumps(TokenModel(["a"], ["<s>"]).document))
    document["added_tokens"][0]["lstrip"] = True
    stripped = UnionInput("c", read_tokenizer_json(json.dumps(document).encode()), 2)
    found = union_of([input_of("a", one), input_of("b", other), stripped])
    assert not found.tokenizer.added["<s>"].lstrip
    assert found.notices == ("1 added tokens are matched otherwise in other inputs than the first, such as `<s>`",)


def test_a_regular_token_that_another_has_added_becomes_an_added_one() -> None:
    found = union_of([input_of("a", TokenModel(["a", "<s>"])), input_of("b", TokenModel(["a"], ["<s>"]))]).tokenizer
    assert (found.ids["<s>"], found.added["<s>"].special) == (1, True)
