"""The tensors of one module of a new LoRA, all made by one computation.

Factors extracted from a difference of weights have their rank as alpha, so their scale is 1. Factors that are
concatenated get the largest of their scales as the common one: then LoRAs of equal scale are concatenated byte for
byte, and small scales do not make values smaller than half precision can hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, prod
from typing import Final

import torch
from torch import Tensor

from mergebuild.lora import Extraction, Merging, Role
from mergebuild.methods.kernels.kernel import all_finite
from mergebuild.methods.kernels.lora import factored
from mergebuild.methods.kernels.lora_extract import Pair, SpectrumCut, concatenated, extracted, reranked
from mergebuild.methods.kernels.low_rank import Sketch, memory_of_directions

__all__ = ["LoraModule"]

_LARGE: Final = 1 << 24
"""A matrix with more elements should not be in memory several times."""


class LoraModule:
    """Makes the tensors of a module: `up`, `down` and `alpha`, flat float32."""

    def __init__(self, making: Extraction | Merging) -> None:
        """Take the description of how it is made."""
        self._making = making
        self._matrix = (self._making.shape[0], prod(self._making.shape[1:]))

    @property
    def count(self) -> int:
        """The number of elements of the module's weight."""
        return prod(self._matrix)

    @property
    def is_large(self) -> bool:
        """Whether only one such module should be in memory at a time."""
        return isinstance(self._making, Extraction) and self.count > _LARGE

    @property
    def memory(self) -> int:
        """The bytes that it needs at once if it needs a whole weight; else 0."""
        if isinstance(self._making, Merging):
            return 0
        is_sketched = self._making.sketch is not None
        return 8 * self.count + memory_of_directions(self._matrix, self._making.rank, is_sketched=is_sketched)

    @property
    def span(self) -> tuple[int, int] | None:
        """The range of elements of its operand that it needs, as (first, past the last); None: all of them."""
        if isinstance(self._making, Merging) or self._making.rows is None:
            return None
        first, last = self._making.rows
        return first * self._matrix[1], last * self._matrix[1]

    def made(self, parts: Sequence[Tensor]) -> Mapping[Role, Tensor] | None:
        """Return the tensors by role; None if a value that they are made of is NaN or infinite.

        Args:
            parts: The difference of weights; or all factors of all LoRAs, flat and of any float dtype.

        Raises:
            UndefinedError: the values are too large to be decomposed.
        """
        if isinstance(self._making, Extraction):
            return self._extracted(self._making, parts[0].to(torch.float32))
        return self._merged(self._making, parts)

    def _extracted(self, rule: Extraction, difference: Tensor) -> Mapping[Role, Tensor] | None:
        if not all_finite([difference]):
            return None
        sketch = Sketch(rule.sketch.seed, rule.sketch.name, rule.sketch.iterations) if rule.sketch else None
        cut = SpectrumCut(rule.rank, rule.energy)
        pair = extracted(difference.view(self._matrix), cut, sketch=sketch, clamp=rule.clamp)
        return _filled(pair, rule.rank, float(rule.rank))

    def _merged(self, rule: Merging, parts: Sequence[Tensor]) -> Mapping[Role, Tensor] | None:
        left = iter(parts)
        factors: list[tuple[Tensor, Tensor, float]] = []
        for delta, strength in zip(rule.deltas, rule.strengths, strict=True):
            some = {role: next(left).view(shape) for role, shape in delta.factors}
            up, down, scale = factored(delta.family, some, dict(delta.facts))
            if not (isfinite(scale) and bool(torch.isfinite(up).all()) and bool(torch.isfinite(down).all())):
                return None
            factors.append((up, down, scale * float(strength)))
        if rule.is_cut:
            return _filled(reranked(factors, SpectrumCut(rule.rank, rule.energy)), rule.rank, float(rule.rank))
        common = max((abs(scale) for _, _, scale in factors), default=0.0) if rule.has_alpha else 0.0
        common = common or 1.0
        pair = concatenated([(up, down, scale / common) for up, down, scale in factors])
        return _filled(pair, rule.rank, common * rule.rank)


def _filled(pair: Pair, rank: int, alpha: float) -> Mapping[Role, Tensor]:
    """Return the tensors of a pair, flat, filled up with zeros to the rank."""
    more = rank - pair.rank
    up = torch.nn.functional.pad(pair.up, (0, more)) if more else pair.up
    down = torch.nn.functional.pad(pair.down, (0, 0, 0, more)) if more else pair.down
    return {
        "up": up.reshape(-1),
        "down": down.reshape(-1),
        "alpha": torch.full_like(up[0, :1], alpha, dtype=torch.float32),
    }
