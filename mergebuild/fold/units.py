"""Several parameters as the one stored tensor that they are in a file, for methods that need that tensor whole.

A model is opened as its parameters. A module of a client is what the file has: a LoRA for Phi-3 is for its `qkv_proj`,
which is three parameters; a module of GPT-2 is the transpose of what the file has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

from mergebuild.fold.forms import Form, Kinds, Slot, Spec
from mergebuild.fold.interning import Interner
from mergebuild.fold.naming import own
from mergebuild.fold.view import MODEL_LIKENESS, View
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.gathering import run_of
from mergebuild.formats.header import Piece, TensorInfo
from mergebuild.formats.model import Model
from mergebuild.naming.renamed import Renamed
from mergebuild.naming.spelling import AS_IS, FileSpelling
from mergebuild.sources.sources import Sources

__all__ = ["Unit", "Units", "stacked_in", "units_in"]


class Unit(NamedTuple):
    """A stored tensor that is several parameters, each as whole rows of it."""

    name: str
    """Its stored name."""
    shape: tuple[int, ...]
    rows: tuple[tuple[str, int, int], ...]
    """A parameter and a range of its rows (begin, end), one after another."""
    row: tuple[int, ...]
    """The shape of a row."""
    turned: bool = False
    """Whether it is the transpose of a single parameter."""

    @property
    def members(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(dict.fromkeys(name for name, _, _ in self.rows))

    def read_by(self, slot: Slot) -> Unit:
        """Return the same of the parameters that a slot reads for its own, such as those of another layer."""
        return self._replace(rows=tuple((slot.tensor(name), begin, end) for name, begin, end in self.rows))


def units_in(spelling: FileSpelling, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Unit]:
    """Yield the stored tensors of a file that are several of these parameters, as whole rows; also those in stacks."""
    for stored, members in spelling.fused(shapes).items():
        row = shapes[members[0]][1:]
        rows = _rows_of_members(spelling, shapes, members)
        count = sum(last - first for _, first, last in rows)
        if (
            len(members) > 1
            and count * prod(row) == prod(stored.shape)
            and all(shapes[name][1:] == row for name in members)
        ):
            yield Unit(stored.name, stored.shape, tuple(rows), row)


def _rows_of_members(
    spelling: FileSpelling, shapes: Mapping[str, tuple[int, ...]], members: Sequence[str]
) -> Sequence[tuple[str, int, int]]:
    """Return the ranges of rows of parameters in the order in which a stored tensor has them; see `Unit.rows`."""
    if spelling.views.keys().isdisjoint(members):
        return [(name, 0, shapes[name][0]) for name in members]
    found = [(begin, name, first, last) for name in members for begin, first, last in _rows_in(spelling.made[name])]
    return [(name, first, last) for _, name, first, last in sorted(found)]


def stacked_in(spelling: FileSpelling) -> frozenset[str]:
    """Return the parameters that a file has in stacks, which no client has as modules."""
    return frozenset(name for name, renamed in spelling.made.items() if any(cut.at is not None for cut in renamed.cuts))


def _has(view: View, unit: Unit) -> bool:
    """Whether an input has all parameters of a unit, with the right rows, in one dtype."""
    specs = [view.specs[name] for name in unit.members if name in view.specs]
    if len(specs) < len(unit.members) or any(spec.dtype != specs[0].dtype for spec in specs):
        return False
    rows = dict.fromkeys(unit.members, 0)
    for name, first, last in unit.rows:
        rows[name] += last - first
    return all(view.specs[name].shape == (count, *unit.row) for name, count in rows.items())


def _rows_in(renamed: Renamed) -> Iterator[tuple[int, int, int]]:
    """Yield the ranges of rows of a parameter: first row in the stored tensor, begin and end in the parameter."""
    at = 0
    for cut in renamed.cuts:
        if cut.rows is None or cut.at is not None or cut.columns is not None or cut.transposed:
            return
        size = cut.rows[1] - cut.rows[0]
        yield cut.rows[0], at, at + size
        at += size


class Units:
    """Gives inputs units, in place of the parameters in them."""

    def __init__(self, sources: Sources, intern: Interner) -> None:
        self._sources = sources
        self._intern = intern
        self._of: dict[int, tuple[tuple[Unit, ...], FileSpelling]] = {}
        """By the identity of a spelling, which is kept alive."""
        self._known: dict[tuple[object, ...], tuple[View, View]] = {}
        """By a view's likeness and units; the view is kept alive."""

    def together(self, views: tuple[View, ...], *, whole: bool) -> tuple[View, ...]:
        """Return inputs that have the first one's units, if all of them can have these.

        Args:
            views: The inputs.
            whole: Whether the method needs whole tensors: then the first input's stored tensors are the units. Else
                only units that
                some input already has (a target that was made this way) are used in the others.
        """
        wanted = {
            unit.name: unit
            for at, view in enumerate(views)
            for unit in self._units(view.spelling)
            if unit.name in view.specs or (whole and at == 0 and _has(view, unit))
        }
        for view in views if wanted else ():
            apart = [unit for unit in wanted.values() if unit.name not in view.specs]
            forms = self.forms(view, [unit for unit in apart if _has(view, unit)])
            for unit in apart:
                if unit.name not in forms and any(name in view.specs for name in unit.members):
                    del wanted[unit.name]
        return tuple(self._with(view, tuple(wanted.values())) for view in views) if wanted else views

    def _units(self, spelling: FileSpelling) -> tuple[Unit, ...]:
        if spelling is AS_IS:
            return ()
        known = self._of.get(id(spelling))
        if known is None:
            shapes = {name: renamed.shape for name, renamed in spelling.made.items()}
            known = self._of[id(spelling)] = (tuple(units_in(spelling, shapes)), spelling)
        return known[0]

    def _with(self, view: View, units: tuple[Unit, ...]) -> View:
        """Return a view with units in place of their parameters."""
        units = tuple(unit for unit in units if unit.name not in view.specs and _has(view, unit))
        if not units:
            return view
        key = (view.input.ref, *MODEL_LIKENESS(view), tuple(unit.name for unit in units))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = (self._anew(view, units), view)
        return replace(known[0], input=view.input)

    def _anew(self, view: View, units: tuple[Unit, ...]) -> View:
        forms = self.forms(view, units)
        first = {unit.members[0]: unit for unit in units}
        inside = {name for unit in units for name in unit.members}
        specs: dict[str, Spec] = {}
        for name, spec in view.specs.items():
            if name in first:
                specs[first[name].name] = spec._replace(shape=first[name].shape)
            elif name not in inside:
                specs[name] = spec
        palette = [*view.palette, *dict.fromkeys(forms.values())]
        of = {name: palette.index(forms[name]) if name in forms else view.kind(name) for name in specs}
        return replace(view, specs=specs, palette=tuple(palette), kinds=Kinds(of, specs))

    def forms(self, view: View, units: Sequence[Unit]) -> Mapping[str, Form]:
        """Return the forms of the units that an input has, by name.

        It has those whose parameters are all made alike, of sources that have them in one dtype.
        """
        found: dict[str, Form] = {}
        for unit in units:
            known = [view.palette[view.kind(name)] for name in unit.members if name in view.specs]
            if len(known) < len(unit.members) or any(form is not known[0] for form in known):
                continue
            owners = {slot: self._owner(slot.owner, unit.read_by(slot)) for slot, _ in known[0].terms}
            if known[0].operation is None and all(owners.values()):
                terms = ((Slot(owners[slot], own(unit.name)), share) for slot, share in known[0].terms)
                found[unit.name] = self._intern.summed(terms)
        return found

    def _owner(self, ref: str, unit: Unit) -> str:
        """Return the source with a unit, made of another source's parameters; empty if it can't be made."""
        if ref not in self._sources:
            return ""
        model = self._sources.file(ref).model
        first = model.tensors.get(unit.members[0])
        if first is None or not all(_is_part(model.tensors.get(name), first.dtype, unit) for name in unit.members):
            return ""
        pieces = tuple(piece for name, begin, end in unit.rows for piece in _rows_of(model.tensors[name], begin, end))
        if unit.turned and len(pieces) == 1:
            pieces = (pieces[0]._replace(shape=pieces[0].shape[::-1], strides=pieces[0].strides[::-1]),)
        elif unit.turned:
            return ""
        size = DTYPES_BY_WORD[first.dtype].size
        made = TensorInfo(unit.name, first.dtype, unit.shape, 0, prod(unit.shape) * size, pieces[0].file, pieces)
        part = Model(model.format, model.files, model.sizes, {unit.name: made}, {})
        return self._sources.renamed(ref, f"{unit.name} of {unit.members[0]}", part)


def _is_part(info: TensorInfo | None, dtype: str, unit: Unit) -> bool:
    """Whether a tensor exists that can be some of the rows of a unit with this dtype."""
    return info is not None and info.dtype == dtype and info.scale is None and info.shape[1:] == unit.row


def _rows_of(info: TensorInfo, begin: int, end: int) -> Iterator[Piece]:
    """Yield where some rows of a tensor are."""
    size, at = DTYPES_BY_WORD[info.dtype].size, 0
    for piece in info.pieces or (Piece(info.file, info.begin, info.shape, run_of(info.shape)),):
        low, high = max(begin, at), min(end, at + piece.shape[0])
        if low < high:
            offset = piece.begin + (low - at) * piece.strides[0] * size
            yield Piece(piece.file, offset, (high - low, *piece.shape[1:]), piece.strides)
        at += piece.shape[0]
