"""What a method is, as a row of the catalog: names, inputs, parameters, formula, citation. No torch here.

How it makes tensors, and whatever else decides about them, its `makes` says (`making.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from mergebuild.errors import Place
from mergebuild.methods.arguments import Numbers
from mergebuild.methods.making import Making

__all__ = ["Method", "Parameter", "ProgramError", "UndefinedError"]


class UndefinedError(ValueError):
    """The method has no value for these numbers, such as weights that sum to 0 and are to be normalized."""


class ProgramError(UndefinedError):
    """A user's own program fails, or is not what the engine can run. `where`: its file, and the line where known."""

    def __init__(self, message: str, where: Place) -> None:
        super().__init__(message)
        self.where = where


LISTS = ("models", "loras")
"""Inputs that are lists of sources and targets."""
_IN_A_LIST = tuple(f"{each}[" for each in LISTS)
"""What the roles of their inputs begin with."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method. `default` None: it must be given."""

    name: str
    summary: str
    kind: str = "number"
    """`number` (per tensor), `integer` (one for the target), `flag`, or `word` (one of `choices`)."""
    per: str = "target"
    """`target`: one for all; `model`: one for each of `models` (a single one serves all)."""
    default: Fraction | bool | str | None = None
    low: Fraction | None = None
    """The least value that it may have."""
    high: Fraction | None = None
    choices: tuple[str, ...] = ()
    nothing_at_zero: bool = False
    """Whether 0 leaves out what it weighs: one model, of a number per model; else all inputs but the first."""
    second_at_one: bool = False
    """Whether 1 leaves out all inputs but the second."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row. `inputs`: names of single inputs in order (`a`, `b`, `base`), and `models` for any number of them."""

    name: str
    inputs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    formula: str
    summary: str
    makes: Making
    """How it makes tensors."""
    optional: tuple[str, ...] = ()
    """Inputs of these that may be left out."""
    least_models: int = 1
    """How many `models` there must be."""
    most_models: int | None = None
    """How many `models` there may be; None: any number."""
    aliases: tuple[str, ...] = ()
    differs: str = ""
    """How it differs from the tools it comes from."""
    cite: str = ""
    version: int = 1
    exact: bool = True
    """Whether the bytes are the same on every machine and device; if not, only on one processor and its libraries."""
    reference: str = ""
    """`mergekit`, `sd-mecha`: the tool whose implementation it is tested against; else a transcription in float64."""

    @property
    def name_in_key(self) -> bool:
        """Whether the name of a tensor is in its key: random numbers follow from it too."""
        return self.makes.name_in_key or self.parameter("seed") is not None

    @property
    def listed(self) -> str:
        """The input that is a list: `models`, `loras`, or none."""
        return next((each for each in self.inputs if each in LISTS), "")

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    def used(self, roles: Sequence[str], numbers: Numbers) -> frozenset[int]:
        """Return which of its inputs a tensor depends on with these numbers, by place; all where nobody knows better.

        Of combinations their coefficients say it. An input without which the result is the same need not have the
        tensor at all, nor in the same shape.

        Args:
            roles: the inputs: `a`, `base`, `models[0]`.
            numbers: those that reach the tensor.
        """
        left = set(range(len(roles)))
        for parameter in self.parameters:
            value = numbers.get(parameter.name)
            if parameter.second_at_one and value == 1:
                return frozenset({1})
            if not parameter.nothing_at_zero:
                continue
            if value == 0:
                return frozenset({0})
            if isinstance(value, tuple):
                models = [place for place, role in enumerate(roles) if role.startswith(_IN_A_LIST)]
                left -= {place for place, each in zip(models, value, strict=True) if each == 0}
        lone_base = left == {0} and roles[0] == "base" and "base" in self.optional  # weights of 0 alone weigh nobody
        return frozenset(range(len(roles)) if lone_base or not left else left)
