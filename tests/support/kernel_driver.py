"""Run a method as the engine does: look as often as its statistic asks, then apply, on chunks that its grain allows."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from math import prod

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State, Statistic, all_finite
from mergebuild.methods.kernels.linear import combine
from mergebuild.methods.making import Linear
from mergebuild.methods.method import Method
from mergebuild.methods.shares import float32_of, pivot_of

__all__ = ["cut", "kernel_of", "run", "state_of"]


def kernel_of(row: Method) -> Kernel:
    """Return the kernel of a method; that of a linear one evaluates its coefficients."""
    return Kernel(partial(_combined, row)) if isinstance(row.makes, Linear) else row.makes.kernel(row)


def _combined(row: Method, call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return a linear method's chunk. Inputs with the coefficient 0 are left out, as by folding."""
    numbers = {name: each for name, each in call.arguments.items() if isinstance(each, Fraction | tuple)}
    flags = {name: each for name, each in call.arguments.items() if isinstance(each, bool)}
    shares = row.makes.shares(len(chunks), numbers, flags, call.tensor)
    assert shares is not None
    terms = [(chunk, share) for chunk, share in zip(chunks, shares, strict=True) if share]
    pivot = pivot_of([share for _, share in terms])
    centre = None if pivot is None else terms.pop(pivot)[0]
    out, spare = torch.empty_like(chunks[0]), torch.empty_like(chunks[0])
    return combine(centre, [chunk for chunk, _ in terms], [float32_of(share) for _, share in terms], out, spare)


def run(
    kernel: Kernel, call: Call, inputs: Sequence[Tensor], cuts: random.Random | None, state: State = None
) -> Tensor:
    """Return the result, in the call's shape.

    Asserts what holds for every kernel: the result is float32 with as many elements as the input, and the inputs are
    unchanged.

    Args:
        kernel: The kernel.
        call: The call.
        inputs: The inputs, float32, in any shape.
        cuts: Chooses chunks, other ones in each pass; None takes the tensor as one chunk.
        state: The result of the kernel's survey, if it has one.
    """
    flat = [each.contiguous().reshape(-1) for each in inputs]
    kept = [each.clone() for each in flat]
    looks = kernel.statistic is not None and kernel.statistic.begin(call, len(inputs)) is not None
    if (looks or kernel.grain is Grain.TENSOR) and not all_finite(flat):
        return torch.full(call.shape, math.nan)
    if kernel.statistic is not None:
        state = state_of(kernel.statistic, kernel.grain, call, flat, cuts)
    result = torch.empty(call.count, dtype=torch.float32)
    for start, stop in cut(kernel.grain, call, cuts):
        made = kernel.apply(call, [each[start:stop] for each in flat], start, state)
        assert made.dtype == torch.float32
        assert made.numel() == stop - start
        result[start:stop] = made.reshape(-1)
    for before, after in zip(kept, flat, strict=True):
        assert torch.equal(before.view(torch.int32), after.view(torch.int32))
    return result.reshape(call.shape)


def state_of(
    statistic: Statistic, grain: Grain, call: Call, inputs: Sequence[Tensor], cuts: random.Random | None
) -> State:
    """Return the state of a statistic for inputs float32 [n]."""
    account = statistic.begin(call, len(inputs))
    more = account is not None  # None: nothing needs to be known with these arguments
    while more:
        for start, stop in cut(grain, call, cuts):
            statistic.look(call, account, [each[start:stop] for each in inputs], start)
        more = statistic.turn(call, account)
    return statistic.end(call, account)


def cut(grain: Grain, call: Call, cuts: random.Random | None) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a tensor (start, stop): cut at random where the grain allows it, and never empty."""
    unit = _unit(grain, call.shape)
    start = 0
    while start < call.count:
        units = (call.count - start) // unit
        taken = units if cuts is None else cuts.randint(1, units)
        yield start, start + taken * unit
        start += taken * unit


def _unit(grain: Grain, shape: tuple[int, ...]) -> int:
    """Return how many elements a chunk may not divide."""
    if grain is Grain.ELEMENT or not prod(shape):
        return 1
    if grain is Grain.TENSOR or len(shape) <= 1:
        return prod(shape)
    return shape[-1] if grain is Grain.VECTOR else prod(shape[1:])
