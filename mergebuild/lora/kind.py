"""Whether tensors are those of a LoRA, told by their names: what a LoRA's tensors mean is no sum of parts.

`up`, `down` and `alpha` are numbers of one product, and an adapter's scale may stand in a file beside its tensors. So
what treats tensors one by one, as the methods for models do, makes something else of a LoRA than people mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from mergebuild.lora.modules import PEFT
from mergebuild.lora.roles import role_of

__all__ = ["is_lora", "is_number", "is_of_peft", "lacks_scale"]

_MARKS: Final = (
    "lora", "hada_", "lokr_", ".diff\n", ".diff_b\n", "dora_scale", "ia3_l", ".on_input", "w_norm", "b_norm", "oft_",
    "vera_", "trainable_tokens",
)  # fmt: skip
"""What stands in some name of every LoRA, with the end of a line behind it."""
_OF_LORAS: Final = frozenset(
    "lora embedding loha lokr full norm dora peft_dora ia3 peft_ia3 tokens OFT BOFT AdaLoRA VeRA".split()
)
"""Groups of roles that no tensor of a model has."""
_SCALED: Final = frozenset("lora embedding loha lokr peft_ia3 tokens".split())
"""Groups whose meaning for PEFT is not in the tensors alone."""
_WEIGHTS: Final = frozenset({("plain", "weight")})
_NUMBERS: Final = frozenset({"alpha", "scale", "on_input"})


def is_lora(names: Collection[str]) -> bool:
    """Return whether tensors of these names are a LoRA's, of any family.

    A model may hold factors beside the weights that they are for; a LoRA has no such weights. A few modules of other
    names do not make it a model: embeddings and heads that were trained whole.
    """
    text = "\n".join(names) + "\n"  # of a model, which most are, nothing more is asked
    if not any(mark in text for mark in _MARKS):
        return False
    modules: dict[str, set[tuple[str, str]]] = {}
    for name in names:
        role = role_of(name)
        module = role.module if role else name
        modules.setdefault(module, set()).add((role.group, role.role) if role else ("", ""))
    adapted = [roles for roles in modules.values() if any(group in _OF_LORAS for group, _ in roles)]
    if adapted and is_of_peft(names):
        return True
    bare = sum(not roles & _WEIGHTS or ("ia3", "on_input") in roles for roles in adapted)
    return 2 * bare > len(modules)


def is_of_peft(names: Collection[str]) -> bool:
    """Return whether tensors have the names that PEFT gives to those of its adapters."""
    return bool(names) and all(name.startswith(PEFT) for name in names)


def lacks_scale(names: Iterable[str]) -> bool:
    """Return whether an adapter of PEFT has modules of which no tensor says by what they are scaled."""
    modules: dict[str, set[str]] = {}
    for name in names:
        role = role_of(name)
        if role is not None and name.startswith(PEFT):
            modules.setdefault(role.module, set()).add(role.group)
    return any(groups & _SCALED and "scale" not in groups for groups in modules.values())


def is_number(name: str) -> bool:
    """Return whether a LoRA's tensor is a number of a module, such as its alpha, and no weight: it is never rounded."""
    role = role_of(name)
    return role is not None and role.role in _NUMBERS and role.group in {"scale", "ia3"}
