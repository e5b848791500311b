"""Fits the first layers of inputs, such as inpainting models, to the number of channels of the first input.

A new tensor is made of pieces of source tensors; for a combination, each term is fitted separately.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from mergebuild.fold.counterparts import Spec
from mergebuild.fold.forms import Form, Kinds, Slot
from mergebuild.fold.interning import Interner
from mergebuild.fold.view import View
from mergebuild.formats.model import Model
from mergebuild.naming.canonical import is_first_layer
from mergebuild.recipe import Recipe
from mergebuild.sources.channels import Joint, LyingChannels, cut, is_served, joined
from mergebuild.sources.sources import Sources

__all__ = ["FittedChannels", "differ_in_channels"]


class _ViewTerm(NamedTuple):
    """A term of a combination, and where its tensor is."""

    slot: Slot
    share: Fraction
    of: LyingChannels


class FittedChannels:
    """Gives inputs as many channels as the first input has."""

    def __init__(self, recipe: Recipe, sources: Sources, intern: Interner) -> None:
        self._recipe = recipe
        self._sources = sources
        self._intern = intern

    def fitted(self, view: View, first: View, *, adds_up: bool) -> View:
        """Return an input whose first layers have as many channels as the first input's.

        If it has more, only the first ones take part. If it has fewer, the first input's own channels follow them, so
        no method finds anything to merge in channels that the input lacks. A layer that can't be fitted stays, and its
        shape is refused later.

        Args:
            view: The input.
            first: The first input.
            adds_up: Whether it enters a combination: then the additional channels of the first input stay unchanged,
                bit for bit.
        """
        forms = self._fitted_forms(view, first, adds_up=adds_up)
        return _with_forms(view, first, forms) if forms else view

    def _fitted_forms(self, view: View, first: View, *, adds_up: bool) -> Mapping[str, Form]:
        """Return the first layers of an input that have another number of channels and can be fitted, by name."""
        forms: dict[str, Form] = {}
        for name, spec in view.specs.items():
            wanted = first.specs.get(name)
            if wanted is not None and is_first_layer(name) and differ_in_channels(spec, wanted):
                form = self._fitted_form(view, first, name, adds_up=adds_up)
                if form is not None:
                    forms[name] = form
        return forms

    def _fitted_form(self, view: View, first: View, name: str, *, adds_up: bool) -> Form | None:
        """Return a first layer with as many channels as the first input has; None if it can't be made."""
        own, wanted = view.specs[name].shape[1], first.specs[name].shape
        lying = self._lying(view.palette[view.kind(name)], name)
        if lying is None:
            return None
        if own > wanted[1]:
            return self._sum((each.share, self._cut(each, name, wanted[1])) for each in lying)
        rest = self._lying(first.palette[first.kind(name)], name) or self._beginning(first, name, wanted)
        if rest is None:
            return None
        joint = self._in_one(lying, rest, name, wanted, own)
        return joint if joint is not None else self._sum(self._widened(lying, rest, name, wanted, own, adds_up=adds_up))

    def _widened(
        self, lying: Sequence[_ViewTerm], rest: Sequence[_ViewTerm], name: str, wanted: tuple[int, ...], own: int,
        *, adds_up: bool,
    ) -> Sequence[tuple[Fraction, Slot]]:  # fmt: skip
        """Return the terms of a tensor with the first `own` channels of one combination and the others of another."""
        parts = [(each.share, self._padded(each, name, wanted, own)) for each in lying]
        if adds_up:
            parts += [(each.share, each.slot) for each in rest]
            parts += [(-each.share, self._padded(each, name, wanted, own)) for each in rest]
        else:
            parts += [(each.share, self._padded(each, name, wanted, own, behind=True)) for each in rest]
        return parts

    def _in_one(
        self, lying: Sequence[_ViewTerm], rest: Sequence[_ViewTerm], name: str, shape: tuple[int, ...], own: int
    ) -> Form | None:
        """Return a tensor with the first `own` channels of one tensor and the others of another, if both are single."""
        mine, other = lying[0], rest[0]
        dtype = mine.of.info.dtype
        is_one = len(lying) == len(rest) == mine.share == other.share == 1
        if not is_one or not mine.of.info.stored == other.of.info.stored == dtype:  # scales can't be put together
            return None
        made = joined(mine.of, other.of, mine.of, Joint(name, dtype, shape, own))
        return self._sum([(mine.share, self._part(mine.slot, f"on {other.slot.owner}", made))])

    def _beginning(self, first: View, name: str, shape: tuple[int, ...]) -> list[_ViewTerm] | None:
        """Return the source that the first input is based on, if that is a file target.

        None if it does not have the tensor.
        """
        ref = self._recipe.beginning(first.input.ref)
        model = self._sources.file(ref).model
        if name not in model.tensors or model.tensors[name].shape != shape:
            return None
        found = _ViewTerm(Slot(ref), Fraction(1), LyingChannels(model, name))
        return [found] if is_served(found.of) else None

    def _cut(self, each: _ViewTerm, name: str, channels: int) -> Slot:
        """Return the slot of the first channels of a tensor."""
        return self._part(each.slot, f"channels to {channels}", cut(each.of, name, channels))

    def _padded(
        self, each: _ViewTerm, name: str, shape: tuple[int, ...], channels: int, *, behind: bool = False
    ) -> Slot:
        """Return the slot of a tensor's first channels followed by zeros; or of the rest (`behind`) after zeros."""
        zero = LyingChannels(self._sources.file(self._sources.position_ids()).model, "position_ids")
        joint = Joint(name, each.of.info.dtype, shape, channels)
        if behind:
            return self._part(each.slot, f"channels from {channels}", joined(None, each.of, zero, joint))
        return self._part(each.slot, f"channels to {channels} of {shape[1]}", joined(each.of, None, zero, joint))

    def _lying(self, form: Form, name: str) -> list[_ViewTerm] | None:
        """Return where the terms of a combination are; None if one of them can't be put together anew."""
        found = [
            _ViewTerm(slot, share, LyingChannels(self._sources.file(slot.owner).model, slot.tensor(name)))
            for slot, share in form.terms
            if slot.owner in self._sources
        ]
        return (
            found
            if form.terms and len(found) == len(form.terms) and all(is_served(each.of) for each in found)
            else None
        )

    def _part(self, slot: Slot, what: str, made: Model) -> Slot:
        """Return the slot of a tensor that is made of pieces of another one."""
        (name,) = made.tensors
        return Slot(self._sources.renamed(slot.owner, f"{what}, {slot.tensor(name)}", made))

    def _sum(self, terms: Iterable[tuple[Fraction, Slot]]) -> Form:
        return self._intern.summed((slot, share) for share, slot in terms)


def _with_forms(view: View, first: View, forms: Mapping[str, Form]) -> View:
    """Return an input in which some tensors have other forms, and the shapes that they have in the first input."""
    of = {each: view.kind(each) for each in view.specs}
    of |= {name: len(view.palette) + at for at, name in enumerate(forms)}
    specs = {**view.specs, **{name: view.specs[name]._replace(shape=first.specs[name].shape) for name in forms}}
    return replace(view, specs=specs, palette=(*view.palette, *forms.values()), kinds=Kinds(of, specs))


def differ_in_channels(one: Spec, other: Spec) -> bool:
    """Whether two layers `[out, channels, ...]` differ only in their channels."""
    return (
        len(one.shape) == len(other.shape) >= 2
        and one.shape[1] != other.shape[1]
        and (one.shape[0], *one.shape[2:]) == (other.shape[0], *other.shape[2:])
        and one.is_float
        and other.is_float
    )
