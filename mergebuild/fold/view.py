"""`View`: an input as a target sees it; and the cache keys of views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from mergebuild.errors import Problem
from mergebuild.fold.counterparts import Spec
from mergebuild.fold.forms import Form, Kinds
from mergebuild.fold.likeness import Likeness
from mergebuild.layouts import Layout
from mergebuild.naming.spelling import AS_IS, FileSpelling
from mergebuild.recipe.model import Input
from mergebuild.sources.traits import marks

__all__ = ["MODEL_LIKENESS", "NO_REFUSALS", "NO_TIES", "VIEW_LIKENESS", "View", "disagreements"]

NO_TIES: Mapping[str, str] = MappingProxyType({})
NO_REFUSALS: Mapping[str, Problem] = MappingProxyType({})


@dataclass(frozen=True)
class View:
    """An input as a target sees it: its tensors under the target's names, and their forms."""

    input: Input
    layout: Layout | None
    specs: Mapping[str, Spec]
    palette: tuple[Form, ...]
    kinds: Kinds | None = None
    """None: all tensors are of kind 0."""
    ema_dropped: int = 0
    delta: str = ""
    """For a LoRA: the name of the virtual target whose result its deltas are."""
    spelling: FileSpelling = AS_IS
    """Its spelling."""
    tied: Mapping[str, str] = field(default_factory=lambda: NO_TIES)
    """Tied names -> the tensor whose values they have. A name that is not in `specs` is no tensor of its own."""
    copies: tuple[str, ...] = ()
    """The names in `tied` that its files hold nevertheless."""
    refused: Mapping[str, Problem] = field(default_factory=lambda: NO_REFUSALS)
    """For a LoRA: tensors that it can't be added to, and why. Where its number is 0 this does not matter."""
    whole: frozenset[str] = frozenset()
    """For a LoRA: those of them that it may replace, if it is the only LoRA there and has the factor 1."""

    def kind(self, name: str) -> int:
        """Return the kind of a tensor."""
        return self.kinds.of[name] if self.kinds else 0


_BY_IDENTITY: Final = {"layout": id, "specs": id, "kinds": id, "spelling": id, "tied": id}
"""Fields of a view that are compared by identity; the view is kept alive as long as cache entries that use their
ids."""

VIEW_LIKENESS = Likeness(
    View,
    left_out={
        "input": "its role is in the target's likeness, and its name in messages alone",
        "palette": "a frame has the forms that were made of it, by the forms of the inputs",
        "delta": "a LoRA's view has its own kinds",
        "refused": "as the delta",
        "whole": "as the delta",
    },
    seen_as=_BY_IDENTITY,
)
"""What decides about an input how a target's tensors are made."""

MODEL_LIKENESS = Likeness(
    View,
    left_out={
        "input": "a model's name and role are in nothing that a LoRA adds to it",
        "refused": "of LoRAs alone",
        "whole": "of LoRAs alone",
    },
    seen_as={**_BY_IDENTITY, "palette": lambda palette: tuple(map(id, palette))},
)
"""What decides about a model what a LoRA's deltas to it are."""


def disagreements(views: Sequence[View]) -> list[str]:
    """Return a notice if some inputs are marked for another prediction than others, such as v instead of noise."""
    found = [(view.input.ref, marks(view.specs)) for view in views if not view.delta]
    if len({each for _, each in found}) < 2:
        return []
    told = ", ".join(f"`{ref}` {' and '.join(f'`{mark}`' for mark in each) or 'none'}" for ref, each in found)
    return [f"inputs are marked as made for different predictions, and a mix of them is noise: {told}"]
