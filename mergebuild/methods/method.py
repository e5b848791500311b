"""`Method`: a row of the catalog, with names, inputs, parameters, formula and citation. No torch here.

Its field `makes` says how it makes tensors, and answers all other questions about it (`making.py`).
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
    """The method has no value for these numbers, for example if weights that are to be normalized sum to 0."""


class ProgramError(UndefinedError):
    """A user's own program fails, or gives something that the engine can't run.

    `where`: its file, and the line if known.
    """

    def __init__(self, message: str, where: Place) -> None:
        super().__init__(message)
        self.where = where


LISTS = ("models", "loras")
"""Inputs that are lists of sources and targets."""
_IN_A_LIST = tuple(f"{each}[" for each in LISTS)
"""The beginnings of the roles of inputs in a list: `models[`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method. If `default` is None it must be given."""

    name: str
    summary: str
    kind: str = "number"
    """`number` (per tensor), `integer` (one for the target), `flag`, `word` (one of `choices`), `texts` (a list,
    beside a model), or `gate` (one of `choices`, or a source)."""
    per: str = "target"
    """`target`: one value for all inputs; `model`: one value for each of `models` (a single value is used for all)."""
    default: Fraction | bool | str | None = None
    low: Fraction | None = None
    """The least value allowed."""
    high: Fraction | None = None
    choices: tuple[str, ...] = ()
    nothing_at_zero: bool = False
    """Whether inputs drop out at 0: for a number per model that model, else all inputs but the first."""
    second_at_one: bool = False
    """Whether at 1 all inputs but the second drop out."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row.

    `inputs` names the inputs in order: single ones (`a`, `b`, `base`), and `models` or `loras` for a list of them.
    """

    name: str
    inputs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    formula: str
    summary: str
    makes: Making
    """How it makes tensors."""
    optional: tuple[str, ...] = ()
    """The inputs that may be left out."""
    least_models: int = 1
    """The least number of `models`."""
    most_models: int | None = None
    """The greatest number of `models`; None: any number."""
    aliases: tuple[str, ...] = ()
    differs: str = ""
    """How its results differ from those of the tools it comes from."""
    cite: str = ""
    version: int = 1
    exact: bool = True
    """Whether the bytes are the same on every machine and device; if not, only for equal processors and libraries."""
    reference: str = ""
    """The tool that it is tested against: `mergekit` or `sd-mecha`. Empty: a transcription of its formula in
    float64."""

    @property
    def name_in_key(self) -> bool:
        """Whether the tensor's name is in its key.

        It also is for methods with a seed, as random numbers depend on the name.
        """
        return self.makes.name_in_key or self.parameter("seed") is not None

    @property
    def listed(self) -> str:
        """The name of the input that is a list, `models` or `loras`; empty if none is."""
        return next((each for each in self.inputs if each in LISTS), "")

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    def used(self, roles: Sequence[str], numbers: Numbers) -> frozenset[int]:
        """Return the indexes of the inputs that a tensor depends on with these numbers.

        All of them if that is not known.

        An input on which the result does not depend need not have the tensor, nor the same shape of it. (For
        combinations the coefficients decide this, not this function.)

        Args:
            roles: The role of each input: `a`, `base`, `models[0]`.
            numbers: The numbers that reach the tensor.
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
        lone_base = left == {0} and roles[0] == "base" and "base" in self.optional  # all weights are 0
        return frozenset(range(len(roles)) if lone_base or not left else left)
