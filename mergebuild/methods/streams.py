"""The key of a stream of random numbers, and the threshold below which an element is taken. No torch.

`kernels/randomness.py` makes the numbers of a stream.
"""

from __future__ import annotations

from fractions import Fraction

import xxhash

__all__ = ["key_of", "threshold_of"]


def key_of(seed: int, tensor: str, position: int) -> int:
    """Return the key of a stream (64 bits).

    The name comes last, so that no part of it can be taken for one of the numbers.
    """
    return xxhash.xxh3_64_intdigest(f"{seed}\n{position}\n{tensor}".encode("utf-8", "surrogatepass"))


def threshold_of(probability: Fraction) -> int:
    """Return the threshold below which a 32-bit random number lies with this probability."""
    return (probability.numerator << 32) // probability.denominator
