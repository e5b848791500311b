"""Where the layers of a target come from, if a stack is among the targets that its first inputs are.

A stack keeps what the configuration of each layer's own model says of that layer. A stack of stacks, or a merge of one,
does too: the way from first input to first input ends at the sources.
"""

from __future__ import annotations

from mergebuild.configuration.layers import Origins
from mergebuild.configuration.parts import config_of, part_of
from mergebuild.configuration.per_layer import LayerOrigin
from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import FirstLayer
from mergebuild.recipe import Recipe
from mergebuild.sources.sources import Sources

__all__ = ["layer_origins"]


def layer_origins(recipe: Recipe, sources: Sources, folding: Folding, target: str, owner: str) -> Origins:
    """Return where layers come from that are not where their own models have them, by stack.

    `owner`: the source whose configuration is written; a model without one is taken to be like it.
    """
    found: dict[str, list[LayerOrigin]] = {}
    for stack, layers in _restacked(recipe, sources, folding, target).items():
        part = part_of(f"{stack}.weight")
        for each in layers:
            facts = sources.file(each.ref).model.facts or sources.file(owner).model.facts
            found.setdefault(stack, []).append(LayerOrigin(config_of(facts, part), each.number))
    return found


def _restacked(recipe: Recipe, sources: Sources, folding: Folding, target: str) -> dict[str, list[FirstLayer]]:
    """Return the layers of sources that a target is made of, by its stacks; nothing if no stack is below it."""
    while target not in sources and not folding.blueprint(target).layers:
        target = recipe.target(target).inputs[0].ref
    if target in sources:
        return {}
    stacks = folding.blueprint(target).layers
    return {name: [_traced(recipe, sources, folding, each) for each in layers] for name, layers in stacks.items()}


def _traced(recipe: Recipe, sources: Sources, folding: Folding, layer: FirstLayer) -> FirstLayer:
    """Return the layer of a source that a layer of an input is made of."""
    while layer.ref not in sources:
        there = folding.blueprint(layer.ref).layers.get(layer.stack)
        first = recipe.target(layer.ref).inputs[0].ref
        layer = there[layer.number] if there is not None else layer._replace(ref=first)
    return layer
