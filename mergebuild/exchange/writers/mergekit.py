"""Recipes of mergekit: a YAML document for the target, after one for each step that it is made of.

Arithmetic is in float32 there too where the recipe says so (`dtype`), and the result is rounded once (`out_dtype`). The
tool's random methods have no seed, and `import` gives them seed 0: so only that one can be said. What a method of the
tool always does, as no word of its recipes changes it, must be what the target asks for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from mergebuild.exchange.writers.asked import Asked
from mergebuild.exchange.writers.settings import Setting, setting_of, setting_of_slice
from mergebuild.methods.method import Method
from mergebuild.recipe.model import Input, NumberPerTensor, Slice, Source, Target

__all__ = ["write"]

_HUB: Final = re.compile(r"https://huggingface\.co/([A-Za-z0-9][\w.-]*/[\w.-]+)/?")
_IN_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
_DTYPES: Final = ("float32", "float16", "bfloat16")
_YAML_WORDS: Final = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", ".inf", ".nan"))
_ONE: Final = Fraction(1)


def write(asked: Asked) -> str:
    """Return the documents; what the format can't say is refused."""
    asked.check_output()
    documents = _WrittenSteps(asked)
    found = [documents.document(step) for step in asked.steps if documents.is_document(step)]
    return "---\n".join("".join(f"{line}\n" for line in lines) for lines in found)


@dataclass(frozen=True)
class _Wording:
    """A method of ours in the words of mergekit."""

    name: str
    base: str = ""
    """Our role of what is the base there; "": it has none."""
    listed_base: bool = False
    """Whether the base is one of the two models, by custom."""
    of_models: tuple[str, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Their names, by ours."""
    flags: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, Mapping[str, bool]]] = field(default_factory=dict)
    """By our word, what its values are there."""
    fixed: Mapping[str, str | int | bool] = field(default_factory=dict)
    """What the tool always does, in our words."""


_NORMALIZE: Final = {"normalize": "normalize"}
_LAMBDA: Final = {"lambda": "lambda"}
_L1: Final = {"rescale": {"none": {"rescale": False}, "l1": {"rescale": True}}}
_MERGEKIT: Final = {"compat": "mergekit"}
_SEED: Final = {"seed": 0}
_TASK: Final = ("weight", "density")
_ROWS: Final = {"per": {"tensor": {}, "row": {"filter_wise": True}}}
_ANGLES: Final = {
    "per": {
        "tensor": {},
        "row": {"nuslerp_flatten": False},
        "column": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    }
}


def _task(name: str, of_models: tuple[str, ...], fixed: Mapping[str, str | int | bool]) -> _Wording:
    return _Wording(name, "base", of_models=of_models, numbers=_LAMBDA, flags=_NORMALIZE, words=_L1, fixed=fixed)


_METHODS: Final[Mapping[str, _Wording]] = {
    "linear": _Wording("linear", of_models=("weight",), flags=_NORMALIZE),
    "slerp": _Wording("slerp", "a", listed_base=True, numbers={"t": "t"}),
    "nuslerp": _Wording("nuslerp", "base", of_models=("weight",), words=_ANGLES),
    "multislerp": _Wording(
        "multislerp", "base", of_models=("weight",), numbers={"eps": "eps"}, flags={"normalize": "normalize_weights"},
    ),
    "karcher": _Wording("karcher", numbers={"max_iter": "max_iter", "tol": "tol"}),
    "task_arithmetic": _Wording("task_arithmetic", "base", of_models=("weight",), numbers=_LAMBDA, flags=_NORMALIZE),
    "ties": _task("ties", _TASK, {}),
    "dare_linear": _task("dare_linear", _TASK, _SEED),
    "dare_ties": _task("dare_ties", _TASK, _SEED),
    "breadcrumbs": _task("breadcrumbs", (*_TASK, "gamma"), {}),
    "breadcrumbs_ties": _task("breadcrumbs_ties", (*_TASK, "gamma"), {}),
    "della": _task("della", (*_TASK, "epsilon"), {**_MERGEKIT, **_SEED}),
    "della_linear": _task("della_linear", (*_TASK, "epsilon"), {**_MERGEKIT, **_SEED}),
    "model_stock": _Wording("model_stock", "base", words=_ROWS, fixed=_MERGEKIT),
    "sce": _Wording("sce", "base", numbers={"select_topk": "select_topk"}, fixed=_MERGEKIT),
    "nearswap": _Wording("nearswap", "a", listed_base=True, numbers={"t": "t"}),
    "arcee_fusion": _Wording("arcee_fusion", "a", listed_base=True),
    "ram": _Wording("ram", "base", numbers={"epsilon": "epsilon"}),
    "ramplus_tl": _Wording("ramplus_tl", "base", numbers={"epsilon": "epsilon", "r": "r", "alpha": "alpha"}),
    "copy": _Wording("passthrough"),
    "scale": _Wording("passthrough", numbers={"alpha": "scale"}),
    "add_lora": _Wording("passthrough"),
}  # fmt: skip


class _WrittenSteps:
    """The documents of a target, and what each of its steps is called in them."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._names: dict[str, str] = {}
        self._sliced = False
        """Whether slices are being written."""
        self._bases = {each.inputs[0].ref for each in asked.steps if each.method == "add_lora"}

    def is_document(self, step: Target) -> bool:
        """Whether a step has a document. A model with a LoRA is a reference, if it is not what is asked for.

        Nor what gets a second LoRA.
        """
        return step.method != "add_lora" or step is self._asked.target or step.name in self._bases

    def document(self, step: Target) -> list[str]:
        """Return the lines of a step."""
        asked = self._asked
        asked.check(step, but=("slices",))
        lines = [] if step is asked.target else [f"name: {self._name(step)}"]
        if step.slices:
            return [*lines, *self._stack(step), *self._dtype(step)]
        row = self._wording(step)
        if row is None:
            return []
        self._check_reached(step)
        lines += [f"merge_method: {row.name}", *self._models(step, row)]
        lines += _block("parameters", self._shared(step, row))
        return [*lines, *self._dtype(step)]

    def _wording(self, step: Target) -> _Wording | None:
        """Return how the method of a target or slice is said; None, and refused, if the tool has no such method."""
        row = _METHODS.get(step.method)
        if row is None or step.row is None:
            message = f"target `{step.name}` is made by `{step.method}`, for which export to mergekit has no word"
            self._asked.refuse(message, step.where, "formula" if step.formula else "method")
            return None
        self._check_parameters(step, step.row, row)
        return row

    # -- stacks

    def _stack(self, step: Target) -> Iterator[str]:
        """Yield the lines of slices, which have one method in this tool."""
        self._sliced = True
        rows = [self._wording(each.target) for each in step.slices]
        names = dict.fromkeys(row.name for row in rows if row is not None)
        if len(names) > 1:
            message = f"slices of `{step.name}` are made by {', '.join(names)}, and {self._asked.format} has one method"
            self._asked.refuse(message, step.where, "slices", key=True)
        yield from (f"merge_method: {name}" for name in names)
        yield "slices:"
        for each, row in zip(step.slices, rows, strict=True):
            if each.part:
                message = f"`{each.target.name}` has `part`, for which export to mergekit has no word"
                self._asked.refuse(message, each.target.where, "part")
            yield from self._slice(each, row) if row is not None else ()
        self._sliced = False

    def _slice(self, each: Slice, row: _Wording) -> Iterator[str]:
        step = each.target
        self._check_twice(step)
        models = [given for given in step.inputs if given.role != row.base]
        yield "  - sources:"
        for given, layers in zip(step.inputs, each.layers, strict=True):
            yield f"      - model: {_text(self._reference(given))}"
            yield f"        layer_range: [{layers.first}, {layers.first + layers.count}]"
            if given in models:
                yield from _block("parameters", self._of_model(step, row, models.index(given)), indent=8)
        for given in step.inputs:
            if given not in models:
                yield f"    base_model: {_text(self._reference(given))}"
        yield from _block("parameters", self._shared(step, row), indent=4)

    # -- models

    def _name(self, step: Target) -> str:
        """Return what a step is called: a name that no other step has, and that is no path."""
        if step.name not in self._names:
            plain = _IN_NAME.sub("-", step.name).strip("-") or "step"
            name, number = plain, 1
            while name in self._names.values():
                number += 1
                name = f"{plain}-{number}"
            self._names[step.name] = name
        return self._names[step.name]

    def _models(self, step: Target, row: _Wording) -> Iterator[str]:
        if step.method == "add_lora":
            yield from ("models:", f"  - model: {_text(self._with_lora(step))}")
            return
        base = next((each for each in step.inputs if each.role == row.base), None)
        self._check_twice(step)
        if base is not None:
            yield f"base_model: {_text(self._reference(base))}"
        yield "models:"
        listed = [each for each in step.inputs if each is not base]
        if base is not None and row.listed_base:
            yield f"  - model: {_text(self._reference(base))}"
        for place, each in enumerate(listed):
            yield f"  - model: {_text(self._reference(each))}"
            yield from _block("parameters", self._of_model(step, row, place), indent=4)

    def _check_twice(self, step: Target) -> None:
        seen: set[str] = set()
        for each in step.inputs:
            text = self._reference(each)
            if text in seen:
                self._asked.refuse(
                    f"`{step.name}` has `{each.ref}` twice, which {self._asked.format} refuses", each.where
                )
            seen.add(text)

    def _check_reached(self, step: Target) -> None:
        """Refuse tensors that no model's weight reaches, if weights that are all 0 would not leave them as they are."""
        weights = step.numbers.get("weight")
        if step.method == "task_arithmetic" or not isinstance(weights, tuple):
            return
        if any(each.constant is not None for each in weights):
            return
        reached = {name for each in weights for name in self._asked.reached(step, each)}
        if len(reached) < len(self._asked.floats(step)):
            message = f"`weight` of target `{step.name}` leaves out tensors, and {self._asked.format} merges all"
            self._asked.refuse(message, step.where, "weight", key=True)

    def _reference(self, given: Input) -> str:
        source = self._asked.source(given)
        if source is not None:
            return self._path(source)
        step = self._asked.recipe.target(given.ref)
        return self._name(step) if self.is_document(step) else self._with_lora(step)

    def _with_lora(self, step: Target) -> str:
        """Return the reference to a model with a LoRA: one, at strength 1."""
        if step is not self._asked.target:
            self._asked.check(step)
            if step.row is not None:
                self._check_parameters(step, step.row, _METHODS["add_lora"])
        base, *loras = step.inputs
        if len(loras) != 1:
            self._asked.refuse(f"`{step.name}` has {len(loras)} LoRAs, and a reference has one", step.where, "loras")
        strengths = step.numbers["strength"]
        if not isinstance(strengths, tuple) or {each.constant for each in strengths} != {_ONE}:
            self._asked.refuse(f"`strength` of `{step.name}` is not 1, as it is there", step.where, "strength")
        return "+".join(map(self._reference, (base, *loras[:1])))

    def _path(self, source: Source) -> str:
        """Return a folder as a path from here, or a repository that is not here."""
        asked = self._asked
        if not asked.is_folder(source) and asked.is_file(source):
            asked.refuse(f"source `{source.name}` is a file, and {asked.format} reads folders", source.where)
        there = _HUB.fullmatch(source.url or "")
        if there and not (source.folder / source.path).exists():
            return there[1]
        path = asked.path(source).rstrip("/")
        if re.search(r"[+@]|^\s|\s$", path) or not path.isprintable():
            asked.refuse(f"`{path}` has a sign that is another's in {asked.format}'s references", source.where)
        return path if path.startswith(("/", "~")) or path[1:2] == ":" else f"./{path}"

    # -- parameters

    def _of_model(self, step: Target, row: _Wording, place: int) -> Iterator[tuple[str, Setting]]:
        for name in row.of_models:
            numbers = step.numbers[name]
            assert isinstance(numbers, tuple), "a number for each model"
            yield from self._setting(step, name, name, numbers[place])

    def _shared(self, step: Target, row: _Wording) -> Iterator[tuple[str, Setting]]:
        for name, theirs in row.numbers.items():
            if name in step.words:
                if step.words[name] != _default(step, name):
                    yield theirs, str(step.words[name])
                continue
            number = step.numbers[name]
            assert isinstance(number, NumberPerTensor), "one number for all models"
            yield from self._setting(step, name, theirs, number)
        for name, theirs in row.flags.items():
            yield theirs, str(step.flags[name]).lower()
        for name, meanings in row.words.items():
            for theirs, value in meanings.get(str(step.words[name]), {}).items():
                yield theirs, str(value).lower()

    def _setting(self, step: Target, name: str, theirs: str, number: NumberPerTensor) -> Iterator[tuple[str, Setting]]:
        """Yield a number, unless it is the default of both."""
        if number.constant is None or number.constant != _default(step, name):
            said = setting_of_slice if self._sliced else setting_of
            yield theirs, said(self._asked, step, name, number)

    def _check_parameters(self, step: Target, method: Method, row: _Wording) -> None:
        """Refuse words and flags that are not what the tool does."""
        said = {*row.of_models, *row.numbers, *row.flags, "strength"}
        fixed = dict(row.fixed)
        if row.name == "multislerp":
            fixed["linear_fallback"] = sum(each.role.startswith("models") for each in step.inputs) == 2
        given = {**step.flags, **step.words}
        for parameter in method.parameters:
            name = parameter.name
            if name in said:
                continue
            if name in row.words:
                if given[name] not in row.words[name]:
                    self._refuse_word(step, name, given[name], " or ".join(row.words[name]))
            elif name in given:
                wanted = fixed.get(name, _default(step, name))
                if given[name] != wanted:
                    self._refuse_word(step, name, given[name], wanted)
            elif not self._is_default(step, name):
                self._asked.refuse(f"`{name}` of `{step.name}` has no word in {self._asked.format}", step.where, name)

    def _refuse_word(self, step: Target, name: str, found: object, wanted: object) -> None:
        told = f"is {str(found).lower()}, and {self._asked.format} has {str(wanted).lower()}"
        self._asked.refuse(f"`{name}` of target `{step.name}` {told}", step.where, name)

    def _is_default(self, step: Target, name: str) -> bool:
        numbers = step.numbers[name]
        found = numbers if isinstance(numbers, tuple) else (numbers,)
        return all(each.constant is not None and each.constant == _default(step, name) for each in found)

    # -- dtypes

    def _dtype(self, step: Target) -> Iterator[str]:
        dtype = "float32" if step.dtype is None else step.dtype
        if dtype == "source":
            return
        if dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            self._asked.refuse(
                f"target `{step.name}` is {dtype}, and {self._asked.format} has {known}", step.where, "dtype"
            )
        yield "dtype: float32"
        if dtype != "float32":
            yield f"out_dtype: {dtype}"


def _default(step: Target, name: str) -> Fraction | bool | str | int | None:
    parameter = step.row.parameter(name) if step.row else None
    found = parameter.default if parameter else None
    is_integer = parameter is not None and parameter.kind == "integer"
    return int(found) if is_integer and isinstance(found, Fraction) else found


def _block(name: str, settings: Iterable[tuple[str, Setting]], indent: int = 0) -> Iterator[str]:
    """Yield the lines of a table of parameters; none where it is empty."""
    blanks = " " * indent
    for place, (key, setting) in enumerate(settings):
        if not place:
            yield f"{blanks}{name}:"
        if isinstance(setting, str):
            yield f"{blanks}  {key}: {setting}"
            continue
        yield f"{blanks}  {key}:"
        for part, value in setting:
            yield f"{blanks}    - {f'filter: {_text(part)}' if part is not None else f'value: {value}'}"
            if part is not None:
                yield f"{blanks}      value: {value}"


def _text(text: str) -> str:
    """Return a text as YAML has it: quoted, unless nothing in it could be read otherwise."""
    is_plain = re.fullmatch(r"[A-Za-z._/][\w./-]*", text, re.ASCII) and re.search("[A-Za-z]", text)
    return text if is_plain and text.lower() not in _YAML_WORDS else json.dumps(text, ensure_ascii=False)
