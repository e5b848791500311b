"""Random numbers that need no memory of those before: each a pure function of seed, tensor, position and index.

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the i-th number of a
stream is a mix of the stream's key and i. So it depends neither on chunks, threads, order nor device, nor on which
other tensors there are. The mix is that of SplitMix64 (Steele, Lea & Flood 2014): the stream is the sequence that a
SplitMix64 started at the key gives. The key is the xxh3-64 of seed, tensor name and the input's position.

Integer arithmetic wraps at 64 bits; right shifts are masked, as int64 has a sign. All is the same on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from mergebuild.methods.kernels.elementary import normal_quantile
from mergebuild.methods.streams import key_of, threshold_of

__all__ = ["bernoulli", "bits", "normal"]

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST_FACTOR = 0xBF58476D1CE4E5B9
_SECOND_FACTOR = 0x94D049BB133111EB

_WORD = (1 << 64) - 1
_LEAST = -(1 << 63)
"""The least number with a sign: exclusive-or with it turns the order of those without into that of those with one."""

_BLOCK = 1 << 15
"""Numbers made at a time: their temporaries stay in the processor's cache."""

_CPU = torch.device("cpu")


def bits(seed: int, tensor: str, position: int, start: int, count: int, device: torch.device = _CPU) -> Tensor:
    """Return `count` numbers of 32 random bits, those of the elements from the index `start` on (int64 [count]).

    Args:
        seed: Any integer.
        tensor: The tensor's name.
        position: Which input of the method they are for, so that each input has a stream of its own.
        start: The index of the first element.
        count: How many.
        device: Where the numbers are made and lie; it does not change them.
    """
    result = torch.empty(count, dtype=torch.int64, device=device)
    for at, block, spare in _mixed(key_of(seed, tensor, position), start, count, device):
        _fold(block, 31, spare)
        torch.bitwise_right_shift(block, 32, out=spare)
        torch.bitwise_and(spare, (1 << 32) - 1, out=result[at : at + len(block)])
    return result


def bernoulli(
    probability: Fraction, seed: int, tensor: str, position: int, start: int, count: int, device: torch.device = _CPU
) -> Tensor:
    """Return a mask (bool [count]), each True with `probability`, to within 2**-32: certain from 1, never from 0 down.

    A mask of a higher probability contains those of the lower ones of the same stream. See `bits` for the others.
    """
    threshold = threshold_of(probability)
    if threshold <= 0 or threshold >= 1 << 32:
        return torch.full((count,), threshold > 0, dtype=torch.bool, device=device)
    result = torch.empty(count, dtype=torch.bool, device=device)
    for at, block, spare in _mixed(key_of(seed, tensor, position), start, count, device):
        # Of the upper half, the last fold changes the lowest bit alone, and that only in the upper half of all numbers:
        # it takes none across a threshold that is even or in the lower half.
        if threshold % 2 and threshold >> 31:
            _fold(block, 31, spare)
        block.bitwise_xor_(_LEAST)  # in the order of the numbers without a sign
        torch.lt(block, (threshold << 32) + _LEAST, out=result[at : at + len(block)])
    return result


def normal(seed: int, tensor: str, position: int, start: int, count: int, device: torch.device = _CPU) -> Tensor:
    """Return standard normal numbers (float32 [count]), none farther out than 6.4. See `bits` for the arguments."""
    result = torch.empty(count, dtype=torch.float32, device=device)
    for at in range(0, count, _BLOCK):
        block = result[at : at + _BLOCK]
        drawn = bits(seed, tensor, position, start + at, len(block), device)
        block.copy_(normal_quantile(drawn.to(torch.float64).add_(0.5).mul_(2.0**-32)))
    return result


def _mixed(key: int, start: int, count: int, device: torch.device) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the stream from the index `start` on, mixed as SplitMix64 does it but for its last fold.

    A block: how many there were before, the numbers (int64), and as much room for others. The next takes its memory.
    """
    steps = _steps(device)
    room = torch.empty(2, min(count, _BLOCK), dtype=torch.int64, device=device)
    for at in range(0, count, _BLOCK):
        block, spare = room[:, : count - at]
        torch.add(steps[: len(block)], _signed((key + (start + at + 1) * _GOLDEN) & _WORD), out=block)
        _fold(block, 30, spare).mul_(_signed(_FIRST_FACTOR))
        _fold(block, 27, spare).mul_(_signed(_SECOND_FACTOR))
        yield at, block, spare


@cache
def _steps(device: torch.device) -> Tensor:
    """Return by how much the numbers of a block lie ahead of its first before they are mixed (int64)."""
    return torch.arange(_BLOCK, device=device).mul_(_signed(_GOLDEN))


def _fold(values: Tensor, distance: int, spare: Tensor) -> Tensor:
    """Exclusive-or `values` with themselves, shifted right without their sign."""
    torch.bitwise_right_shift(values, distance, out=spare)
    return values.bitwise_xor_(spare.bitwise_and_((1 << (64 - distance)) - 1))


def _signed(word: int) -> int:
    """Return the int64 of the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word
