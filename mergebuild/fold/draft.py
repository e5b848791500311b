"""The values that targets made alike share: a draft, and a frame for each pattern of inputs used.

`frames.py` makes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from mergebuild.errors import RecipeError
from mergebuild.fold.counterparts import Accounting, Spec
from mergebuild.fold.forms import Form, Kinds
from mergebuild.fold.likeness import Likeness
from mergebuild.fold.numbers import Usage, defaults_of, items, reaching, structures, used_of, values_of
from mergebuild.fold.view import View
from mergebuild.layouts import Places, Selector
from mergebuild.recipe.model import SelectorText, Target

__all__ = ["ALL", "LIKENESS", "Frame", "FrameDraft", "KindPlan", "Pattern", "Reach", "Scope"]

_ZERO = Fraction(0)

Pattern = tuple[Usage, ...]
"""Which inputs are used in each situation of a draft."""


class Scope(NamedTuple):
    """Which tensors of a target its own method makes, or one rule does; other rules and components make the rest."""

    names: frozenset[str] | None = None
    """The tensors that it makes; None: all."""
    within: tuple[SelectorText, ...] = ()
    """For a rule: the selectors of its tensors."""
    without: tuple[SelectorText, ...] = ()
    """The selectors of later rules, which take precedence."""
    components: tuple[re.Pattern[str], ...] = ()
    """Patterns of components that are taken from elsewhere."""
    among: tuple[str, ...] = ()
    """For a slice, whose inputs have only its own tensors: those of the other slices, which keys may select, too."""


ALL = Scope()
"""The scope of a target without rules and components."""


class KindPlan(NamedTuple):
    """How the tensors of one kind are made."""

    inputs: tuple[int, ...]
    """The kind of the tensor of each input; or of a single input, if the result is just its tensor."""
    values: tuple[int | None, ...] | None
    """The index of the value of each number that reaches it (None: none does). None: the result is just an input's
    tensor."""
    name: str
    """The first tensor of the kind; its only one, if the method's coefficients depend on the name."""
    owner: int = 0
    """The index of the input whose tensor it is, if it is just that."""
    read: tuple[int, ...] = ()
    """For each input, the index of the input whose tensor is read instead: one that is not used may lack the tensor.
    Empty: each its own."""


class Frame(NamedTuple):
    """All that targets made alike have in common: everything but the values of their numbers."""

    specs: Mapping[str, Spec]
    kinds: Kinds
    recipes: tuple[KindPlan, ...]
    """By kind."""
    selector: Selector
    places: tuple[Places, ...]
    """By number, those of a list one by one."""
    accounts: tuple[tuple[int, Accounting], ...]
    """Comparisons with the inputs of which something takes no part, by index, for the target that the frame was made
    for."""
    forms: dict[tuple[object, ...], Form]
    """Forms made so far, by the numbers, the name if it matters, and the ids of the inputs' forms."""


class Reach(NamedTuple):
    """Some tensors, and which value of each number reaches them."""

    names: tuple[str, ...]
    selector: Selector
    places: tuple[Places, ...]

    def values(self, name: str) -> tuple[int | None, ...]:
        """Return the index of the value of each number that reaches a tensor."""
        return tuple(each.of.get(name) for each in self.places)


_Situation = tuple[int, tuple[int | None, ...], str]
"""The index of a reach, the values that reach a tensor there, and its name if the method's coefficients depend on
it."""


@dataclass(frozen=True, eq=False)
class FrameDraft:
    """All that targets made alike have in common before any value of their numbers is used."""

    views: tuple[View, ...]
    """The inputs of the target that it was made for; they keep alive the objects by whose ids it is found."""
    specs: Mapping[str, Spec]
    floats: tuple[str, ...]
    selector: Selector
    places: tuple[Places, ...]
    reached: frozenset[str]
    """The tensors that are to be merged."""
    alike: frozenset[str]
    """Those of them that all inputs have, in one shape."""
    outside: frozenset[str] = frozenset()
    """Tensors that it would merge too, but that rules make in other ways. A method that needs several tensors together
    is refused a part of them, instead of silently making the others without it."""
    reaches: tuple[Reach, ...] = ()
    """If inputs differ: the tensors asked of the first input, then for each other input those that only it has."""
    situations: tuple[_Situation, ...] = ()
    """The distinct situations of its tensors. Empty: all inputs have the same tensors in the same shapes."""
    frames: dict[Pattern, Frame] = field(default_factory=dict)
    makings: dict[tuple[tuple[str, Usage], ...], Frame] = field(default_factory=dict)
    """Frames without accounts, by how tensors that differ between inputs are made: several patterns may give one
    frame."""
    usages: dict[tuple[object, ...], Usage] = field(default_factory=dict)
    """What is known of which inputs are used, by the numbers that reach a tensor."""

    def pattern(self, target: Target) -> Pattern:
        """Return which inputs a target uses in each situation.

        Raises:
            RecipeError: the method has no value for the target's numbers.
        """
        if not self.situations:
            return ()
        defaults = [default or _ZERO for default in defaults_of(target)]
        values = [values_of(target, reach.selector, reach.places) for reach in self.reaches]
        found: list[Usage] = []
        for which, indexes, name in self.situations:
            there = reaching(values[which], defaults, indexes)
            found.append(self._usage(target, there, name, needed=not which))
        return tuple(found)

    def _usage(self, target: Target, values: Sequence[Fraction], name: str, *, needed: bool) -> Usage:
        """Return which inputs a tensor is made of. `needed`: the target has the tensor, so an error counts."""
        key = (not needed, name, *[each.as_integer_ratio() for each in values])  # a fraction is slow to hash
        found = self.usages.get(key)
        if found is None:
            try:
                found = used_of(target, values, name)
            except RecipeError:
                if needed:
                    raise
                found = Usage(frozenset(range(len(target.inputs))))
            self.usages[key] = found
        return found


LIKENESS = Likeness(
    Target,
    left_out={
        "name": "in messages alone",
        "output": "a path",
        "output_path": "a path",
        "dtype": "a frame's tensors are in the first input's dtypes, and rounded for each target",
        "nonfinite": "what is done with values, not how they are made",
        "metadata": "in the header alone",
        "cache": "whether something is kept, not what it is",
        "where": "a place in a file is for messages",
        "config": "what stands beside the tensors",
        "tokenizer": "decides which rows an input's view has, and the view is in the key",
        "chat_template": "what stands beside the tensors",
        "max_shard_size": "which tensors share a file",
        "components": "come over what the frame gives, for each target",
        "architectures": "decides between an error and the same result",
        "on_channels": "decides which tensors an input's view has, and the view is in the key",
        "rules": "each rule is a target with a frame of its own",
        "slices": "each slice is a target with a frame of its own",
        "row": "what `method` names, and a recipe has one of each name",
        "kin": "stands for the other fields",
    },
    seen_as={
        "inputs": lambda inputs: tuple(each.role for each in inputs),  # the rest of an input is its view
        "numbers": structures,  # the values are put into the frame
        "flags": items,
        "words": items,
        "formula": lambda formula: formula.text if formula else "",
    },
)
"""What decides how a target's tensors are made, besides its inputs and the values of its numbers."""
