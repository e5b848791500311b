"""Merges of sd-meh, and of what calls it: methods by name, a base and 25 weights for alpha and beta.

All but the UNet is merged by the base, the VAE too. Without weights the base is for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Union

from mergebuild.exchange.draft import Draft, Value
from mergebuild.exchange.merges.blocks import number_table, preset_table
from mergebuild.exchange.merges.node import UnsayableError

__all__ = ["MehMerge", "MehWeights"]

MehWeights = Union[Decimal, "list[Decimal]", str]
"""The base for all; 26 numbers, the base first; or the name of a preset."""

_ONE: Final = ("weighted_sum", "add_difference", "euclidean_add_difference")
_TWO: Final = (
    *("weighted_subtraction", "sum_twice", "triple_sum", "multiply_difference", "similarity_add_difference"),
    "distribution_crossover",
)
_ROWS: Final = {"tensor_sum": {}, "top_k_tensor_sum": {"lower": "strict"}}
_TIES: Final[dict[str, Value]] = {"vote": "count", "zero_vote": "none", "average": "count", "weight": 1}
_TWO_MODELS: Final = ("weighted_sum", "weighted_subtraction", "tensor_sum", "top_k_tensor_sum")


@dataclass
class MehMerge:
    """One merge."""

    where: str
    name: str
    method: str
    inputs: Sequence[str]
    """Names of A, B and C in the draft; "" where there is none."""
    alpha: MehWeights
    beta: MehWeights
    clips: bool = False
    """Whether the result is kept between A and B."""
    output: str | None = None
    dtype: str | None = None
    comments: list[str] = field(default_factory=list)

    def add(self, draft: Draft) -> str:
        """Add the target, and one that clips; return the name of the last.

        Raises:
            UnsayableError: no target is it; nothing was added.
        """
        keys = self._keys()
        if self.clips:
            merged = draft.target(f"{self.name}-merged", keys, comments=self.comments)
            keys = {"method": "clamp", "a": merged, "models": [self.inputs[0], self.inputs[1]]}
        return draft.target(self.name, keys, comments=self.comments, output=self.output, dtype=self.dtype)

    def _keys(self) -> dict[str, Value]:
        alpha, beta = _number(self.alpha), _number(self.beta)
        if self.method == "ties_add_difference":
            a, b, c = self._models(3)
            return {"method": "ties", "base": c, "models": [a, b], "density": beta, "lambda": alpha, **_TIES}
        count = 2 if self.method in _TWO_MODELS else 3
        roles: dict[str, Value] = dict(zip("abc", self._models(count), strict=False))
        if self.method in _ONE:
            return {"method": self.method, **roles, "alpha": alpha}
        if self.method in _TWO:
            return {"method": self.method, **roles, "alpha": alpha, "beta": beta}
        if self.method in _ROWS:
            return {"method": self.method, **roles, "width": alpha, "offset": beta, **_ROWS[self.method]}
        raise UnsayableError(f"method {self.method[:60]!r} is none that is known")

    def _models(self, count: int) -> Sequence[str]:
        given = [*self.inputs, "", "", ""][:count]
        if not all(given):
            raise UnsayableError(f"{self.method[:60]} takes {count} models")
        return given


def _number(weights: MehWeights) -> Value:
    if isinstance(weights, Decimal):
        return weights
    if isinstance(weights, str):
        named = preset_table(weights)
        if named is None:
            raise UnsayableError(f"preset {weights[:60]!r} is none that is known")
        return named
    if len(weights) != 26:
        raise UnsayableError(f"{len(weights) - 1} block weights, where 25 are expected")
    return number_table(weights, vae=weights[0])
