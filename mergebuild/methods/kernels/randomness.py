"""Random numbers, each a pure function of seed, tensor name, input and index.

The generator is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the i-th number of a
stream is a mix of the stream's key and i. So it does not depend on chunks, threads, order or device, nor on which other
tensors there are. The mix is that of SplitMix64 (Steele, Lea & Flood 2014): a stream is the sequence of a SplitMix64
seeded with the key. The key is the xxh3-64 of the seed, the tensor's name and the position of the input.

Integer arithmetic wraps at 64 bits. Right shifts are masked, as int64 is signed. Results are the same on every device.
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
"""The least int64. Exclusive-or with it maps the order of unsigned numbers to that of signed ones."""

_BLOCK = 1 << 15
"""Numbers made at a time, few enough for the temporaries to stay in the processor's cache."""

_CPU = torch.device("cpu")


def bits(seed: int, tensor: str, position: int, start: int, count: int, device: torch.device = _CPU) -> Tensor:
    """Return `count` numbers of 32 random bits, for the elements from the index `start` on (int64 [count]).

    Args:
        seed: Any integer.
        tensor: The tensor's name.
        position: Which input of the method they are for: each input has a stream of its own.
        start: The index of the first element.
        count: How many numbers.
        device: The device of the result, on which the numbers do not depend.
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
    """Return a mask (bool [count]), each element True with `probability`, to within 2**-32.

    With a probability of 1 or more all are True, with 0 or less none is. A mask of a higher probability contains those
    of lower ones from the same stream. See `bits` for the other arguments.
    """
    threshold = threshold_of(probability)
    if threshold <= 0 or threshold >= 1 << 32:
        return torch.full((count,), threshold > 0, dtype=torch.bool, device=device)
    result = torch.empty(count, dtype=torch.bool, device=device)
    for at, block, spare in _mixed(key_of(seed, tensor, position), start, count, device):
        # The last fold changes only the lowest of the upper 32 bits, and only in numbers of 2**63 or more. So it moves
        # no number across the threshold if that is even, or below 2**31: the fold can be left out.
        if threshold % 2 and threshold >> 31:
            _fold(block, 31, spare)
        block.bitwise_xor_(_LEAST)  # so that signed comparison orders the numbers as unsigned ones
        torch.lt(block, (threshold << 32) + _LEAST, out=result[at : at + len(block)])
    return result


def normal(seed: int, tensor: str, position: int, start: int, count: int, device: torch.device = _CPU) -> Tensor:
    """Return standard normal numbers (float32 [count]), of magnitudes up to 6.4. See `bits` for the arguments."""
    result = torch.empty(count, dtype=torch.float32, device=device)
    for at in range(0, count, _BLOCK):
        block = result[at : at + _BLOCK]
        drawn = bits(seed, tensor, position, start + at, len(block), device)
        block.copy_(normal_quantile(drawn.to(torch.float64).add_(0.5).mul_(2.0**-32)))
    return result


def _mixed(key: int, start: int, count: int, device: torch.device) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the numbers of a stream from the index `start` on, mixed as SplitMix64 does except for its last fold.

    They come in blocks: how many numbers came before, the numbers (int64), and a spare buffer of the same size. The
    next block overwrites both.
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
    """Return the difference of each number of a block from its first one, before mixing (int64)."""
    return torch.arange(_BLOCK, device=device).mul_(_signed(_GOLDEN))


def _fold(values: Tensor, distance: int, spare: Tensor) -> Tensor:
    """Exclusive-or `values` with themselves shifted right (without the sign), in place."""
    torch.bitwise_right_shift(values, distance, out=spare)
    return values.bitwise_xor_(spare.bitwise_and_((1 << (64 - distance)) - 1))


def _signed(word: int) -> int:
    """Return the signed number with the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word
