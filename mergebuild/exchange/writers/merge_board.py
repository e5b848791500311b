"""Recipes of Merge Board: a line a merge, `NAME = A + B, 0.3, fp16, safetensors`, of at most ten.

The tool has weighted sums and add differences with one number for all tensors. `__O2__` is what the second line made.
A name must not have the signs that lines are cut at; there is no way to quote them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from mergebuild.exchange.writers.asked import Asked
from mergebuild.recipe.model import Input, Target

__all__ = ["write"]

_METHODS: Final = ("weighted_sum", "add_difference")
_MOST_LINES: Final = 10
_CUTS: Final = re.compile(r"[#=,\uff0b\uff1d\uff0c\uff03\r\n]| \+ |^\s|\s$|^_|\]\s*$")
"""What a model's name must not have: the signs that a line is cut at, also in full width, a name in underscores, which
is a variable, and a hash at the end."""
_NOT_IN_A_NAME: Final = re.compile(r'[#=,+\uff0b\uff1d\uff0c\uff03\\/|:?"<>*\s]+')


def write(asked: Asked) -> str:
    """Return a line for each target; what the format can't say is refused."""
    steps = asked.steps
    if len(steps) > _MOST_LINES:
        message = f"`{asked.target.name}` is made in {len(steps)} steps, and {asked.format} takes {_MOST_LINES} lines"
        asked.refuse(message, asked.target.where)
    for step in steps:
        _check(asked, step)
    flags = _flags(asked)
    names = _names(asked, steps)
    models = {step.name: f"__O{number}__" for number, step in enumerate(steps, 1)}
    lines = [
        _line(asked, step, name, models) for step, name in zip(steps, names, strict=True) if step.method in _METHODS
    ]
    return "".join(f"{line}, {flags if line is lines[-1] else 'safetensors'}\n".replace(", \n", "\n") for line in lines)


def _check(asked: Asked, step: Target) -> None:
    asked.check(step)
    if step.method not in _METHODS:
        message = (
            f"target `{step.name}` is made by `{step.method}`, and {asked.format} has weighted_sum and add_difference"
        )
        asked.refuse(message, step.where, "formula" if step.formula else "method")


def _line(asked: Asked, step: Target, name: str, models: dict[str, str]) -> str:
    inputs = (models.get(each.ref) or _model(asked, each) for each in step.inputs)
    return f"{name} = {' + '.join(inputs)}, {asked.constant(step, 'alpha')}"


def _model(asked: Asked, given: Input) -> str:
    source = asked.source(given)
    assert source is not None, "what is no step is a source"
    path = asked.file(source)
    if _CUTS.search(path):
        asked.refuse(f"`{path}` has a sign at which {asked.format} cuts names", source.where, help="rename the file")
    return path


def _flags(asked: Asked) -> str:
    """Return the words behind the last line: its dtype, and its kind of file."""
    suffix = asked.check_file()
    return ", ".join(["fp16"] * asked.is_halved() + ["safetensors"] * (suffix == ".safetensors"))


def _names(asked: Asked, steps: Iterable[Target]) -> list[str]:
    """Return a name for what each line makes: each once, and no model's, for then a line would read the older file."""
    taken = {_plain(PurePosixPath(asked.path(each)).stem) for each in asked.recipe.sources.values()}
    found: list[str] = []
    for step in steps:
        wished = _plain(PurePosixPath(step.output).stem if step.output else step.name) or "step"
        name, number = wished, 1
        while name.casefold() in {each.casefold() for each in (*taken, *found)}:
            number += 1
            name = f"{wished}-{number}"
        found.append(name)
    return found


def _plain(name: str) -> str:
    return _NOT_IN_A_NAME.sub("-", name).strip("-_")
