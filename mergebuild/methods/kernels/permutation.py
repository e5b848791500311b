"""`rebasin` (Git Re-Basin): puts the hidden channels of one model into the order of another's.

Reordering the channels between two layers, in both of them, does not change what the network computes, but changes the
average with another model (Ainsworth et al. 2022). Blocks of channels (`scopes/channels.py`) can be reordered
independently, so each is solved alone and exactly, in one pass. So the result depends neither on an order of solving
nor on chance.

Groups and the channels inside them are assigned on two levels: the best order of channels for a pair of groups gives
the score of that pair, and with these scores groups are assigned. Most pairs are never solved: the sum of the best
score of each channel is an upper bound, and an assignment by bounds that uses only pairs with known scores is optimal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from mergebuild.methods.kernels.assignment import BITS, assignment, rounded
from mergebuild.methods.kernels.kernel import Argument, Call, Grain, Kernel, State, Survey
from mergebuild.methods.scopes.channels import ChannelBlock, ChannelFamily, ChannelPart, Shapes, blocks

__all__ = ["KERNELS", "Order", "matched", "moves", "reordered"]

Moves = dict[str, list[tuple[int, list[int]]]]
"""By tensor: the axes along which it is reordered, and for each the index that comes to each position."""


@dataclass(frozen=True, slots=True)
class Order:
    """The new order of a block: the group that comes to each position, and for each family the channels inside it."""

    groups: Tensor
    """int64 [groups]."""
    channels: tuple[Tensor, ...]
    """For each family, int64 [groups, size]: which channel of the moved group comes to each position."""


def matched(block: ChannelBlock, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Order:
    """Return the order of the channels of `a` in which their dot product with those of `b` is greatest.

    Both have the block's tensors by name, float32. The present order is kept unless another one is better. Products are
    summed in float32, so for orders that are about equally good the result may differ between machines.
    """
    tables = [_scores(block, family, a, b) for family in block.families]
    largest = max((float(table.abs().max()) for table in tables if table.numel()), default=0.0)
    if largest == 0:
        return _as_is(block, tables[0].device)
    channels = sum(family.size for family in block.families)
    bits = BITS - (channels.bit_length() if block.groups > 1 else 0)  # a pair's score is a sum of that many scores
    return _solved(block, [rounded(table, largest, bits) for table in tables])


def _as_is(block: ChannelBlock, device: torch.device) -> Order:
    whole = (torch.arange(family.size, device=device).expand(block.groups, -1) for family in block.families)
    return Order(torch.arange(block.groups, device=device), tuple(whole))


def _columns(block: ChannelBlock, family: ChannelFamily, device: torch.device) -> Tensor:
    """Return zeros for the channels of each pair of groups (int64 [groups, groups, size])."""
    return torch.zeros((block.groups, block.groups, family.size), dtype=torch.int64, device=device)


def _scores(block: ChannelBlock, family: ChannelFamily, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Return the score of each channel of `a` at the position of each of `b`: float64 [groups, groups, size, size].

    Indices: group of b, group of a, channel of b, channel of a. For a fixed family the shape is [groups, groups, 1, 1].
    """
    groups, size = block.groups, 1 if family.fixed else family.size
    total: Tensor | None = None
    for part in family.parts:
        places = _places(block, family, part).view(-1)
        left, right = (_channels_of(part, each[part.tensor], places).reshape(groups * size, -1) for each in (b, a))
        product = (left @ right.T).to(torch.float64)
        total = product if total is None else total.add_(product)
    assert total is not None  # a family has parts
    return total.view(groups, size, groups, size).transpose(1, 2)


def _channels_of(part: ChannelPart, tensor: Tensor, places: Tensor) -> Tensor:
    """Return the channels of a tensor at some indices of the part's axis; that axis becomes the first."""
    return tensor.index_select(part.axis, places.to(tensor.device)).movedim(part.axis, 0)


def _solved(block: ChannelBlock, tables: Sequence[Tensor]) -> Order:
    """Return the best order, given the scores of each family (as from `_scores`) as integers."""
    device = tables[0].device
    order = _as_is(block, device)
    value = torch.zeros((block.groups, block.groups), dtype=torch.int64, device=device)
    as_is = 0
    for family, table in zip(block.families, tables, strict=True):
        value += table[:, :, 0, 0] if family.fixed else torch.minimum(
            table.amax(3).sum(2), table.amax(2).sum(2)
        )  # fmt: skip
        as_is += int(table.diagonal(dim1=2, dim2=3).sum(-1).diagonal().sum())
    known = torch.full_like(value, all(family.fixed for family in block.families), dtype=torch.bool)
    inside = [None if family.fixed else _columns(block, family, device) for family in block.families]
    places = torch.arange(block.groups, device=device)
    while True:
        found = assignment(value[None])[0]
        place = places[~known[places, found]]
        if not len(place):
            break
        group = found[place]
        value[place, group] = 0
        for table, chosen in zip(tables, inside, strict=True):
            if chosen is None:
                value[place, group] += table[place, group, 0, 0]
                continue
            problems = table[place, group]
            columns = assignment(problems)
            chosen[place, group] = columns
            value[place, group] += problems.gather(2, columns[:, :, None]).sum((1, 2))
        known[place, group] = True
    if int(value[places, found].sum()) <= as_is:
        return order
    channels = (
        whole if chosen is None else chosen[places, found] for whole, chosen in zip(order.channels, inside, strict=True)
    )
    return Order(found, tuple(channels))


def moves(block: ChannelBlock, order: Order, shapes: Shapes) -> Moves:
    """Return how each of the block's tensors is reordered, given its new order."""
    found: dict[tuple[str, int], Tensor] = {}
    for family, channels in zip(block.families, order.channels, strict=True):
        for part in family.parts:
            whole = found.setdefault((part.tensor, part.axis), torch.arange(shapes[part.tensor][part.axis]))
            places = _places(block, family, part)
            whole[places.view(-1)] = places[order.groups.cpu()].gather(1, channels.cpu()).reshape(-1)
    by_name: Moves = {}
    for (name, axis), whole in found.items():
        by_name.setdefault(name, []).append((axis, whole.tolist()))
    return by_name


def reordered(tensor: Tensor, along: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
    """Return a tensor reordered along some axes, new."""
    result = tensor.clone()
    for axis, places in along:
        result = result.index_select(axis, torch.tensor(places).to(tensor.device))
    return result


def _places(block: ChannelBlock, family: ChannelFamily, part: ChannelPart) -> Tensor:
    """Return the indices of a part's channels along its axis (int64 [groups, size])."""
    starts = part.offset + torch.arange(block.groups)[:, None] * (part.stride or family.size)
    return starts + torch.arange(family.size)


def _look(arguments: Mapping[str, Argument], tensors: Mapping[str, Sequence[Tensor]]) -> Moves:
    a, b = ({name: inputs[index] for name, inputs in tensors.items()} for index in (0, 1))
    shapes = {name: tuple(tensor.shape) for name, tensor in a.items()}
    width = arguments["head_width"]
    assert isinstance(width, Fraction)
    (block,) = blocks(shapes, int(width) or None)
    return moves(block, matched(block, a, b), shapes)


def _apply(call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
    return reordered(chunks[0].view(call.shape), state[call.tensor])


def _memory(call: Call, inputs: int) -> int:
    """Return the bytes needed: a block has up to seven tensors of about one size, and tables of scores."""
    widest = max((*call.shape[:2], 1))
    return 4 * (7 * inputs + 2) * call.count + 5 * 8 * widest * widest


KERNELS: Mapping[str, Kernel] = {
    "rebasin": Kernel(_apply, grain=Grain.TENSOR, working_set=_memory, survey=Survey(_look))
}
