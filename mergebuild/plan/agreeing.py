"""Have the configuration of a folder agree with the tensors that are written beside it, or refuse the target.

What a configuration must say is `configuration`'s; here is whose it is, and what the models behind it have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mergebuild.configuration.agreement import Agreement, WrittenTensors, agreement
from mergebuild.configuration.experts import as_experts, experts_changes, with_changes
from mergebuild.configuration.layers import Origins
from mergebuild.configuration.parts import Config
from mergebuild.configuration.text import Path as Keys
from mergebuild.configuration.ties import Heads
from mergebuild.configuration.tokenizers import KINDS, vocabulary
from mergebuild.configuration.vocabulary import embedding_of, head_of
from mergebuild.errors import MismatchError
from mergebuild.fold.forms import Blueprint, Spec
from mergebuild.formats.model import Model
from mergebuild.naming.spelling import FileSpelling
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Target
from mergebuild.sources.source_file import SourceFile
from mergebuild.sources.sources import Sources

__all__ = ["agree"]

Shapes = Mapping[str, tuple[int, ...]]


def agree(
    recipe: Recipe,
    sources: Sources,
    target: Target,
    owner: str,
    specs: Mapping[str, Spec],
    digests: Mapping[str, bytes],
    made: Blueprint,
    origins: Origins,
) -> Agreement:
    """Return what the configuration of a folder must say.

    Args:
        recipe: the recipe.
        sources: its sources.
        target: the target that is written.
        owner: the source whose configuration it is.
        specs: the tensors that are written.
        digests: what they are; equal ones have equal values.
        made: the target's blueprint.
        origins: where layers come from that are not where their own models have them.

    Raises:
        MismatchError: the configuration can't be made to agree with the tensors.
    """
    source, first = sources.file(owner), sources.file(recipe.beginning(target.inputs[0].ref))
    heads = _heads(source, first, digests, _names_below(recipe, sources, target))
    written = _parameters({name: spec.shape for name, spec in specs.items()}, made.spelling)
    facts, shapes, experts = _with_experts(recipe, target, owner, source.model.facts, _shapes(source.model))
    found = agreement(facts, WrittenTensors(written, shapes, heads, origins))
    found = found._replace(changes={**experts, **found.changes})
    if found.contradictions:
        raise _contradiction(target, owner, found.contradictions)
    beyond = _tokens_beyond(source, written) if any(path[-1] == "vocab_size" for path in found.changes) else ""
    return found._replace(notices=(*found.notices, beyond)) if beyond else found


def _with_experts(
    recipe: Recipe, target: Target, owner: str, config: Config, shapes: Shapes
) -> tuple[Config, Shapes, Mapping[Keys, object]]:
    """Return a configuration and the tensors that it is of, and changes to it, for what the target makes of the model.

    If the target, or the first input at its beginning, is a stack of experts, these are a stack's; else they stay.

    Raises:
        MismatchError: it is a stack of experts, and the configuration is of an architecture that has none.
    """
    stack = target
    while not stack.making.makes_experts and stack.inputs[0].ref not in recipe.sources:
        stack = recipe.target(stack.inputs[0].ref)
    if not stack.making.makes_experts:
        return config, shapes, {}
    count = sum(each.role.startswith("models[") for each in stack.inputs)
    changes = experts_changes(config, count, int(stack.words["experts_per_token"]))
    if changes is None:
        sentence = f"it is of `{config.get('model_type')}`, and stacks of experts are made of `llama` and `mistral`"
        raise _contradiction(target, owner, [sentence])
    return with_changes(config, changes), as_experts(shapes, count), changes


def _heads(source: SourceFile, first: SourceFile, digests: Mapping[str, bytes], others: frozenset[str]) -> Heads:
    """Return what is known of heads: of the tensors written, the model of the configuration, and the first input."""
    return Heads(
        digests,
        _shapes(source.model),
        _shapes(first.model),
        first.model.facts if first.model.format != "peft" else {},
        equal=_is_tied(source) or _is_tied(first),
        others=others,
    )


def _contradiction(target: Target, owner: str, sentences: Sequence[str]) -> MismatchError:
    return MismatchError.one(
        "configuration-differs",
        f"the configuration of `{owner}` does not fit the tensors of `{target.name}`: {sentences[0]}",
        where=target.where.place("config") if target.config else target.where.place(),
        rows=sentences[1:],
        help="take in what the configuration says, or name as `config` a model that has just these tensors",
    )


def _names_below(recipe: Recipe, sources: Sources, target: Target) -> frozenset[str]:
    """Return the names of the tensors of all sources that a target is made of."""
    refs = {each.ref for name in recipe.below(target.name) for each in recipe.target(name).inputs}
    return frozenset(name for ref in refs if ref in sources for name in sources.file(ref).tensors)


def _shapes(model: Model) -> Shapes:
    """Return the shapes of a model's parameters, and of those that its files hold twice."""
    twice = {name: model.tensors[model.tied[name]].shape for name in model.copies if model.tied[name] in model.tensors}
    return {**{name: info.shape for name, info in model.tensors.items()}, **twice}


def _parameters(written: Shapes, spelling: FileSpelling) -> Shapes:
    """Return the shapes of the parameters that are written: some may be one tensor, as the first input has them."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in written.items():
        members = spelling.aliases.get(name, ())
        found |= {each: spelling.made[each].shape for each in members} if members else {name: shape}
    return found


def _is_tied(source: SourceFile) -> bool:
    """Return whether the head of a source is known to be its embedding."""
    head = head_of((*source.tensors, *source.model.tied))
    if head in source.model.tied:
        return True
    embedding = embedding_of(source.tensors)
    if embedding is None or head is None or not source.is_hashed:
        return False
    return source.digests[embedding] == source.digests[head]


def _tokens_in(sidecars: Mapping[str, Path]) -> Mapping[int, str] | None:
    """Return the tokens of a folder's tokenizer by their numbers; None if it has none of a known format."""
    kind = next((each for each in KINDS if each in sidecars), None)

    def read(name: str) -> bytes | None:
        return sidecars[name].read_bytes() if name in sidecars else None

    return vocabulary(kind, read) if kind else None


def _tokens_beyond(source: SourceFile, written: Shapes) -> str:
    """Return the sentence about tokens of a tokenizer that have no row in the embedding that is written."""
    embedding = embedding_of(written)
    if embedding is None:
        return ""
    found = _tokens_in(source.model.sidecars)
    rows = written[embedding][0]
    beyond = sorted(number for number in found or () if number >= rows)
    if not found or not beyond:
        return ""
    count = "1 token" if len(beyond) == 1 else f"{len(beyond)} tokens"
    return f"the tokenizer of `{source.name}` has {count} from {beyond[0]} on, and the embedding only {rows} rows"
