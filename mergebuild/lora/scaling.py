"""A LoRA by itself, copied or scaled: what it adds to a model times a number.

What a module adds is linear in one of its tensors, which is multiplied: `up` of a product, one side of LoHa and LoKr, a
difference as it is. So alphas, ranks and all that an adapter's configuration says stay what they are. Where what is
added follows from the model's weight too (DoRA, IA3 of PEFT, tensors that take the place of the model's), no tensor of
the LoRA times a number adds that many times as much.
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
"""Tensors that are added as they are."""
_EMBEDDINGS: Final = "bundle_emb."


class UnscalableError(Exception):
    """What a module adds is no multiple of any of its tensors."""

    def __init__(self, tensor: str, why: str) -> None:
        super().__init__(tensor, why)
        self.tensor = tensor
        """One of the module's."""
        self.why = why


class KeptModule(NamedTuple):
    """A module of a LoRA that is copied or scaled."""

    weight: str
    """What the weight is called that it changes, for selectors."""
    tensors: tuple[str, ...]


def weight_of(tensor: str) -> str:
    """Return what the weight is called that a LoRA's tensor changes, as its own names have it."""
    role = role_of(tensor)
    return f"{role.module.removeprefix(PEFT)}.weight" if role else tensor


def kept_modules(names: Iterable[str]) -> tuple[KeptModule, ...]:
    """Return the modules of a LoRA's tensors; a tensor that belongs to none is one by itself."""
    found: dict[str, list[str]] = {}
    for name in names:
        role = None if name.startswith(_EMBEDDINGS) else role_of(name)
        found.setdefault(role.module if role else name, []).append(name)
    return tuple(
        KeptModule(module if module in some else f"{module.removeprefix(PEFT)}.weight", tuple(some))
        for module, some in found.items()
    )


def scaled(module: KeptModule, share: Fraction) -> Mapping[str, Fraction]:
    """Return by what each tensor of a module is multiplied so that it adds `share` times as much.

    Raises:
        UnscalableError: nothing does that.
    """
    found = dict.fromkeys(module.tensors, Fraction(1))
    if share == 1 or module.weight.startswith(_EMBEDDINGS):
        return found
    roles: dict[tuple[str, str], str] = {}
    for name in module.tensors:
        role = role_of(name)
        if role is None:
            raise UnscalableError(name, "it is of no known kind")
        roles[role.group, role.role] = name
    for (group, kind), name in roles.items():
        why = _WHY.get(group, _unknown)(roles)
        if why:
            raise UnscalableError(name, why)
        if (group, kind) in _AS_THEY_ARE or group == "plain":
            found[name] = share
    factor = next((roles[each] for each in _FACTORS if each in roles), None)
    return found if factor is None else found | {factor: share}


def _nothing(_roles: Mapping[tuple[str, str], str]) -> str:
    return ""


def _unknown(_roles: Mapping[tuple[str, str], str]) -> str:
    return "it is of a family that can't be scaled"


def _plain(roles: Mapping[tuple[str, str], str]) -> str:
    """IA3 of kohya's trainers adds the weight times such a tensor."""
    return "" if ("ia3", "on_input") in roles else "it takes the place of the model's"


_WHY: Final[Mapping[str, Callable[[Mapping[tuple[str, str], str]], str]]] = {
    **dict.fromkeys(("lora", "embedding", "loha", "lokr", "scale", "full", "norm", "ia3"), _nothing),
    **dict.fromkeys(("dora", "peft_dora"), lambda _: "the weight is decomposed (DoRA)"),
    "peft_ia3": lambda _: "the weight is multiplied by it (IA3)",
    "tokens": lambda _: "its rows take the place of the model's",
    "original": _nothing,
    "plain": _plain,
}
"""By group, why a module with such a tensor can't be scaled; empty where it can."""
