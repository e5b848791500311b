"""Merges of supermerger: four modes, ten ways to calculate, block weights, elemental rules, and what follows a merge.

What it calls BASE is the text encoders and the VAE. `Adjust` changes six tensors of the result: a target of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Union

from mergebuild.exchange.draft import Draft, DraftTarget, Said, Value
from mergebuild.exchange.figures import figure
from mergebuild.exchange.merges.blocks import long_to_short, number_table, preset_table
from mergebuild.exchange.merges.elemental import ElementalRule, as_values, by_place, reaches_past, rules_of
from mergebuild.exchange.merges.node import UnsayableError

__all__ = ["ADJUSTED", "Supermerge", "Weights", "adjustments", "weights_of_text"]

Weights = Union[Decimal, "list[Decimal]", str]
"""One number, a list with BASE first, or the name of a preset."""

ADJUSTED: Final = ("*input_blocks.0.0.*", "*diffusion_model.out.0.*", "*diffusion_model.out.2.*")
_MODES: Final = {"Weight": "weighted_sum", "Add": "add_difference", "Triple": "triple_sum", "Twice": "sum_twice"}
_DIFFERENCES: Final = {"trainDifference": "train_difference", "smoothAdd": "smooth_add", "smoothAdd MT": "smooth_add"}
_TENSORS: Final = {"tensor": "tensor_sum", "tensor2": "tensor_sum2"}
_COSINES: Final = {"cosineA": "cosine_a", "cosineB": "cosine_b"}
_INPUTS: Final = {"scale_self": 1, "plus_random": 1} | dict.fromkeys(
    ("weighted_sum", "tensor_sum", "tensor_sum2", "cosine_a", "cosine_b"), 2
)
"""How many models a method takes, where it is not three."""
_NO_ZERO: Final = ("extract", "cosine_a", "cosine_b")
"""Methods that have no number with which a tensor stays the first input's."""
_ADJUST: Final = ("in", "out", "out2", "cont", "bri", "col1", "col2", "col3")
_LENGTHS: Final = (20, 26, 61)
_SEED: Final = 1


@dataclass
class Supermerge:
    """One merge."""

    where: str
    name: str
    inputs: Sequence[str]
    """Names of A, B and C in the draft; "" where there is none."""
    mode: str
    alpha: Weights
    beta: Weights
    calcmode: str = "normal"
    elemental: str = ""
    limits: str = "Off"
    """`Include` or `Exclude`: whether only `limited` is merged, or all but that."""
    limited: Sequence[str] = ()
    """Blocks, `VAE`, `Adjust`, and parts of names."""
    gamma: Decimal = Decimal("0.3")
    adjust: str = ""
    output: str | None = None
    dtype: str | None = None
    comments: list[str] = field(default_factory=list)

    def add(self, draft: Draft) -> str:
        """Add the target, and one for `adjust`; return the name of the last.

        Raises:
            UnsayableError: no target is it; nothing was added.
        """
        method = self._method()
        rules, told, left_out = self._rules()
        keys: dict[str, Value] = {"method": method, **self._roles(method)}
        keys |= self._numbers(method, rules)
        keys |= self._limits(method, keys)
        changes = adjustments(self.adjust)
        name = self._target(draft, keys, changes)
        for text in told:
            draft.say(self.where, text, target=name)
        for text in left_out:
            draft.leave_out(self.where, text, target=name)
        self._once_found(draft, name, rules)
        return self._adjusted(draft, name, changes) if changes else name

    def _method(self) -> str:
        """Return the method that a mode and a way to calculate are."""
        mode = next((method for word, method in _MODES.items() if word in self.mode), None)
        if mode is None:
            raise UnsayableError(f"mode {self.mode[:60]!r} is none of supermerger")
        match self.calcmode:
            case "normal" | "":
                return mode
            case "extract" | "self":
                return {"extract": "extract", "self": "scale_self"}[self.calcmode]
            case "plus random":
                return "plus_random"
        if self.calcmode in _DIFFERENCES:
            return _DIFFERENCES[self.calcmode]
        if self.calcmode in _TENSORS:
            return _TENSORS[self.calcmode]
        if self.calcmode in _COSINES and mode == "weighted_sum":
            return _COSINES[self.calcmode]
        raise UnsayableError(f"calcmode {self.calcmode[:60]!r} in mode {self.mode[:60]!r} is none that is known")

    def _roles(self, method: str) -> dict[str, Value]:
        a, b, c = (*self.inputs, "", "")[:3]
        count = _INPUTS.get(method, 3)
        names = (a, b, c or a)[:count]
        if not all(names):
            raise UnsayableError("a model is missing")
        return dict(zip(("base", "a", "b") if method == "extract" else ("a", "b", "c"), names, strict=False))

    def _numbers(self, method: str, rules: list[ElementalRule]) -> dict[str, Value]:
        first, second = ("width", "offset") if method in _TENSORS.values() else ("alpha", "beta")
        found: dict[str, Value] = {first: self._number(self.alpha, method, rules)}
        if method in ("triple_sum", "sum_twice", "extract", *_TENSORS.values()):
            found[second] = self._number(self.beta, method, [])
        if method == "extract":
            found["gamma"] = self.gamma
        if method == "plus_random":
            found["seed"] = _SEED
        return found

    def _number(self, weights: Weights, method: str, rules: list[ElementalRule]) -> Value:
        """Return weights and rules as a number per tensor."""
        stays = method == "scale_self"  # a factor of 0 leaves a tensor there, as 1 does
        if isinstance(weights, Decimal):
            value: Value = _or_one(weights, stays)
            table: dict[str, Value] = {"default": value}
        elif isinstance(weights, str):
            named = preset_table(weights)
            if named is None:
                raise UnsayableError(f"block weights {weights[:60]!r} are no list, and no preset that is known")
            table = value = named
        else:
            numbers = [_or_one(each, stays) for each in weights]
            if len(numbers) not in _LENGTHS:
                raise UnsayableError(f"{len(numbers)} block weights are a list of no model here (26, 20, or 61)")
            unmerged = method in _MODES.values() and not numbers[0]
            table = value = number_table(numbers, vae=None if unmerged or method in _COSINES.values() else numbers[0])
        if not rules:
            return value
        return table | {"elemental": as_values(rule._replace(number=_or_one(rule.number, stays)) for rule in rules)}

    def _limits(self, method: str, keys: dict[str, Value]) -> dict[str, Value]:
        selectors = [selector for word in self.limited for selector in _selectors(word)]
        if self.limits not in ("Include", "Exclude") or not selectors:
            return {}
        return {"merge": list(selectors)} if self.limits == "Include" else self._staying(method, keys, selectors)

    def _staying(self, method: str, keys: dict[str, Value], selectors: Sequence[str]) -> dict[str, Value]:
        """Return the keys with which some tensors stay those of A."""
        if method in _NO_ZERO:
            first = keys["base"] if "base" in keys else keys["a"]
            rules = keys.get("rules")
            rule: Value = {"tensors": list(selectors), "formula": f"'{first}'"}
            return {"rules": [*(rules if isinstance(rules, list) else []), rule]}
        stays = Decimal(1 if method == "scale_self" else 0)
        wanted = ["alpha", "width", *(("beta",) if method in ("triple_sum", "sum_twice") else ())]
        numbers = [key for key in wanted if key in keys]
        return {key: _table(keys[key]) | dict.fromkeys(selectors, stays) for key in numbers}

    def _rules(self) -> tuple[list[ElementalRule], list[str], list[str]]:
        told: list[str] = []
        left_out: list[str] = []
        return rules_of(self.elemental, told.append, left_out.append), told, left_out

    def _target(self, draft: Draft, keys: dict[str, Value], changes: dict[str, Value]) -> str:
        name, output = (f"{self.name}-merged", None) if changes else (self.name, self.output)
        made = draft.target(name, keys, comments=self.comments, output=output, dtype=self.dtype)
        if "seed" in keys:
            draft.say(self.where, "the tool draws at random without a seed: this one is invented", target=made)
        return made

    def _adjusted(self, draft: Draft, name: str, changes: dict[str, Value]) -> str:
        keys: dict[str, Value] = {"method": "adjust", "a": name, **changes}
        return draft.target(self.name, keys, output=self.output, dtype=self.dtype)

    def _once_found(self, draft: Draft, name: str, rules: list[ElementalRule]) -> None:
        """Have what follows from the model's architecture done once that is known."""
        lists = {len(each) for each in (self.alpha, self.beta) if isinstance(each, list)}
        shifted = bool(rules) and reaches_past(rules)

        def decide(target: DraftTarget, layout: str | None) -> None:
            known = layout or ("sdxl" if 20 in lists else None)
            if known == "sdxl":
                self._as_sdxl(draft, target, rules)
            elif known is None and shifted:
                draft.leave_out(self.where, _SHIFTED, target=target.name)
            elif known is None and 26 in lists:
                target.comments.append(_CUT)
            if layout in _WITH_UNNAMED:
                method = str(target.keys["method"])
                target.keys.update(self._staying(method, target.keys, [_UNNAMED]))
            elif known == "sdxl":
                draft.say(self.where, _UNNAMED_STAY, target=target.name)

        draft.once_found.append((name, decide))

    def _as_sdxl(self, draft: Draft, target: DraftTarget, rules: list[ElementalRule]) -> None:
        told: list[str] = []
        stays = target.keys["method"] == "scale_self"
        placed = [rule._replace(number=_or_one(rule.number, stays)) for rule in by_place(rules, told.append)]
        for key in ("alpha", "beta", "width", "offset"):
            table = target.keys.get(key)
            if not isinstance(table, dict):
                continue
            numbers = table.get("mbw")
            if isinstance(numbers, list) and len(numbers) == 26:
                table["mbw"] = [*long_to_short([each for each in numbers if isinstance(each, Decimal)])]
                draft.notices.append(Said(self.where, f"`{key}`: 26 block weights are 20 for SDXL"))
            if "elemental" in table:
                table["elemental"] = as_values(placed)
        if "elemental" in str(target.keys) and reaches_past(rules):
            told.append("blocks of elemental rules are those that supermerger finds at these places in SDXL")
        for text in told:
            draft.say(self.where, text, target=target.name)


_WITH_UNNAMED: Final = ("sdxl", "sd2")
"""Layouts whose models have tensors with neither `weight` nor `bias` in their names, which supermerger never merges."""
_UNNAMED: Final = "re:^(?!.*(?:weight|bias))"
_UNNAMED_STAY: Final = (
    "supermerger leaves `text_projection`, `positional_embedding` and `logit_scale` as those of A; here they are merged"
)
_CUT: Final = "of SDXL, supermerger takes 20 of 26 block weights: BASE, IN00-IN08, M00, OUT00-OUT08"
_SHIFTED: Final = (
    "elemental rules with blocks behind IN08: of SDXL supermerger takes `IN09` for M00, `IN10` for OUT00, `OUT00` for "
    "OUT03 and so on, and which architecture this is, is not known here; they are written as for SD1"
)


def weights_of_text(text: str) -> Weights:
    """Return block weights that are written as a list, or named.

    Raises:
        UnsayableError: a number is none.
    """
    if "," not in text and "\n" not in text.strip():
        return text.strip()
    try:
        return [figure(each) for each in re.split(r"[,\n]", text) if each.strip()]
    except ValueError as error:
        raise UnsayableError(f"block weights {text[:60]!r}: {error}") from None


def adjustments(text: str) -> dict[str, Value]:
    """Return the keys of `adjust` for a text: what is no number is 0, and so is what is missing."""
    if "," not in text:
        return {}
    numbers: list[Decimal] = []
    for each in text.split(","):
        try:
            numbers.append(figure(each))
        except ValueError:
            numbers.append(Decimal(0))
    return {key: number for key, number in zip(_ADJUST, numbers, strict=False) if number}


def _selectors(word: str) -> list[str]:
    """Return the selectors of a block, of `VAE`, of `Adjust`, or of a part of names."""
    if word == "print" or not word:
        return []
    if word == "Adjust":
        return list(ADJUSTED)
    if word == "BASE":
        return ["BASE", "VAE"]
    if re.fullmatch(r"VAE|M00|(IN|OUT)\d\d|(CLIP|T5|[DS]\d\d)", word):
        return [word]
    return [f"re:{re.escape(word)}" if re.search(r"[*?\[\]]", word) else f"*{word}*"]


def _table(value: Value) -> dict[str, Value]:
    return dict(value) if isinstance(value, dict) else {"default": value}


def _or_one(number: Decimal, stays: bool) -> Decimal:
    return Decimal(1) if stays and not number else number
