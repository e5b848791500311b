"""Computes outputs again, independently: with NumPy, one tensor at a time, and without importing `mergebuild`.

A tensor of a target is a *form*, a combination of *leaves* with exact coefficients. Leaves are tensors of sources, of
files, and those that virtual targets make by methods that are not linear. If all leaves are known to the bit, so is the
combination in float32, except for the order of its terms: mergebuild orders them by digests, which are unknown here, so
any order is accepted. Results of other methods are computed in float64 from their formulas, and compared within a few
units of float32 and of the dtype. Results without a formula here (random numbers, whole models, LoRAs) are unknown, and
so is everything made from them.

All tensors are parameters, by canonical name. Files are read back to these by the spelling of the first input.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import combinations, islice, permutations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from spellings import Spelling, parameters
from tensor_files import FLOATS, Scaled, Stored, encode, read_model
from worlds import (
    FAMILIES,
    Rule,
    Source,
    Table,
    Target,
    World,
    copies_of,
    inputs_of,
    root_of,
    spelling_of,
    tensors_of,
    ties_of,
)

__all__ = ["check", "parameters_of"]

Key = tuple[Any, ...]
Array = np.ndarray

_ORDERS = 130
"""The most orders of terms that are tried: all of five terms (5! = 120), and a few more."""


@dataclass(frozen=True)
class Leaf:
    """Values that a form reads, flat. `off`: how far they may be from the program's values; 0: they are equal."""

    values: Array
    dtype: str
    off: float = 0.0


@dataclass(frozen=True)
class Tensor:
    """A tensor of an input, as a combination of leaves. `terms` None: unknown."""

    dtype: str
    shape: tuple[int, ...]
    terms: tuple[tuple[Key, Fraction], ...] | None
    data: bytes = b""
    """The bytes of a tensor that is not floating-point."""

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


class View(dict[str, Tensor]):
    """The parameters of an input or a target."""

    def __init__(self, tensors: Mapping[str, Tensor], like: View | None = None) -> None:
        """`like`: a view with the same ties."""
        super().__init__(tensors)
        self.tied: Mapping[str, str] = like.tied if like else {}
        """Tied names that are not parameters of their own: by name, the parameter that it stands for."""
        self.copies: Collection[str] = like.copies if like else ()
        """Those tied names that files contain nevertheless."""

    def keep_ties(self) -> None:
        """Drop ties to missing parameters, and ties of names that have become parameters."""
        self.tied = {name: other for name, other in self.tied.items() if name not in self and other in self}
        self.copies = [name for name in self.copies if name in self.tied]


def check(world: World, made: Mapping[str, Any], root: Path, counts: Counter[str]) -> None:
    """Compare all outputs that were made with the values that they must have.

    Raises:
        AssertionError: An output has other values.
    """
    evaluation = _Evaluation(world, root, made)
    for name in world.outputs:
        if name in made:
            evaluation.compare(name, counts)


def parameters_of(world: World, name: str, root: Path, path: Path | None = None) -> Mapping[str, Stored]:
    """Return the tensors of a target's file, by canonical name; if it is not a model's, by their names in the file.

    Args:
        world: The project.
        name: The target.
        root: The project's folder.
        path: The store's file of a virtual target; None: the target's output.
    """
    evaluation = _Evaluation(world, root)
    return evaluation.read(name, evaluation.target(name), path)


class _Evaluation:
    def __init__(self, world: World, root: Path, artifacts: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._world = world
        self._artifacts = artifacts
        """By target, its artifact: targets with the same artifact have the same tensors."""
        self._root = root
        self._leaves: dict[Key, Leaf] = {}
        self._views: dict[tuple[str, str], View | None] = {}

    # Inputs

    def view(self, ref: str, ema: str) -> View | None:
        """Return the view of an input; None: unknown."""
        if (ref, ema) not in self._views:
            source = self._world.source(ref)
            if source is not None:
                found: View | None = self._source(source, ema)
            else:
                target = self._world.target(ref)
                found = self._file(ref) if target.output else self.target(ref)
            if found is not None and ema != "keep":
                found = View({name: each for name, each in found.items() if not name.startswith("model_ema.")}, found)
            self._views[ref, ema] = found
        return self._views[ref, ema]

    def _source(self, source: Source, ema: str) -> View:
        found = View({})
        found.tied, found.copies = ties_of(source), tuple(copies_of(source))
        tensors = tensors_of(source)
        for name, stored in tensors.items():
            each = stored
            copy = "model_ema." + name.removeprefix("model.").replace(".", "")
            if ema == "use" and name.startswith("model.diffusion_model.") and copy in tensors:
                each = tensors[copy]
            if name.endswith(".position_ids"):
                each = Stored("int64", (1, 77), encode(range(77), "int64"))
            found[name] = self._stored(each, (type(each), each.dtype, each.shape, each.data))
        return found

    def _stored(self, each: Stored | Scaled, key: Key) -> Tensor:
        if not each.is_float:
            return Tensor(each.dtype, each.shape, (), each.data)
        self._leaves[key] = Leaf(each.values, "a product" if isinstance(each, Scaled) else each.dtype)
        return Tensor(each.dtype, each.shape, ((key, Fraction(1)),))

    def _file(self, name: str) -> View | None:
        """Return the view of a target with an output: its readers read the rounded tensors of its file."""
        path = self._root / self._output(name)
        made = self.target(name)
        dtypes = self.dtypes(name, made) if made else {}
        if not path.exists():  # its values were not needed, so it was not built; names, shapes and dtypes are known
            offered = {
                tensor: replace(each, dtype=dtypes.get(tensor, each.dtype)) for tensor, each in (made or {}).items()
            }
            unread = {tensor: replace(each, terms=None) if each.is_float else each for tensor, each in offered.items()}
            return View(unread, made) if made is not None else None
        found = View({}, made)
        for tensor, stored in self.read(name, made, may_be_old=True).items():
            key: Key = ("file", self._artifacts.get(name) or name, tensor)
            form = (made or {}).get(tensor)
            if form is not None and form.terms is not None:
                lone = len(form.terms) == 1 and form.terms[0][1] == 1
                is_copy = lone and self._leaves[form.terms[0][0]].dtype == stored.dtype
                key = form.terms[0][0] if is_copy else ("made", dtypes[tensor], form.shape, frozenset(form.terms))
            found[tensor] = self._stored(stored, key)
        return found

    def _output(self, name: str) -> str:
        return self._world.target(name).output_of(name)

    def read(
        self, name: str, made: View | None, path: Path | None = None, *, may_be_old: bool = False
    ) -> Mapping[str, Stored]:
        """Return the parameters in a target's file.

        Args:
            name: The target.
            made: The tensors that it must have; None: unknown.
            path: The store's file of a virtual target, in float32; None: the target's output.
            may_be_old: Whether it may have the spelling of an earlier build: files that are only read stay as they are.
        """
        found = read_model(path or self._root / self._output(name))
        source = root_of(self._world, name)
        if made is None or source is None:
            return found
        dtypes = self.dtypes(name, made) if path is None else dict.fromkeys(made, "float32")
        dtypes |= {tensor: each.dtype for tensor, each in made.items() if not each.is_float}
        like = {tensor: Stored(dtypes[tensor], each.shape, b"") for tensor, each in made.items()}
        like |= {copy: like[made.tied[copy]] for copy in made.copies}
        known = FAMILIES[source.family].spellings if may_be_old else {}
        others = ["", *known, *(f"{wrapper}+{each}" for wrapper in ("compiled", "parallel") for each in known)]
        spellings = [spelling_of(source)]
        if may_be_old:
            spellings += [spelling_of(replace(source, spelling=each)) for each in others]
        read = _read_as(found, like, spellings)
        for copy in made.copies:
            assert read.get(copy) == read.get(made.tied[copy]), f"`{copy}` of `{name}` is not `{made.tied[copy]}`"
        return {tensor: each for tensor, each in read.items() if tensor not in made.copies}

    def _added(self, ref: str, base: View) -> View:
        """Return what a LoRA adds to each tensor of a model; a form without terms (0) if it adds nothing."""
        source = self._world.source(ref)
        if source is None:
            return View({name: replace(each, terms=None) for name, each in base.items()})
        tensors = tensors_of(source)
        found = View({})
        for name, each in base.items():
            stem = name.removesuffix(".weight")
            kohya = "lora_unet_" + stem.removeprefix("model.diffusion_model.").replace(".", "_")
            if name.startswith("cond_stage_model."):
                kohya = "lora_te_" + stem.removeprefix("cond_stage_model.transformer.").replace(".", "_")
            terms: tuple[tuple[Key, Fraction], ...] = ()
            for up, down in ((f"base_model.model.{stem}.lora_B.weight", f"base_model.model.{stem}.lora_A.weight"),
                             (f"{kohya}.lora_up.weight", f"{kohya}.lora_down.weight")):  # fmt: skip
                if each.is_float and name.endswith(".weight") and up in tensors:
                    one, other = (tensors[part].values.reshape(tensors[part].shape) for part in (up, down))
                    alpha = tensors[f"{kohya}.alpha"].values[0] if f"{kohya}.alpha" in tensors else 4.0
                    values = (alpha / 2 * (one @ other)).reshape(-1)
                    key = ("added", ref, name)
                    self._leaves[key] = Leaf(values, "float32", 1e-30 + 1e-5 * float(np.abs(values).max(initial=0)))
                    terms = ((key, Fraction(1)),)
            found[name] = replace(each, terms=terms)
        return found

    # Targets

    def target(self, name: str) -> View | None:
        """Return the tensors of a target, unrounded; None: unknown."""
        target = self._world.target(name)
        if target.axis is not None:
            value = Decimal(name.partition("=")[2])
            values = tuple((key, value if each == "${ax}" else each) for key, each in target.values)
            target = replace(target, values=values)
        found = self._made(target, name)
        if found is None:
            return None
        if target.rules and target.get("merge") is not None:
            return View({name: replace(each, terms=None) for name, each in found.items()}, found)
        keys = self._keys
        for rule in target.rules:
            other = self._made(_as_target(target, rule), f"{name} {rule.tensors}")
            for tensor, each in found.items():
                if each.is_float and keys[rule.tensors[0]](tensor):  # tensors that the rule doesn't make stay
                    found[tensor] = other.get(tensor, each) if other else replace(each, terms=None)
        for part, table in target.components:
            found = self._with_component(found, part, dict(table.items), target)
        return found

    @property
    def _keys(self) -> Mapping[str, Callable[[str], bool]]:
        models = (each for each in self._world.sources if not each.family.startswith("lora"))
        return FAMILIES[next(models).family].keys

    def _with_component(self, found: View, part: str, table: Mapping[str, Any], target: Target) -> View:
        if "model" in table:
            other = self.view(table["model"], target.get("ema", "drop"))
            if other is None:
                return View({name: replace(each, terms=None) for name, each in found.items()}, found)
            found.update({name: each for name, each in other.items() if _is_of(part, name)})
        return found

    def dtypes(self, name: str, made: View) -> dict[str, str]:
        """Return the dtypes of a target's file."""
        target = self._world.target(name)
        word = target.get("dtype") or self._world.dtype or "source"
        found = {tensor: each.dtype if word == "source" or not each.is_float else word for tensor, each in made.items()}
        for part, table in target.components:
            own = dict(table.items).get("dtype")
            if own:
                found |= {tensor: own for tensor in found if _is_of(part, tensor) and made[tensor].is_float}
        return found

    def _made(self, target: Target, name: str) -> View | None:
        """Return the tensors that a method makes of a target's inputs; None: unknown."""
        ema = target.get("ema", "drop")
        refs = inputs_of(target)
        base = self.view(refs[0], ema)
        adds = target.method == "add_lora" and base is not None
        views = [base, *(self._added(ref, base or View({})) if adds else self.view(ref, ema) for ref in refs[1:])]
        if target.method in _UNKNOWN_NAMES or any(view is None for view in views):
            return None
        known = self._untied(target, [view for view in views if view is not None])
        first = known[0]
        names = dict(first)
        if target.method == "fallback":
            names = {tensor: each for view in reversed(known) for tensor, each in view.items()}
        keys = self._keys
        if target.get("drop"):
            names = {tensor: each for tensor, each in names.items() if not keys[target.get("drop")](tensor)}
        found = View({}, first)
        for tensor, each in names.items():
            numbers = self._reaching(target, tensor)
            is_merged = self._is_merged(target, tensor)
            owned = next(view[tensor] for view in known if tensor in view)
            if numbers is None or not is_merged or not owned.is_float:
                found[tensor] = owned
                continue
            inputs = [view.get(tensor) for view in known]
            there = [one for one in inputs if one is not None and one.is_float]
            try:
                shares = self._shares(target, numbers, tensor, len(inputs))
            except ZeroDivisionError:  # undefined: a rule makes this tensor, or the target is refused
                found[tensor] = replace(owned, terms=None)
                continue
            if shares is not None and any(share and one is None for share, one in zip(shares, inputs, strict=True)):
                found[tensor] = owned  # an input with a share in it lacks this tensor
            elif shares is not None:
                found[tensor] = replace(each, terms=_sum(shares, inputs))
            elif len(there) < len(inputs):  # the method decides which of the inputs it uses
                found[tensor] = replace(owned, terms=None)
            else:
                found[tensor] = replace(each, terms=self._operated(target, numbers, there, tensor, name))
        found.keep_ties()
        return found

    def _untied(self, target: Target, views: Sequence[View]) -> list[View]:
        """Return inputs in which a tied name is a tensor of its own, if another input has it as a parameter.

        That is so for names that the first input has, and for those that the target merges.
        """
        first = views[0]
        ties = [name for view in views for name in view.tied if any(name in other for other in views)]
        apart = [name for name in ties if name in first or self._is_merged(target, name)]
        found = []
        for view in views:
            added = {name: view[view.tied[name]] for name in apart if name in view.tied and name not in view}
            found.append(View({**view, **added}, view) if added else view)
        return found

    def _is_merged(self, target: Target, tensor: str) -> bool:
        """Return whether a target merges a tensor: `merge` selects it, and an amount reaches it."""
        selected = target.get("merge") is None or self._keys[target.get("merge")[0]](tensor)
        return selected and self._reaching(target, tensor) is not None

    def _reaching(self, target: Target, tensor: str) -> dict[str, Any] | None:
        """Return the arguments for a tensor, by parameter; None if no amount reaches it."""
        given = dict(target.values)
        if target.method:
            known = _PARAMETERS.get(target.method)
            if known is None:
                return {}
            amounts = {key for key, default in known.items() if default is None}
        else:
            known = {key: None for key, _ in target.terms if key.startswith("x")}
            amounts = set(known)
        found: dict[str, Any] = {}
        reached = not amounts
        count = len(inputs_of(target)) - (1 if "base" in dict(target.inputs) else 0)
        for key, default in known.items():
            value = given.get(key)
            if isinstance(value, bool | str) or (value is None and isinstance(default, bool | str)):
                found[key] = default if value is None else value
                continue
            parts = value if isinstance(value, tuple) else (value,)
            numbers = [self._of(each, tensor) for each in parts]
            reached = reached or (key in amounts and any(each is not None for each in numbers))
            plain = [(default or Fraction(0)) if each is None else each for each in numbers]
            found[key] = (
                plain if isinstance(value, tuple) else plain * count if self._is_per_model(target, key) else plain[0]
            )
        return found if reached else None

    def _is_per_model(self, target: Target, key: str) -> bool:
        return key in _PER_MODEL and any(not isinstance(each, str) for _, each in target.inputs)

    def _of(self, value: Any, tensor: str) -> Fraction | None:
        """Return the number of a table that reaches a tensor; None if none does."""
        if not isinstance(value, Table):
            return None if value is None else Fraction(value)
        found = None
        for key, number in value.items:
            if key == "default" or self._keys[key](tensor):
                found = Fraction(number)
        return found

    def _shares(self, target: Target, numbers: Mapping[str, Any], tensor: str, count: int) -> Sequence[Fraction] | None:
        """Return the coefficients of a target's inputs; None if its method is not linear."""
        if not target.method:
            return [numbers[number] if number.startswith("x") else Fraction(number) for number, _ in target.terms]
        linear = _LINEAR.get(target.method)
        return linear(count, numbers, tensor) if linear else None

    def _operated(
        self, target: Target, numbers: Mapping[str, Any], inputs: Sequence[Tensor], tensor: str, name: str
    ) -> tuple[tuple[Key, Fraction], ...] | None:
        """Return the result of a method that is not linear, as a new leaf; None: unknown."""
        formula = _OPERATIONS.get(target.method)
        source = root_of(self._world, target.name)
        if source is not None and spelling_of(source).refits:
            return None  # statistics are of tensors as the first input stores them, which differ from parameters here
        if formula is None or any(each.terms is None for each in inputs):
            return None
        values, off = [], 0.0
        for each in inputs:
            value, error = self.values(each)
            values.append(value)
            off += error
        shape = inputs[0].shape
        with np.errstate(all="ignore"):
            made = formula(values, numbers, shape)
        if made is None or not all(np.isfinite(value).all() for value in values) or not np.isfinite(made).all():
            return None
        scale = max((float(np.abs(each).max(initial=0)) for each in [*values, made]), default=0.0)
        if off and target.method in _JUMPING:
            return None  # the result jumps: a slightly inexact input may give another one
        key = ("operated", name, tensor)
        self._leaves[key] = Leaf(made.reshape(-1), "float32", 1e-30 + 4e-5 * scale + 20 * off)
        return ((key, Fraction(1)),)

    # Values

    def values(self, each: Tensor) -> tuple[Array, float]:
        """Return the values of a form, rounded to float32 and stored as float64, and how far off they may be."""
        assert each.terms is not None
        count = math.prod(each.shape)
        leaves = [(self._leaves[key], share) for key, share in each.terms]
        if all(not leaf.off for leaf, _ in leaves):
            found = next(iter(_orders(leaves, count)))
            several = len(leaves) > 2
            scale = max(
                (abs(float(share)) * float(np.abs(leaf.values).max(initial=0)) for leaf, share in leaves), default=0
            )
            return found.astype(np.float64), 1e-6 * scale if several else 0.0
        total = np.zeros(count)
        for leaf, share in leaves:
            total = total + float(share) * leaf.values
        return total, sum(
            abs(float(share)) * (leaf.off + 1e-6 * float(np.abs(leaf.values).max(initial=0))) for leaf, share in leaves
        )

    # Comparing

    def compare(self, name: str, counts: Counter[str]) -> None:
        """Compare a target's file with the values that it must have."""
        made = self.target(name)
        if made is None:
            counts["outputs not compared"] += 1
            return
        found = self.read(name, made)
        assert found.keys() == made.keys(), f"`{name}` has other tensors: {sorted(found.keys() ^ made.keys())}"
        dtypes = self.dtypes(name, made)
        for tensor, each in made.items():
            stored = found[tensor]
            where = f"`{tensor}` of `{name}`"
            assert stored.shape == each.shape, f"{where} has the shape {stored.shape}, expected {each.shape}"
            assert stored.dtype == dtypes[tensor], f"{where} is {stored.dtype}, expected {dtypes[tensor]}"
            if not each.is_float:
                assert stored.data == each.data, f"{where} is no number, and differs from the first input's"
            elif each.terms is None:
                counts["tensors not compared"] += 1
                continue
            else:
                self._compare(each, stored, where, counts)

    def _compare(self, each: Tensor, stored: Stored, where: str, counts: Counter[str]) -> None:
        assert each.terms is not None
        leaves = [(self._leaves[key], share) for key, share in each.terms]
        exact = all(not leaf.off for leaf, _ in leaves)
        if exact and len(leaves) <= 5:
            counts["tensors compared bit for bit"] += 1
            if stored.data in _allowed(leaves, math.prod(each.shape), stored.dtype):
                return
        else:
            counts["tensors compared closely"] += 1
        wanted, off = self.values(each)
        form = FLOATS[stored.dtype]
        with np.errstate(all="ignore"):
            _, exponent = np.frexp(np.abs(wanted) + off)
            step = np.ldexp(1.0, np.maximum(exponent - 1, form.least) - form.bits)
            near = np.abs(stored.values - wanted) <= off + step * 0.51
        both = ~np.isfinite(wanted) & ~np.isfinite(stored.values)
        bad = np.flatnonzero(~(near | both | (np.abs(wanted) + off > form.largest)))
        told = [(int(at), float(stored.values[at]), float(wanted[at])) for at in bad[:4]]
        what = "to the bit" if exact and len(leaves) <= 5 else f"within {off}"
        is_close = not (exact and len(leaves) <= 5 and np.isfinite(wanted).all()) and not bad.size  # a NaN is any NaN
        assert is_close, f"{where} is not what it must be {what}: {told}"


def _read_as(
    file: Mapping[str, Stored], like: Mapping[str, Stored], spellings: Sequence[Spelling]
) -> Mapping[str, Stored]:
    """Return a file's parameters, read in the first spelling that fits.

    Raises:
        AssertionError: None of them fits; the message is about the first.
    """
    for each in spellings[1:]:
        with suppress(AssertionError):
            return parameters(file, like, spellings[0])
        with suppress(AssertionError):
            return parameters(file, like, each)
    return parameters(file, like, spellings[0])


def _sum(shares: Sequence[Fraction], inputs: Sequence[Tensor | None]) -> tuple[tuple[Key, Fraction], ...] | None:
    """Return the form of a combination; None: unknown."""
    terms: dict[Key, Fraction] = {}
    for share, each in zip(shares, inputs, strict=True):
        if each is None:
            continue
        if each.terms is None:
            return None
        for key, coefficient in each.terms:
            terms[key] = terms.get(key, Fraction(0)) + share * coefficient
    return tuple((key, coefficient) for key, coefficient in terms.items() if coefficient)


def _allowed(leaves: Sequence[tuple[Leaf, Fraction]], count: int, dtype: str) -> Iterator[bytes]:
    """Yield the bytes that a combination may have: one result per order of its terms."""
    if len(leaves) == 1 and leaves[0][1] == 1:  # rounded once, from the source itself
        yield encode(leaves[0][0].values, dtype)
    for found in _orders(leaves, count):
        yield encode(found.astype(np.float64), dtype)


def _orders(leaves: Sequence[tuple[Leaf, Fraction]], count: int) -> Iterator[Array]:
    """Yield a combination in float32 for each order of its terms."""
    with np.errstate(all="ignore"):
        for some in islice(permutations(leaves), _ORDERS):
            yield _combination([(leaf.values.astype(np.float32), share) for leaf, share in some], count)


def _combination(terms: Sequence[tuple[Array, Fraction]], count: int) -> Array:
    """Return a combination as the documentation defines it: each product, difference and sum rounded to float32."""
    if not terms:
        return np.zeros(count, np.float32)
    if sum(share for _, share in terms) != 1:
        total = None
        for values, share in terms:
            part = values * _float32(share)
            total = part if total is None else total + part
        assert total is not None
        return total
    pivot = max(range(len(terms)), key=lambda index: abs(terms[index][1]))
    centre = terms[pivot][0]
    total = None
    for index, (values, share) in enumerate(terms):
        if index != pivot:
            part = (values - centre) * _float32(share)
            total = part if total is None else total + part
    return centre if total is None else total + centre


def _float32(share: Fraction) -> np.float32:
    """Return the float32 nearest to a fraction, ties to even."""
    near = np.float32(float(share))
    around = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return min(around, key=lambda each: (abs(Fraction(float(each)) - share), int(each.view(np.uint32)) & 1))


def _as_target(target: Target, rule: Rule) -> Target:
    kept = tuple(each for each in target.values if each[0] in ("ema", "missing"))
    return replace(target, method=rule.method, values=(*rule.values, *kept), rules=(), components=(), terms=())


_PARTS = {
    "unet": ("model.diffusion_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner."),
    "vae": ("first_stage_model.",),
}


def _is_of(part: str, tensor: str) -> bool:
    return tensor.startswith(_PARTS[part])


# Methods

_UNKNOWN_NAMES = ("extract_lora", "resize_lora", "merge_loras")
"""Methods whose results have other tensors than their inputs."""

_HALF, _ONE, _NONE = Fraction(1, 2), Fraction(1), Fraction(0)
_PER_MODEL = ("weight", "density", "gamma", "strength")

_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "weighted_sum": {"alpha": None}, "add_difference": {"alpha": None}, "sum_twice": {"alpha": None, "beta": None},
    "triple_sum": {"alpha": None, "beta": None}, "linear": {"weight": None, "normalize": True},
    "task_arithmetic": {"weight": None, "normalize": False, "lambda": _ONE}, "block_mix": {"weight": None},
    "weighted_subtraction": {"alpha": None, "beta": None}, "subtract": {}, "add": {}, "scale": {"alpha": None},
    "copy": {}, "add_lora": {"strength": _ONE}, "fallback": {}, "scale_self": {"alpha": None},
    "replace": {"alpha": None},
    "train_difference": {"alpha": None}, "add_opposite": {"alpha": None}, "add_strict_opposite": {"alpha": None},
    "similarity_add_difference": {"alpha": None, "beta": None}, "multiply_difference": {"alpha": None, "beta": None},
    "geometric": {"alpha": None}, "max": {}, "clamp": {"stiffness": _NONE}, "nearswap": {"t": None},
    "ram": {"epsilon": Fraction(1, 10**5)}, "slerp": {"t": None, "magnitude": "raw"},
    "norm_direction": {"alpha": None}, "add_perpendicular": {"alpha": _ONE},
    "model_stock": {"clamp": True, "pairs": "all", "per": "tensor", "compat": "none"},
    "euclidean_add_difference": {"alpha": None},
    "ties": {"weight": None, "density": _ONE, "normalize": True, "rescale": "none", "lambda": _ONE, "vote": "sum",
             "zero_vote": "plus", "average": "weight"},
    "breadcrumbs": {"weight": None, "density": _ONE, "gamma": Fraction(1, 100), "normalize": False,
                    "rescale": "none", "lambda": _ONE},
    "topk_mask": {"alpha": None, "density": _HALF}, "truncate_rank": {"rank": Fraction(8), "ratio": _NONE,
                                                                       "approximate": False},
    "lowrank_diff": {"rank": Fraction(4), "ratio": _NONE, "approximate": False},
    "tensor_sum": {"width": _HALF, "offset": _NONE, "rounding": "int"},
    "nuslerp": {"weight": None, "per": "tensor"}, "cosine_gate": {"alpha": None, "form": "a"},
    "geometric_median": {"eps": Fraction(1, 10**6), "maxiter": Fraction(100), "ftol": Fraction(1, 10**20)},
}  # fmt: skip
"""By method, its parameters with their defaults. None: an amount, which must be given, and decides about tensors."""

Numbers = Mapping[str, Any]
_SPARED = ("to_out", "proj_out", "norm")


def _normalized(weights: Sequence[Fraction], normalize: bool) -> list[Fraction]:
    total = sum(weights)
    return [each / total for each in weights] if normalize else list(weights)


def _task_arithmetic(_n: int, p: Numbers, _name: str) -> list[Fraction]:
    total = sum(p["weight"])
    scale = p["lambda"] / (total if p["normalize"] and abs(total) >= Fraction(1, 10**8) else 1)
    parts = [scale * each for each in p["weight"]]
    return [1 - sum(parts), *parts]


def _lean(p: Numbers, key: str = "alpha") -> list[Fraction]:
    return [1 - p[key], p[key]]


def _weighted_subtraction(p: Numbers) -> list[Fraction]:
    product = p["alpha"] * p["beta"]
    return [1 / (1 - product), -product / (1 - product)]


_LINEAR: Mapping[str, Callable[[int, Numbers, str], Sequence[Fraction]]] = {
    "weighted_sum": lambda _n, p, _name: _lean(p),
    "add_difference": lambda _n, p, _name: [_ONE, p["alpha"], -p["alpha"]],
    "sum_twice": lambda _n, p, _name: [(1 - p["beta"]) * each for each in _lean(p)] + [p["beta"]],
    "triple_sum": lambda _n, p, _name: [1 - p["alpha"] - p["beta"], p["alpha"], p["beta"]],
    "linear": lambda _n, p, _name: _normalized(p["weight"], p["normalize"]),
    "task_arithmetic": _task_arithmetic,
    "block_mix": lambda _n, p, _name: [1 - sum(p["weight"]), *p["weight"]],
    "weighted_subtraction": lambda _n, p, _name: _weighted_subtraction(p),
    "subtract": lambda _n, _p, _name: [_ONE, -_ONE],
    "add": lambda _n, _p, _name: [_ONE, _ONE],
    "scale": lambda _n, p, _name: [p["alpha"]],
    "copy": lambda _n, _p, _name: [_ONE],
    "add_lora": lambda _n, p, _name: [_ONE, *p["strength"]],
    "fallback": lambda _n, _p, _name: [_ONE, _NONE],
    "scale_self": lambda _n, p, name: [_ONE if any(each in name for each in _SPARED) else p["alpha"]],
    "replace": lambda _n, p, name: [_ONE, _NONE] if any(each in name for each in _SPARED) else [_NONE, p["alpha"]],
}

Inputs = Sequence[Array]
Shape = tuple[int, ...]


def _over(above: Array, below: Array, otherwise: float = 0.0) -> Array:
    return np.where(below == 0, otherwise, above / np.where(below == 0, 1, below))


def _train_difference(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    a, b, c = x
    share = _over(np.abs(b - a), np.abs(b - c) + np.abs(b - a))
    return a + 1.8 * float(p["alpha"]) * share * (b - c)


def _add_opposite(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    a, b, c = x
    share = _over(np.abs(a - b), np.abs(a - b) + np.abs(a + b - 2 * c))
    return a + 2 * float(p["alpha"]) * share * (b - c)


def _add_strict_opposite(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    a, b, c = x
    share = np.maximum(0, _over((c - a) * (b - c), np.maximum(np.abs(a - c), np.abs(b - c)) ** 2))
    return a + 2 * float(p["alpha"]) * share * (b - c)


def _similarity(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    a, b, c = x
    alpha, beta = float(p["alpha"]), float(p["beta"])
    share = beta * (_over(a * b, np.maximum(np.abs(a), np.abs(b)) ** 2, 1.0) + 1) / 2
    return (1 - share) * (a + alpha * (b - c)) + share * ((1 - alpha / 2) * a + alpha / 2 * b)


def _multiply_difference(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    a, b, c = x
    alpha, beta = float(p["alpha"]), float(p["beta"])
    size = np.abs(a - c) ** (1 - alpha) * np.abs(b - c) ** alpha
    sign = (1 - beta) * a + beta * b - c
    unsure = np.abs(sign) < 1e-5 * (np.abs(a) + np.abs(b) + np.abs(c))
    return np.where(unsure & (size > 0), np.nan, c + np.copysign(size, sign))


def _geometric(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    a, b = x
    alpha = float(p["alpha"])
    turn = np.cos(np.pi * ((1 - alpha) * (a < 0) + alpha * (b < 0)))
    return np.abs(a) ** (1 - alpha) * np.abs(b) ** alpha * turn


def _clamp(x: Inputs, p: Numbers, _shape: Shape) -> Array | None:
    if p["stiffness"]:
        return None
    rest = np.stack(x[1:])
    return np.minimum(np.maximum(x[0], rest.min(0)), rest.max(0))


def _nearswap(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    a, b = x
    return a + np.clip(b - a, -float(p["t"]), float(p["t"]))


def _ram(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    deltas = np.stack([each - x[0] for each in x[1:]])
    active = np.abs(deltas) > float(p["epsilon"])
    edge = np.abs(np.abs(deltas) - float(p["epsilon"])) < 1e-6
    made = x[0] + (deltas * active).sum(0) / np.maximum(1, active.sum(0))
    return np.where(edge.any(0), np.nan, made)


def _norm(x: Array) -> float:
    return math.sqrt(math.fsum(each * each for each in x.reshape(-1)))


def _dot(a: Array, b: Array) -> float:
    return math.fsum((a * b).reshape(-1))


def _slerp(x: Inputs, p: Numbers, _shape: Shape) -> Array | None:
    a, b = x
    t, one, other = float(p["t"]), _norm(a), _norm(b)
    straight = (1 - t) * a + t * b
    if p["magnitude"] == "raw":
        cosine = _dot(a, b) / ((one if one > 1e-8 else 1) * (other if other > 1e-8 else 1))
        if abs(abs(cosine) - 0.9995) < 1e-6 or 0 < min(one, other) < 1e-7:
            return None
        if abs(cosine) > 0.9995:
            return straight
        w = math.acos(cosine)
        return (math.sin((1 - t) * w) * a + math.sin(t * w) * b) / math.sin(w)
    if not one or not other:
        return straight
    cosine = min(1.0, max(-1.0, _dot(a, b) / (one * other)))
    w = math.acos(cosine)
    if math.sin(w) < 1e-3:
        return None if math.sin(w) > 1e-7 or cosine < 0 else straight
    turned = (math.sin((1 - t) * w) * a / one + math.sin(t * w) * b / other) / math.sin(w)
    return turned * ((1 - t) * one + t * other)


def _norm_direction(x: Inputs, p: Numbers, _shape: Shape) -> Array | None:
    a, b = x
    alpha, one, other = float(p["alpha"]), _norm(a), _norm(b)
    if not one or not other:
        return (1 - alpha) * a + alpha * b
    direction = (1 - alpha) * a / one + alpha * b / other
    length = _norm(direction)
    return None if length < 1e-3 else direction / length * ((1 - alpha) * one + alpha * other)


def _add_perpendicular(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    a, b, c = x
    one, other = a - c, b - c
    square = _dot(one, one)
    return a if not square else a + float(p["alpha"]) * (other - one * _dot(one, other) / square)


def _model_stock(x: Inputs, p: Numbers, _shape: Shape) -> Array | None:
    if p["per"] != "tensor" or p["compat"] != "none" or (p["pairs"] != "all" and len(x) > 3):
        return None
    deltas = [each - x[0] for each in x[1:]]
    cosines = []
    for one, other in combinations(deltas, 2):
        size = _norm(one) * _norm(other)
        cosines.append(_dot(one, other) / size if size else 0.0)
    count, cosine = len(deltas), math.fsum(cosines) / len(cosines)
    below = 1 + (count - 1) * cosine
    if abs(below) < 1e-3 or abs(cosine) < 1e-9:
        return None if below and abs(below) < 1e-3 else x[0] if not cosine else None
    t = count * cosine / below
    t = min(1.0, max(0.0, t)) if p["clamp"] else t
    return t * sum(x[1:]) / count + (1 - t) * x[0]


def _euclidean(x: Inputs, p: Numbers, _shape: Shape) -> Array | None:
    a, b, c = x
    alpha = float(p["alpha"])
    one, other = a - c, b - c
    sides = [each / _norm(each) if _norm(each) else each for each in (one, other)]
    blend = (1 - alpha) * one + alpha * other
    size = np.sqrt((1 - alpha) * sides[0] ** 2 + alpha * sides[1] ** 2)
    length = _norm(size)
    if not length:
        return c
    scale = np.abs(one).max(initial=0) + np.abs(other).max(initial=0)
    if ((np.abs(blend) < 1e-5 * scale) & (size > 0)).any():
        return None
    return c + np.copysign(size, blend) / length * _norm(blend)


def _deltas(x: Inputs) -> list[Array]:
    """Return the differences from the first input, rounded to float32, as equal magnitudes decide which are kept."""
    return [(each.astype(np.float32) - x[0].astype(np.float32)).astype(np.float64) for each in x[1:]]


def _largest(delta: Array, skip: int, keep: int) -> Array:
    """Return a difference with all elements 0 but the `keep` largest magnitudes after the `skip` largest."""
    order = np.argsort(-np.abs(delta), kind="stable")
    kept = np.zeros(delta.shape, bool)
    kept[order[skip : skip + keep]] = True
    return np.where(kept, delta, 0)


def _thinned(delta: Array, density: Fraction) -> Array:
    if density >= 1:
        return delta
    if density <= 0:
        return np.zeros_like(delta)
    return _largest(delta, 0, max(1, int(density * delta.size)))


def _ties(x: Inputs, p: Numbers, _shape: Shape) -> Array | None:
    if p["rescale"] != "none" or p["vote"] != "sum" or p["zero_vote"] != "plus" or p["average"] != "weight":
        return None
    weights = [float(each) for each in p["weight"]]
    kept = [_thinned(each, density) for each, density in zip(_deltas(x), p["density"], strict=True)]
    parts = np.stack([weight * each for weight, each in zip(weights, kept, strict=True)])
    total = parts.sum(0)
    unsure = (np.abs(total) < 1e-5 * np.abs(parts).sum(0)) & (np.abs(parts).sum(0) > 0)
    sign = np.where(total >= 0, 1, -1)
    mask = np.sign(parts) == sign
    made = (parts * mask).sum(0)
    if p["normalize"]:
        below = (np.array(weights)[:, None] * mask).sum(0)
        if ((np.abs(below) < 1e-6) & mask.any(0)).any():
            return None
        made = made / np.where(below == 0, 1, below)
    return np.where(unsure, np.nan, x[0] + float(p["lambda"]) * made)


def _breadcrumbs(x: Inputs, p: Numbers, _shape: Shape) -> Array | None:
    if p["rescale"] != "none":
        return None
    total = np.zeros_like(x[0])
    for delta, weight, density, gamma in zip(_deltas(x), p["weight"], p["density"], p["gamma"], strict=True):
        size = delta.size
        kept = delta
        if density < 1:
            target = max(0, int(density * size))
            below = max(0, size - target - int(gamma * size))
            kept = _largest(delta, size - target - below, target)
        total = total + float(weight) * kept
    if p["normalize"]:
        below = float(sum(p["weight"]))
        total = total / (below if abs(below) >= 1e-8 else 1)
    return x[0] + float(p["lambda"]) * total


def _topk_mask(x: Inputs, p: Numbers, _shape: Shape) -> Array:
    (delta,) = _deltas(x)
    return x[0] + float(p["alpha"]) * _thinned(delta, p["density"])


def _lowest(matrix: Array, p: Numbers, shape: Shape) -> Array | None:
    if p["approximate"] or p["ratio"]:
        return None
    if len(shape) < 2 or not matrix.size:
        return matrix
    flat = matrix.reshape(shape[0], -1)
    u, s, v = np.linalg.svd(flat, full_matrices=False)
    rank = min(int(p["rank"]), len(s))
    if 0 < rank < len(s) and s[rank - 1] - s[rank] < 1e-3 * s[0]:
        return None
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(-1)


def _lowrank_diff(x: Inputs, p: Numbers, shape: Shape) -> Array | None:
    cut = _lowest(x[1] - x[0], p, shape)
    return None if cut is None else x[0] + cut


def _tensor_sum(x: Inputs, p: Numbers, shape: Shape) -> Array | None:
    width, offset = p["width"], p["offset"]
    if not shape or not 0 <= width <= 1 or not 0 <= offset < 1 or width + offset > 1 or p["rounding"] != "int":
        return None
    first, last = int(shape[0] * offset), int(shape[0] * (offset + width))
    found = x[0].reshape(shape).copy()
    found[first:last] = x[1].reshape(shape)[first:last]
    return found.reshape(-1)


def _nuslerp(x: Inputs, p: Numbers, _shape: Shape) -> Array | None:
    if p["per"] != "tensor":
        return None
    base = x[0] if len(x) == 3 else np.zeros_like(x[0])
    one, other = (each - base for each in x[-2:])
    total = sum(p["weight"])
    t = float(p["weight"][1] / total) if total else 0.5
    sizes = _norm(one) * _norm(other)
    if not sizes:
        return None
    cosine = min(1.0, max(-1.0, _dot(one, other) / sizes))
    if 1 - cosine * cosine < 1e-4:
        return None
    w = math.acos(cosine)
    return base + (math.sin((1 - t) * w) * one + math.sin(t * w) * other) / math.sin(w)


def _cosine_gate(x: Inputs, p: Numbers, shape: Shape) -> Array | None:
    if p["form"] != "a" or not shape or not x[0].size:
        return None
    a, b = (each.reshape(shape[0], -1) for each in x)
    size = np.sqrt((a * a).sum(0) * (b * b).sum(0))
    share = 1 - np.clip(_over((a * b).sum(0), size) - float(p["alpha"]), 0, 1)
    return (a + share * (b - a)).reshape(-1)


_OPERATIONS: Mapping[str, Callable[[Inputs, Numbers, Shape], Array | None]] = {
    "train_difference": _train_difference, "add_opposite": _add_opposite, "add_strict_opposite": _add_strict_opposite,
    "similarity_add_difference": _similarity, "multiply_difference": _multiply_difference, "geometric": _geometric,
    "max": lambda x, _p, _shape: np.maximum(*x), "clamp": _clamp, "nearswap": _nearswap, "ram": _ram, "slerp": _slerp,
    "norm_direction": _norm_direction, "add_perpendicular": _add_perpendicular, "model_stock": _model_stock,
    "euclidean_add_difference": _euclidean, "ties": _ties, "breadcrumbs": _breadcrumbs, "topk_mask": _topk_mask,
    "truncate_rank": lambda x, p, shape: _lowest(x[0], p, shape), "lowrank_diff": _lowrank_diff,
    "tensor_sum": _tensor_sum, "nuslerp": _nuslerp, "cosine_gate": _cosine_gate,
}  # fmt: skip
"""By method, its function from inputs, flat and float64, to the result. None or NaN: it depends on roundings."""

_JUMPING = frozenset(_OPERATIONS) - {"max", "clamp", "nearswap", "tensor_sum"}
"""Methods that are not continuous: a small error of an input may change the result much."""
