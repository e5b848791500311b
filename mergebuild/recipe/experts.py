"""What a stack of experts must say besides what each of its keys must be."""

from __future__ import annotations

from mergebuild.recipe.nodes import Node
from mergebuild.recipe.parameters import ModelEntry, Parameters
from mergebuild.recipe.places import At
from mergebuild.recipe.target_table import TargetTable

__all__ = ["check_experts"]

_MODELS = "models"
_NOT_FOR_EXPERTS = ("merge", "drop", "rules", "components", "slices", "tokenizer")
"""Keys that choose among tensors of one model, or change rows of tokens."""


def check_experts(table: TargetTable, parameters: Parameters, models: list[ModelEntry]) -> None:
    """Report experts without prompts where these make the gates, more experts a token than there are, and keys."""
    if parameters.words.get("gate") == "prompts":
        for index, entry in enumerate(models):
            if "prompts" not in entry.beside:
                message = f"{_MODELS}[{index}] of target `{table.name}` has no `prompts`, and its gate is made of them"
                example = 'such as `{ model = "name", prompts = ["write code"] }`'
                table.problems.add("missing-key", message, _place(table, index), help=example)
    each = parameters.words.get("experts_per_token")
    if isinstance(each, int) and len(models) < each and "experts_per_token" in table.values:
        message = f"{table.what('experts_per_token')} is {each}, and there are {len(models)} {_MODELS}"
        at = table.values["experts_per_token"].at
        table.problems.add("bad-value", message, at, help="a token is given to some of the experts")
    for key in _NOT_FOR_EXPERTS:
        if key in table.values:
            message = f"`{key}` in target `{table.name}` is not for a stack of experts"
            hint = f"give the `{key}` to a target without an `output`, and name that as `base` or among `models`"
            table.problems.add("bad-experts", message, table.values[key].at, key=True, help=hint)


def _place(table: TargetTable, index: int) -> At:
    items: Node = table.values[_MODELS]
    return items.value[index].at if isinstance(items.value, list) else items.at
