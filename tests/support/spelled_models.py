"""Small models in every spelling that mergebuild knows, made from the rows of `naming/data`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mergebuild.naming.fusing import HOWS
from mergebuild.naming.rules import Part, Row, Spelling, families, pattern

Shape = tuple[int, ...]

NEEDED: Mapping[str, Mapping[str, Shape]] = {
    "sd15": {"model.diffusion_model.input_blocks.1.1.proj_in.weight": (4, 4, 1, 1)},
    "sd2": {"model.diffusion_model.input_blocks.1.1.proj_in.weight": (4, 4)},
    "sdxl": {"model.diffusion_model.label_emb.0.0.weight": (4, 4)},
}
"""By family, tensors that must be in a file besides a text encoder, so that the family is recognized."""


class Spelled(NamedTuple):
    """A part of a family in one of its spellings."""

    family: str
    part: Part
    spelling: Spelling

    @property
    def rows(self) -> Iterator[Row]:
        """The rows of the spelling, each canonical module once."""
        seen: set[tuple[str, ...]] = set()
        for row in self.spelling.rows:
            if row.how not in HOWS and row.ours not in seen and all(row.theirs):
                seen.add(row.ours)
                yield row

    def __repr__(self) -> str:
        return f"{self.family}-{self.part.name}-{self.spelling.name}"


def spelled(*, lora: bool = False) -> list[Spelled]:
    """Return every spelling of every part of all families; those of LoRAs only with `lora`."""
    return [
        Spelled(family.name, part, spelling)
        for family in families()
        for part in family.parts
        for spelling in part.spellings
        if lora or not spelling.lora
    ]


def canonical_tensors(each: Spelled, number: int = 3, width: int = 2) -> dict[str, Shape]:
    """Return the canonical tensors of all rows of a spelling."""
    return {name: shape for row in each.rows for name, shape in ours(each.part, row, number, width).items()}


def ours(part: Part, row: Row, number: int, width: int) -> dict[str, Shape]:
    """Return the canonical tensors of a row."""
    if len(row.theirs) > 1:
        return {_named(part.prefix, row.ours[0], number, row): (sum(_shares(row, len(row.theirs))) * width, 4)}
    sizes = [share * width for share in _shares(row, len(row.ours))]
    one: Mapping[str, Shape] = {"swapped": (row.at * 4 or 4, 4), "convolution": (4, 2, 1, 1), "transposed": (6, 4)}
    return {
        _named(part.prefix, name, number, row): one.get(row.how, (size, 4))
        for name, size in zip(row.ours, sizes, strict=True)
    }


def theirs(part: Part, row: Row, number: int, width: int, prefix: str) -> dict[str, Shape]:
    """Return the tensors of a row as its spelling names and shapes them."""
    made = list(ours(part, row, number, width).values())
    if len(row.theirs) > 1:
        shares = _shares(row, len(row.theirs))
        return {
            _named(prefix, name, number, row): (share * width, 4)
            for name, share in zip(row.theirs, shares, strict=True)
        }
    name, shape = _named(prefix, row.theirs[0], number, row), made[0]
    if len(row.ours) > 1:
        return {name: (sum(each[0] for each in made), 4)}
    changed = {"transposed": shape[::-1], "convolution": shape[:2], "linear": (*shape, 1, 1)}
    return {name: changed.get(row.how, shape)}


def _shares(row: Row, count: int) -> tuple[int, ...]:
    return row.shares or (1,) * count


def _named(prefix: str, module: str, number: int, row: Row) -> str:
    known = pattern(module)
    return f"{prefix}{known.filled([str(number)] * len(known.free))}{'' if row.whole else '.weight'}"
