"""A LoRA copied or scaled: its delta times a number, without a model.

The delta of a module is linear in one of its tensors, and only this one is multiplied: `up` of a product, one side of
LoHa and LoKr, or a whole difference. So alphas, ranks and everything in an adapter's configuration stay as they are. If
the delta depends on the model's weight too (DoRA, PEFT's IA3, tensors that replace the model's), multiplying a tensor
does not multiply the delta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Final, NamedTuple

from mergebuild.lora.modules import PEFT
from mergebuild.lora.roles import role_of

__all__ = ["KeptModule", "UnscalableError", "kept_modules", "scaled", "weight_of"]

_FACTORS: Final = (
    ("lora", "up"), ("embedding", "up"), ("loha", "w1_a"), ("lokr", "w1"), ("lokr", "w1_a"),
)  # fmt: skip
"""The tensor of a product that is multiplied, by group and role."""
_AS_THEY_ARE: Final = frozenset(
    {("lora", "up_bias"), ("full", "diff"), ("full", "diff_b"), ("norm", "w_norm"), ("norm", "b_norm")}
)
"""Tensors that are added unchanged."""
_EMBEDDINGS: Final = "bundle_emb."


class UnscalableError(Exception):
    """The delta of a module can't be scaled by multiplying one of its tensors."""

    def __init__(self, tensor: str, why: str) -> None:
        super().__init__(tensor, why)
        self.tensor = tensor
        """One of the module's tensors."""
        self.why = why


class KeptModule(NamedTuple):
    """A module of a LoRA that is copied or scaled."""

    weight: str
    """The name of the weight that it changes, for selectors."""
    tensors: tuple[str, ...]


def weight_of(tensor: str) -> str:
    """Return the name of the weight that a LoRA's tensor changes, in the LoRA's own names."""
    role = role_of(tensor)
    return f"{role.module.removeprefix(PEFT)}.weight" if role else tensor


def kept_modules(names: Iterable[str]) -> tuple[KeptModule, ...]:
    """Return the modules of a LoRA's tensors; a tensor that is in none is a module by itself."""
    found: dict[str, list[str]] = {}
    for name in names:
        role = None if name.startswith(_EMBEDDINGS) else role_of(name)
        found.setdefault(role.module if role else name, []).append(name)
    return tuple(
        KeptModule(module if module in some else f"{module.removeprefix(PEFT)}.weight", tuple(some))
        for module, some in found.items()
    )


def scaled(module: KeptModule, share: Fraction) -> Mapping[str, Fraction]:
    """Return the factor of each tensor of a module that makes its delta `share` times as large.

    Raises:
        UnscalableError: no factors do that.
    """
    found = dict.fromkeys(module.tensors, Fraction(1))
    if share == 1 or module.weight.startswith(_EMBEDDINGS):
        return found
    roles = _by_role(module)
    _check_scalable(roles)
    found |= {name: share for role, name in roles.items() if role in _AS_THEY_ARE or role[0] == "plain"}
    factor = next((roles[each] for each in _FACTORS if each in roles), None)
    return found if factor is None else found | {factor: share}


def _by_role(module: KeptModule) -> Mapping[tuple[str, str], str]:
    """Return the tensors of a module by group and role.

    Raises:
        UnscalableError: one has no known role.
    """
    roles: dict[tuple[str, str], str] = {}
    for name in module.tensors:
        role = role_of(name)
        if role is None:
            raise UnscalableError(name, "it is of no known kind")
        roles[role.group, role.role] = name
    return roles


def _check_scalable(roles: Mapping[tuple[str, str], str]) -> None:
    """Check that the delta of a module can be scaled.

    Raises:
        UnscalableError: it can't, because of one of its tensors.
    """
    for (group, _), name in roles.items():
        why = _WHY.get(group, _unknown)(roles)
        if why:
            raise UnscalableError(name, why)


def _nothing(_roles: Mapping[tuple[str, str], str]) -> str:
    return ""


def _unknown(_roles: Mapping[tuple[str, str], str]) -> str:
    return "it is of a family that can't be scaled"


def _plain(roles: Mapping[tuple[str, str], str]) -> str:
    """Return why a plain weight can't be scaled.

    Empty for IA3 of kohya's trainers, whose delta is the weight times it.
    """
    return "" if ("ia3", "on_input") in roles else "it takes the place of the model's"


_WHY: Final[Mapping[str, Callable[[Mapping[tuple[str, str], str]], str]]] = {
    **dict.fromkeys(("lora", "embedding", "loha", "lokr", "scale", "full", "norm", "ia3"), _nothing),
    **dict.fromkeys(("dora", "peft_dora"), lambda _: "the weight is decomposed (DoRA)"),
    "peft_ia3": lambda _: "the weight is multiplied by it (IA3)",
    "tokens": lambda _: "its rows take the place of the model's",
    "original": _nothing,
    "plain": _plain,
}
"""By group of roles: a function that returns why a module with such a tensor can't be scaled; empty if it can."""
