"""Makes views of inputs: which tensors each offers to a target, and their forms.

A view has the names of the target's parameters. EMA copies replace weights or are left out, position ids that would
drop tokens are repaired, and a component that is a file of its own gets the names of a checkpoint: all from names and
headers alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from mergebuild.fold import compatible
from mergebuild.fold.compatible import Spec
from mergebuild.fold.forms import Blueprint, Form, Kinds, Slot
from mergebuild.fold.interning import Interner
from mergebuild.fold.naming import EMA, EMA_PREFIX, Naming, own, table
from mergebuild.fold.view import View
from mergebuild.formats.header import TensorInfo
from mergebuild.layouts import Layout, detect
from mergebuild.naming.latents import AUTOENCODER, latents_of
from mergebuild.naming.parts import components, family_in, parts_called, parts_of_kind, place, prefixes_of_new
from mergebuild.naming.renamed import Renamed
from mergebuild.naming.spelling import AS_IS
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Component, Input, Target
from mergebuild.sources.opening import renamed_model, standalone
from mergebuild.sources.sources import Sources
from mergebuild.sources.traits import position_ids

__all__ = ["Views"]

_EMA_OF = "model.diffusion_model."
_CLIP_LENGTH = 77
"""The number of tokens that CLIP's text encoder takes."""


class Views:
    """Makes views of the inputs of a recipe's targets."""

    def __init__(
        self, recipe: Recipe, sources: Sources, intern: Interner, blueprint: Callable[[str], Blueprint]
    ) -> None:
        """`blueprint`: returns that of a target."""
        self._recipe = recipe
        self._sources = sources
        self._intern = intern
        self._blueprint = blueprint
        self._layouts: dict[str, Layout | None] = {}
        self._offered: dict[tuple[str | int, str], tuple[Mapping[str, Spec], int]] = {}
        self._kinds_of_sources: dict[tuple[str, str], Kinds] = {}
        self._ids: dict[str, Mapping[str, bool]] = {}
        self._copied: dict[str, Mapping[str, str]] = {}
        self._families: dict[int, tuple[Mapping[str, Spec], str]] = {}
        """By the id of specs, which are kept alive: the family in the rules."""
        self._beside: dict[tuple[int, ...], tuple[View, View, View]] = {}
        """By the ids of what decides it, which are kept alive: an input under the names of another."""
        self._untied: dict[tuple[int, int, str, int], tuple[View, Mapping[str, Spec], Kinds | None]] = {}
        """By the ids of a view's specs and kinds, which the view keeps alive, the name, and its kind."""

    def view(self, each: Input, target: Target) -> View:
        """Return the view of an input of a target."""
        specs, ema_dropped = self._input_specs(each.ref, target.ema)
        layout = self.layout(each.ref)
        made = None if each.ref in self._sources else self._blueprint(each.ref)
        model = self._sources.file(each.ref).model if made is None else None
        offered = made or model
        assert offered is not None
        bare = View(
            each, layout, specs, (), None, ema_dropped, "", offered.spelling, offered.tied, tuple(offered.copies)
        )
        plain = self._intern({Slot(each.ref, table(offered.tied)): Fraction(1)})
        if made is not None and made.target.folds:
            palette = tuple(plain if form.operation else form for form in made.forms.palette)
            return replace(bare, palette=palette, kinds=made.forms.kinds)
        uses_averages = target.ema == "use" and each.ref in self._sources
        if not uses_averages and not self._broken_ids(each.ref):
            return replace(bare, palette=(plain,))
        averaged = self._intern({Slot(each.ref, self._averages(each.ref)): Fraction(1)})
        counting = self._intern({Slot(self._sources.position_ids(), own("position_ids")): Fraction(1)})
        return replace(bare, palette=(plain, averaged, counting), kinds=self._source_kinds(each.ref, target.ema, specs))

    def untied(self, view: View, name: str) -> View:
        """Return a view in which a tied name is a tensor of its own, with the tie's values."""
        other = view.tied.get(name)
        if other is None or name in view.specs or other not in view.specs:
            return view
        palette, kind = view.palette, view.kind(other)
        if any(slot.tensor(name) != slot.tensor(other) for slot, _ in palette[kind].terms):
            # some of what is folded into the input has a tensor of this name, or layers under other names
            palette, kind = (*palette, self._intern.under(palette[kind], other)), len(palette)
        key = (id(view.specs), id(view.kinds), name, kind)
        found = self._untied.get(key)
        if found is None:
            specs: Mapping[str, Spec] = {**view.specs, name: view.specs[other]}
            kinds = view.kinds
            if kinds or kind:
                kinds = Kinds({**{each: view.kind(each) for each in view.specs}, name: kind}, specs)
            found = self._untied[key] = (view, specs, kinds)
        return replace(view, palette=palette, specs=found[1], kinds=found[2])

    def _input_specs(self, ref: str, ema: str) -> tuple[Mapping[str, Spec], int]:
        """Return the tensors that an input offers, and how many EMA copies are left out."""
        made = None if ref in self._sources else self._blueprint(ref).specs
        key = (ref if made is None else id(made), ema)
        found = self._offered.get(key)
        if found is None:
            specs = self._source_specs(ref, ema) if made is None else self._own_specs(ref)
            found = self._offered[key] = _without_averages(specs, ema)
        return found

    def _own_specs(self, ref: str) -> Mapping[str, Spec]:
        """Return the tensors of a target, without the second copies in its file."""
        made = self._blueprint(ref)
        copies = made.copies
        return {name: spec for name, spec in made.specs.items() if name not in copies} if copies else made.specs

    def _source_specs(self, ref: str, ema: str) -> Mapping[str, Spec]:
        tensors = self._sources.file(ref).tensors
        specs = {name: _spec(info) for name, info in tensors.items()}
        if ema == "use":
            for name, copy in self._averaged(ref).items():
                specs[name] = _spec(tensors[copy])
        for name in self._broken_ids(ref):
            specs[name] = Spec("int64", (1, _CLIP_LENGTH), is_float=False)
        return specs

    def _source_kinds(self, ref: str, ema: str, specs: Mapping[str, Spec]) -> Kinds:
        """Return the kinds of a source's tensors: 1 if an EMA copy is used, 2 for repaired position ids, else 0.

        `specs`: what the source offers with this setting of `ema`.
        """
        found = self._kinds_of_sources.get((ref, ema))
        if found is None:
            averaged = self._averaged(ref) if ema == "use" else {}
            of = {name: int(name in averaged) for name in specs}
            of |= dict.fromkeys((name for name in self._broken_ids(ref) if name in specs), 2)
            found = self._kinds_of_sources[ref, ema] = Kinds(of, specs)
        return found

    def _averaged(self, ref: str) -> Mapping[str, str]:
        """Return the EMA copy of each tensor of a source that has one.

        Copies have names made from the file's own names.
        """
        if ref not in self._copied:
            model = self._sources.file(ref).model
            stored = {name: model.spelling.stored(name) for name in model.tensors}
            found = {name: EMA(other) for name, other in stored.items() if other.startswith(_EMA_OF)}
            floats = {name for name, info in model.tensors.items() if info.is_float}
            self._copied[ref] = {name: copy for name, copy in found.items() if copy in floats and name in floats}
        return self._copied[ref]

    def _averages(self, ref: str) -> Naming:
        """Return the naming that reads the EMA copies of a source."""
        is_plain = self._sources.file(ref).model.spelling is AS_IS
        return EMA if is_plain else table(self._averaged(ref))

    def _broken_ids(self, ref: str) -> Mapping[str, bool]:
        """Return a source's position ids of CLIP that are not the integers 0 to 76, and whether their values are wrong.

        Wrong values drop tokens; in some clients a float dtype does so too.
        """
        if ref not in self._sources:
            return {}
        found = self._ids.get(ref)
        if found is None:
            ids = (each for each in position_ids(self._sources.file(ref).model) if each.length == _CLIP_LENGTH)
            found = self._ids[ref] = {
                each.name: bool(each.wrong) for each in ids if each.wrong or each.dtype != "int64"
            }
        return found

    def repaired(self, target: Target) -> list[str]:
        """Return notices about tensors of the first input that are repaired, one sentence each."""
        ref = target.inputs[0].ref
        found: list[str] = []
        for name, is_wrong in self._broken_ids(ref).items():
            dtype = self._sources.file(ref).tensors[name].dtype
            found.append(
                f"`{name}` of `{ref}` is not 0 to 76 and is written as that"
                if is_wrong
                else f"`{name}` of `{ref}` is 0 to 76 as {dtype} and is written as int64"
            )
        return found

    def components(self, view: View) -> Mapping[str, re.Pattern[str]]:
        """Return the parts of an input by name, each as the pattern of its tensors, from its layout and the rules.

        A layout that only knows layers has no parts.
        """
        own, known = dict(view.layout.components) if view.layout else {}, self.parts(view)
        return {**own, **known} if view.layout is None or view.layout.name in compatible.GENERAL else {**known, **own}

    def parts(self, view: View) -> Mapping[str, re.Pattern[str]]:
        """Return the parts of an input that the rules know, by name, each as the pattern of its tensors' names."""
        return components(self._family(view.specs))

    def _family(self, specs: Mapping[str, Spec]) -> str:
        """Return the family of some tensors in the rules; empty if there is none."""
        found = self._families.get(id(specs))
        if found is None:
            found = specs, family_in({name: spec.shape for name, spec in specs.items()})
            self._families[id(specs)] = found
        return found[1]

    def latents(self, view: View) -> frozenset[str]:
        """Return the models whose latents the autoencoder of an input may make; empty if nothing is known."""
        shapes = {name: spec.shape for name, spec in view.specs.items() if name.startswith(AUTOENCODER)}
        ref = view.input.ref
        model = self._sources.file(ref).model if ref in self._sources else None
        facts, metadata = (model.facts, model.metadata) if model else (None, None)
        return latents_of(self._family(self.whole(view)), shapes, facts, metadata)

    def whole(self, view: View) -> Mapping[str, Spec]:
        """Return all tensors of an input, of which a view may show only some."""
        ref = view.input.ref
        return self._input_specs(ref, "drop")[0] if ref in self._sources else view.specs

    def component(self, each: Component, target: Target, first: View) -> View:
        """Return an input under the names of a checkpoint, if it is a part alone."""
        assert each.input is not None
        ref = each.input.ref
        if ref not in self._sources:
            return self.view(each.input, target)
        family, there = self._family(first.specs), {name: spec.shape for name, spec in first.specs.items()}
        wanted = parts_called(family, each.name, self.components(first)[each.name])
        found = standalone(self._sources.file(ref).model, family, wanted, there) if wanted else None
        if found is None:
            return self.view(each.input, target)
        part, placed = found
        if placed.doubtful:
            raise compatible.doubtful_component(target, each, placed.doubtful)
        if placed.left:
            raise compatible.unknown_in_component(target, each, placed.left)
        name = self._sources.renamed(ref, f"{each.name} of {family}", part)
        return replace(self.view(replace(each.input, ref=name), target), input=each.input, layout=first.layout)

    def beside(self, view: View, first: View) -> View:
        """Return an input under the names of the first, if one of both is a part alone that the other contains.

        So a text encoder file can be merged with the text encoder in a checkpoint, in either order.
        """
        if view.specs.keys() == first.specs.keys():
            return view
        of, other = self._family(first.specs), self._family(view.specs)
        wanted = parts_of_kind(of, other)
        if not wanted:
            return view
        key = (id(first.specs), id(view.specs), id(view.kinds), *map(id, view.palette))
        found = self._beside.get(key)
        if found is None:
            own, there = ({name: spec.shape for name, spec in each.specs.items()} for each in (view, first))
            made = place(own, of, wanted, there).made
            found = self._beside[key] = first, view, self._renamed(view, of, made)
        return replace(found[2], input=view.input)

    def _renamed(self, view: View, of: str, made: Mapping[str, Renamed]) -> View:
        """Return an input with other names for some of its tensors; the others stay.

        If tensors would have to be cut it must be a source; otherwise it is returned unchanged.
        """
        names = {name: each.cuts[0].tensor for name, each in made.items() if each.is_whole}
        if len(names) < len(made):
            return self._cut_up(view, of, made) if view.input.ref in self._sources else view
        taken = frozenset(names.values())
        names |= {name: name for name in view.specs if name not in taken}
        back = {own: name for name, own in names.items()}
        palette = tuple(self._intern.summed(_renamed_terms(form, names)) for form in view.palette)
        specs = {name: view.specs[own] for name, own in names.items()}
        kinds = view.kinds and Kinds({name: view.kinds.of[own] for name, own in names.items()}, specs)
        spelling = view.spelling.under(names, {name: spec.shape for name, spec in view.specs.items()})
        tied = dict(_renamed_ties(view.tied, back))
        return replace(view, specs=specs, palette=palette, kinds=kinds, spelling=spelling, tied=tied, copies=())

    def _cut_up(self, view: View, of: str, made: Mapping[str, Renamed]) -> View:
        """Return a view with other tensors, some of which are parts of the source's tensors."""
        ref = view.input.ref
        model = self._sources.file(ref).model
        part = self._sources.renamed(ref, f"parts of {of}", renamed_model({"": model}, made, model.format))
        specs = {name: _spec(info) for name, info in self._sources.file(part).tensors.items()}
        return replace(view, specs=specs, palette=(self._intern({Slot(part): Fraction(1)}),), kinds=None, tied={})

    def prefixes_of_new(self, first: View, new: Iterable[str]) -> Mapping[str, str]:
        """Return the prefixes that an input's file would use for parts that it gets and does not have."""
        stored = {name: first.spelling.stored(name) for name in first.specs}
        return prefixes_of_new(self._family(first.specs), new, stored)

    def layout(self, ref: str) -> Layout | None:
        """Return the layout of an input."""
        if ref not in self._sources:
            return self._blueprint(ref).layout
        if ref not in self._layouts:
            tensors = self._sources.file(ref).tensors
            shapes = {name: info.shape for name, info in tensors.items()}
            self._layouts[ref] = detect(shapes, self._recipe.layouts)
        return self._layouts[ref]

    def offer(self, view: View) -> compatible.Offer:
        """Return an input in the form that `compatible` takes."""
        ref = view.input.ref
        shown = self._sources.file(ref).shown if ref in self._sources else "(a target)"
        return compatible.Offer(ref, shown, view.layout, view.specs)


def _renamed_terms(form: Form, names: Mapping[str, str]) -> Iterator[tuple[Slot, Fraction]]:
    """Yield the terms of a form under other names; `names`: by these, the names so far."""
    for slot, share in form.terms:
        yield Slot(slot.owner, table({name: slot.tensor(own) for name, own in names.items()})), share


def _renamed_ties(tied: Mapping[str, str], back: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield ties under other names: the prefix of the tensor with the values is used for both.

    `back`: the former name of a tensor -> its present name.
    """
    for name, other in tied.items():
        now = back.get(other, other)
        if now.endswith(other):
            yield now.removesuffix(other) + name, now
        elif other.endswith(now) and name.startswith(other.removesuffix(now)):
            yield name.removeprefix(other.removesuffix(now)), now


def _spec(info: TensorInfo) -> Spec:
    return Spec(info.offered, info.shape, info.is_float)


def _without_averages(specs: Mapping[str, Spec], ema: str) -> tuple[Mapping[str, Spec], int]:
    """Return the tensors that a target sees, without EMA copies unless it keeps them, and how many are unused."""
    if ema == "keep":
        return specs, 0
    kept = {name: spec for name, spec in specs.items() if not name.startswith(EMA_PREFIX)}
    return kept, (len(specs) - len(kept) if ema == "drop" else 0)
