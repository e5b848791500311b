"""Merges of Chattiori's merger: modes, weights by blocks with rules, and what is done before and behind a merge.

Its metadata have numbers that are rounded to three digits. It counts the VAE to BASE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Final

from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.merges.blocks import number_table, preset_table
from mergebuild.exchange.merges.elemental import ElementalRule, as_values
from mergebuild.exchange.merges.node import UnsayableError

__all__ = ["MODES", "ChattioriMerge", "ChattioriWeights"]

MODES: Final = {
    "WS": "Weighted Sum",
    "AD": "Add Difference",
    "sAD": "Smooth Add Difference",
    "TD": "Training Difference",
    "MD": "Multiply Difference",
    "SIM": "Similarity Add Difference",
    "TS": "Tensor Sum",
    "TRS": "Triple Sum",
    "ST": "Sum Twice",
    "NoIn": "No Interpolation",
    "SIG": "Sigmoid",
    "GEO": "Geometric",
    "MAX": "Max",
    "DARE": "DARE",
    "SPRSE": "Sparse Top-k Delta",
    "NORM": "Norm/Direction Split",
    "ORTHO": "Orthogonalized Delta",
}
"""By the word of the command line, the name in metadata; those that no method here is are absent."""
_PLAIN: Final = {
    "Weighted Sum": ("weighted_sum", "ab", "alpha"),
    "Add Difference": ("add_difference", "abc", "alpha"),
    "Smooth Add Difference": ("smooth_add", "abc", "alpha"),
    "Training Difference": ("train_difference", "abc", "alpha"),
    "Multiply Difference": ("multiply_difference", "abc", "alpha beta"),
    "Similarity Add Difference": ("similarity_add_difference", "abc", "alpha beta"),
    "Tensor Sum": ("tensor_sum", "ab", "width offset"),
    "Triple Sum": ("triple_sum", "abc", "alpha beta"),
    "Sum Twice": ("sum_twice", "abc", "alpha beta"),
    "No Interpolation": ("copy", "a", ""),
    "Geometric": ("geometric", "ab", "alpha"),
    "Max": ("max", "ab", ""),
    "Sparse Top-k Delta": ("topk_mask", "ab", "alpha density"),
    "Norm/Direction Split": ("norm_direction", "ab", "alpha"),
    "Orthogonalized Delta": ("add_perpendicular", "ab", "alpha"),
}
"""By name: method, inputs, and what alpha and beta are called."""
_DIGITS: Final = Context(prec=30)
_SEED: Final = 1
_PULLED: Final = "newer versions pull mean and deviation of this halfway to those of A; here they stay"


@dataclass
class ChattioriWeights:
    """Alpha or beta: a number; or 26, BASE first; or a preset; and rules behind it."""

    number: Decimal = Decimal(0)
    blocks: Sequence[Decimal] = ()
    preset: str = ""
    rules: Sequence[ElementalRule] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it is one number."""
        return not self.blocks and not self.preset and not self.rules

    def value(self) -> Value:
        """Return it as a number of a target."""
        if self.is_plain:
            return self.number
        table: dict[str, Value] = {"default": self.number}
        if self.blocks:
            if len(self.blocks) not in (20, 26):
                raise UnsayableError(f"{len(self.blocks) - 1} block weights, where 25 are expected")
            table = number_table(self.blocks, vae=self.blocks[0])
        elif self.preset:
            named = preset_table(self.preset)
            if named is None:
                raise UnsayableError(f"preset {self.preset[:60]!r} is none that is known")
            table = named
        return table | {"elemental": as_values(self.rules)} if self.rules else table


@dataclass
class ChattioriMerge:
    """One merge."""

    where: str
    name: str
    mode: str
    """Its name in metadata."""
    inputs: Sequence[str]
    """Names of the models in the draft."""
    alpha: ChattioriWeights
    beta: ChattioriWeights
    output: str | None = None
    dtype: str | None = None
    vae: str = ""
    seed: int | None = None
    comments: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, draft: Draft) -> str:
        """Add the target, and one that it needs.

        Raises:
            UnsayableError: no target is it; nothing was added.
        """
        keys = self._keys()
        if self.mode == "Orthogonalized Delta":
            keys["c"] = draft.target(f"{self.name}-nothing", {"formula": f"0*'{self.inputs[0]}'"})
        if self.vae:
            keys["components"] = {"vae": draft.source(ModelName(self.vae))}
        made = draft.target(self.name, keys, comments=self.comments, output=self.output, dtype=self.dtype)
        for text in self.told:
            draft.say(self.where, text, target=made)
        for text in self.left_out:
            draft.leave_out(self.where, text, target=made)
        return made

    def _keys(self) -> dict[str, Value]:
        if self.mode == "Sigmoid":
            return self._sigmoid()
        if self.mode == "DARE":
            return self._dare()
        if self.mode not in _PLAIN:
            raise UnsayableError(f"mode {self.mode[:60]!r} is no method here")
        if self.mode == "Similarity Add Difference":
            self.left_out.append(_PULLED)
        method, roles, names = _PLAIN[self.mode]
        keys: dict[str, Value] = {"method": method, **dict(zip(roles, self._models(len(roles)), strict=True))}
        for name, weights in zip(names.split(), (self.alpha, self.beta), strict=False):
            keys[name] = weights.value()
        return keys

    def _models(self, count: int) -> Sequence[str]:
        if len(self.inputs) < count or not all(self.inputs[:count]):
            raise UnsayableError(f"{self.mode} takes {count} models")
        return self.inputs[:count]

    def _sigmoid(self) -> dict[str, Value]:
        """Return `s1 (A + B) - s0 A`, with s1 and s0 to 30 digits."""
        if not self.alpha.is_plain:
            raise UnsayableError("Sigmoid with weights by blocks")
        four, one = (1 / (1 + _DIGITS.exp(-factor * self.alpha.number)) for factor in (4, 1))
        self.told.append("the sigmoids of Chattiori's merger, to 30 digits")
        weights: list[Value] = [_DIGITS.plus(four - one), _DIGITS.plus(four)]
        return {"method": "linear", "models": [*self._models(2)], "weight": weights, "normalize": False}

    def _dare(self) -> dict[str, Value]:
        """Return a merge that keeps a share beta, and divides by 1 - beta."""
        if not self.alpha.is_plain or not self.beta.is_plain or not 0 < self.beta.number < 1:
            raise UnsayableError("DARE with weights by blocks, or a beta that is no share")
        base, other = self._models(2)
        alpha, beta = self.alpha.number, self.beta.number
        if self.seed is None:
            self.told.append("the seed is not recorded, and was invented")
        seed = _SEED if self.seed is None else self.seed
        weight = _DIGITS.divide(alpha * beta, 1 - beta)
        return {
            "method": "dare_linear",
            "base": base,
            "models": [other],
            "weight": weight,
            "density": beta,
            "seed": seed,
        }
