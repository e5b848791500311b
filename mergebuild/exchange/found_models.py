"""What follows from the models of a recipe once they are found: the architecture, and keys that reach nothing in it.

Other tools pass over a block weight or a rule that no tensor has; here such a key is an error. So where the header of a
target's first model can be read, such keys are left out, with a comment. Where the model is not there, all are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergebuild.errors import MergeBuildError
from mergebuild.exchange.draft import Draft, DraftTarget, Said, Value
from mergebuild.exchange.model_headers import ModelHeaders
from mergebuild.layouts.keys import BadSelectorError, Keys
from mergebuild.layouts.presets import preset_blocks
from mergebuild.recipe.elemental import ElementalError, parse_elemental

__all__ = ["settle"]

_WITHOUT_MODELS: Final = ("merge_loras", "resize_lora", "extract_lora")
"""Methods whose numbers reach modules of LoRAs."""
_NO_NUMBERS: Final = ("components", "tokenizer", "foreach", "base", "a", "b", "c")
"""Keys whose tables are no numbers per tensor."""
_CURVES: Final = frozenset({"gradient", "sigmoid", "inverse_sigmoid", "preset"})
"""What a table holds that is one value: a curve, or a number in other words."""


def settle(draft: Draft, root: Path) -> None:
    """Decide what waited for the models, and leave out keys that reach nothing.

    Args:
        draft: Its sources have the paths of the models that were found.
        root: The folder that these are relative to.
    """
    headers = ModelHeaders(draft, root)
    for name, decide in draft.once_found:
        found = headers.of(name)
        decide(draft.targets[name], found.layout.name if found is not None and found.layout else None)
    for name, count, otherwise in draft.once_counted:
        whole = headers.of(name) if name in draft.targets else None
        if whole is not None and whole.layers not in (None, count):
            otherwise(draft.targets[name], count)
    for target in draft.targets.values():
        slices = target.keys.get("slices")
        if isinstance(slices, list):
            for each, found in zip(slices, headers.of_slices(slices), strict=True):
                if isinstance(each, dict) and found is not None:
                    _Pruning(draft, target, found.keys).numbers(each)
        elif target.keys.get("method") == "merge_loras":
            _settle_loras(draft, target, headers)
        elif target.keys.get("method") not in _WITHOUT_MODELS and (found := headers.of(target.name)) is not None:
            _Pruning(draft, target, found.keys).all()


def _settle_loras(draft: Draft, target: DraftTarget, headers: ModelHeaders) -> None:
    """Leave out the strengths of modules that a LoRA has not; lists of block weights name all that there may be."""
    loras = target.keys.get("loras")
    for each in loras if isinstance(loras, list) else []:
        strength = each.get("strength") if isinstance(each, dict) else None
        found = headers.of(str(each["lora"])) if isinstance(each, dict) and isinstance(strength, dict) else None
        if found is None or not isinstance(strength, dict):
            continue
        pruning = _Pruning(draft, target, found.keys)
        dead = [key for key in strength if key != "default" and not pruning.reaches(key)]
        for key in dead:
            del strength[key]
        if dead:
            text = f"{len(dead)} strengths of modules that a LoRA has not are left out"
            draft.notices.append(Said(f"target `{target.name}`", text))


@dataclass
class _Pruning:
    """The keys of one target."""

    draft: Draft
    target: DraftTarget
    keys: Keys

    def all(self) -> None:
        """Leave out what reaches nothing."""
        for key, value in list(self.target.keys.items()):
            if key in ("drop", "merge") and isinstance(value, list):
                self._selectors(key, value)
            elif key == "rules" and isinstance(value, list):
                self._rules(value)
        self.numbers(self.target.keys)

    def reaches(self, selector: str) -> bool:
        """Whether a selector selects anything."""
        return bool(self._select(selector))

    def numbers(self, keys: dict[str, Value]) -> None:
        """Leave out what reaches nothing of the numbers of the target, or of one of its slices."""
        for owner, key, table in list(_tables(keys)):
            self._number(key, table)
            if list(table) == ["default"]:
                owner[key] = table["default"]

    def _selectors(self, key: str, selectors: list[Value]) -> None:
        alive = [each for each in selectors if not isinstance(each, str) or self._select(each)]
        if len(alive) < len(selectors) and (alive or key == "drop"):
            dead = [str(each) for each in selectors if each not in alive]
            self._tell(f"`{key}` of {', '.join(dead)}, which the model has not, is left out")
            if alive:
                self.target.keys[key] = alive
            else:
                del self.target.keys[key]

    def _rules(self, rules: list[Value]) -> None:
        for rule in list(rules):
            chosen = rule.get("tensors") if isinstance(rule, dict) else None
            if not isinstance(rule, dict) or not isinstance(chosen, list):
                continue
            alive = [each for each in chosen if isinstance(each, str) and self._select(each)]
            if len(alive) < len(chosen):
                self._tell(f"rules for tensors that the model has not are left out: {_shown(chosen, alive)}")
                rule["tensors"] = list(alive)
            if not alive:
                rules.remove(rule)
        if not rules:
            del self.target.keys["rules"]

    def _number(self, key: str, table: dict[str, Value]) -> None:
        """Leave out of a number per tensor what reaches nothing, or nothing that later keys leave to it."""
        self._elemental(key, table)
        reached = {each: found for each, value in table.items() if (found := self._reached(each, value)) is not None}
        taken = set[str]()
        for each in reversed(list(table)):
            if each not in reached:
                continue
            if each != "default" and not reached[each] - taken:
                del table[each]
                self._tell(f"`{key}.{each}` reaches no tensor of the model, and is left out")
            taken |= reached[each]

    def _elemental(self, key: str, table: dict[str, Value]) -> None:
        rules = table.get("elemental")
        if not isinstance(rules, list):
            return
        alive = [kept for each in rules if isinstance(each, str) and (kept := self._living(each))]
        later: set[str] = set()
        for rule in reversed(list(alive)):
            names = self._by_rule(rule) or set()
            if not names - later:
                alive.remove(rule)
            later |= names
        if alive != rules:
            self._tell(f"elemental rules of `{key}` without what reaches no tensor; they were: {_shown(rules, alive)}")
        if alive:
            table["elemental"] = list(alive)
        else:
            del table["elemental"]
            if not table:
                table["default"] = 0

    def _living(self, rule: str) -> str | None:
        """Return a rule without the blocks that the model has not; None where nothing is left."""
        blocks, elements, number = rule.split(":")
        words = blocks.split()
        kept = [word for word in words if word == "NOT" or self._select(word)]
        if words and not [word for word in kept if word != "NOT"]:
            kept = []
            if words[0] != "NOT":
                return None
        found = [word for word in elements.split() if word == "NOT" or any(word in name for name in self.keys.names)]
        if elements.split() and not [word for word in found if word != "NOT"]:
            if elements.split()[0] != "NOT":
                return None
            found = []
        whole = f"{' '.join(kept)}:{' '.join(found)}:{number}"
        return whole if self._by_rule(whole) else None

    def _by_rule(self, rule: str) -> set[str] | None:
        try:
            return {name for each in parse_elemental(rule) for name in self.keys.elemental(each)}
        except (BadSelectorError, ElementalError):
            return None

    def _reached(self, key: str, value: Value) -> set[str] | None:
        """Return the tensors that a key of a number reaches; None: it can't be told."""
        if key == "default":
            return set(self.keys.names)
        if key == "elemental":
            rules = value if isinstance(value, list) else [value]
            return {name for each in rules for name in self._by_rule(str(each)) or ()}
        if key in ("mbw", "preset"):
            return self._in_blocks(value)
        return self._select(key)

    def _in_blocks(self, value: Value) -> set[str] | None:
        layout = self.keys.layout
        if layout is None:
            return None
        blocks = layout.mbw_of(len(value)) if isinstance(value, list) else preset_blocks(layout)
        return None if blocks is None else {name for name, block in self.keys.block_of.items() if block in blocks}

    def _select(self, selector: str) -> set[str]:
        try:
            return set(self.keys.select(selector))
        except (BadSelectorError, MergeBuildError):
            return set()

    def _tell(self, text: str) -> None:
        self.draft.notices.append(Said(f"target `{self.target.name}`", text))
        self.target.comments.append(text)


def _tables(keys: dict[str, Value]) -> Iterator[tuple[dict[str, Value], str, dict[str, Value]]]:
    """Yield the numbers per tensor of a target or slice and of its models: in what they are, their key, themselves."""
    for key, value in keys.items():
        if isinstance(value, dict) and key not in _NO_NUMBERS and not _CURVES & value.keys():
            yield keys, key, value
        elif isinstance(value, list) and key in ("models", "loras"):
            for item in value:
                yield from _tables(item) if isinstance(item, dict) else ()


def _shown(all_: Iterable[Value], alive: Iterable[Value]) -> str:
    kept = list(alive)
    return "; ".join(str(each) for each in all_ if each not in kept)
