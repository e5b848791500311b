"""Whether the inputs of a target are models of one architecture, by their configurations, for the parts that it merges.

Weights with equal names and shapes mean something else in another architecture, or with other heads or positions. Only
what a target takes is compared: an input with share 0, or a part from which it takes no tensors, does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

from mergebuild.configuration.facts import differing
from mergebuild.configuration.parts import Config, config_of, model_type, part_of
from mergebuild.configuration.vocabulary import is_embedding, is_of_tokens
from mergebuild.errors import MismatchError
from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Blueprint
from mergebuild.plan.donors import donor
from mergebuild.plan.tokenizers import Tokenizers
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Target
from mergebuild.sources.source_file import source_of_part
from mergebuild.sources.sources import Sources

__all__ = ["Architectures"]


_OF_OTHER_ARCHITECTURES: Final = frozenset({"shape-mismatch", "too-little-in-common", "missing-tensors"})
"""Codes of errors about tensors that inputs of different architectures have, too."""


class _DescribedInput(NamedTuple):
    """An input with a configuration, and the parts from which a target takes tensors."""

    ref: str
    config: Config
    shown: str
    parts: frozenset[str]
    source: str
    """The source whose tokens it has, as that of its small files; or the target that says whose tokens these are."""
    has_rows: bool = False
    """Whether rows of tokens are taken from it and merged with others'."""


class Architectures:
    """Compares the configurations of the inputs of a recipe's targets."""

    def __init__(self, recipe: Recipe, sources: Sources, folding: Folding) -> None:
        self._recipe = recipe
        self._sources = sources
        self._folding = folding
        self._tokenizers = Tokenizers(sources, folding)

    def compare(self, target: str) -> tuple[str, ...]:
        """Return the differences between a target's inputs that change the meaning of their weights, a sentence each.

        Raises:
            MismatchError: they are of different architectures, and the target does not allow that.
        """
        blueprint = self._folding.blueprint(target)
        inputs = self._inputs(blueprint)
        said = self._configuration(blueprint)
        if said is not None and all(each.ref != said.ref for each in inputs):
            inputs.append(said)
        told = self._compared(blueprint, inputs) if len(inputs) > 1 else ()
        return (*told, *self._compared_tokens(blueprint, inputs, said))

    def _compared(self, blueprint: Blueprint, inputs: Sequence[_DescribedInput]) -> list[str]:
        """Return how the first of some inputs differs from each other one, a sentence each."""
        agreed = self._agreed(blueprint.target.name)
        told: list[str] = []
        for one, other in combinations(inputs, 2):
            shared = sorted(one.parts & other.parts)
            unlike = {part: pair for part in shared if len(set(pair := _types(one, other, part)) - {None}) > 1}
            is_meant = blueprint.target.architectures == "allow" or any({one.ref, other.ref} <= each for each in agreed)
            if unlike and not is_meant:
                raise _differ(blueprint.target, one, other, unlike)
            if one is inputs[0] and not unlike:
                told += _told(one, other, shared)
        return told

    def _compared_tokens(
        self, blueprint: Blueprint, inputs: Sequence[_DescribedInput], said: _DescribedInput | None
    ) -> Iterator[str]:
        """Yield differences between tokenizers: of the inputs whose rows are merged, and of the one that is written.

        None for a target that says whose tokens it has: its inputs' rows are in their order.
        """
        if blueprint.target.tokenizer is not None:
            return
        with_rows = [(each.ref, each.source) for each in inputs if each.has_rows]
        owners = _parts_by_owner(blueprint)[1]
        with_rows += [(name, owner) for owner in sorted(owners) if (name := self._folding.ordered_for(owner))]
        if len(with_rows) > 1:
            yield from self._tokenizers.compare(with_rows)
        written = self._rows_written(blueprint, inputs)
        if said is not None and written is not None and (said.ref, said.source) not in (written, *with_rows):
            yield from self._tokenizers.written(written, (said.ref, said.source))

    def _rows_written(self, blueprint: Blueprint, inputs: Sequence[_DescribedInput]) -> tuple[str, str] | None:
        """Return whose tokens the rows that a target writes are of, as `Tokenizers.compare` takes it; None: unknown."""
        if not inputs or not any(map(is_embedding, blueprint.specs)):
            return None
        owners = sorted(blueprint.owners)
        ordered = [(name, owner) for owner in owners if (name := self._folding.ordered_for(owner))]
        return ordered[0] if ordered else (inputs[0].ref, inputs[0].source)

    def explained(self, target: str, error: MismatchError) -> MismatchError:
        """Return the error for inputs that do not fit; if they are of different architectures, it says so."""
        made = self._recipe.target(target)
        if made.architectures == "allow" or error.problems[0].code not in _OF_OTHER_ARCHITECTURES:
            return error
        described = (self._described(each.ref, {"text"}) for each in made.inputs)
        for one, other in combinations([each for each in described if each], 2):
            pair = _types(one, other, "text")
            if len({*pair} - {None}) > 1:
                return _differ(made, one, other, {"text": pair})
        return error

    def _configuration(self, blueprint: Blueprint) -> _DescribedInput | None:
        """Return the input whose configuration is written, if the target names one."""
        config = blueprint.target.config
        if config is None:
            return None
        return self._described(config.ref, {part_of(name) for name in blueprint.specs})

    def _inputs(self, blueprint: Blueprint) -> list[_DescribedInput]:
        """Return the inputs from which a target takes tensors, in the order in which the text names them."""
        parts, with_rows = _parts_by_owner(blueprint)
        by_ref: dict[str, set[str]] = {}
        refs_with_rows: set[str] = set()
        for owner, some in parts.items():
            if not self._folding.is_unnamed(owner):
                ref = source_of_part(owner) if owner in self._sources else owner
                by_ref.setdefault(ref, set()).update(some)
                refs_with_rows |= {ref} if owner in with_rows else set()
        order = self._order(blueprint.target.name)
        found = sorted(by_ref, key=lambda ref: order.get(ref, len(order)))
        return [made for ref in found if (made := self._described(ref, by_ref[ref], has_rows=ref in refs_with_rows))]

    def _order(self, target: str) -> Mapping[str, int]:
        """Return an index for each source and file target below a target, in the order in which the text names them."""
        names: dict[str, int] = {}
        for name in reversed(self._recipe.below(target)):
            for each in self._recipe.target(name).reads:
                names.setdefault(each.ref, len(names))
        return names

    def _described(self, ref: str, parts: set[str], *, has_rows: bool = False) -> _DescribedInput | None:
        if not ref:
            return None
        owner = donor(self._recipe, self._sources, ref)
        if owner is None:
            return None
        model = self._sources.file(owner).model
        shown = f"{self._sources.file(owner).shown.rstrip('/')}/config.json"
        speaking = self._folding.vocabularies.speaking(ref)
        tokens = owner if speaking in self._sources else speaking
        return _DescribedInput(ref, model.facts, shown, frozenset(parts), tokens, has_rows)

    def _agreed(self, target: str) -> list[frozenset[str]]:
        """Return sets of inputs that a target below this one merges although their architectures differ."""
        return [
            self._folding.blueprint(name).owners
            for name in self._recipe.below(target)[:-1]
            if self._recipe.target(name).architectures == "allow"
        ]


def _parts_by_owner(blueprint: Blueprint) -> tuple[dict[str, set[str]], set[str]]:
    """Return the parts that a target takes from each owner, and the owners whose rows of tokens are merged.

    In a stack the head may be of another model than the embedding: their rows meet, too.
    """
    parts: dict[str, set[str]] = {}
    owners = [{slot.owner for slot in slots} for slots in blueprint.forms.slots]
    with_rows: set[str] = set()
    for name, kind in blueprint.forms.kinds.of.items():
        if len(owners[kind]) > 1 and is_of_tokens(name):
            with_rows |= owners[kind]
        for owner in owners[kind]:
            parts.setdefault(owner, set()).add(part_of(name))
    if blueprint.layers:
        with_rows = {
            owner for name, kind in blueprint.forms.kinds.of.items() if is_of_tokens(name) for owner in owners[kind]
        }
    return parts, with_rows


def _types(one: _DescribedInput, other: _DescribedInput, part: str) -> tuple[str | None, str | None]:
    return model_type(one.config, part), model_type(other.config, part)


def _told(one: _DescribedInput, other: _DescribedInput, parts: Sequence[str]) -> Iterator[str]:
    """Yield the facts in which two inputs differ, a sentence for each part."""
    for part in parts:
        found = differing(config_of(one.config, part), config_of(other.config, part))
        if found:
            said = "; ".join(f"`{each.key}` {each.values[0]} and {each.values[1]}" for each in found)
            yield f"the configurations of `{one.ref}` and `{other.ref}` differ in what their weights mean: {said}"


def _differ(
    target: Target, one: _DescribedInput, other: _DescribedInput, unlike: Mapping[str, tuple[str | None, str | None]]
) -> MismatchError:
    part, (ours, theirs) = next(iter(unlike.items()))
    where = "" if part == "text" else f" in the part `{part}`"
    return MismatchError.one(
        "architectures-differ",
        f"the inputs of `{target.name}` are of different architectures{where}: `{ours}` and `{theirs}`",
        where=target.where.place(),
        rows=(f"{one.ref}  {one.shown}: `{ours}`", f"{other.ref}  {other.shown}: `{theirs}`"),
        help='equal shapes mean other things there; if it is meant all the same, say `architectures = "allow"`',
    )
