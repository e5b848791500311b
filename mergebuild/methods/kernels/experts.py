"""The gates of experts: drawn, or of the embeddings of prompts.

A gate is a vector of the model's width for each expert. Of prompts it is the sum of the embeddings of all their tokens,
divided by its length, minus that of the prompts that the expert is not for, divided by its length again. Sums are in
float64, in the order of the tokens' numbers, so the bits are the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mergebuild.methods.gates import PromptTokens, TokenCounts
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State
from mergebuild.methods.kernels.randomness import normal
from mergebuild.methods.kernels.reduction import RunningSum

__all__ = ["KERNELS", "gates_of"]

_LEAST = 1e-8
"""A shorter vector is divided by this instead of its length."""


def _drawn(call: Call, _chunks: Sequence[Tensor], start: int, _state: State) -> Tensor:
    return normal(int(call.number("seed")), call.tensor, 0, start, call.count)


def gates_of(tokens: PromptTokens, row_of: Callable[[int], Tensor], width: int) -> Tensor:
    """Return the gates of all experts (float32 [experts, width]).

    `row_of`: returns the embedding of the token with a number (float32 [width]).
    """
    return torch.stack([_gate(each, row_of, width) for each in tokens.experts]).to(torch.float32)


def _gate(tokens: tuple[TokenCounts, TokenCounts], row_of: Callable[[int], Tensor], width: int) -> Tensor:
    positive, negative = (_directed(_summed(counts, row_of, width)) for counts in tokens)
    return _directed(positive - negative) if tokens[1] else _directed(positive)


def _summed(counts: TokenCounts, row_of: Callable[[int], Tensor], width: int) -> Tensor:
    """Return the sum of the embeddings of tokens (float64 [width])."""
    total = torch.zeros(width, dtype=torch.float64)
    for number, count in counts:
        total += row_of(number).to(device=total.device, dtype=torch.float64) * count
    return total


def _directed(vector: Tensor) -> Tensor:
    """Return a vector divided by its length."""
    squares = RunningSum()
    squares.add(vector * vector)
    return vector / max(math.sqrt(squares.value()), _LEAST)


def _working_set(call: Call, _inputs: int) -> int:
    return 16 * call.count


KERNELS: Mapping[str, Kernel] = {"random_gate": Kernel(_drawn, grain=Grain.TENSOR, working_set=_working_set)}
