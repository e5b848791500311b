"""A chain of model-mixer: from model A on, each used model is merged into the result so far, in a mode of its own.

Weights by blocks have BASE first, and count the VAE to it. `time_embed`, `label_emb` and `out` stay, unless an element
names them. What some ways to calculate make of the UNet is never stored there, so it stays here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from mergebuild.exchange.draft import Draft, Value
from mergebuild.exchange.json_texts import listed, words_of
from mergebuild.exchange.merges.blocks import number_table
from mergebuild.exchange.merges.elemental import ElementalRule, as_values, rules_of
from mergebuild.exchange.merges.node import MergeNode, UnsayableError, sayable
from mergebuild.exchange.merges.supermerger import adjustments

__all__ = ["add", "models_of"]

_SEED: Final = 1
_LENGTHS: Final = (20, 26)
_APART: Final = ("*time_embed*", "*diffusion_model.out.*")
_COSINE: Final = "of the UNet, model-mixer computes this and never stores it: its tensors stay"
_SEEDED: Final = "the random numbers of model-mixer can't be repeated: the seed is invented"
_ELEMENTS_APART: Final = ("OUT", "IN", "TIME_EMBED", "LABEL_EMB")


def models_of(recipe: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the models that a merge takes."""
    used = [_model(recipe, index) for index in _used(recipe)]
    return tuple(name for name in (words_of(recipe.get("model_a")), words_of(recipe.get("base_model")), *used) if name)


def add(node: MergeNode, draft: Draft) -> str:
    """Add the targets of the chain, and one for `adjust`."""
    recipe = node.recipe
    first = words_of(recipe.get("model_a"))
    if not first:
        raise UnsayableError("`model_a` is missing")
    steps = [_MixerStep(node, draft, index) for index in _used(recipe)]
    if not steps:
        raise UnsayableError("no model but the first is used")
    made = [step.numbers() for step in steps]
    changes = adjustments(_adjust_text(recipe.get("adjust")))
    so_far = node.input_of(first)
    for place, (step, keys) in enumerate(zip(steps, made, strict=True), 1):
        is_last = place == len(steps)
        name = node.name if is_last and not changes else f"{node.name}-{place}"
        so_far = step.target(name, so_far, keys, node.output if is_last and not changes else None)
    if changes:
        so_far = draft.target(node.name, {"method": "adjust", "a": so_far, **changes}, output=node.output)
    draft.targets[so_far].comments += node.comments
    return so_far


def _used(recipe: Mapping[str, object]) -> list[int]:
    uses = listed(recipe.get("uses"))
    return [index for index in range(min(len(uses), 25)) if uses[index] is True]


def _model(recipe: Mapping[str, object], index: int) -> str:
    return words_of(recipe.get(f"model_{chr(ord('b') + index)}"))


def _adjust_text(said: object) -> str:
    return ",".join(map(str, said)) if isinstance(said, list) else words_of(said)


class _MixerStep:
    """The merge of one model."""

    def __init__(self, node: MergeNode, draft: Draft, index: int) -> None:
        self.node = node
        self.draft = draft
        self.model = _model(node.recipe, index)
        self.index = index
        self.mode = words_of(self._said("mode")) or "Sum"
        self.calcmode = words_of(self._said("calcmode")) or "Normal"
        self.told: list[str] = []
        self.left_out: list[str] = []
        if not self.model:
            raise UnsayableError(f"model {chr(ord('b') + index)} is used, and has no name")

    def _said(self, key: str) -> object:
        """Return what is said of this model in a list of a key."""
        items = listed(self.node.recipe.get(key))
        return items[self.index] if self.index < len(items) else None

    def numbers(self) -> dict[str, Value]:
        """Return method and numbers; raise `UnsayableError` where no mergefile says them."""
        mode, number = self.mode, self._number()
        if "dare" in mode.lower():
            self.told.append(_SEEDED)
            if "fixed" in mode.lower():
                return {"method": "dare_linear", "weight": 1, "density": number, "rescale": "none", "seed": _SEED}
            return {"method": "dare_linear", "weight": number, "density": Decimal("0.5"), "seed": _SEED}
        match mode.lower():
            case "sum":
                return {"method": "weighted_sum", "alpha": number}
            case "add-diff":
                return {"method": "add_difference", "alpha": number}
            case "ties":
                return {"method": "topk_mask", "alpha": number, "density": Decimal("0.5")}
            case "ties-fixed":
                return {"method": "topk_mask", "alpha": 1, "density": number}
            case "self":
                return {"method": "scale_self", "alpha": number}
            case "replace":
                return {"method": "replace", "alpha": 1}
        raise UnsayableError(f"mode {mode[:60]!r} is none that is known")

    def target(self, name: str, so_far: str, keys: dict[str, Value], output: str | None) -> str:
        """Add the target, and those that it needs."""
        other = self.node.input_of(self.model)
        if self.calcmode.lower() == "rebasin":
            other = self.draft.target(f"{name}-rebasin", {"method": "rebasin", "a": other, "b": so_far})
        method = keys.pop("method")
        inputs: dict[str, Value] = {"a": so_far, "b": other}
        if method == "dare_linear":
            inputs = {"base": so_far, "models": [other]}
        elif method == "scale_self":
            inputs = {"a": so_far}
        elif method == "add_difference":
            inputs["c"] = self.node.input_of(self._base())
        made = self.draft.target(name, {"method": method, **inputs, **keys}, output=output)
        for text in self.told:
            self.draft.say(self.node.where, text, target=made)
        for text in self.left_out:
            self.draft.leave_out(self.node.where, text, target=made)
        return made

    def _base(self) -> str:
        return words_of(self.node.recipe.get("base_model"))

    def _number(self) -> Value:
        if self.mode.lower() == "add-diff" and not self._base():
            raise UnsayableError("Add-Diff without `base_model`")
        table = self._table()
        if self.calcmode.lower() not in ("normal", "rebasin", ""):
            if "cosine" not in self.calcmode.lower():
                raise UnsayableError(f"calcmode {self.calcmode[:60]!r} is none that is known")
            self.told.append(_COSINE)
            table["unet"] = self._staying()
        return table["default"] if list(table) == ["default"] else table

    def _table(self) -> dict[str, Value]:
        """Return the weights of the model as a number per tensor."""
        by_block = self._said("mbw") is True or self._said("use_mbws") is True
        given = self._said("weights_alpha")
        if by_block and isinstance(given, list):
            table = self._by_block(given)
        elif by_block:
            raise UnsayableError("block weights that are no list")
        else:
            table = {"default": self._bounded(sayable(self._said("alpha"), "alpha"))}
        rules = self._rules()
        return table | {"elemental": as_values(rules)} if rules else table

    def _by_block(self, given: list[object]) -> dict[str, Value]:
        numbers = [self._bounded(sayable(each, "weights_alpha")) for each in given]
        if len(numbers) not in _LENGTHS:
            raise UnsayableError(f"{len(numbers)} block weights, where 26 or 20 are expected")
        apart = (*_APART, "*label_emb*") if len(numbers) == 20 else _APART
        return number_table(numbers, vae=numbers[0]) | dict.fromkeys(apart, self._staying())

    def _staying(self) -> Decimal:
        """Return the number with which a tensor stays as it was."""
        return Decimal(1 if self.mode.lower() == "self" else 0)

    def _bounded(self, number: Decimal) -> Decimal:
        """Return a number as the method has it: a factor of 0 leaves a tensor there, a share above 1 is all."""
        if self.mode.lower() == "self":
            return number or Decimal(1)
        return min(number, Decimal(1)) if "fixed" in self.mode.lower() else number

    def _rules(self) -> list[ElementalRule]:
        text = self._said("elemental")
        if self._said("use_elemental") is False or not text:
            return []
        lines = "\n".join(each for each in text if isinstance(each, str)) if isinstance(text, list) else words_of(text)
        found = rules_of(lines, self.told.append, self.left_out.append)
        apart = [rule for rule in found if any(word in _ELEMENTS_APART for word in rule.blocks)]
        self.left_out += [f"element `{rule.text()}`, of tensors outside the blocks" for rule in apart]
        return [rule._replace(number=self._bounded(rule.number)) for rule in found if rule not in apart]
