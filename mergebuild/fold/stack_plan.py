"""Which slice of a stack makes which tensor: names and numbers of layers alone.

The layers of a stack are numbered from 0 over its slices. Everything before the layers (embeddings, and what is in no
stack that has slices) comes from the first slice; what follows them (final norm, head) from the last one. A model with
several stacks, such as an encoder and a decoder, may have slices of each: what is beside the layers then belongs to the
part whose names it shares.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from mergebuild.configuration.layers import Layered, Stack, layered, stacks
from mergebuild.errors import RecipeError, did_you_mean
from mergebuild.fold.view import View
from mergebuild.recipe.model import LayerRange, Slice, Target

__all__ = ["StackPlan", "is_following", "plan_of", "stack_of"]

_FOLLOWING: Final = frozenset(
    "norm ln_f ln_out ln_final ln_post norm_f final_norm final_layernorm final_layer_norm layer_norm layernorm"
    " post_layernorm output_norm output_layer output lm_head embed_out proj_out project_out head heads score classifier"
    " cls pooler pooling qa_outputs text_projection visual_projection final_logits_bias".split()
)
"""Words in the names of tensors that follow the layers."""


class _StackedPart(NamedTuple):
    """The slices of one part, and the stack of the first input that they replace."""

    stack: Stack
    slices: tuple[int, ...]
    """Their indices."""

    @property
    def has_head(self) -> bool:
        """Whether heads of the whole model follow its layers: not those of an encoder, or of a part that sees."""
        return self.stack.half != "encoder" and self.stack.part == "text"


class StackPlan(NamedTuple):
    """Which slice makes which tensor of a stack."""

    slices: tuple[Slice, ...]
    stacks: tuple[str, ...]
    """By slice, the name of the stack that its layers are in, such as `model.layers`."""
    offsets: tuple[int, ...]
    """By slice, the number of its first layer in the output."""
    parts: tuple[_StackedPart, ...]
    others: tuple[str, ...]
    """Stacks of the first input that have no slices."""

    def beside(self, name: str) -> int:
        """Return the index of the slice that makes a tensor in no layer of a stack that has slices."""
        words = name.split(".")
        shared = [_common(words, part.stack.name) for part in self.parts]
        best = max(shared)
        if best < max((_common(words, other) for other in self.others), default=0):
            return 0
        near = [part for part, count in zip(self.parts, shared, strict=True) if count == best]
        follows = is_following(name) and not (layered(name) and best == 0)
        if best == 0 and follows:
            heads = [part for part in near if part.has_head]
            near = heads if heads or self.others else near
        if not near or (best == 0 and not follows):
            return 0
        return near[-1].slices[-1] if follows else near[0].slices[0]

    def owner(self, name: str) -> int:
        """Return the index of the slice that makes a tensor of the output."""
        at = layered(name)
        for index, (each, stack, offset) in enumerate(zip(self.slices, self.stacks, self.offsets, strict=True)):
            if at is not None and at.stack == stack and offset <= at.number < offset + each.layers[0].count:
                return index
        return self.beside(name)

    def renamed(self, index: int, own: Stack, layers: LayerRange, name: str) -> str | None:
        """Return the output's name of a tensor of an input of a slice; None if the slice does not take it.

        `own`: the stack of the input, whose `layers` are taken.
        """
        at = layered(name)
        if at is None or at.stack != own.name:
            return name if self.beside(name) == index else None
        number = at.number - layers.first
        if not 0 <= number < layers.count:
            return None
        return Layered(self.stacks[index], self.offsets[index] + number, at.rest).name


def is_following(name: str) -> bool:
    """Return whether a tensor follows the layers, such as the final norm or the head."""
    return any(word in _FOLLOWING for word in name.split("."))


def plan_of(target: Target, firsts: Sequence[View]) -> StackPlan:
    """Return which slice of a stack makes which tensor. `firsts`: the first input of each slice.

    Raises:
        RecipeError: the model has no stack of layers, or it is not said which of several is meant.
    """
    found: dict[str, tuple[Stack, list[int]]] = {}
    for index, each in enumerate(target.slices):
        if each.part not in found:
            found[each.part] = (stack_of(each, firsts[index]), [])
        found[each.part][1].append(index)
    parts = tuple(_StackedPart(stack, tuple(indices)) for stack, indices in found.values())
    _check_apart(target, parts)
    offsets, names = dict[int, int](), dict[int, str]()
    for part in parts:
        at = 0
        for index in part.slices:
            offsets[index], names[index] = at, part.stack.name
            at += target.slices[index].layers[0].count
    indices = range(len(target.slices))
    sliced = {part.stack.name for part in parts}
    others = tuple(name for name in stacks(firsts[0].specs) if name not in sliced)
    return StackPlan(
        target.slices, tuple(names[at] for at in indices), tuple(offsets[at] for at in indices), parts, others
    )


def stack_of(each: Slice, view: View) -> Stack:
    """Return the stack of an input of a slice.

    Raises:
        RecipeError: it has none, or it is not said which of several is meant.
    """
    found = stacks(view.specs)
    stored = {name: _stored(view, name) for name in found}
    alone = _only(found, each.part, stored)
    if alone is None:
        raise _which(each, view, found)
    return alone


def _only(found: Mapping[str, Stack], part: str, stored: Mapping[str, str]) -> Stack | None:
    """Return the stack that is meant by a part; None if none is, or several are."""
    every = [*found.values()]
    if not part:
        texts = [each for each in every if each.part == "text"] or every
        return texts[0] if len(texts) == 1 else None
    tests = (
        [each for each in every if part in (each.name, stored[each.name])],
        [each for each in every if f"{each.name}.".startswith(f"{part}.")],
        [each for each in every if f"{stored[each.name]}.".startswith(f"{part}.")],
        [each for each in every if part == each.half and each.part == "text"],
        [each for each in every if part == each.part],
        [each for each in every if part in (*each.name.split("."), *stored[each.name].split("."))],
    )
    return next((some[0] for some in tests if len(some) == 1), None)


def _stored(view: View, stack: str) -> str:
    """Return the name of a stack in the file of an input."""
    name = next(name for name in view.specs if (at := layered(name)) and at.stack == stack)
    at = layered(view.spelling.stored(name))
    return at.stack if at else stack


def _which(each: Slice, view: View, found: Collection[str]) -> RecipeError:
    """Return the error for a slice of whose input no stack, or not a single one, is meant."""
    named = ", ".join(f"`{name}`" for name in found)
    if not found:
        message, advice = f"`{view.input.ref}` has no stack of layers that are known", "only such models are stacked"
    elif each.part:
        message = f"`{each.part}` is no part of `{view.input.ref}` that has one stack of layers"
        advice = did_you_mean(each.part, [*found], otherwise=f"it has: {named}")
    else:
        message = f"`{view.input.ref}` has several stacks of layers: {named}"
        advice = 'say whose layers they are: `part = "encoder"`, or a prefix of the names'
    where = each.target.where.place("part") if each.part else each.target.where.place()
    return RecipeError.one("unknown-part", f"{message}, in `{each.target.name}`", where=where, help=advice)


def _check_apart(target: Target, parts: Sequence[_StackedPart]) -> None:
    """Check that slices of one stack name its part in one way.

    Raises:
        RecipeError: they don't.
    """
    known: dict[str, str] = {}
    for part in parts:
        own = target.slices[part.slices[0]]
        other = known.setdefault(part.stack.name, own.part)
        if other != own.part:
            message = f"`part` of `{own.target.name}` is `{own.part}`, which is the stack that others call `{other}`"
            raise RecipeError.one("bad-slices", message, where=own.target.where.place(), help="name it in one way")


def _common(words: Sequence[str], stack: str) -> int:
    """Return how many words at the beginning of a name are those of a stack, whose last one is left out."""
    count = 0
    for word, other in zip(words, stack.split(".")[:-1], strict=False):
        if word != other:
            break
        count += 1
    return count
