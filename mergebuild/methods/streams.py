"""Which random numbers: the key of a stream, and below which of its numbers an element is taken. No torch.

`kernels/randomness.py` says what the numbers of a stream are.
"""

from __future__ import annotations

from fractions import Fraction

import xxhash

__all__ = ["key_of", "threshold_of"]


def key_of(seed: int, tensor: str, position: int) -> int:
    """Return the key of a stream, 64 bits. The name comes last: nothing in it can be taken for a number."""
    return xxhash.xxh3_64_intdigest(f"{seed}\n{position}\n{tensor}".encode("utf-8", "surrogatepass"))


def threshold_of(probability: Fraction) -> int:
    """Return below which numbers of 32 bits lie as many of them as a probability says."""
    return (probability.numerator << 32) // probability.denominator
