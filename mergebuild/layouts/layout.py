"""A layout: which tensor is in which block, component and group of an architecture. Data, and how it is read.

A layout is ordered rows of a regular expression and a block; the first row that fits a tensor's name says its block.
`IN{:02}` is filled with the integer that the expression's first group found. Everything else (gradients over layers,
lists of block weights, groups) is said in terms of blocks and names, so a new architecture is a table and no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mergebuild.layouts.blocks import block_id, in_order, layer_number, natural

__all__ = ["BlockRow", "Layout", "Marker"]

Shape = tuple[int | None, ...]
"""A shape with None for any length."""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A rule: tensors whose name `pattern` finds are in `block`, a name or a template such as `IN{:02}`."""

    pattern: re.Pattern[str]
    block: str
    filled: bool
    """Whether `block` is a template."""

    def block_of(self, name: str) -> str | None:
        """Return the block of a tensor, or None where this row does not fit."""
        found = self.pattern.search(name)
        if found is None:
            return None
        if not self.filled:
            return self.block
        number = layer_number(found[1] or "")
        return None if number is None else self.block.format(number)


@dataclass(frozen=True, slots=True)
class Marker:
    """A tensor that must be there: a name or a glob, and its shape (None: any)."""

    name: str
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """One architecture's blocks, components and groups. Methods remember what they found by tensor name."""

    name: str
    title: str
    rows: tuple[BlockRow, ...]
    detect: tuple[tuple[Marker, ...], ...]
    """Alternatives; of one, all markers must be there."""
    unless: tuple[str, ...] = ()
    """Globs of tensors that must not be there."""
    stack: str | None = None
    """A family of blocks whose numbers must run from 0 without a gap, at least to 1."""
    components: tuple[tuple[str, re.Pattern[str]], ...] = ()
    groups: tuple[tuple[str, re.Pattern[str]], ...] = ()
    mbw: tuple[tuple[str, ...], ...] = ()
    """The blocks of a list of block weights, one tuple for each length that such a list may have."""
    order: tuple[str, ...] = ()
    """All blocks, families without end as `L*`."""
    layer_order: tuple[str, ...] | None = None
    """The blocks that are layers, first to last, as `order`; None: those with a number, as they come."""
    first: tuple[str, ...] = ()
    """Blocks that stand where gradients begin, such as the embedding."""
    last: tuple[str, ...] = ()
    """Blocks that stand where gradients end, such as the head."""
    _blocks: dict[str, str | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def block(self, name: str) -> str | None:
        """Return the block of a tensor, or None for a tensor of no block."""
        try:
            return self._blocks[name]
        except KeyError:
            found = next((block for row in self.rows if (block := row.block_of(name)) is not None), None)
            self._blocks[name] = found
            return found

    def component(self, name: str) -> str | None:
        """Return the component of a tensor (`unet`, `text_encoder`, `vae`, ...): the first that fits, or None."""
        return next((component for component, pattern in self.components if pattern.search(name)), None)

    def blocks(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the blocks that have a tensor among `names`, in the layout's order."""
        present = {block for name in names if (block := self.block(name)) is not None}
        return in_order(present, self.order)

    def layers(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the blocks over which gradients run, first to last: those layers that have a tensor among `names`."""
        if self.layer_order is None:
            met = dict.fromkeys(self.block(name) for name in sorted(names, key=natural))
            found = tuple(block for block in met if block is not None)
            return tuple(block for block in found if block_id(block)[1] >= 0) or found
        layers, families = set(self.layer_order), {entry[:-1] for entry in self.layer_order if entry.endswith("*")}
        present = (block for block in self.blocks(names) if block in layers or block_id(block)[0] in families)
        return in_order(present, self.layer_order)

    def mbw_of(self, length: int) -> tuple[str, ...] | None:
        """Return the blocks of a list of that many block weights, or None where the layout has no such list."""
        return next((blocks for blocks in self.mbw if len(blocks) == length), None)
