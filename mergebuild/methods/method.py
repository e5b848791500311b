"""What a method is, as a row of the catalog: names, inputs, parameters, formula, citation. No torch here.

A row of the *linear* family carries `coefficients`: from the numbers that reach a tensor to one exact coefficient an
input. Chains of these fold (`fold/folder.py`), and one kernel evaluates them all. Every other row names the module of
its `kernel`, where the function lies under the method's name; or, for a user's own method, it has the text of the
*program* that defines it. That text is read once: what was hashed is what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from mergebuild.digest import checksum, tagged
from mergebuild.errors import Place

__all__ = [
    "Coefficients",
    "Flags",
    "Method",
    "Numbers",
    "Parameter",
    "Program",
    "ProgramError",
    "Scopes",
    "UndefinedError",
]


class UndefinedError(ValueError):
    """The method has no value for these numbers, such as weights that sum to 0 and are to be normalized."""


class ProgramError(UndefinedError):
    """A user's own program fails, or is not what the engine can run. `where`: its file, and the line where known."""

    def __init__(self, message: str, where: Place) -> None:
        super().__init__(message)
        self.where = where


LISTS = ("models", "loras")
"""Inputs that are lists of sources and targets."""

Numbers = Mapping[str, Fraction | tuple[Fraction, ...]]
Flags = Mapping[str, bool]
Coefficients = Callable[[int, Numbers, Flags, str], tuple[Fraction, ...]]
"""(number of inputs, numbers, flags, tensor name) -> one coefficient an input, in the order of the inputs."""

Scopes = Callable[[Mapping[str, tuple[int, ...]], Mapping[str, object]], Sequence[tuple[str, ...]]]
"""(shapes of the tensors by name, arguments) -> the tensors that must be known together, by name."""


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


@dataclass(frozen=True, slots=True)
class Program:
    """The Python text that a user's own method is defined by, and what the mergefile says of it."""

    file: str
    """Its path as people know it, relative to the project where it lies in there."""
    text: str
    table: str
    """The method's table in the mergefile, as one text that changes whenever the table does."""

    @property
    def content(self) -> str:
        """The digest of the text."""
        return tagged(checksum(self.text.encode()))


@dataclass(frozen=True, slots=True)
class Method:
    """One row. `inputs`: names of single inputs in order (`a`, `b`, `base`), and `models` for any number of them."""

    name: str
    inputs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    formula: str
    summary: str
    coefficients: Coefficients | None = None
    """None: the method is not linear, and has a kernel."""
    kernel: str = ""
    """The module of `mergebuild.methods.kernels` that has it."""
    access: str = "elements"
    """What its kernel must have at hand: `elements` (any chunk), `rows` (whole rows), `statistics` (a chunk, and what
    was found in the whole tensor before), `tensor` (the tensor whole) or `tensors` (several of them together)."""
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
    by_name: bool = False
    """Whether what a tensor becomes depends on its name and not on the numbers alone."""
    by_layout: bool = False
    """Whether it depends on the layout of the model, whose name its kernel gets as the argument `layout`."""
    unites: bool = False
    """Whether tensors that only another input has are taken from there; else they are left out."""
    only: Callable[[str], bool] | None = None
    """Which tensors it changes, by name; the others stay the first input's. None: all."""
    scopes: Scopes | None = None
    """Which tensors it must know together before it makes one; those in no scope stay the first input's."""
    surveyed: tuple[str, ...] = ()
    """The parameters that what must be known depends on. What others say is changed without looking again."""
    by_parts: bool = False
    """Whether it makes a tensor of others that have shapes of their own, as a LoRA's are; there is no row of such."""
    by_role: bool = False
    """Whether what differs only in the argument `role` is one computation."""
    makes_lora: bool = False
    """Whether what it makes is a LoRA: tensors with names and shapes that no input has."""
    program: Program | None = None
    """Of a user's own method, instead of a kernel."""

    LINEAR_PASSES: ClassVar = 5
    """`passes` of a linear combination."""

    @property
    def takes_statistics(self) -> bool:
        """Whether it finds out a statistic of whole tensors first; a user's own program may."""
        return self.access == "statistics" or self.program is not None

    @property
    def passes(self) -> int:
        """About how often it goes over the values of each input: an estimate, from what some of each kind take."""
        if self.coefficients is not None:
            return self.LINEAR_PASSES
        return {"elements": 15, "rows": 40, "statistics": 50}.get(self.access, 200)

    @property
    def listed(self) -> str:
        """The input that is a list: `models`, `loras`, or none."""
        return next((each for each in self.inputs if each in LISTS), "")

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)
