"""Spellings: how programs store the parameters of a model, each as a few steps. Imports no `mergebuild`.

A step turns tensors by name into those of a file: with other names, fused, cut, or transposed. It only moves elements.
So reading a file back needs no code of its own: the index of every element goes through the same steps, and each
element of the file is put back to the index that arrived there.
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
    """A tensor's elements in its shape: bit patterns of values, or indices."""

    dtype: str
    elements: np.ndarray

    def having(self, elements: np.ndarray) -> Held:
        """Return other elements with the same dtype."""
        return Held(self.dtype, elements)


Tensors = dict[str, Held]
Step = Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Spelling:
    """How a file stores a model's parameters."""

    steps: tuple[Step, ...] = ()
    forms: tuple[str, ...] = ("file", "ckpt", "folder", "shards")
    """The forms of sources in which it can be recognized."""
    config: tuple[tuple[str, object], ...] = ()
    """Members that the configuration beside the file must have."""

    @property
    def refits(self) -> bool:
        """Whether it fuses or cuts parameters, so that tensors of the file are not single parameters."""
        return any(isinstance(step, Fused | Cut | Grouped | Stacked) for step in self.steps)

    def of(self, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
        """Return the tensors of a file with these parameters. Unchanged tensors stay the same objects."""
        held = {name: Held(each.dtype, _elements(each)) for name, each in tensors.items()}
        same = {id(held[name].elements): tensors[name] for name in tensors}
        return {name: same.get(id(each.elements)) or _stored(each) for name, each in self.through(held).items()}

    def through(self, held: Tensors) -> Tensors:
        """Return elements after all steps."""
        for step in self.steps:
            held = step(held)
        return held

    @property
    def of_names(self) -> Spelling:
        """The spelling with only those steps that change names."""
        return replace(self, steps=tuple(step for step in self.steps if isinstance(step, Called)))


PLAIN = Spelling()
"""Canonical names."""


# Steps


@dataclass(frozen=True)
class Called:
    """Other names. `rows`: patterns with replacements; the first pattern that a name matches is replaced."""

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
    """Several tensors concatenated to one; if one is missing, or has another dtype, they stay separate.

    `{}` in the names is the part that they have in common; it must match `common`.
    """

    ours: tuple[str, ...]
    theirs: str
    common: str = r".+"

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them in one."""
        return _together(tensors, self.ours, self.theirs, self.common, np.concatenate)


@dataclass(frozen=True)
class Grouped:
    """Queries, keys and values in one tensor: for each group of heads its queries, then its key, then its value."""

    ours: tuple[str, str, str]
    theirs: str
    size: int
    """The size of a head."""
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
    """One tensor cut into several along its first dimension, in equal parts or by `shares`."""

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
    """Numbered matrices (`#` in names) stacked along a new first dimension; several `ours` are concatenated before."""

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
    """Tensors whose halves are stored in the other order."""

    pattern: str

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them with exchanged halves."""

        def swapped(each: Held) -> Held:
            half = each.elements.shape[0] // 2
            return each.having(np.concatenate([each.elements[half:], each.elements[:half]]))

        return {name: swapped(each) if re.search(self.pattern, name) else each for name, each in tensors.items()}


@dataclass(frozen=True)
class Turned:
    """Matrices that are stored transposed."""

    pattern: str

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them transposed."""
        return {
            name: each.having(each.elements.T) if re.search(self.pattern, name) else each
            for name, each in tensors.items()
        }


@dataclass(frozen=True)
class Flat:
    """Weights of 1x1 convolutions, stored as matrices."""

    pattern: str

    def __call__(self, tensors: Tensors) -> Tensors:
        """Return tensors, some of them reshaped to two dimensions."""
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
    """Return tensors with each complete set of `ours` replaced by one tensor, at the position of the first of them."""
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
    """Return the part of a name that is `{}` in a text; None if the name does not match."""
    before, _, behind = text.partition("{}")
    if not (name.startswith(before) and name.endswith(behind) and len(name) >= len(before) + len(behind)):
        return None
    inner = name[len(before) : len(name) - len(behind)]
    return inner if re.fullmatch(common, inner) else None


# The way back

_OWNER = 1 << 32
"""An element's index in all parameters is its parameter's number times this, plus its index in the parameter."""


def parameters(file: Mapping[str, Stored], like: Mapping[str, Stored], spelling: Spelling) -> dict[str, Stored]:
    """Return the parameters in a file, by canonical name; every tensor of the file must belong to one.

    Args:
        file: The tensors of the file.
        like: The parameters that it may have, for their dtypes and shapes.
        spelling: The file's spelling. Parameters that it can't fuse have its names, or canonical names.

    Raises:
        AssertionError: A tensor belongs to no parameter.
    """
    found: dict[str, Stored] = {}
    left = dict(file)
    for each in (spelling, spelling.of_names, PLAIN):
        found |= _read(left, {name: like[name] for name in like if name not in found}, each)
    assert not left, f"tensors of no parameter: {sorted(left)}, where there may be {sorted(like.keys() - found)}"
    return {name: found[name] for name in like if name in found}


def _read(left: dict[str, Stored], like: Mapping[str, Stored], spelling: Spelling) -> Iterator[tuple[str, Stored]]:
    """Yield the parameters that are in a file in a spelling, and remove their tensors from `left`."""
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
