"""How a file spells parameters, and how another file is written as it would spell them.

The way back from canonical names: what the first input of a target calls each parameter, which of them it keeps in one
tensor, and in which shape. What it does not hold itself is named as it names the neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from math import prod
from typing import NamedTuple

from mergebuild.naming.canonical import is_outdated
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes, TensorView, view_of

__all__ = ["AS_IS", "FileSpelling", "SpelledTensor", "spelling_of"]


class SpelledTensor(NamedTuple):
    """A tensor of a file, in the file's words."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FileSpelling:
    """What a file calls parameters. Compared by identity."""

    made: Mapping[str, Renamed] = field(default_factory=dict)
    """By parameter, the stored tensors that it is made of."""
    shapes: Shapes = field(default_factory=dict)
    """Of the stored tensors."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """By what the names of parts begin with that it does not hold, what it would put in front of them instead."""

    def with_prefixes(self, prefixes: Mapping[str, str]) -> FileSpelling:
        """Return the same with prefixes for parts that it does not hold."""
        return replace(self, prefixes={**self.prefixes, **prefixes}) if prefixes else self

    def under(self, names: Mapping[str, str], shapes: Shapes) -> FileSpelling:
        """Return what the file calls parameters that go by other names elsewhere.

        Args:
            names: by the name there, the one that is known here.
            shapes: of the parameters, by the names of here.
        """
        whole = {own: self.made.get(own, Renamed(shapes[own], (RowsOf("", own),))) for own in names.values()}
        stored = {own: shapes[own] for own in names.values() if own not in self.made}
        return FileSpelling({name: whole[own] for name, own in names.items()}, {**self.shapes, **stored})

    def stored(self, name: str) -> str:
        """Return what the file calls a parameter, or the first tensor that it is in."""
        return self.made[name].cuts[0].tensor if name in self.made else name

    def split(self, shapes: Shapes) -> Mapping[str, Sequence[SpelledTensor]]:
        """Return what the file would call parameters that are no part of a larger tensor; only what differs.

        Several names share out the rows of one. Parameters are given by their shapes.
        """
        found: dict[str, Sequence[SpelledTensor]] = {}
        fused = {name for members in self.fused(shapes).values() for name in members}
        taken = {cut.tensor for name in shapes if name in self.made for cut in self.made[name].cuts}
        for name, shape in shapes.items():
            if name in fused or (name in self.shapes and name not in self.made):
                continue  # with others in one tensor, or one that is several as the file has it
            renamed = self.made.get(name)
            if renamed is not None and not any(map(_is_part, renamed.cuts)):
                stored = [SpelledTensor(cut.tensor, self._shape(cut, renamed, shape)) for cut in renamed.cuts]
                if sum(prod(each.shape) for each in stored) != prod(shape):  # it has grown: as many rows as there are
                    stored = [SpelledTensor(renamed.cuts[0].tensor, shape)] if len(stored) == 1 else []
            else:
                other = self._neighbour(name)
                stored = [SpelledTensor(name if other in taken else other, shape)]
            if stored and stored != [(name, shape)]:
                found[name] = stored
        return found

    def fused(self, shapes: Shapes) -> Mapping[SpelledTensor, Sequence[str]]:
        """Return the tensors that hold several parameters each, all of which are given, in the order of their rows."""
        found: dict[SpelledTensor, Sequence[str]] = {}
        for stored, members in self._members.items():
            if all(shapes.get(name) == self.made[name].shape for name in members):
                found[SpelledTensor(stored, self.shapes[stored])] = members
        return found

    @cached_property
    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """By what the file calls a tensor, the parameters that lie in it; only names that are no parameter's."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name, renamed in self.made.items():
            for stored in dict.fromkeys(cut.tensor for cut in renamed.cuts):
                if stored != name and stored not in self.made:
                    found[stored].append(name)
        return {stored: tuple(names) for stored, names in found.items()}

    @cached_property
    def shared(self) -> Mapping[str, frozenset[str]]:
        """By parameter that several tensors of the file share out, what the file calls these."""
        found = {name: frozenset(cut.tensor for cut in each.cuts) for name, each in self.made.items()}
        return {name: stored for name, stored in found.items() if len(stored) > 1}

    @property
    def is_plain(self) -> bool:
        """Whether the file calls every parameter by its canonical name."""
        return all(
            len(each.cuts) == 1 and each.cuts[0] == RowsOf("", name) and each.shape == self.shapes.get(name)
            for name, each in self.made.items()
        )

    @cached_property
    def turned(self) -> frozenset[str]:
        """The parameters that are matrices which the file has transposed."""
        return frozenset(
            name
            for name, renamed in self.made.items()
            if len(renamed.cuts) == 1 and renamed.cuts[0].transposed and not _is_part(renamed.cuts[0])
        )

    @cached_property
    def views(self) -> Mapping[str, Sequence[TensorView]]:
        """Of the parameters that share a tensor and do not lie one behind the other: where in it each of them lies."""
        found: dict[str, Sequence[TensorView]] = {}
        for stored, members in self._members.items():
            shape, at = self.shapes[stored], 0
            for name in members:
                views = [view_of(cut, shape, _run(shape)) for cut in self.made[name].cuts]
                found[name] = views
                if views == [TensorView(at, views[0].shape, _run(views[0].shape))]:
                    at += prod(views[0].shape)
            if at == prod(shape):  # all of them lie one behind the other
                for name in members:
                    del found[name]
        return found

    @cached_property
    def _members(self) -> Mapping[str, Sequence[str]]:
        """By stored tensor of which parameters are parts: these, as they begin, where they fill it."""
        parts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        left: dict[str, int] = {stored: prod(shape) for stored, shape in self.shapes.items()}
        for name, renamed in self.made.items():
            if any(map(_is_part, renamed.cuts)):
                for cut in renamed.cuts:
                    shape = self.shapes[cut.tensor]
                    view = view_of(cut, shape, _run(shape))
                    parts[cut.tensor].setdefault(name, view.begin)
                    left[cut.tensor] -= prod(view.shape)
        shared = {name for name, renamed in self.made.items() if len({cut.tensor for cut in renamed.cuts}) > 1}
        return {
            stored: sorted(begins, key=begins.__getitem__)
            for stored, begins in parts.items()
            if left[stored] == 0 and shared.isdisjoint(begins)
        }

    def _shape(self, cut: RowsOf, renamed: Renamed, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a cut of a parameter has in the file."""
        stored = self.shapes[cut.tensor]
        return stored if renamed.shape == shape else shape

    def _neighbour(self, name: str) -> str:
        """Return what the file would call a parameter that it does not hold: as it calls the nearest that it does."""
        for prefix, written in self.prefixes.items():
            if name.startswith(prefix):
                return written + name[len(prefix) :]
        parts = name.split(".")
        nearest = self._nearest.get(tuple(parts[:1]), ("", ""))
        for length in range(len(parts) - 1, 0, -1):
            if (front := tuple(parts[:length])) in self._nearest:
                nearest = self._nearest[front]
                break
        ours, theirs = nearest
        return theirs + name[len(ours) :] if name.startswith(ours) else name

    @cached_property
    def _nearest(self) -> Mapping[tuple[str, ...], tuple[str, str]]:
        """By the first parts of a parameter's name, what stands in front of it here and in the file."""
        found: dict[tuple[str, ...], tuple[str, str]] = {}
        for name, renamed in self.made.items():
            ours, theirs = name.split("."), renamed.cuts[0].tensor.split(".")
            same = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours[::-1], theirs[::-1], strict=False))
            )
            if same == 0 and name != renamed.cuts[0].tensor:
                continue
            front = tuple("".join(f"{part}." for part in parts[: len(parts) - same]) for parts in (ours, theirs))
            for length in range(len(ours) - 1, 0, -1):
                key = tuple(ours[:length])
                if key in found:
                    break
                found[key] = (front[0], front[1])
        return found


def _is_part(cut: RowsOf) -> bool:
    """Whether a cut is not all of the stored tensor."""
    return cut.rows is not None or cut.at is not None or cut.columns is not None


def _run(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor whose elements lie one behind the other."""
    return tuple(prod(shape[place + 1 :]) for place in range(len(shape)))


AS_IS = FileSpelling()
"""Every parameter under its canonical name."""


def spelling_of(made: Mapping[str, Renamed], shapes: Shapes) -> FileSpelling:
    """Return how a file spells parameters, given what each is made of and the shapes of its tensors by stored name.

    Names that no program writes any more are left out: what is written takes the canonical ones.
    """
    kept = {name: each for name, each in made.items() if not is_outdated(name, each.cuts[0].tensor)}
    found = FileSpelling(kept, shapes)
    return AS_IS if found.is_plain else found
