"""The tensors of a LoRA that is to be made: names, shapes, and how each is made, from headers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Final, NamedTuple

from mergebuild.errors import MismatchError, Place
from mergebuild.lora.making import ROLES, Extraction, Merging, Role, SketchWords, shaped
from mergebuild.lora.match import LoraTensor
from mergebuild.lora.modules import PEFT, Module, names_of
from mergebuild.lora.products import LoraProduct, Products

__all__ = ["Amounts", "Lora", "MadeFactor", "RankCut", "check", "extracted", "merged", "weights_of"]

_SHOWN: Final = 8


class RankCut(NamedTuple):
    """How much of a module is kept."""

    rank: int
    """The greatest rank; 0: no limit."""
    energy: Fraction = Fraction(1)
    """The share of all squares that is enough to keep."""


class Amounts(NamedTuple):
    """The numbers for one module when LoRAs are merged."""

    strengths: tuple[Fraction, ...]
    cut: RankCut


class Lora(NamedTuple):
    """A LoRA of which others are made."""

    name: str
    tensors: Mapping[str, LoraTensor]
    products: Products


class MadeFactor(NamedTuple):
    """A tensor of a new LoRA, made of tensors that are read whole."""

    name: str
    shape: tuple[int, ...]
    reads: tuple[tuple[int, str], ...]
    """The tensors that it is made of, each as the input's index and the name. They are the same for all tensors of a
    module."""
    role: Role | None = None
    """None: it is a sum of what it reads."""
    making: Extraction | Merging | None = None
    """How its module is made; None for a sum."""
    shares: tuple[Fraction, ...] = ()
    """For a sum: the factor of each tensor."""


def extracted(module: Module, cut: RankCut, clamp: Fraction, svd: tuple[int, int] | None) -> Iterator[MadeFactor]:
    """Yield the tensors for one module of a LoRA extracted from the difference of two models.

    Args:
        module: The module.
        cut: How much is kept; `rank` is at least 1.
        clamp: A quantile; 0: no clamping.
        svd: Seed and iterations of an approximate decomposition; None: an exact one.
    """
    rows, *row = module.shape
    rank = min(cut.rank, rows, prod(row))
    sketch = None if svd is None else SketchWords(svd[0], module.name, svd[1])
    making = Extraction(module.shape, module.rows, rank, _share(cut), clamp or None, sketch)
    shapes: Mapping[Role, tuple[int, ...]] = {
        "up": (rows, rank, *(1 for _ in row[1:])), "down": (rank, *row), "alpha": (),
    }  # fmt: skip
    names = names_of(module.name, module.style)
    reads = ((0, module.tensor), (1, module.tensor))
    return (MadeFactor(names[role], shapes[role], reads, role, making) for role in ROLES if role in names)


def weights_of(loras: Sequence[Lora]) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Return the modules of LoRAs, each with the name and shape of the weight that it changes, for selectors."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for each in loras:
        for module, product in each.products.modules.items():
            found.setdefault(module, (f"{module.removeprefix(PEFT)}.weight", product.shape))
        for tensor, module in each.products.sums.items():
            found.setdefault(module, (f"{module.removeprefix(PEFT)}.weight", tuple(each.tensors[tensor].shape)))
    return found


def check(loras: Sequence[Lora], where: Place | None) -> None:
    """Check that LoRAs can be merged.

    Raises:
        MismatchError: they name modules differently (`lora-naming`), differ in the shape of one (`shape-mismatch`), or
            replace tensors of the model (`lora-replaces`).
    """
    first = loras[0]
    for other in loras[1:]:
        _check_naming(first, other, where)
        _check_shapes(first, other, where)
    for each in loras:
        if each.products.replaced:
            raise _replaces(each, where)


def _replaces(lora: Lora, where: Place | None) -> MismatchError:
    """Return the error for a LoRA that replaces tensors of the model."""
    return MismatchError.one(
        "lora-replaces", f"the LoRA `{lora.name}` replaces tensors of the model, which can't be added up",
        where=where, rows=lora.products.replaced[:_SHOWN],
        help="bake the LoRAs into their model one after another with `add_lora`",
    )  # fmt: skip


def _check_naming(first: Lora, other: Lora, where: Place | None) -> None:
    if not first.products.naming.fits(other.products.naming):
        raise MismatchError.one(
            "lora-naming", f"the LoRAs `{first.name}` and `{other.name}` name their modules differently",
            where=where, rows=(f"{first.name}  {first.products.naming}", f"{other.name}  {other.products.naming}"),
            help="bake both into their model with `add_lora`, and take the difference out with `extract_lora`",
        )  # fmt: skip


def _check_shapes(first: Lora, other: Lora, where: Place | None) -> None:
    ours = {module: product.shape for module, product in first.products.modules.items()}
    ours |= {tensor: tuple(first.tensors[tensor].shape) for tensor in first.products.sums}
    theirs = {module: product.shape for module, product in other.products.modules.items()}
    theirs |= {tensor: tuple(other.tensors[tensor].shape) for tensor in other.products.sums}
    wrong = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    if wrong:
        raise MismatchError.one(
            "shape-mismatch", f"`{wrong[0]}` differs between the LoRAs `{first.name}` and `{other.name}`",
            where=where,
            rows=(f"{first.name}  {list(ours[wrong[0]])}", f"{other.name}  {list(theirs[wrong[0]])}"),
            help="they were made for models of different architectures",
        )  # fmt: skip


def merged(loras: Sequence[Lora], amounts_of: Callable[[str], Amounts], modules: Sequence[str]) -> Iterator[MadeFactor]:
    """Yield the tensors of merged LoRAs, or of a resized one, with the names of the first LoRA that has each.

    Args:
        loras: LoRAs that `check` accepts.
        amounts_of: Returns the numbers for a module.
        modules: The modules that are written.
    """
    for module in modules:
        amounts = amounts_of(module)
        holders = [index for index, each in enumerate(loras) if module in each.products.modules]
        if holders:
            yield from _module([loras[index] for index in holders], module, holders, amounts)
    yield from _sums(loras, amounts_of, frozenset(modules))
    yield from _copies(loras)


def _sums(loras: Sequence[Lora], amounts_of: Callable[[str], Amounts], modules: frozenset[str]) -> Iterator[MadeFactor]:
    """Yield the tensors that are themselves added to the model's, for some modules."""
    sums = {tensor: module for each in loras for tensor, module in each.products.sums.items() if module in modules}
    for tensor, module in sums.items():
        strengths = amounts_of(module).strengths
        holders = [index for index, each in enumerate(loras) if tensor in each.products.sums]
        shape = tuple(loras[holders[0]].tensors[tensor].shape)
        reads = tuple((index, tensor) for index in holders)
        yield MadeFactor(tensor, shape, reads, shares=tuple(strengths[index] for index in holders))


def _copies(loras: Sequence[Lora]) -> Iterator[MadeFactor]:
    """Yield the tensors that belong to no module, each from the first LoRA that has it."""
    copies: dict[str, int] = {}
    for index, each in enumerate(loras):
        for tensor in (*each.products.replaced, *each.products.words):
            copies.setdefault(tensor, index)
    for tensor, index in copies.items():
        yield MadeFactor(tensor, tuple(loras[index].tensors[tensor].shape), ((index, tensor),), shares=(Fraction(1),))


def _module(holders: Sequence[Lora], module: str, indices: Sequence[int], amounts: Amounts) -> Iterator[MadeFactor]:
    """Yield the tensors of a merged module. `holders`: the LoRAs that have it; `indices`: their indexes among all."""
    products = [each.products.modules[module] for each in holders]
    first, cut = products[0], amounts.cut
    total = sum(product.rank for product in products)
    is_cut = cut.rank > 0 or cut.energy < 1
    rank = min(cut.rank or total, total, first.shape[0], prod(first.shape[1:])) if is_cut else total
    deltas = tuple(shaped(product.delta, each.tensors) for each, product in zip(holders, products, strict=True))
    strengths = tuple(amounts.strengths[index] for index in indices)
    making = Merging(first.shape, rank, is_cut, _share(cut), first.tensor("alpha") is not None, deltas, strengths)
    reads = _reads(indices, products)
    for role in ROLES:
        name = first.tensor(role)
        if name is not None:
            yield MadeFactor(name, _shape(role, rank, holders[0].tensors[name].shape, first), reads, role, making)


def _reads(indices: Sequence[int], products: Sequence[LoraProduct]) -> tuple[tuple[int, str], ...]:
    """Return the factors of products, each as the LoRA's index and the name."""
    pairs = zip(indices, products, strict=True)
    return tuple((index, factor.tensor) for index, product in pairs for factor in product.delta.factors)


def _shape(role: Role, rank: int, before: tuple[int, ...], module: LoraProduct) -> tuple[int, ...]:
    """Return the shape of a module's new tensor, given the shape of the old one."""
    if role == "alpha":
        return before
    return (before[0], rank, *before[2:]) if role == "up" else (rank, *module.shape[1:])


def _share(cut: RankCut) -> Fraction | None:
    return cut.energy if cut.energy < 1 else None
