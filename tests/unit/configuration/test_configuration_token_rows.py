"""Rows in the order of other tokens, against the rules as written (`support/token_models.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_configuration_token_union import models
from token_models import EMBED, TokenModel, aligned, united

from mergebuild.configuration.token_rows import (
    MEAN,
    ZEROS,
    MissingTokenError,
    RowsOfTokens,
    RowWish,
    TokensOfInput,
    rows_for,
)


def inputs_of(given_models: Sequence[TokenModel]) -> list[TokensOfInput]:
    return [
        TokensOfInput(f"m{at}", {token: number for number, token in enumerate(model.every)}, model.rows)
        for at, model in enumerate(given_models)
    ]


def gathered(rows: RowsOfTokens, parts: Sequence[torch.Tensor], first: int, past: int) -> torch.Tensor:
    """Return rows of float64 tensors."""
    found = [torch.zeros(0, parts[0].shape[1], dtype=torch.float64)]
    for run in rows.within(first, past, rows.ends):
        if run.part == ZEROS:
            found.append(torch.zeros(run.rows, parts[0].shape[1], dtype=torch.float64))
        elif run.part == MEAN:
            found.append(torch.stack([parts[part][row] for part, row in rows.means[run.first]]).mean(0, keepdim=True))
        else:
            found.append(parts[run.part][run.first : run.first + run.rows])
    return torch.cat(found)


@given(st.lists(models(), min_size=1, max_size=3), st.data())
def test_rows_are_those_that_the_rules_say(given_models: list[TokenModel], data: st.DataObject) -> None:
    for seed, model in enumerate(given_models):
        model.seed = seed
    tokens = united(given_models)
    at = data.draw(st.integers(0, len(given_models) - 1))
    found = rows_for(at, tokens, inputs_of(given_models), {}, 0)
    expected = aligned(given_models, tokens, EMBED, at)
    own = given_models[at].tensors[EMBED].double()
    if found is None:
        assert expected.equal(own)
        return
    rows, parts = found
    first = data.draw(st.integers(0, len(tokens)))
    past = data.draw(st.integers(first, len(tokens)))
    assert rows.count == len(tokens)
    matrices = [given_models[part].tensors[EMBED].double() for part in parts]
    assert gathered(rows, matrices, first, past).equal(expected[first:past])


@given(models())
def test_rows_in_their_own_order_are_none(model: TokenModel) -> None:
    model.rows = len(model.every)
    assert rows_for(0, model.every, inputs_of([model]), {}, 0) is None
    assert rows_for(0, model.every, inputs_of([model]), {}, 1) is not None


def test_equal_rows_have_one_text_and_others_another() -> None:
    one = inputs_of([TokenModel([*"abc"], rows=3), TokenModel([*"cab"], rows=3)])
    texts = [
        rows_for(*case)[0].key_text  # type: ignore[index]  # there are rows
        for case in (
            (1, [*"abc"], one, {}, 0), (1, [*"abc"], one, {}, 0), (1, [*"acb"], one, {}, 0), (1, [*"abc"], one, {}, 2),
            (1, [*"abc"], one, {"a": RowWish(None, None, zero=True, force=True)}, 0),
        )
    ]  # fmt: skip
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


@pytest.mark.parametrize(
    "wish", [RowWish(0, "z", False, True), RowWish(0, 3, False, True), RowWish(0, None, False, True)]
)
def test_a_row_that_there_is_not_is_named(wish: RowWish) -> None:
    with pytest.raises(MissingTokenError):
        rows_for(1, ["x"], inputs_of([TokenModel([*"abc"], rows=3), TokenModel(["x"], rows=1)]), {"x": wish}, 0)
