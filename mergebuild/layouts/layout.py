"""A layout: which tensor is in which block, component and group of an architecture.

A layout is an ordered list of rows, each a regular expression and a block. The first row that matches a tensor's name
decides its block; `IN{:02}` is filled with the integer that the first group of the expression matched. Gradients, lists
of block weights and groups refer to blocks and names, so a new architecture needs a table and no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mergebuild.layouts.blocks import block_id, in_order, layer_number, natural

__all__ = ["BlockRow", "Layout", "Marker"]

Shape = tuple[int | None, ...]
"""A shape, with None for any size."""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A row: tensors whose name `pattern` finds are in `block`, which is a name or a template such as `IN{:02}`."""

    pattern: re.Pattern[str]
    block: str
    filled: bool
    """Whether `block` is a template."""

    def block_of(self, name: str) -> str | None:
        """Return the block of a tensor; None if the row does not match."""
        found = self.pattern.search(name)
        if found is None:
            return None
        if not self.filled:
            return self.block
        number = layer_number(found[1] or "")
        return None if number is None else self.block.format(number)


@dataclass(frozen=True, slots=True)
class Marker:
    """A tensor that a layout requires: its name or a glob, and its shape (None: any)."""

    name: str
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The blocks, components and groups of one architecture. The block of each name is remembered."""

    name: str
    title: str
    rows: tuple[BlockRow, ...]
    detect: tuple[tuple[Marker, ...], ...]
    """Alternatives; all markers of one of them must exist."""
    unless: tuple[str, ...] = ()
    """Globs of tensors that must not exist."""
    stack: str | None = None
    """A family of blocks whose numbers must run from 0 without a gap, at least to 1."""
    components: tuple[tuple[str, re.Pattern[str]], ...] = ()
    groups: tuple[tuple[str, re.Pattern[str]], ...] = ()
    mbw: tuple[tuple[str, ...], ...] = ()
    """The blocks of a list of block weights: one tuple for each length that such a list may have."""
    order: tuple[str, ...] = ()
    """All blocks in order; open families as `L*`."""
    layer_order: tuple[str, ...] | None = None
    """The blocks that are layers, first to last, in the form of `order`. None: all blocks with a number, in natural
    order."""
    first: tuple[str, ...] = ()
    """Blocks at the start of gradients, such as the embedding."""
    last: tuple[str, ...] = ()
    """Blocks at the end of gradients, such as the head."""
    _blocks: dict[str, str | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def block(self, name: str) -> str | None:
        """Return the block of a tensor; None if it is in no block."""
        try:
            return self._blocks[name]
        except KeyError:
            found = next((block for row in self.rows if (block := row.block_of(name)) is not None), None)
            self._blocks[name] = found
            return found

    def component(self, name: str) -> str | None:
        """Return the component of a tensor (`unet`, `text_encoder`, `vae`, ...), the first that matches.

        None if none does.
        """
        return next((component for component, pattern in self.components if pattern.search(name)), None)

    def blocks(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the blocks that have a tensor among `names`, in the layout's order."""
        present = {block for name in names if (block := self.block(name)) is not None}
        return in_order(present, self.order)

    def layers(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the blocks over which gradients run, first to last: the layers that have a tensor among `names`."""
        if self.layer_order is None:
            met = dict.fromkeys(self.block(name) for name in sorted(names, key=natural))
            found = tuple(block for block in met if block is not None)
            return tuple(block for block in found if block_id(block)[1] >= 0) or found
        layers, families = set(self.layer_order), {entry[:-1] for entry in self.layer_order if entry.endswith("*")}
        present = (block for block in self.blocks(names) if block in layers or block_id(block)[0] in families)
        return in_order(present, self.layer_order)

    def mbw_of(self, length: int) -> tuple[str, ...] | None:
        """Return the blocks of a list of that many block weights; None if the layout has no list of that length."""
        return next((blocks for blocks in self.mbw if len(blocks) == length), None)
