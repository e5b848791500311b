"""What the instructions of a recipe of sd-mecha merge, as targets.

A difference is the pair of models that it is of. What makes differences of differences to one base, as TIES does, is a
pair too: what our method of that name makes of the models, and the base. So an added difference becomes the method that
was taken apart, or `add_difference` of three; what is left is a formula over virtual targets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.mecha.instructions import Argument, Instruction
from mergebuild.exchange.mecha.methods import BASED, MASKS, PLAIN, Based, MechaWord, Plain
from mergebuild.exchange.mecha.numbers import Scalar, UnwordedError, converted, number_in

__all__ = ["Keys", "MechaMerging", "file_of"]

Keys = dict[str, Value]
"""The keys of a target."""

_COMPONENTS: Final = {"diffuser": "unet", "clip_l": "clip_l", "clip_g": "clip_g", "vae": "vae"}
_OLD_DEFAULTS: Final = {("ties_sum", "k"): Decimal("0.2")}
"""Defaults that were others before recipes had a version."""
_MOST_TARGETS: Final = 1_000


class _ModelDifference(NamedTuple):
    """A difference of two models: the name of what it is taken from, once asked for, and what is taken away."""

    plus: Callable[[], str]
    minus: Instruction


@dataclass
class MechaMerging:
    """The targets of one recipe; each result that is needed is made once."""

    draft: Draft
    is_v1: bool
    lost: list[str] = field(default_factory=list)
    """What can't be said of instructions that are."""
    said: list[str] = field(default_factory=list)
    dtype: str = "float16"
    _named: dict[int, str] = field(default_factory=dict)

    def result(self, last: Instruction) -> Keys:
        """Return the keys of the target that is the recipe's result.

        Raises:
            UnwordedError: a mergefile has no word for something that it is made of.
        """
        node = self._node(last)
        while node.method == "cast":
            self._cast(node)
            node = self._node(node.args[1])
        if node.method.startswith("extract_") and "lokr" not in node.method:
            return self._extracted(node)
        return self.keys(node)

    def keys(self, node: Instruction) -> Keys:
        """Return the keys of a target that is the result of an instruction.

        Raises:
            UnwordedError: as `result`.
        """
        if node.command == "model":
            return {"method": "copy", "a": self.name(node)}
        if node.command != "merge":
            raise UnwordedError(f"line {node.line} is no model")
        special = _SPECIAL.get(node.method)
        keys = special(self, node) if special else self._by_table(node)
        if self.is_v1 or keys.get("method") in ("copy", "fallback"):
            return keys
        return keys | {"merge": ["unet", "text_encoder"]}  # the VAE passed through

    def name(self, value: Argument) -> str:
        """Return the name of the source or target that is a result."""
        node = self._node(value)
        if id(node) not in self._named:
            self._named[id(node)] = self._source(node) if node.command == "model" else self._step(node)
        return self._named[id(node)]

    def _step(self, node: Instruction) -> str:
        if node.method == "fallback" and self._is_first(node.args[1], node.args[2]):
            return self.name(node.args[1])
        if node.method == "cast":
            self._cast(node, is_last=False)
            return self.name(node.args[1])
        if len(self._named) > _MOST_TARGETS:
            raise UnwordedError(f"it has more than {_MOST_TARGETS:,} steps")
        return self.draft.target(
            f"step-{node.line}", self.keys(node), comments=[f"line {node.line}: {node.method}"[:100]]
        )

    def _source(self, node: Instruction) -> str:
        return self.draft.source(ModelName(file_of(node, is_v1=self.is_v1)))

    def _node(self, value: Argument) -> Instruction:
        found = converted(value)
        if not isinstance(found, Instruction):
            raise UnwordedError(f"`{found}` stands in place of a model")
        return found

    # Methods that are one word here

    def _by_table(self, node: Instruction) -> Keys:
        row = PLAIN.get(node.method)
        if row is None:
            raise UnwordedError(f"there is no method for `{node.method[:60]}` (line {node.line})")
        return {"method": row.ours, **self._inputs(node, row), **self._words(node, row.words, row.places), **row.given}

    def _inputs(self, node: Instruction, row: Plain) -> Keys:
        found: Keys = {role: self.name(_at(node, n, role)) for n, role in enumerate(row.inputs)}
        rest = node.args[1 + len(row.inputs) :] if row.has_models else ()
        return found | ({"models": [self.name(each) for each in rest]} if row.has_models else {})

    def _words(self, node: Instruction, words: Sequence[MechaWord], count: int | None) -> Keys:
        """Return the parameters of a merge under our names; those that can't be said are lost.

        Args:
            node: The merge.
            words: The method's parameters in the order of their places.
            count: How many inputs stand before them; None: parameters are named.
        """
        found: Keys = {}
        for place, word in enumerate(words):
            value = self._argument(node, word, None if count is None else count + 1 + place)
            if word.name == "seed" and value is None:
                value = self._seed(node)
            if word.name and value is not None:
                found[word.name] = word.told(value)
            elif not word.name and value != word.default:
                self.lost.append(f"`{word.theirs}` = {value} of {node.method} (line {node.line}) has no word")
        return found

    def _argument(self, node: Instruction, word: MechaWord, place: int | None) -> Scalar | dict[str, Value]:
        if word.theirs in node.named:
            return number_in(node.named[word.theirs], self.lost)
        if place is not None and place < len(node.args):
            return number_in(node.args[place], self.lost)
        return word.default if self.is_v1 else _OLD_DEFAULTS.get((node.method, word.theirs), word.default)

    def _seed(self, node: Instruction) -> Decimal:
        self.said.append(
            f"the seed of {node.method} (line {node.line}) is invented: sd-mecha draws another one each time"
        )
        return Decimal(0)

    # Differences

    def _difference(self, value: Argument) -> _ModelDifference | None:
        """Return a result as a difference of two models; None: it is none that is known."""
        node = self._node(value)
        if node.method == "subtract":
            return _ModelDifference(lambda: self.name(_at(node, 0, "a")), self._node(_at(node, 1, "b")))
        if node.method in BASED:
            base = self._base(node)
            if base is None:
                return None
            return _ModelDifference(lambda: self._once(node, lambda: self._based(node, base)), base)
        if node.method == "perpendicular_component":
            return self._perpendicular(node)
        if node.method in ("weighted_sum", "tensor_sum", "n_average"):
            return self._selection(node)
        return None

    def _once(self, node: Instruction, made: Callable[[], Keys]) -> str:
        """Return the name of the target that a difference is taken from, which is made where it is new."""
        key = -id(node)
        if key not in self._named:
            self._named[key] = self.draft.target(
                f"step-{node.line}", made(), comments=[f"line {node.line}: {node.method}"]
            )
        return self._named[key]

    def _base(self, node: Instruction) -> Instruction | None:
        """Return the model that all differences of a merge are from."""
        found = [self._difference(each) for each in node.args[1:]]
        first = found[0] if found else None
        if first is None or not all(each and self._same(each.minus, first.minus) for each in found):
            return None
        return first.minus

    def _based(self, node: Instruction, base: Instruction) -> Keys:
        """Return the keys of a method over a base and the models that differences to it are of."""
        row: Based = BASED[node.method]
        first = self.name(base)
        pairs = [self._difference(each) for each in node.args[1:]]
        models: list[Value] = [pair.plus() for pair in pairs if pair]
        words = self._words(node, row.words, None)
        return {"method": row.ours, "base": first, "models": models, **row.made(words), **row.given}

    def _perpendicular(self, node: Instruction) -> _ModelDifference | None:
        along, across = (self._difference(each) for each in node.args[1:3])
        if along is None or across is None or not self._same(along.minus, across.minus):
            return None
        first = self._node(node.args[1])
        if first.method != "subtract":
            return None
        keys = {"method": "add_perpendicular", "a": along.plus(), "b": across.plus(), "c": self.name(along.minus)}
        return _ModelDifference(lambda: self._once(node, lambda: dict(keys)), self._node(_at(first, 0, "a")))

    def _selection(self, node: Instruction) -> _ModelDifference | None:
        """Return a merge of two differences to one base that is the same of the models."""
        row = PLAIN[node.method]
        count = len(row.inputs) or len(node.args) - 1
        pairs = [self._difference(each) for each in node.args[1 : count + 1]]
        first = pairs[0] if pairs else None
        if first is None or not all(pair and self._same(pair.minus, first.minus) for pair in pairs):
            return None
        names = [pair.plus() for pair in pairs if pair]
        inputs: Keys = dict(zip(row.inputs, names, strict=True)) if row.inputs else {"models": list(names)}
        keys: Keys = {"method": row.ours, **inputs, **self._words(node, row.words, row.places), **row.given}
        return _ModelDifference(lambda: self._once(node, lambda: keys), first.minus)

    def added(self, node: Instruction) -> Keys:
        """Return the keys of an added difference: of the method that was taken apart, where it is one."""
        base, delta = self._node(_at(node, 0, "a")), self._node(_at(node, 1, "b"))
        alpha = node.named.get("alpha", node.args[3] if len(node.args) > 3 else Decimal(1))
        mask = converted(alpha)
        if isinstance(mask, Instruction) and mask.method in MASKS:
            return self._masked(mask, base, delta)
        share = number_in(alpha, self.lost)
        if not isinstance(share, (Decimal, dict)):
            raise UnwordedError(f"line {node.line} adds `{share}` of something")
        lora = self._lora(delta, share)
        if lora is not None:
            return {"method": "add_lora", "base": self.name(base), "loras": [lora[0]], "strength": lora[1]}
        return self._with_share(base, delta, share)

    def _with_share(self, base: Instruction, delta: Instruction, share: Value) -> Keys:
        found = self._difference(delta)
        if found is None:
            return {"formula": f"'{self.name(base)}' + x * '{self.name(delta)}'", "x": share}
        is_from_base = self._same(found.minus, base)
        if delta.method in BASED and is_from_base and (BASED[delta.method].has_lambda or share == 1):
            return self._based(delta, base) | ({"lambda": share} if share != 1 else {})
        if delta.method == "perpendicular_component" and is_from_base:
            return self._perpendicular_keys(delta) | {"alpha": share}
        if share == 1 and is_from_base:
            return {"method": "copy", "a": found.plus()}
        inputs: Keys = {"a": self.name(base), "b": found.plus(), "c": self.name(found.minus)}
        return {"method": "add_difference", **inputs, "alpha": share}

    def _perpendicular_keys(self, node: Instruction) -> Keys:
        along, across = (self._difference(each) for each in node.args[1:3])
        assert along is not None
        assert across is not None
        return {"method": "add_perpendicular", "a": along.plus(), "b": across.plus(), "c": self.name(along.minus)}

    def _masked(self, mask: Instruction, base: Instruction, delta: Instruction) -> Keys:
        """Return the keys of a difference that is added by as much as a mask says of the same three models."""
        ours = MASKS[mask.method]
        models = [base, *(self._node(each) for each in delta.args[1:3])] if delta.method == "subtract" else []
        given = [self._node(each) for each in mask.args[1:4]]
        if len(models) != 3 or not all(map(self._same, models, given)):
            raise UnwordedError(f"the number of a merge is a mask (line {mask.line}) of other models than it merges")
        inputs: Keys = {role: self.name(model) for role, model in zip("abc", models, strict=True)}
        return {"method": ours, **inputs, **self._words(mask, (MechaWord("alpha", "alpha", Decimal(1)),), 3)}

    def _lora(self, delta: Instruction, share: Value) -> tuple[str, Value] | None:
        """Return a LoRA and how much of it is added; None: the difference is no LoRA."""
        if delta.command == "model":
            is_lora = delta.named.get("merge_space") == "delta" or "lora" in str(delta.named.get("model_config"))
            return (self.name(delta), share) if is_lora or (not self.is_v1 and "lora" in delta.args[2:]) else None
        if delta.method != "scale" or not isinstance(share, Decimal):
            return None
        factor = number_in(delta.args[2] if len(delta.args) > 2 else delta.named.get("alpha", Decimal(1)), self.lost)
        return (
            self._lora(self._node(delta.args[1]), (share * factor).normalize()) if isinstance(factor, Decimal) else None
        )

    # What is about parts and files

    def fallen_back(self, node: Instruction) -> Keys:
        """Return the keys of a result with what it lacks from elsewhere."""
        first, other = self._node(_at(node, 0, "a")), self._node(_at(node, 1, "default"))
        if self._is_first(first, other):
            return self.keys(first)
        if first.method == "pick_component":
            component = self._component(first)
            return {"method": "copy", "a": self.name(other), "components": {component: self.name(first.args[1])}}
        if first.method == "omit_component":
            component = self._component(first)
            return {"method": "copy", "a": self.name(first.args[1]), "components": {component: self.name(other)}}
        return {"method": "fallback", "a": self.name(first), "b": self.name(other)}

    def part(self, node: Instruction) -> Keys:
        """Return the keys of a model with one component only, or without one."""
        component = self._component(node)
        is_sdxl = "sdxl" in str(self._config(node))
        parts = ["unet", *(["clip_l", "clip_g"] if is_sdxl else ["text_encoder"]), "vae"]
        drop = [each for each in parts if (each != component) == (node.method == "pick_component")]
        return {"method": "copy", "a": self.name(node.args[1]), "drop": list(drop)}

    def _component(self, node: Instruction) -> str:
        word = number_in(_at(node, 1, "component"), self.lost)
        component = _COMPONENTS.get(str(word))
        if component is None:
            raise UnwordedError(f"the component `{word}` (line {node.line}) is not known")
        return "text_encoder" if component == "clip_l" and "sdxl" not in str(self._config(node)) else component

    def _config(self, node: Instruction) -> Argument:
        """Return the configuration of the model that a result is made of first."""
        while node.command == "merge":
            node = self._node(_at(node, 0, "a"))
        return node.named.get("model_config", node.args[1] if len(node.args) > 1 else None)

    def with_ema(self, node: Instruction) -> Keys:
        """Return the keys of a model whose EMA copies take the place of its weights."""
        return {"method": "copy", "a": self.name(_at(node, 0, "model")), "ema": "use"}

    def _extracted(self, node: Instruction) -> Keys:
        found = self._difference(_at(node, 0, "base"))
        if found is None:
            raise UnwordedError(f"a LoRA is extracted (line {node.line}) of what is no difference of two models")
        words = self._words(node, PLAIN["truncate_rank"].words, 1)
        rank = words.get("rank", 8)
        keys: Keys = {"method": "extract_lora", "base": self.name(found.minus), "a": found.plus(), "rank": rank}
        return keys | {"conv_rank": rank} | ({"svd": "randomized"} if words.get("approximate") else {})

    def _cast(self, node: Instruction, *, is_last: bool = True) -> None:
        place = node.args[3] if len(node.args) > 3 else node.named.get("dtype")
        dtype = number_in(place, self.lost)
        if dtype is None:
            return
        if not is_last:
            self.lost.append(f"line {node.line} rounds to {dtype} on the way")
        elif dtype in ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
            self.dtype = str(dtype)
        else:
            self.lost.append(f"no file here is written in {dtype} (line {node.line})")

    def _is_first(self, value: Argument, wanted: Argument) -> bool:
        """Whether a result has what it lacks from `wanted` anyway, as that is its first input."""
        if not isinstance(converted(wanted), Instruction):
            raise UnwordedError(f"what is missing is filled with `{converted(wanted)}`")
        node = self._node(value)
        while not self._same(node, self._node(wanted)):
            if node.command != "merge" or node.method in ("pick_component", "omit_component"):
                return False
            node = self._node(_at(node, 0, "a"))
        return True

    def _same(self, one: Instruction, other: Instruction) -> bool:
        return one is other or (one.command == other.command == "model" and one.args[0] == other.args[0])


def file_of(node: Instruction, *, is_v1: bool) -> str:
    """Return the path of a model's file, whose end the form without a version may leave out."""
    path = str(node.args[0]).replace("\\", "/")
    return path if is_v1 or re.search(r"\.(safetensors|ckpt|pt|bin)$", path) else f"{path}.safetensors"


def _at(node: Instruction, place: int, name: str) -> Argument:
    """Return an input of a merge, by its place behind the method's name or by its own name."""
    if place + 1 < len(node.args):
        return node.args[place + 1]
    if name in node.named:
        return node.named[name]
    raise UnwordedError(f"line {node.line} has no `{name}`")


_SPECIAL: Final[Mapping[str, Callable[[MechaMerging, Instruction], Keys]]] = {
    "add_difference": MechaMerging.added,
    "fallback": MechaMerging.fallen_back,
    "pick_component": MechaMerging.part,
    "omit_component": MechaMerging.part,
    "exchange_ema": MechaMerging.with_ema,
    "exchange_ema_'sd1-ldm'": MechaMerging.with_ema,
}
"""Methods that are no row of a table."""
