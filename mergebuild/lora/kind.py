"""Whether tensors are a LoRA's, by their names.

`up`, `down` and `alpha` are factors of one product, and an adapter's scale may be in a file beside its tensors. So
methods that treat tensors one by one, as those for models do, would not do to a LoRA what people expect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from mergebuild.lora.modules import PEFT
from mergebuild.lora.roles import role_of

__all__ = ["is_lora", "is_number", "is_of_peft", "lacks_scale"]

_MARKS: Final = (
    "lora", "hada_", "lokr_", ".diff\n", ".diff_b\n", "dora_scale", "ia3_l", ".on_input", "w_norm", "b_norm", "oft_",
    "vera_", "trainable_tokens",
)  # fmt: skip
r"""Every LoRA has one of these in some name; `\n` is the end of a name."""
_OF_LORAS: Final = frozenset(
    "lora embedding loha lokr full norm dora peft_dora ia3 peft_ia3 tokens OFT BOFT AdaLoRA VeRA".split()
)
"""Groups of roles that no tensor of a model has."""
_SCALED: Final = frozenset("lora embedding loha lokr peft_ia3 tokens".split())
"""Groups whose meaning in PEFT does not follow from the tensors alone."""
_WEIGHTS: Final = frozenset({("plain", "weight")})
_NUMBERS: Final = frozenset({"alpha", "scale", "on_input"})


def is_lora(names: Collection[str]) -> bool:
    """Return whether tensors with these names are a LoRA's, of any family.

    A model may hold factors beside the weights that they are for, while a LoRA has no such weights. A few modules with
    other names, such as embeddings and heads that were trained whole, do not make it a model.
    """
    text = "\n".join(names) + "\n"  # a quick check, enough for models, which most files are
    if not any(mark in text for mark in _MARKS):
        return False
    modules = _roles_by_module(names)
    adapted = [roles for roles in modules.values() if any(group in _OF_LORAS for group, _ in roles)]
    if adapted and is_of_peft(names):
        return True
    bare = sum(not roles & _WEIGHTS or ("ia3", "on_input") in roles for roles in adapted)
    return 2 * bare > len(modules)


def _roles_by_module(names: Iterable[str]) -> Mapping[str, set[tuple[str, str]]]:
    """Return the groups and roles of each module's tensors; a tensor of no role is a module with empty ones."""
    modules: dict[str, set[tuple[str, str]]] = {}
    for name in names:
        role = role_of(name)
        module = role.module if role else name
        modules.setdefault(module, set()).add((role.group, role.role) if role else ("", ""))
    return modules


def is_of_peft(names: Collection[str]) -> bool:
    """Return whether tensors have the names of PEFT's adapters."""
    return bool(names) and all(name.startswith(PEFT) for name in names)


def lacks_scale(names: Iterable[str]) -> bool:
    """Return whether an adapter of PEFT has modules whose scale is in no tensor."""
    modules: dict[str, set[str]] = {}
    for name in names:
        role = role_of(name)
        if role is not None and name.startswith(PEFT):
            modules.setdefault(role.module, set()).add(role.group)
    return any(groups & _SCALED and "scale" not in groups for groups in modules.values())


def is_number(name: str) -> bool:
    """Return whether a LoRA's tensor is a number of a module, such as its alpha, and not a weight.

    Numbers are never rounded.
    """
    role = role_of(name)
    return role is not None and role.role in _NUMBERS and role.group in {"scale", "ia3"}
