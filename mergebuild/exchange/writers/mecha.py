"""Recipes of sd-mecha, format 1 ("version 0.1.0"): one instruction a line, `&N` is the result of line N.

Each source is a `model` with the configuration of its layout, each step a `merge`. A number is three lines: a `dict`, a
`literal` of it, and its conversion to all tensors; a table is the same with a number for each block, where the tensors
of each block have one number. The tool's blocks are not ours: time and label embeddings are in BASE there, and so is
the VAE of SD 1. The result is float16 there unless the last instruction is a `cast`.

There is no line break at the end: the tool takes an empty last line for a broken instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from mergebuild.exchange.figures import of_slider
from mergebuild.exchange.writers.asked import Asked
from mergebuild.layouts import Layout
from mergebuild.recipe.model import NumberPerTensor, Target

__all__ = ["write"]

_CONFIGS: Final = {"sd15": "sd1-ldm", "sdxl": "sdxl-sgm"}
_BLOCKS: Final = {"sd15": "sd1-supermerger_blocks", "sdxl": "sdxl-supermerger_blocks"}
_CONVERSIONS: Final = {"sd15": "convert_sd1_blocks_to_ldm", "sdxl": "convert_sdxl_blocks_to_sgm"}
_IN_BASE: Final = re.compile(r"(?:^|\.)(?:time_embed|label_emb)\.")
_UNSAYABLE: Final = re.compile(r"[=\r\n]|^\s|\s$")
"""What a path must not have: the tool takes an argument with `=` for a named one, also in quotes."""
_ZERO_IS_FIRST: Final = frozenset({"weighted_sum", "add_difference"})
"""Methods whose result is the first input where their number is 0, as where none reaches; others compute it."""


def write(asked: Asked) -> str:
    """Return the instructions; what the format can't say is refused."""
    steps = asked.steps
    asked.check_output()
    for step in steps:
        asked.check(step)
        _check_method(asked, step)
    if asked.refused:
        return ""
    text = _Instructions(asked)
    for step in steps:
        text.results[step.name] = _MERGES[step.method].write(text, step)
    _cast(asked, text, text.results[asked.target.name])
    return "\n".join(["version 0.1.0", *text.lines])


@dataclass
class _Instructions:
    """The lines so far. A line that is there already is referred to, and not written again."""

    asked: Asked
    lines: list[str] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    """By source or target, the reference to what it is."""

    def add(self, line: str) -> str:
        """Return the reference to a line's result."""
        if line not in self.lines:
            self.lines.append(line)
        return f"&{self.lines.index(line)}"

    def merge(self, method: str, *arguments: str) -> str:
        """Return the reference to a merge."""
        return self.add(" ".join(["merge", f'"{method}"', *arguments]))

    def inputs(self, step: Target) -> list[str]:
        """Return references to the inputs of a target."""
        for each in step.inputs:
            if each.ref not in self.results:
                self.results[each.ref] = self._model(step, each.ref)
        return [self.results[each.ref] for each in step.inputs]

    def _model(self, step: Target, ref: str) -> str:
        source = self.asked.recipe.sources[ref]
        path = self.asked.file(source)
        if _UNSAYABLE.search(path):
            self.asked.refuse(f"`{path}` has a sign that {self.asked.format} reads otherwise", source.where)
        escaped = path.replace("\\", "\\\\").replace('"', '\\"')
        config = _CONFIGS.get(_layout(self.asked, step), "")
        if not config:
            message = f"`{step.name}` is of no architecture that {self.asked.format} is written for: sd15 and sdxl"
            self.asked.refuse(message, step.where)
        return self.add(f'model "{escaped}" model_config="{config}" merge_space="weight"')

    def scalar(self, value: str) -> str:
        """Return the reference to one value for all tensors."""
        literal = self.add(
            f'literal {self.add(f"dict key={value}")} model_config="singleton-mecha" merge_space="param"'
        )
        return self.merge("convert_singleton", literal)

    def number(self, step: Target, name: str) -> str:
        """Return the reference to a number of a target: one for all tensors, or one for each block."""
        number = step.numbers[name]
        assert isinstance(number, NumberPerTensor), "what has a number for each model is written otherwise"
        return self.of(step, name, number)

    def of(self, step: Target, name: str, number: NumberPerTensor) -> str:
        """Return the reference to a number that is a target's parameter."""
        constant = number.constant
        if constant is not None:
            return self.scalar(self._float(step, name, constant))
        return self._blocks(step, name, number)

    def _blocks(self, step: Target, name: str, number: NumberPerTensor) -> str:
        layout = self.asked.layout(step)
        kind = layout.name if layout else ""
        if layout is None or kind not in _BLOCKS:
            self.asked.refuse(
                f"`{name}` of `{step.name}` is a table, and there are no blocks", step.where, name, key=True
            )
            return ""
        found = _by_block(self.asked, step, name, number, layout)
        numbers = " ".join(f"{block}={self._float(step, name, each)}" for block, each in found.items())
        literal = self.add(f'literal {self.add(f"dict {numbers}")} model_config="{_BLOCKS[kind]}" merge_space="param"')
        return self.merge(_CONVERSIONS[kind], literal)

    def _float(self, step: Target, name: str, number: Fraction) -> str:
        """Return a number as the tool writes one, with a point; one that is another as a binary float is refused."""
        decimal = self.asked.decimal(number, step.where, name)
        if Fraction(of_slider(decimal)) != Fraction(decimal):
            told = f"has more digits than the numbers of {self.asked.format}, which are binary floats"
            self.asked.refuse(f"`{name}` of target `{step.name}` {told}", step.where, name)
        return decimal if "." in decimal else f"{decimal}.0"


def _layout(asked: Asked, step: Target) -> str:
    layout = asked.layout(step)
    return layout.name if layout else ""


def _by_block(asked: Asked, step: Target, name: str, number: NumberPerTensor, layout: Layout) -> Mapping[str, Fraction]:
    """Return the number of each of the tool's blocks, 0 for one without tensors; refuse one that has several."""
    reached = asked.reached(step, number)
    found: dict[str, Fraction] = {}
    for tensor in asked.floats(step):
        if tensor not in reached and step.method not in _ZERO_IS_FIRST:
            asked.refuse(f"`{name}` of `{step.name}` does not reach `{tensor}`", step.where, name, key=True)
            return {}
        block, here = _block(tensor, layout), reached.get(tensor, Fraction(0))
        if found.setdefault(block, here) != here:
            message = (
                f"the tensors of what {asked.format} calls {block} have several numbers, such as that of `{tensor}`"
            )
            mend = (
                "sd-mecha's BASE is the text encoders, time and label embeddings, and of SD 1.5 the VAE"
                if block == "BASE"
                else ""
            )
            asked.refuse(message, step.where, name, key=True, help=mend)
            return {}
    return {block: found.get(block, Fraction(0)) for block in _blocks_of(layout)}


def _block(tensor: str, layout: Layout) -> str:
    """Return the tool's block of a tensor."""
    block = layout.block(tensor) or "BASE"
    is_in_base = _IN_BASE.search(tensor) or (block == "VAE" and layout.name == "sd15")
    return "BASE" if is_in_base else block


def _blocks_of(layout: Layout) -> Sequence[str]:
    """Return the tool's blocks: those of our list with BASE, and the VAE of SDXL."""
    return max((blocks for blocks in layout.mbw if blocks[0] == "BASE"), key=len)


def _cast(asked: Asked, text: _Instructions, result: str) -> None:
    """Say the dtype of the result, unless it is float16."""
    dtype = asked.dtype()
    if dtype is None:
        message = f"the tensors of `{asked.target.name}` have several dtypes, and {asked.format} writes one"
        asked.refuse(message, asked.target.where, "dtype", help='give it one, such as `dtype = "float16"`')
    elif dtype != "float16":
        text.merge("cast", result, text.scalar("null"), text.scalar(f'"{dtype}"'))


@dataclass(frozen=True)
class _MechaMerge:
    """How a method of ours is said: the writer of its lines, and the words and flags that it must have."""

    write: Callable[[_Instructions, Target], str]
    given: Mapping[str, str | bool] = field(default_factory=dict)


def _plain(name: str, *numbers: str) -> Callable[[_Instructions, Target], str]:
    """Return the writer of a method whose inputs come first, and then its numbers."""

    def written(text: _Instructions, step: Target) -> str:
        return text.merge(name, *text.inputs(step), *(text.number(step, each) for each in numbers))

    return written


def _add_difference(text: _Instructions, step: Target) -> str:
    a, b, c = text.inputs(step)
    if a == c:
        message = f"`{step.name}` adds a difference to what it is from, a weighted sum in {text.asked.format}"
        text.asked.refuse(message, step.where, "c", help="write it as `weighted_sum`")
    delta = text.merge("subtract", b, c)
    return text.merge("add_difference", a, delta, text.number(step, "alpha"))


def _masked(mask: str) -> Callable[[_Instructions, Target], str]:
    """Return the writer of an added difference whose amount is a mask of the three inputs."""

    def written(text: _Instructions, step: Target) -> str:
        a, b, c = text.inputs(step)
        delta = text.merge("subtract", b, c)
        return text.merge("add_difference", a, delta, text.merge(mask, a, b, c, text.number(step, "alpha")))

    return written


def _average(text: _Instructions, step: Target) -> str:
    weights = _constants(step, "weight")
    if len(weights) != 1 or not weights.isdisjoint({None, Fraction(0)}):
        message = f"the weights of `{step.name}` differ, and {text.asked.format} averages models with equal ones"
        text.asked.refuse(message, step.where, "weight", key=True)
    return text.merge("n_average", *text.inputs(step))


def _ties(text: _Instructions, step: Target) -> str:
    """Write the sum of the models' differences to the base, which is added to it."""
    base, *models = text.inputs(step)
    if _constants(step, "weight") != {Fraction(1)}:
        text.asked.refuse(f"the weights of `{step.name}` are not 1, as they are there", step.where, "weight", key=True)
    density = step.numbers["density"]
    assert isinstance(density, tuple), "a number for each model"
    if any(each != density[0] for each in density):
        message = f"the densities of `{step.name}` differ, and {text.asked.format} has one"
        text.asked.refuse(message, step.where, "density", key=True)
    deltas = [text.merge("subtract", each, base) for each in models]
    vote = text.scalar(_shown(step.words["vote"] == "sum"))
    share = text.of(step, "density", density[0])
    return text.merge(
        "add_difference",
        base,
        text.merge("ties_sum", *deltas, f"k={share}", f"vote_sgn={vote}"),
        text.number(step, "lambda"),
    )


def _constants(step: Target, name: str) -> set[Fraction | None]:
    """Return the different numbers of models; None among them if one is a table."""
    numbers = step.numbers[name]
    return {each.constant for each in (numbers if isinstance(numbers, tuple) else (numbers,))}


def _clamp(text: _Instructions, step: Target) -> str:
    return text.merge("clamp", *text.inputs(step), f"stiffness={text.number(step, 'stiffness')}")


def _cosine_gate(text: _Instructions, step: Target) -> str:
    return text.merge(f"add_cosine_{step.words['form']}", *text.inputs(step), text.number(step, "alpha"))


_MERGES: Final[Mapping[str, _MechaMerge]] = {
    "weighted_sum": _MechaMerge(_plain("weighted_sum", "alpha")),
    "add_difference": _MechaMerge(_add_difference),
    "linear": _MechaMerge(_average, {"normalize": True}),
    "ties": _MechaMerge(_ties, {"normalize": True, "rescale": "none", "zero_vote": "none", "average": "count"}),
    "clamp": _MechaMerge(_clamp),
    "cosine_gate": _MechaMerge(_cosine_gate),
    "tensor_sum": _MechaMerge(_plain("tensor_sum", "width", "offset"), {"rounding": "round"}),
    "slerp": _MechaMerge(_plain("slerp", "t"), {"magnitude": "lerp"}),
    "geometric": _MechaMerge(_plain("geometric_sum", "alpha")),
    "multiply_quotient": _MechaMerge(_plain("multiply_quotient", "alpha")),
    "train_difference": _MechaMerge(_masked("train_difference_mask")),
    "add_opposite": _MechaMerge(_masked("add_opposite_mask")),
    "add_strict_opposite": _MechaMerge(_masked("add_strict_opposite_mask")),
}
"""By our name."""


def _given(step: Target) -> Mapping[str, object]:
    return {**step.flags, **step.words}


def _check_method(asked: Asked, step: Target) -> None:
    """Refuse a method that the tool lacks, or one with other words or flags than the tool's method means."""
    if step.method not in _MERGES:
        message = f"target `{step.name}` is made by `{step.method}`, for which export to {asked.format} has no word"
        asked.refuse(message, step.where, "formula" if step.formula else "method")
        return
    for name, value in _MERGES[step.method].given.items():
        if _given(step)[name] != value:
            told = f"is {_shown(_given(step)[name])}, and {asked.format} has {_shown(value)}"
            asked.refuse(f"`{name}` of target `{step.name}` {told}", step.where, name)


def _shown(value: object) -> str:
    return str(value).lower()
