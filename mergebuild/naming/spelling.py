"""How a file spells parameters, and how another file is written in the same spelling.

This is the way back from canonical names: what a target's first input calls each parameter, which of them it has in one
stored tensor, and in which shape. A parameter that it lacks is named as the file names similar ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from math import prod
from typing import NamedTuple

from mergebuild.naming.canonical import is_outdated
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes, TensorView, view_of

__all__ = ["AS_IS", "FileSpelling", "SpelledTensor", "spelling_of"]


class SpelledTensor(NamedTuple):
    """A stored tensor: its name and its shape in the file."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FileSpelling:
    """How a file spells parameters. Compared by identity."""

    made: Mapping[str, Renamed] = field(default_factory=dict)
    """By parameter, what it is made of in the file."""
    shapes: Shapes = field(default_factory=dict)
    """Shapes of the stored tensors."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Prefixes for parts that the file lacks: canonical prefix -> the prefix that the file would use."""

    def with_prefixes(self, prefixes: Mapping[str, str]) -> FileSpelling:
        """Return the same spelling with prefixes for parts that the file lacks."""
        return replace(self, prefixes={**self.prefixes, **prefixes}) if prefixes else self

    def under(self, names: Mapping[str, str], shapes: Shapes) -> FileSpelling:
        """Return the spelling of the same parameters under other canonical names.

        Args:
            names: The other name -> the name that is known here.
            shapes: Shapes of the parameters, by the names known here.
        """
        whole = {own: self.made.get(own, Renamed(shapes[own], (RowsOf("", own),))) for own in names.values()}
        stored = {own: shapes[own] for own in names.values() if own not in self.made}
        return FileSpelling({name: whole[own] for name, own in names.items()}, {**self.shapes, **stored})

    def renumbered(self, names: Mapping[str, str], layer_of: Callable[[str], int | None]) -> FileSpelling:
        """Return the spelling of a model whose parameters are these ones, some of them in layers with other numbers.

        Args:
            names: The name of each parameter there -> the name that is known here. The same may be there several times.
            layer_of: Returns the number of a parameter's layer; None if it is in none.

        Raises:
            ValueError: with the name of a stored tensor that is of several layers, or of one without its number.
        """
        if self is AS_IS:
            return self
        made: dict[str, Renamed] = {}
        shapes = {stored: self.shapes[stored] for stored in self.shapes if layer_of(stored) is None}
        for name, own in names.items():
            if own in self.made:
                numbers = layer_of(own), layer_of(name)
                cuts = [cut._replace(tensor=_in_layer(cut.tensor, *numbers)) for cut in self.made[own].cuts]
                made[name] = replace(self.made[own], cuts=tuple(cuts))
                pairs = zip(cuts, self.made[own].cuts, strict=True)
                shapes |= {cut.tensor: self.shapes[before.tensor] for cut, before in pairs}
        return FileSpelling(made, shapes, self.prefixes)

    def stored(self, name: str) -> str:
        """Return the stored name of a parameter, or of the first tensor that it is in."""
        return self.made[name].cuts[0].tensor if name in self.made else name

    def split(self, shapes: Shapes) -> Mapping[str, Sequence[SpelledTensor]]:
        """Return the stored tensors of parameters that share no tensor with others; only where name or shape differ.

        Several stored tensors share the rows of one parameter. `shapes`: the parameters.
        """
        found: dict[str, Sequence[SpelledTensor]] = {}
        fused = {name for members in self.fused(shapes).values() for name in members}
        taken = {cut.tensor for name in shapes if name in self.made for cut in self.made[name].cuts}
        for name, shape in shapes.items():
            if name in fused or (name in self.shapes and name not in self.made):
                continue  # it shares a tensor with others, or is a stored tensor that holds several
            stored = self._stored_of(name, shape, taken)
            if stored and stored != [(name, shape)]:
                found[name] = stored
        return found

    def _stored_of(self, name: str, shape: tuple[int, ...], taken: Collection[str]) -> Sequence[SpelledTensor]:
        """Return the stored tensors of one parameter, which shares none with others; `taken`: names not to be used."""
        renamed = self.made.get(name)
        if renamed is None or any(map(_is_part, renamed.cuts)):
            other = self._neighbour(name)
            return [SpelledTensor(name if other in taken else other, shape)]
        stored = [SpelledTensor(cut.tensor, self._shape(cut, renamed, shape)) for cut in renamed.cuts]
        if sum(prod(each.shape) for each in stored) != prod(shape):  # it has grown: as many rows as there are
            return [SpelledTensor(renamed.cuts[0].tensor, shape)] if len(stored) == 1 else []
        return stored

    def fused(self, shapes: Shapes) -> Mapping[SpelledTensor, Sequence[str]]:
        """Return the stored tensors that hold several parameters, if all of them are in `shapes`.

        Parameters in the order of rows.
        """
        found: dict[SpelledTensor, Sequence[str]] = {}
        for stored, members in self._members.items():
            if all(shapes.get(name) == self.made[name].shape for name in members):
                found[SpelledTensor(stored, self.shapes[stored])] = members
        return found

    @cached_property
    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """By stored name that is no parameter's, the parameters in that tensor."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name, renamed in self.made.items():
            for stored in dict.fromkeys(cut.tensor for cut in renamed.cuts):
                if stored != name and stored not in self.made:
                    found[stored].append(name)
        return {stored: tuple(names) for stored, names in found.items()}

    @cached_property
    def shared(self) -> Mapping[str, frozenset[str]]:
        """By parameter that is spread over several stored tensors, the names of these."""
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
        """The parameters whose matrices are transposed in the file."""
        return frozenset(
            name
            for name, renamed in self.made.items()
            if len(renamed.cuts) == 1 and renamed.cuts[0].transposed and not _is_part(renamed.cuts[0])
        )

    @cached_property
    def views(self) -> Mapping[str, Sequence[TensorView]]:
        """Where parameters that share a tensor without being one after another are in it."""
        found: dict[str, Sequence[TensorView]] = {}
        for stored, members in self._members.items():
            shape, at = self.shapes[stored], 0
            for name in members:
                views = [view_of(cut, shape, _run(shape)) for cut in self.made[name].cuts]
                found[name] = views
                if views == [TensorView(at, views[0].shape, _run(views[0].shape))]:
                    at += prod(views[0].shape)
            if at == prod(shape):  # all of them are one after another
                for name in members:
                    del found[name]
        return found

    @cached_property
    def _members(self) -> Mapping[str, Sequence[str]]:
        """By stored tensor with several parameters: these parameters in order, if they fill it completely."""
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
        """Return the shape of a parameter's cut in the file."""
        stored = self.shapes[cut.tensor]
        return stored if renamed.shape == shape else shape

    def _neighbour(self, name: str) -> str:
        """Return the name that the file would use for a parameter that it lacks, following the most similar one."""
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
        """By the first words of parameters' names, the beginning that differs: here, and in the file."""
        found: dict[tuple[str, ...], tuple[str, str]] = {}
        for name, renamed in self.made.items():
            ours, theirs = name.split("."), renamed.cuts[0].tensor.split(".")
            same = _same_at_end(ours, theirs)
            if same == 0 and name != renamed.cuts[0].tensor:
                continue
            front = tuple("".join(f"{part}." for part in parts[: len(parts) - same]) for parts in (ours, theirs))
            for length in range(len(ours) - 1, 0, -1):
                key = tuple(ours[:length])
                if key in found:
                    break
                found[key] = (front[0], front[1])
        return found


def _in_layer(stored: str, before: int | None, now: int | None) -> str:
    """Return the name of a stored tensor in another layer."""
    if before is None or before == now:
        return stored
    words = stored.split(".")
    numbers = [place for place, word in enumerate(words) if word.isdecimal()]
    if not numbers or words[numbers[0]] != str(before):
        raise ValueError(stored)
    words[numbers[0]] = str(now)
    return ".".join(words)


def _same_at_end(one: list[str], other: list[str]) -> int:
    """Return how many words at the ends of two names are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one[::-1], other[::-1], strict=False)))


def _is_part(cut: RowsOf) -> bool:
    """Whether a cut is not the whole stored tensor."""
    return cut.rows is not None or cut.at is not None or cut.columns is not None


def _run(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(prod(shape[place + 1 :]) for place in range(len(shape)))


AS_IS = FileSpelling()
"""The spelling in which every parameter has its canonical name."""


def spelling_of(made: Mapping[str, Renamed], shapes: Shapes) -> FileSpelling:
    """Return how a file spells parameters, given what each is made of and the shapes of its tensors by stored name.

    Outdated names are left out, so new files get the canonical ones.
    """
    kept = {name: each for name, each in made.items() if not is_outdated(name, each.cuts[0].tensor)}
    found = FileSpelling(kept, shapes)
    return AS_IS if found.is_plain else found
