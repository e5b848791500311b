"""What a LoRA file does to each tensor of a model: from headers to a list of deltas with checked shapes.

A delta is a family, the tensors that it is made of, and other facts for the kernel. Tensors that belong to no tensor of
the model are all listed: the commonest complaint about merge tools is a LoRA of which half is silently ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Final, NamedTuple, Protocol

from mergebuild.errors import Place as Where
from mergebuild.errors import Problem, SourceError
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.lora.adapter import Adapter, Fact
from mergebuild.lora.fitting import FitTarget, channels_of, misfit
from mergebuild.lora.names import Names, Site, StoredModule, module_names, own_names
from mergebuild.lora.roles import UNSUPPORTED, Factor, is_saved, role_of
from mergebuild.naming.canonical import is_first_layer

__all__ = ["Delta", "LoraTensor", "Match", "Misfit", "match"]


class LoraTensor(Protocol):
    """A tensor of a LoRA file: what a header says of it."""

    @property
    def dtype(self) -> str:
        """The dtype, in the contract's word."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a LoRA file adds to one tensor of a model, or to some of its rows."""

    family: str
    """`lora` (linear or not), `tucker`, `peft_embedding`, `loha`, `lokr`, `ia3`, `full`, `norm`, `bias`, `replace`,
    `tokens`."""
    factors: tuple[Factor, ...]
    rows: tuple[int, int] | None
    """The rows of the model's tensor that it changes; None: all of them."""
    facts: tuple[tuple[str, Fact], ...]
    """Other facts for the kernel, sorted by name.

    `rank`: the number that alpha is divided by; without it there is no scale. `alpha`: if no tensor has it. `rslora`:
    alpha is divided by the root of the rank. `transposed`: the model's tensor is the transpose of the delta. `offset`:
    the first row of the delta that goes to `rows`. `dora`: `rows` or `columns`, over which its norm is taken.
    `on_input`, `peft`: for IA3. `tokens`: the numbers of the rows that are replaced, as text. `channels`: the channels
    of the delta, if they are fewer or more than the model's: only channels that both have are changed.
    """


@dataclass(frozen=True, slots=True)
class Match:
    """What a LoRA file does to a model."""

    deltas: Mapping[str, tuple[Delta, ...]]
    """By name of the model's tensor."""
    unmatched: tuple[str, ...]
    """The file's tensors that belong to no tensor of the model, sorted."""
    ignored: tuple[str, ...]
    """The file's tensors that are known to be no part of a delta, sorted: embeddings of a text encoder's new words, and
    the model's own tensors that are saved beside trained ones."""
    misfits: tuple[Misfit, ...] = ()
    """Modules whose shapes don't fit the model."""
    reshaped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By name of the model's tensor, the shape of the tensor that replaces it if that has more or fewer rows, for added
    words."""


class Misfit(NamedTuple):
    """A module of a LoRA whose shapes don't fit the model's tensor."""

    tensor: str
    """The model's tensor."""
    names: tuple[str, ...]
    """The LoRA's tensors in the module."""
    problem: Problem


_Role = tuple[str, str]
_Have = Mapping[_Role, str]
"""The tensors of one module by group and role."""

_EMBEDDINGS: Final = "bundle_emb."
_WEIGHT, _BIAS = "weight", "bias"
_SCALED: Final = frozenset({"lora", "tucker", "peft_embedding", "loha", "lokr"})
_WHOLE: Final = (
    ("full", _WEIGHT, ("full", "diff")),
    ("full", _BIAS, ("full", "diff_b")),
    ("norm", _WEIGHT, ("norm", "w_norm")),
    ("norm", _BIAS, ("norm", "b_norm")),
    ("bias", _BIAS, ("lora", "up_bias")),
)  # fmt: skip
"""Families with one tensor."""
_OWN: Final[_Role] = ("own", "weight")
"""A tensor that has the model's own name."""
_AS_STORED: Final = frozenset({"replace", "tokens"})
"""Families whose tensors are stored in the model's orientation."""
_BY_THEMSELVES: Final = frozenset({"lora", "tucker", "loha", "lokr", "full"})
"""Families whose delta does not depend on the weight."""
_COUNTS: Final = frozenset({"alpha", "scale", "on_input"})
"""Roles of single numbers, which may be integers."""


class _Found(NamedTuple):
    """A delta that a module's tensors form, for its weight or its bias."""

    family: str
    part: str
    roles: tuple[_Role, ...]


def match(
    lora: Mapping[str, LoraTensor],
    model: Mapping[str, tuple[int, ...]],
    config: Mapping[str, object] | None = None,
    *,
    shown: str = "",
    by_itself: bool = False,
    stored: StoredModule | None = None,
    on_channels: bool = False,
) -> Match:
    """Return what a LoRA file does to a model.

    Args:
        lora: The file's tensors by name.
        model: Shapes of the model's tensors by name, in any spelling.
        config: `adapter_config.json`, parsed, or the `lora_adapter_metadata` of diffusers.
        shown: The file's name, for messages.
        by_itself: The model has exactly the shapes and names that the LoRA's own tensors imply.
        stored: How the model's file spells it, if `model` has canonical names.
        on_channels: Whether a delta for a first layer may have fewer or more channels, of which the common ones are
            used.

    Raises:
        SourceError: the file is of a family that we can't apply (`lora-unsupported`), has factors that are no
            floating-point numbers (`lora-dtype`), a name that means two tensors or two names that mean one
            (`lora-ambiguous`), or a malformed configuration (`lora-config`).
    """
    return _Matching(lora, model, config, shown, on_channels).result(by_itself=by_itself, stored=stored)


class _Matching:
    """The work of `match`."""

    def __init__(
        self, lora: Mapping[str, LoraTensor], model: Mapping[str, tuple[int, ...]], config: Mapping[str, object] | None,
        shown: str, on_channels: bool,
    ) -> None:  # fmt: skip
        self._on_channels = on_channels
        self._misfits: list[Misfit] = []
        self._reshaped: dict[str, tuple[int, ...]] = {}
        self._lora = lora
        self._model = model
        self._where = Where(shown) if shown else None
        self._adapter = Adapter(config, shown) if config is not None else None
        self._deltas: dict[str, list[tuple[str, Delta]]] = {}
        self._unmatched: list[str] = []

    def result(self, *, by_itself: bool, stored: StoredModule | None) -> Match:
        ignored = sorted(filter(self._is_beside, self._lora))
        modules = self._modules()
        self._refuse_unsupported(modules)
        wanted = [*modules, *self._lora]
        names = own_names(self._model) if by_itself else module_names(self._model, wanted, stored)
        _take_scales_for_weights(modules, names)
        for module, have in modules.items():
            self._match_module(module, have, names)
        deltas = {tensor: self._checked(tensor, found) for tensor, found in sorted(self._deltas.items())}
        unmatched, misfits = tuple(sorted(self._unmatched)), tuple(self._misfits)
        return Match(deltas, unmatched, tuple(ignored), misfits, self._reshaped)

    def _match_module(self, module: str, have: _Have, names: Names) -> None:
        """Add the deltas of a module, and remember those of its tensors that belong to no tensor of the model."""
        if module in names.ambiguous:
            raise self._ambiguous(f"`{module}`", names.ambiguous[module], "of the model")
        places = names.modules.get(module, {})
        used = {role for found in self._found(module, have, places) for role in found.roles}
        if used:
            used.add(("scale", "alpha"))  # some programs write one beside whole tensors, where it has no meaning
        self._unmatched += (name for role, name in have.items() if role not in used)

    def _modules(self) -> dict[str, dict[_Role, str]]:
        """Return the file's tensors by module and role."""
        modules: dict[str, dict[_Role, str]] = {}
        for name in self._lora:
            if self._is_beside(name):
                continue
            role = role_of(name)
            if role is None or modules.setdefault(role.module, {}).setdefault((role.group, role.role), name) != name:
                self._unmatched.append(name)
        return modules

    def _is_beside(self, name: str) -> bool:
        """Whether a tensor is not part of any delta.

        Such are embeddings of a text encoder's new words, the model's own tensors saved beside trained ones, and the
        second copies of trained tensors that PEFT saves.
        """
        if name.startswith(_EMBEDDINGS):
            return True
        role = role_of(name)
        if role is None or role.group == "original":
            return role is not None
        return is_saved(name) and f"{role.module}.{role.role}" in self._lora

    def _refuse_unsupported(self, modules: Mapping[str, _Have]) -> None:
        for have in modules.values():
            group = next((group for group, _ in have if group in UNSUPPORTED), None)
            if group is not None and (group != "GLoRA" or len(have) >= 4):
                raise SourceError.one(
                    "lora-unsupported", f"the LoRA is of the family {group}, which this version can't add to a model",
                    where=self._where, rows=tuple(sorted(have.values())[:1]),
                    help="merge it with the tool that made it, and use the merged model as a source",
                )  # fmt: skip

    def _found(self, module: str, have: _Have, places: Mapping[str, tuple[Site, ...]]) -> Iterator[_Found]:
        """Add the deltas of a module, and yield those that belong to a tensor of the model."""
        replaces = self._adapter is not None or module.startswith("base_model.model.")
        for found in sorted(_families(have, replaces=replaces), key=lambda each: each.family != "replace"):
            if found.part not in places:
                continue
            for place in places[found.part]:
                self._add(module, found, have, place)
            if found.family == "ia3" and _BIAS in places:
                self._add_ia3_bias(module, found, have, places[_BIAS])
            yield found

    def _add(self, module: str, found: _Found, have: _Have, place: Site) -> None:
        tensors = {role: have[group, role] for group, role in found.roles}
        self._check_dtypes(tensors)
        shapes = {role: tuple(self._lora[name].shape) for role, name in tensors.items()}
        target, transposed = self._target(module, found, shapes, place)
        problem = misfit(found.family, shapes, target)
        channels = self._channels(found.family, shapes, target, place) if problem is not None else 0
        if problem is not None and not channels and not self._takes_place(found, shapes, place):
            role, wanted = problem
            told = self._misfit(tensors[role], shapes[role], wanted, place)
            self._misfits.append(Misfit(place.tensor, tuple(sorted(tensors.values())), told))
            return
        facts = dict(self._scale(module, found, shapes, tensors))
        if channels:
            facts["channels"] = channels
        if transposed:
            facts["transposed"] = True
        if place.taken is not None:
            facts["offset"] = place.taken[0]
        if "dora_scale" in tensors:
            facts["dora"] = self._norms(module, found, shapes["dora_scale"], target, place)
        if found.family == "tokens":
            rows = self._rows_of_words(module, tensors["tokens"], target, place)
            if not rows:
                return
            facts["tokens"] = ",".join(map(str, rows))
        if found.family == "ia3" and "ia3" in tensors:
            facts |= {"peft": True, "on_input": self._on_input(module, shapes["ia3"])}
        factors = tuple(Factor(role, tensors[role]) for role in sorted(tensors))
        delta = Delta(found.family, factors, place.rows, tuple(sorted(facts.items())))
        self._deltas.setdefault(place.tensor, []).append((module, delta))

    def _norms(self, module: str, found: _Found, shape: tuple[int, ...], target: FitTarget, place: Site) -> str:
        """Return what a DoRA's norms, a tensor of this shape, are the norms of: `rows` or `columns`."""
        of = _dora(shape, target, is_peft=("peft_dora", "dora_scale") in found.roles)
        if of == "columns" and place.total:
            raise self._unsupported_split(module, place)
        return of

    def _rows_of_words(self, module: str, name: str, target: FitTarget, place: Site) -> Sequence[int]:
        """Return the rows of a vocabulary that a tensor replaces; empty if it doesn't fit, which is recorded."""
        shape = tuple(self._lora[name].shape)
        rows = self._adapter.tokens(module) if self._adapter is not None else ()
        if rows and len(rows) == shape[0] and max(rows) < target.rows and place.rows is None:
            return rows
        wanted = f"rows for the words {list(rows[:8])}, of {target.rows}"
        told = self._misfit(name, shape, wanted, place)
        self._misfits.append(Misfit(place.tensor, (name,), told))
        return ()

    def _takes_place(self, found: _Found, shapes: Mapping[str, tuple[int, ...]], place: Site) -> bool:
        """Return whether a tensor replaces the model's with more or fewer rows (of tokens), and remember its shape."""
        if found.family != "replace" or place.rows is not None or place.total or place.transposed:
            return False
        (shape,) = shapes.values()
        model = self._model[place.tensor]
        if not shape or len(shape) != len(model) or shape[1:] != model[1:] or not shape[0]:
            return False
        self._reshaped[place.tensor] = shape
        return True

    def _channels(self, family: str, shapes: Mapping[str, tuple[int, ...]], target: FitTarget, place: Site) -> int:
        """Return how many channels the delta of a first layer has, if other than the model's.

        0 if it is no such delta.
        """
        if not self._on_channels or place.rows is not None or place.transposed or not is_first_layer(place.tensor):
            return 0
        if family not in _BY_THEMSELVES or "dora_scale" in shapes:
            return 0
        found = channels_of(family, shapes, prod(target.kernel))
        other = FitTarget(target.rows, (found, *target.kernel))
        return found if found and misfit(family, shapes, other) is None else 0

    def _add_ia3_bias(self, module: str, found: _Found, have: _Have, places: tuple[Site, ...]) -> None:
        """Add the delta of the bias too, if PEFT's IA3 scales the output of a module."""
        if ("peft_ia3", "ia3") in found.roles:
            shape = tuple(self._lora[have["peft_ia3", "ia3"]].shape)
            if not self._on_input(module, shape):
                for place in places:
                    self._add(module, found._replace(part=_BIAS), have, place)

    def _target(
        self, module: str, found: _Found, shapes: Mapping[str, tuple[int, ...]], place: Site
    ) -> tuple[FitTarget, bool]:
        """Return the shape of the delta, and whether the model's tensor is its transpose."""
        shape = self._reshaped.get(place.tensor, self._model[place.tensor]) or (1,)
        rows = place.total or (shape[0] if place.rows is None else place.rows[1] - place.rows[0])
        straight = FitTarget(rows, shape[1:])
        if len(shape) != 2 or found.part == _BIAS:
            return straight, False
        flipped = FitTarget(shape[1], (rows,))
        if place.transposed or found.family == "peft_embedding":
            return flipped, True
        if self._adapter is None or found.family in _AS_STORED or not self._adapter.fan_in_fan_out(module):
            return straight, False
        if misfit(found.family, shapes, flipped) is not None and misfit(found.family, shapes, straight) is None:
            return straight, False  # this layer is stored as [out, in], unlike the others
        return flipped, True

    def _scale(
        self, module: str, found: _Found, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, str]
    ) -> Iterable[tuple[str, Fact]]:
        """Return the facts that define the scale, besides the tensors `alpha` and `scale`."""
        if found.family not in _SCALED and found.family != "bias":
            return ()
        is_peft = self._adapter is not None and "alpha" not in tensors
        facts = self._adapter.facts(module) if is_peft and self._adapter is not None else ()
        rank = self._rank(module, found, shapes, is_peft=bool(facts))
        return (*facts, ("rank", rank)) if rank is not None else ()

    def _rank(self, module: str, found: _Found, shapes: Mapping[str, tuple[int, ...]], *, is_peft: bool) -> int | None:
        """Return the rank that alpha is divided by; None if there is no scale."""
        match found.family:
            case "loha":
                return shapes["w1_b"][0]
            case "lokr" if not is_peft:  # in kohya's files, a LoKr of two whole matrices has no scale
                return next((shapes[role][0] for role in ("w2_b", "w1_b") if role in shapes), None)
            case "lokr" | "bias":
                return self._adapter.rank(module) if is_peft and self._adapter is not None else None
        return shapes["down"][0]

    def _on_input(self, module: str, shape: tuple[int, ...]) -> bool:
        """Return whether PEFT's IA3 scales columns: for a matrix, it is a row of numbers then."""
        if len(shape) == 2 and shape[0] != shape[1]:
            return shape[0] == 1
        return self._adapter is not None and self._adapter.is_feedforward(module)

    def _checked(self, tensor: str, found: list[tuple[str, Delta]]) -> tuple[Delta, ...]:
        """Return the deltas of a tensor; raises if two modules of the file change the same rows."""
        for at, (module, delta) in enumerate(found):
            for other, after in found[at + 1 :]:
                if module != other and "replace" not in {delta.family, after.family} and _overlap(delta, after):
                    raise self._ambiguous(f"`{tensor}`", (module, other), "of the LoRA")
        return tuple(delta for _, delta in sorted(found, key=_replaces, reverse=True))

    def _check_dtypes(self, tensors: Mapping[str, str]) -> None:
        for role, name in tensors.items():
            dtype = DTYPES_BY_WORD.get(self._lora[name].dtype)
            if role not in _COUNTS and (dtype is None or not dtype.is_float):
                raise SourceError.one(
                    "lora-dtype", f"the LoRA's tensor `{name}` is {self._lora[name].dtype}, no floating-point numbers",
                    where=self._where, help="quantized LoRAs can't be merged: take the release that is not quantized",
                )  # fmt: skip

    def _unsupported_split(self, module: str, place: Site) -> SourceError:
        return SourceError.one(
            "lora-unsupported", f"the LoRA's module `{module}` is a DoRA with norms of columns, which the model has in "
            "several tensors: this version can't add it to them", where=self._where,
            rows=(f"model   {place.tensor}",),
            help="take the model under its authors' names, in which they are one tensor",
        )  # fmt: skip

    def _misfit(self, name: str, shape: tuple[int, ...], wanted: str, place: Site) -> Problem:
        part = f", of which it is the rows {place.rows[0]} to {place.rows[1]}" if place.rows is not None else ""
        model = f"model   {list(self._model[place.tensor])}{part}"
        message = f"the LoRA's tensor `{name}` does not fit the model's `{place.tensor}`"
        rows = (f"found   {list(shape)}", f"wanted  {wanted}", model)
        return Problem("lora-shape", message, self._where, rows=rows)

    def _ambiguous(self, what: str, meant: tuple[str, str], whose: str) -> SourceError:
        return SourceError.one(
            "lora-ambiguous", f"the LoRA can't be matched: {what} could be two things", where=self._where,
            rows=tuple(f"`{each}` {whose}" for each in meant),
            help="export the LoRA again with names that say which, such as `lora_te1_` or `text_encoder_2.`",
        )  # fmt: skip


def _take_scales_for_weights(modules: dict[str, dict[_Role, str]], names: Names) -> None:
    """Treat a tensor `….scale` as a new weight if the model has a norm with a weight of that name.

    LoRAs by the authors of Flux contain such weights.
    """
    for module, have in list(modules.items()):
        name = have.get(("scale", "scale"))
        if name is not None and len(have) == 1 and name in names.modules:
            del modules[module]
            modules[name] = {_OWN: name}


def _families(have: _Have, *, replaces: bool) -> Iterator[_Found]:
    """Yield the deltas that a module's tensors form. `replaces`: plain weights replace those of the module."""
    scale = tuple(role for role in (("scale", "alpha"), ("scale", "scale")) if role in have)
    dora = next(((role,) for role in (("dora", "dora_scale"), ("peft_dora", "dora_scale")) if role in have), ())
    for family, roles in _products(have):
        yield _Found(family, _WEIGHT, (*roles, *scale, *dora))
    for family, part, role in _WHOLE:
        if role in have:
            yield _Found(family, part, (role,))
    if ("tokens", "tokens") in have:
        yield _Found("tokens", _WEIGHT, (("tokens", "tokens"),))
    if ("peft_ia3", "ia3") in have:
        yield _Found("ia3", _WEIGHT, (("peft_ia3", "ia3"),))
    if ("ia3", "on_input") in have and ("plain", _WEIGHT) in have:
        yield _Found("ia3", _WEIGHT, (("plain", _WEIGHT), ("ia3", "on_input")))
    elif _OWN in have:
        yield _Found("replace", _WEIGHT, (_OWN,))
    elif replaces:
        for part in (_WEIGHT, _BIAS):
            if ("plain", part) in have:
                yield _Found("replace", part, (("plain", part),))


def _products(have: _Have) -> Iterator[tuple[str, tuple[_Role, ...]]]:
    """Yield the families that are products of factors, with the roles of their tensors."""

    def complete(group: str, words: str) -> tuple[_Role, ...]:
        roles = tuple((group, role) for role in words.split())
        return roles if all(role in have for role in roles) else ()

    if roles := complete("lora", "up down mid"):
        yield "tucker", roles
    elif roles := complete("lora", "up down"):
        yield "lora", roles
    if roles := complete("embedding", "up down"):
        yield "peft_embedding", roles
    if roles := complete("loha", "w1_a w1_b w2_a w2_b"):
        yield "loha", (*roles, *complete("loha", "t1 t2"))
    first = complete("lokr", "w1") or complete("lokr", "w1_a w1_b")
    second = complete("lokr", "w2") or complete("lokr", "w2_a w2_b t2") or complete("lokr", "w2_a w2_b")
    if first and second:
        yield "lokr", (*first, *second)


def _dora(shape: tuple[int, ...], target: FitTarget, *, is_peft: bool) -> str:
    """Return whether a norm is over rows or columns of the delta: PEFT's over rows, kohya's by its shape."""
    if is_peft or (len(shape) == 1 and shape[0] == target.rows):
        return "rows"
    return "rows" if len(shape) > 1 and shape[0] == target.rows and prod(shape[1:]) == 1 else "columns"


def _overlap(one: Delta, other: Delta) -> bool:
    if one.rows is None or other.rows is None:
        return True
    return one.rows[0] < other.rows[1] and other.rows[0] < one.rows[1]


def _replaces(found: tuple[str, Delta]) -> bool:
    return found[1].family == "replace"
