"""A LoRA without a model: its modules as products of two matrices, and the tensors that it adds unchanged.

Only modules that are such products can be resized or merged. A LoRA is treated as the adapter of a model with the
shapes that its own tensors imply, so that `match` can say what each tensor is for, and what is wrong with the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from mergebuild.errors import Place, SourceError
from mergebuild.lora.match import Delta, LoraTensor, Match, match
from mergebuild.lora.modules import PEFT
from mergebuild.lora.needs import PRODUCTS
from mergebuild.lora.roles import role_of

__all__ = ["LoraNaming", "LoraProduct", "Products", "products_of"]

_SUMS: Final = frozenset({"full", "norm"})
"""Families with one tensor, which is added unchanged."""
_SHOWN: Final = 8
_DAMAGED: Final = "the file is damaged, or no LoRA: download or export it again"
_WEIGHTS: Final = {("full", "diff"), ("norm", "w_norm"), ("plain", "weight")}
_BIASES: Final = {("full", "diff_b"), ("norm", "b_norm"), ("plain", "bias"), ("lora", "up_bias")}
_NO_PRODUCTS: Final = {
    "loha": "LoHa", "lokr": "LoKr", "ia3": "IA3", "peft_ia3": "IA3", "dora": "DoRA", "peft_dora": "DoRA",
    "tokens": "trained words",
}  # fmt: skip
_PATHS: Final = (
    ("diffusers' paths", re.compile(r"(?:^|[._])(?:down_blocks|up_blocks|mid_block)[._]")),
    ("its authors' paths", re.compile(r"(?:^|[._])(?:input_blocks|output_blocks|middle_block)[._]")),
)


class LoraNaming(NamedTuple):
    """How a LoRA names its modules, as far as it decides whether it can be merged with another."""

    form: str
    paths: str
    """For an image model; empty if no module tells."""

    def fits(self, other: LoraNaming) -> bool:
        """Whether equal names in both mean the same module."""
        return self.form == other.form and (self.paths == other.paths or not (self.paths and other.paths))

    def __str__(self) -> str:
        return f"{self.form}, {self.paths}" if self.paths else self.form


@dataclass(frozen=True, slots=True)
class LoraProduct:
    """A module of a LoRA: `scale * up @ down`."""

    delta: Delta
    shape: tuple[int, ...]
    """The shape of the product, a kernel's dimensions not flattened."""
    rank: int

    def tensor(self, role: str) -> str | None:
        """Return the name of the module's tensor with a role; None if it has none."""
        return next((factor.tensor for factor in self.delta.factors if factor.role == role), None)


@dataclass(frozen=True, slots=True)
class Products:
    """The contents of a LoRA."""

    modules: Mapping[str, LoraProduct]
    """By name of the module."""
    sums: Mapping[str, str]
    """Tensors that are added to the model's unchanged, and the module of each."""
    replaced: tuple[str, ...]
    """Tensors that replace the model's."""
    words: tuple[str, ...]
    """Tensors that are not part of the model: embeddings of new words."""
    naming: LoraNaming


def products_of(
    lora: Mapping[str, LoraTensor], config: Mapping[str, object] | None = None, *, shown: str = ""
) -> Products:
    """Return the contents of a LoRA.

    Raises:
        SourceError: it has modules that are no product of two matrices (`lora-no-product`), tensors that belong to no
            complete module (`lora-incomplete`), or other faults (as `match`).
    """
    where = Place(shown) if shown else None
    found = match(lora, _model(lora, where), config, shown=shown, by_itself=True)
    if found.misfits:
        raise SourceError((found.misfits[0].problem._replace(help=_DAMAGED),))
    if found.unmatched:
        raise SourceError.one(
            "lora-incomplete", f"the LoRA has {len(found.unmatched)} tensors that belong to no whole module",
            where=where, rows=found.unmatched[:_SHOWN],
            help=_DAMAGED,
        )  # fmt: skip
    return _sorted_out(found, lora, where)


def _sorted_out(found: Match, lora: Mapping[str, LoraTensor], where: Place | None) -> Products:
    """Return a LoRA's deltas, sorted by kind."""
    modules: dict[str, LoraProduct] = {}
    sums: dict[str, str] = {}
    replaced: list[str] = []
    for tensor, deltas in found.deltas.items():
        module = tensor.rpartition(".")[0]
        for delta in deltas:
            if delta.family in PRODUCTS:
                modules[module] = _product(delta, lora)
            elif delta.family in _SUMS:
                sums[delta.factors[0].tensor] = module
            elif delta.family == "replace":
                replaced.append(delta.factors[0].tensor)
            else:
                raise _no_product("biases of PEFT", delta.factors[0].tensor, where)
    return Products(modules, sums, tuple(sorted(replaced)), found.ignored, _naming([*modules, *sums.values()]))


def _product(delta: Delta, lora: Mapping[str, LoraTensor]) -> LoraProduct:
    """Return a module. Its factors make it in their own orientation, even if the model's tensor is the transpose."""
    facts = tuple((name, value) for name, value in delta.facts if name != "transposed")
    shapes = {factor.role: tuple(lora[factor.tensor].shape) for factor in delta.factors}
    row = (shapes["down"][1], *shapes["mid"][2:]) if "mid" in shapes else shapes["down"][1:]
    return LoraProduct(replace(delta, facts=facts), (shapes["up"][0], *row), shapes["down"][0])


def _model(lora: Mapping[str, LoraTensor], where: Place | None) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of the weights that a LoRA's own shapes imply."""
    modules: dict[str, dict[tuple[str, str], str]] = {}
    for name in lora:
        role = role_of(name)
        if role is not None:
            if role.group in _NO_PRODUCTS:
                raise _no_product(_NO_PRODUCTS[role.group], name, where)
            modules.setdefault(role.module, {})[role.group, role.role] = name
    return {
        f"{module}.{part}": shape
        for module, have in modules.items()
        for part, shape in _weights({role: tuple(lora[name].shape) for role, name in have.items()})
    }


def _weights(shapes: Mapping[tuple[str, str], tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the shapes of a module's weight and bias, as its tensors imply."""
    for group in ("lora", "embedding"):
        up, down = shapes.get((group, "up"), ()), shapes.get((group, "down"), ())
        if len(up) > 1 and len(down) > 1:
            kernel = shapes.get(("lora", "mid"), down)[2:]
            yield "weight", (up[0], down[1], *kernel) if group == "lora" else (down[1], up[0])
    yield from (("weight", shape) for role, shape in shapes.items() if role in _WEIGHTS)
    yield from (("bias", shape) for role, shape in shapes.items() if role in _BIASES)


def _no_product(family: str, tensor: str, where: Place | None) -> SourceError:
    return SourceError.one(
        "lora-no-product", f"the LoRA has modules that are no product of two matrices: {family}", where=where,
        rows=(tensor,),
        help="bake it into its model with `add_lora`, and take the difference out with `extract_lora`",
    )  # fmt: skip


def _naming(modules: Sequence[str]) -> LoraNaming:
    form = (
        "PEFT's names" if any(module.startswith(PEFT) for module in modules)
        else "names with dots" if any("." in module for module in modules)
        else "names joined with `_`"
    )  # fmt: skip
    return LoraNaming(form, next((name for name, sign in _PATHS if any(map(sign.search, modules))), ""))
