"""How programs write the parameters of a model: spellings, each a few steps. Nothing of `mergebuild` is imported.

A step takes tensors by name and gives those of the file: other names, several in one, one in several, or turned. It
only moves elements. So the way back needs no text of its own: the places of all elements are sent through the steps,
and a file's elements are taken to where they came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np
from tensor_files import Stored

__all__ = [
    "PLAIN",
    "Called",
    "Cut",
    "Flat",
    "Fused",
    "Grouped",
    "Held",
    "Spelling",
    "Stacked",
    "Swapped",
    "Turned",
    "parameters",
]


class Held(NamedTuple):
    """A tensor's elements, whatever they are, in its shape."""

    dtype: str
    elements: np.ndarray

    def having(self, elements: np.ndarray) -> Held:
        """Return others of the dtype."""
        return Held(self.dtype, elements)


Tensors = dict[str, Held]
Step = Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Spelling:
    """How a file writes a model's parameters."""

    steps: tuple[Step, ...] = ()
    forms: tuple[str, ...] = ("file", "ckpt", "folder", "shards")
    """Of sources: where it is known."""
    config: tuple[tuple[str, object], ...] = ()
    """What the configuration beside it must say."""

    @property
    def refits(self) -> bool:
        """Whether it puts parameters together, or cuts them: a tensor of the file is another unit."""
        return any(isinstance(step, Fused | Cut | Grouped | Stacked) for step in self.steps)

    def of(self, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
        """Return what a file holds that has these parameters. What is not touched stays the same object."""
        held = {name: Held(each.dtype, _elements(each)) for name, each in tensors.items()}
        same = {id(held[name].elements): tensors[name] for name in tensors}
        return {name: same.get(id(each.elements)) or _stored(each) for name, each in self.through(held).items()}

    def through(self, held: Tensors) -> Tensors:
        """Return what becomes of elements."""
        for step in self.steps:
            held = step(held)
        return held

    @property
    def of_names(self) -> Spelling:
        """The same, of names alone."""
        return replace(self, steps=tuple(step for step in self.steps if isinstance(step, Called)))


PLAIN = Spelling()
"""Canonical names."""


# Steps


@dataclass(frozen=True)
class Called:
    """Other names: of the first pattern that a name matches, what is put for the match."""

    rows: tuple[tuple[str, str], ...]

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors by their other names."""
        return {self._called(name): each for name, each in tensors.items()}

    def _called(self, name: str) -> str:
        for pattern, other in self.rows:
            new, count = re.subn(pattern, other, name, count=1)
            if count:
                return new
        return name


@dataclass(frozen=True)
class Fused:
    """Several tensors one after another in one; where one is missing, or another dtype, each stays by itself.

    Names with `{}` for what they have in common, which matches `common`.
    """

    ours: tuple[str, ...]
    theirs: str
    common: str = r".+"

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them in one."""
        return _together(tensors, self.ours, self.theirs, self.common, np.concatenate)


@dataclass(frozen=True)
class Grouped:
    """Queries, keys and values in one, of each group of heads its queries, then its key, then its value."""

    ours: tuple[str, str, str]
    theirs: str
    size: int
    """Of a head."""
    common: str = r".+"

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them in one."""
        return _together(tensors, self.ours, self.theirs, self.common, self._in_groups)

    def _in_groups(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        groups = parts[1].shape[0] // self.size
        return np.concatenate(
            [each for group in zip(*(np.split(part, groups) for part in parts), strict=True) for each in group]
        )


@dataclass(frozen=True)
class Cut:
    """One tensor as several, one after another, in equal parts or in those of `shares`."""

    ours: str
    theirs: tuple[str, ...]
    shares: tuple[int, ...] = ()
    common: str = r".+"

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them cut."""
        shares = self.shares or (1,) * len(self.theirs)
        found: Tensors = {}
        for name, each in tensors.items():
            filling = _filling(self.ours, self.common, name)
            if filling is None or not each.elements.ndim or each.elements.shape[0] % sum(shares):
                found[name] = each
                continue
            unit = each.elements.shape[0] // sum(shares)
            parts = np.split(each.elements, np.cumsum(shares)[:-1] * unit)
            found |= {other.format(filling): each.having(part) for other, part in zip(self.theirs, parts, strict=True)}
        return found


@dataclass(frozen=True)
class Stacked:
    """Matrices that are counted (`#`), one behind the other along a further first dimension, several names in each."""

    ours: tuple[str, ...]
    theirs: str
    turned: bool = False
    common: str = r".+"

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them in stacks."""
        count = 0
        while any(_filling(self.ours[0].replace("#", str(count)), self.common, name) is not None for name in tensors):
            count += 1
        names = tuple(each.replace("#", str(number)) for number in range(count) for each in self.ours)
        return _together(tensors, names, self.theirs, self.common, self._in_a_stack) if count else tensors

    def _in_a_stack(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        width = len(self.ours)
        each = [np.concatenate(parts[at : at + width]) for at in range(0, len(parts), width)]
        return np.stack([one.T if self.turned else one for one in each])


@dataclass(frozen=True)
class Swapped:
    """Tensors whose halves lie the other way round."""

    pattern: str

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them the other way round."""

        def swapped(each: Held) -> Held:
            half = each.elements.shape[0] // 2
            return each.having(np.concatenate([each.elements[half:], each.elements[:half]]))

        return {name: swapped(each) if re.search(self.pattern, name) else each for name, each in tensors.items()}


@dataclass(frozen=True)
class Turned:
    """Matrices that lie transposed."""

    pattern: str

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them transposed."""
        return {
            name: each.having(each.elements.T) if re.search(self.pattern, name) else each
            for name, each in tensors.items()
        }


@dataclass(frozen=True)
class Flat:
    """Convolutions of 1x1 as linear maps."""

    pattern: str

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them of two dimensions."""
        return {
            name: each.having(each.elements.reshape(each.elements.shape[:2])) if re.search(self.pattern, name) else each
            for name, each in tensors.items()
        }


def _together(
    tensors: Tensors,
    ours: Sequence[str],
    theirs: str,
    common: str,
    put: Callable[[Sequence[np.ndarray]], np.ndarray],
) -> Tensors:
    """Return tensors with those put together that have all of some names; each result stands for its first."""
    found: Tensors = {}
    gone: set[str] = set()
    for name, each in tensors.items():
        filling = _filling(ours[0], common, name)
        names = [other.format(filling) for other in ours] if filling is not None else []
        parts = [tensors[other] for other in names if other in tensors]
        alike = len({(part.dtype, part.elements.shape[1:]) for part in parts}) == 1
        if names and len(parts) == len(names) and alike:
            found[theirs.format(filling)] = each.having(put([part.elements for part in parts]))
            gone.update(names)
        else:
            found[name] = each
    return {name: each for name, each in found.items() if name not in gone or each is not tensors.get(name)}


def _filling(text: str, common: str, name: str) -> str | None:
    """Return what stands in a name where a text has `{}`; None where it is no such name."""
    before, _, behind = text.partition("{}")
    if not (name.startswith(before) and name.endswith(behind) and len(name) >= len(before) + len(behind)):
        return None
    inner = name[len(before) : len(name) - len(behind)]
    return inner if re.fullmatch(common, inner) else None


# The way back

_OWNER = 1 << 32
"""A place is the number of a parameter, so many times, and that of an element."""


def parameters(file: Mapping[str, Stored], like: Mapping[str, Stored], spelling: Spelling) -> dict[str, Stored]:
    """Return the parameters that a file holds, by canonical name; all of its tensors must be theirs.

    Args:
        file: what it holds.
        like: the parameters that it may have; their dtypes and shapes count.
        spelling: how it is spelled. What that can't put together is named as its neighbours, or canonically.

    Raises:
        AssertionError: a tensor is of no parameter.
    """
    found: dict[str, Stored] = {}
    left = dict(file)
    for each in (spelling, spelling.of_names, PLAIN):
        found |= _read(left, {name: like[name] for name in like if name not in found}, each)
    assert not left, f"tensors of no parameter: {sorted(left)}, where there may be {sorted(like.keys() - found)}"
    return {name: found[name] for name in like if name in found}


def _read(left: dict[str, Stored], like: Mapping[str, Stored], spelling: Spelling) -> Iterator[tuple[str, Stored]]:
    """Yield the parameters that are there in a spelling, and take the tensors that they are in away."""
    names = list(like)
    sizes = [prod(like[name].shape) for name in names]
    places = {
        name: Held(like[name].dtype, (number * _OWNER + np.arange(size)).reshape(like[name].shape))
        for number, (name, size) in enumerate(zip(names, sizes, strict=True))
    }
    values = [np.zeros(size, _element(like[name].dtype)) for name, size in zip(names, sizes, strict=True)]
    missing = list(sizes)
    numbers = {id(each.elements): number for number, each in enumerate(places.values())}
    for stored, held in spelling.through(dict(places)).items():
        each = left.get(stored)
        if each is None or (each.dtype, each.shape) != (held.dtype, held.elements.shape):
            if not held.elements.size:
                missing[numbers[id(held.elements)]] = 1
            continue
        del left[stored]
        owners, at = np.divmod(held.elements.reshape(-1), _OWNER)
        for number in np.unique(owners):
            mine = owners == number
            values[number][at[mine]] = _elements(each).reshape(-1)[mine]
            missing[number] -= int(mine.sum())
    for number, name in enumerate(names):
        if not missing[number]:
            yield name, like[name]._replace(data=values[number].tobytes())
        assert missing[number] in (0, sizes[number] or 1), f"only some of `{name}` is there"


def _element(dtype: str) -> str:
    sizes = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2}
    return f"u{sizes.get(dtype, 1)}"


def _elements(each: Stored) -> np.ndarray:
    return np.frombuffer(each.data, _element(each.dtype)).reshape(each.shape)


def _stored(each: Held) -> Stored:
    return Stored(each.dtype, each.elements.shape, np.ascontiguousarray(each.elements).tobytes())
