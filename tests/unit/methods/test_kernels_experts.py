"""The gates of experts, against their formula, transcribed in float64."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.methods.call import Call
from mergebuild.methods.gates import PromptTokens, counted
from mergebuild.methods.kernels.experts import KERNELS, gates_of

ROWS, WIDTH = 12, 16
EMBEDDING = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
PROMPTS = st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=5), min_size=1, max_size=3)


def written(positive: list[list[int]], negative: list[list[int]]) -> Tensor:
    """Return a gate as the formula says."""

    def direction(prompts: list[list[int]]) -> Tensor:
        total = EMBEDDING.double()[[number for prompt in prompts for number in prompt]].sum(0)
        return total / total.norm().clamp(min=1e-8)

    vector = direction(positive) - direction(negative) if negative else direction(positive)
    return vector / vector.norm().clamp(min=1e-8)


@given(experts=st.lists(st.tuples(PROMPTS, st.one_of(st.just([]), PROMPTS)), min_size=1, max_size=4))
def test_gates_of_prompts_are_the_formula(experts: list[tuple[list[list[int]], list[list[int]]]]) -> None:
    """The order of prompts, and of tokens in them, does not matter, to the bit."""
    tokens = PromptTokens(tuple((counted(some), counted(others)) for some, others in experts))
    found = gates_of(tokens, EMBEDDING.__getitem__, WIDTH)
    wanted = torch.stack([written(*each) for each in experts])
    is_sure = torch.tensor([not others or counted(some) != counted(others) for some, others in experts])
    torch.testing.assert_close(found[is_sure], wanted[is_sure].float(), rtol=1e-4, atol=1e-6)
    assert found.shape == (len(experts), WIDTH)
    turned = [([each[::-1] for each in some[::-1]], others) for some, others in experts]
    again = PromptTokens(tuple((counted(some), counted(others)) for some, others in turned))
    assert again == tokens


def test_what_differs_in_tokens_differs_in_its_key() -> None:
    one, two = ((1, 1),), ((2, 1),)
    different = [((one, ()),), ((two, ()),), ((one, two),), ((two, one),), ((one, ()), (two, ())), ((((1, 2),), ()),)]
    assert len({PromptTokens(each).key_text for each in different}) == len(different)


@pytest.mark.parametrize("experts", [2, 8])
def test_drawn_gates_are_standard_normal_numbers(experts: int) -> None:
    """Of an expert, they are the same however many others there are."""
    found = _drawn("a.gate.weight", experts, 1)
    assert abs(found.mean().item()) < 0.1
    assert abs(found.std().item() - 1) < 0.1
    assert torch.equal(found[:2], _drawn("a.gate.weight", 2, 1))
    for other in (_drawn("a.gate.weight", experts, 2), _drawn("b.gate.weight", experts, 1)):
        assert not torch.equal(found, other)


def _drawn(name: str, experts: int, seed: int) -> Tensor:
    call = Call(name, (experts, 512), {"seed": Fraction(seed)})
    return KERNELS["random_gate"].apply(call, [], 0, None).view(experts, 512)
