"""Several parameters as the one tensor that a file has of them, for what is made of that tensor as a whole.

A model is opened into its parameters. A module of a client is what the file has: a LoRA for Phi-3 is one for its
`qkv_proj`, which is three parameters; and a module of GPT-2 is the transpose of what the file has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

from mergebuild.fold.forms import Form, Slot
from mergebuild.fold.interning import Interner
from mergebuild.fold.naming import own
from mergebuild.fold.views import View
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.gathering import run_of
from mergebuild.formats.header import Piece, TensorInfo
from mergebuild.formats.model import Model
from mergebuild.naming.renamed import Renamed
from mergebuild.naming.spelling import FileSpelling
from mergebuild.sources.sources import Sources

__all__ = ["Unit", "Units", "stacked_in", "units_in"]


class Unit(NamedTuple):
    """A tensor of a file that is several parameters, which lie in it by whole rows."""

    name: str
    """What the file calls it."""
    shape: tuple[int, ...]
    rows: tuple[tuple[str, int, int], ...]
    """A parameter and from which to which of its rows, one after another."""
    turned: bool = False
    """Whether it is the transpose of the one parameter that it is."""

    @property
    def members(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(dict.fromkeys(name for name, _, _ in self.rows))


def units_in(spelling: FileSpelling, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Unit]:
    """Yield the tensors of a file that several of these parameters lie in by whole rows."""
    for stored, members in spelling.fused(shapes).items():
        rows = sorted(
            (begin, name, first, last) for name in members for begin, first, last in _rows_in(spelling.made[name])
        )
        if len(members) > 1 and sum(last - first for _, _, first, last in rows) == stored.shape[0]:
            yield Unit(stored.name, stored.shape, tuple((name, first, last) for _, name, first, last in rows))


def stacked_in(spelling: FileSpelling) -> frozenset[str]:
    """Return the parameters that a file has in stacks, as no module of any client is."""
    return frozenset(name for name, renamed in spelling.made.items() if any(cut.at is not None for cut in renamed.cuts))


def _rows_in(renamed: Renamed) -> Iterator[tuple[int, int, int]]:
    """Yield where in the file's tensor some rows of a parameter begin, and which they are."""
    at = 0
    for cut in renamed.cuts:
        if cut.rows is None or cut.at is not None or cut.columns is not None or cut.transposed:
            return
        size = cut.rows[1] - cut.rows[0]
        yield cut.rows[0], at, at + size
        at += size


class Units:
    """Gives inputs the tensors that a file has of several of their parameters."""

    def __init__(self, sources: Sources, intern: Interner) -> None:
        self._sources = sources
        self._intern = intern

    def forms(self, view: View, units: Sequence[Unit]) -> Mapping[str, Form]:
        """Return what the units are made of that an input has, by name.

        It has those whose parameters are all made alike, of sources that have them in one dtype.
        """
        found: dict[str, Form] = {}
        for unit in units:
            known = [view.palette[view.kind(name)] for name in unit.members if name in view.specs]
            if len(known) < len(unit.members) or any(form is not known[0] for form in known):
                continue
            owners = {slot: self._owner(slot.owner, unit) for slot, _ in known[0].terms}
            named = all(slot.tensor(name) == name for slot in owners for name in unit.members)
            if known[0].operation is None and named and all(owners.values()):
                terms = {Slot(owners[slot], own(unit.name)): share for slot, share in known[0].terms}
                found[unit.name] = self._intern(terms)
        return found

    def _owner(self, ref: str, unit: Unit) -> str:
        """Return the source that has a unit, made of a source's parameters; empty where it can't be made."""
        if ref not in self._sources:
            return ""
        model = self._sources.file(ref).model
        infos = [model.tensors.get(name) for name in unit.members]
        first = infos[0]
        row = unit.shape[:1] if unit.turned else unit.shape[1:]
        if first is None or any(
            info is None or info.dtype != first.dtype or info.scale is not None or info.shape[1:] != row
            for info in infos
        ):
            return ""
        pieces = tuple(piece for name, begin, end in unit.rows for piece in _rows_of(model.tensors[name], begin, end))
        if unit.turned and len(pieces) == 1:
            pieces = (pieces[0]._replace(shape=pieces[0].shape[::-1], strides=pieces[0].strides[::-1]),)
        elif unit.turned:
            return ""
        size = DTYPES_BY_WORD[first.dtype].size
        made = TensorInfo(unit.name, first.dtype, unit.shape, 0, prod(unit.shape) * size, pieces[0].file, pieces)
        part = Model(model.format, model.files, model.sizes, {unit.name: made}, {})
        return self._sources.renamed(ref, unit.name, part)


def _rows_of(info: TensorInfo, begin: int, end: int) -> Iterator[Piece]:
    """Yield where some rows of a tensor lie."""
    size, at = DTYPES_BY_WORD[info.dtype].size, 0
    for piece in info.pieces or (Piece(info.file, info.begin, info.shape, run_of(info.shape)),):
        low, high = max(begin, at), min(end, at + piece.shape[0])
        if low < high:
            offset = piece.begin + (low - at) * piece.strides[0] * size
            yield Piece(piece.file, offset, (high - low, *piece.shape[1:]), piece.strides)
        at += piece.shape[0]
