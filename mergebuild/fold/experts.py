"""Stacks of experts: models of Llama's form become one of Mixtral's.

All tensors but the feed-forward layers are the base's. Those of each model become an expert, under other names: tensors
that are copied, or combined and rounded as any other. Each layer has a router, a gate for each expert, which no input
has; it is an operation without inputs (drawn), on the embedding (of prompts), or a source's tensor. So another expert
changes its own tensors and the routers, and nothing else.

The names are those of Mixtral's files, which are also the canonical ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

from mergebuild.errors import MismatchError, RecipeError, SourceError
from mergebuild.fold.counterparts import Spec
from mergebuild.fold.forms import Blueprint, Form, Forms, Kinds, Operation, Slot, rounded
from mergebuild.fold.interning import Interner
from mergebuild.fold.naming import table
from mergebuild.fold.view import View
from mergebuild.fold.views import Views
from mergebuild.fold.vocabularies import TokenVocabulary, Vocabularies
from mergebuild.layouts import detect
from mergebuild.methods.gates import PromptTokens, TokenCounts, counted
from mergebuild.methods.tables.experts import PROMPT_GATE, RANDOM_GATE
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Input, Target
from mergebuild.sources.prompts import encoded
from mergebuild.sources.sources import Sources

__all__ = ["ExpertStacks", "no_part"]

_EMBEDDING: Final = "model.embed_tokens.weight"
_OF_BASE: Final = re.compile(
    r"model\.(?:embed_tokens|norm|layers\.\d+\.(?:self_attn\.[qkvo]_proj|input_layernorm|post_attention_layernorm))\.weight"
    r"|lm_head\.weight"
)
_UNUSED: Final = re.compile(r".*\.rotary_emb\.inv_freq")
"""Buffers that clients compute themselves."""
_MLP: Final = re.compile(r"model\.layers\.(?P<layer>\d+)\.mlp\.(?P<matrix>gate|up|down)_proj\.weight")
_NAMES: Final = {"gate": "w1", "down": "w2", "up": "w3"}
_ROUTER: Final = "model.layers.{}.block_sparse_moe.gate.weight"
_EXPERT: Final = "model.layers.{}.block_sparse_moe.experts.{}.{}.weight"
_MATRICES: Final = len(_NAMES)


class _MadeTensor(NamedTuple):
    name: str
    spec: Spec
    form: Form


class ExpertStacks:
    """Makes the blueprints of stacks of experts."""

    def __init__(
        self, recipe: Recipe, sources: Sources, intern: Interner, views: Views, vocabularies: Vocabularies
    ) -> None:
        self._recipe = recipe
        self._sources = sources
        self._intern = intern
        self._views = views
        self._vocabularies = vocabularies

    def blueprint(self, target: Target) -> Blueprint:
        """Return the blueprint of a stack of experts.

        Raises:
            MismatchError: an input is not of Llama's form, or lacks a layer, or has other shapes.
            SourceError: prompts make the gates, and the base has no tokenizer.
        """
        base, experts = self._views.view(target.inputs[0], target), self._experts(target)
        layers = _layers_of(target, base)
        found = [*self._of_base(target, base)]
        for index, view in enumerate(experts):
            found += self._expert(target, base, view, index)
        found += self._routers(target, base, layers, len(experts))
        specs = {each.name: each.spec for each in found}
        numbers: dict[int, int] = {}
        palette: list[Form] = []
        for each in found:
            if numbers.setdefault(id(each.form), len(palette)) == len(palette):
                palette.append(each.form)
        kinds = Kinds({each.name: numbers[id(each.form)] for each in found}, specs)
        shapes = {name: spec.shape for name, spec in specs.items()}
        return Blueprint(
            target=target,
            layout=detect(shapes, self._recipe.layouts),
            source_specs=specs,
            specs=rounded(specs, target.dtype),
            forms=Forms(kinds, tuple(palette)),
            tied={name: other for name, other in base.tied.items() if other in specs and name not in specs},
        )

    def _experts(self, target: Target) -> list[View]:
        return [self._views.view(each, target) for each in target.inputs if each.role.startswith("models[")]

    def _of_base(self, target: Target, base: View) -> Iterator[_MadeTensor]:
        """Yield the tensors of the base but those of its feed-forward layers."""
        for name, spec in base.specs.items():
            if _OF_BASE.fullmatch(name):
                yield _MadeTensor(name, spec, base.palette[base.kind(name)])
            elif not _MLP.fullmatch(name) and not _UNUSED.fullmatch(name):
                raise _no_place(target, base, name)

    def _expert(self, target: Target, base: View, view: View, index: int) -> Iterator[_MadeTensor]:
        """Yield the tensors of an expert, in the base's dtypes."""
        names = {_named(found, index): own for own in view.specs if (found := _MLP.fullmatch(own))}
        wanted = [name for name in base.specs if _MLP.fullmatch(name)]
        lacking = [name for name in wanted if name not in view.specs]
        beyond = [name for name in names.values() if name not in base.specs]
        if lacking or beyond:
            raise _other_layers(target, view, (lacking or beyond)[0], is_lacking=bool(lacking))
        forms = [self._renamed(form, names) for form in view.palette]
        for name, own in names.items():
            if view.specs[own].shape != base.specs[own].shape:
                raise _other_shape(target, base, view, own)
            yield _MadeTensor(name, base.specs[own], forms[view.kind(own)])

    def _renamed(self, form: Form, names: Mapping[str, str]) -> Form:
        """Return a form for tensors with other names. `names`: by these, the view's."""
        return self._intern.summed(
            (Slot(slot.owner, table({name: slot.tensor(own) for name, own in names.items()})), share)
            for slot, share in form.terms
        )

    # Routers

    def _routers(self, target: Target, base: View, layers: Sequence[int], count: int) -> Iterator[_MadeTensor]:
        """Yield the router of each layer, in the dtype of the base's feed-forward layer there."""
        shape = (count, base.specs[_EMBEDDING].shape[1])
        given = next((each for each in target.inputs if each.role == "gate"), None)
        gates = self._views.view(given, target) if given is not None else None
        made = None if gates is not None else self._made_gate(target, base)
        for layer in layers:
            name = _ROUTER.format(layer)
            spec = base.specs[f"model.layers.{layer}.mlp.gate_proj.weight"]._replace(shape=shape)
            yield _MadeTensor(name, spec, made or self._given_gate(target, gates, name, shape))

    def _given_gate(self, target: Target, gates: View | None, name: str, shape: tuple[int, ...]) -> Form:
        """Return the form of a router that a source has."""
        assert gates is not None  # else it would be made
        found = gates.specs.get(name)
        if found is None or found.shape != shape or not found.is_float:
            raise _no_gate(target, gates.input, name, shape, found)
        return gates.palette[gates.kind(name)]

    def _made_gate(self, target: Target, base: View) -> Form:
        """Return the operation that makes the routers."""
        if target.words["gate"] == "random":
            return Form((), Operation(RANDOM_GATE, (("seed", Fraction(target.words["seed"])),), ()))
        spec = base.specs[_EMBEDDING]
        embedding = self._intern.under(base.palette[base.kind(_EMBEDDING)], _EMBEDDING)
        tokens = self._tokens(target, spec.shape[0])
        return Form((), Operation(PROMPT_GATE, (("tokens", tokens),), (embedding,), (spec.shape,)))

    def _tokens(self, target: Target, rows: int) -> PromptTokens:
        """Return the tokens of the prompts of each expert.

        Raises:
            RecipeError: a token has no row in the embedding.
        """
        count = sum(each.role.startswith("models[") for each in target.inputs)
        of = self._vocabulary(target)

        def tokens(key: str) -> TokenCounts:
            texts = json.loads(str(target.words.get(key, "[]")))
            return counted(encoded(self._sources, of.owner, of.content, texts)) if texts else ()

        found = [(tokens(f"prompts[{index}]"), tokens(f"negative_prompts[{index}]")) for index in range(count)]
        highest = max((number for pair in found for counts in pair for number, _ in counts), default=0)
        if highest >= rows:
            message = f"prompts of `{target.name}` have the token {highest}, and the embedding only {rows} rows"
            hint = "the tokenizer of the base is another model's"
            raise RecipeError.one("bad-prompts", message, where=target.where.place(), help=hint)
        empty = next(
            (index for index, (wanted, unwanted) in enumerate(found) if not wanted or wanted == unwanted), None
        )
        if empty is not None:
            raise _no_tokens(target, empty, is_empty=not found[empty][0])
        return PromptTokens(tuple(found))

    def _vocabulary(self, target: Target) -> TokenVocabulary:
        """Return the tokens of the base; if it has no tokenizer, of the model whose configuration is written.

        Raises:
            SourceError: neither has one that can be used.
        """
        try:
            return self._vocabularies.of(target.inputs[0].ref)
        except SourceError:
            if target.config is None:
                raise
            return self._vocabularies.of(target.config.ref)


def no_part(target: Target) -> RecipeError:
    """Return the error for a rule or a slice that would be a stack of experts."""
    return RecipeError.one(
        "bad-experts",
        f"`{target.name}` makes a stack of experts, and a part of a model can't be one",
        where=target.where.place(),
        help="make it a target of its own",
    )


def _no_tokens(target: Target, index: int, *, is_empty: bool) -> RecipeError:
    """Return the error for an expert whose gate would be zeros."""
    what = "have no token of the base's tokenizer" if is_empty else "have the same tokens as its `negative_prompts`"
    return RecipeError.one(
        "bad-prompts",
        f"the `prompts` of models[{index}] of `{target.name}` {what}: its gate would be zeros",
        where=target.where.place(),
        help="write prompts that this expert is for, and no other",
    )


def _named(found: re.Match[str], index: int) -> str:
    """Return the name of an expert's matrix."""
    return _EXPERT.format(found["layer"], index, _NAMES[found["matrix"]])


def _layers_of(target: Target, base: View) -> list[int]:
    """Return the numbers of the base's layers; each has the three matrices of a feed-forward layer.

    Raises:
        MismatchError: one lacks some, or there are none, or no embedding.
    """
    found: dict[int, int] = {}
    for name in base.specs:
        if match := _MLP.fullmatch(name):
            layer = int(match["layer"])
            found[layer] = found.get(layer, 0) + 1
    odd = next((layer for layer, count in found.items() if count != _MATRICES), None)
    if odd is not None or not found or _EMBEDDING not in base.specs:
        lacking = f"a matrix of the feed-forward layer {odd}" if odd is not None else "layers or an embedding"
        raise _not_of_llama(target, f"`{base.input.ref}` lacks {lacking}", base)
    return sorted(found)


def _not_of_llama(target: Target, message: str, view: View) -> MismatchError:
    return MismatchError.one(
        "no-experts",
        f"{message}, and `{target.name}` is a stack of experts",
        where=view.input.where.place(),
        help="experts of Mixtral's form are made of models of Llama's or Mistral's form",
    )


def _no_place(target: Target, base: View, name: str) -> MismatchError:
    return _not_of_llama(
        target, f"`{base.spelling.stored(name)}` of `{base.input.ref}` is nothing that Mixtral has", base
    )


def _other_layers(target: Target, view: View, name: str, *, is_lacking: bool) -> MismatchError:
    has = "lacks" if is_lacking else "has"
    message = f"`{view.input.ref}` {has} `{view.spelling.stored(name)}`, unlike `{target.inputs[0].ref}`"
    return _not_of_llama(target, message, view)


def _other_shape(target: Target, base: View, view: View, name: str) -> MismatchError:
    return MismatchError.one(
        "shape-mismatch",
        f"`{name}` differs between the inputs of `{target.name}`",
        where=view.input.where.place(),
        rows=[f"{each.input.ref}  {list(each.specs[name].shape)}" for each in (base, view)],
        help="all experts are as wide as the base",
    )


def _no_gate(target: Target, given: Input, name: str, shape: tuple[int, ...], found: Spec | None) -> MismatchError:
    what = f"is {found.dtype} {list(found.shape)}" if found else "is not there"
    return MismatchError.one(
        "no-gates",
        f"`{name}` of `{given.ref}` {what}, and `{target.name}` needs {list(shape)}: a vector for each expert",
        where=given.where.place(),
        help="a file of gates has such a tensor for each layer",
    )
