"""How a method makes tensors: an object of one of a few kinds, which answers all that others must know. No torch here.

A row of the catalog `makes` its tensors as one of the classes below says. Nobody outside asks of which class it is: the
fold asks which tensors it takes up and whether these are combinations of the inputs, the plan what a tensor's key has
beside inputs and arguments and what must be known first, the engine which of its makers does the work, the report how
inputs are read. `fold/lora_made.py` alone tells classes apart, where a target is to be a LoRA, and at one place.

A method of a new kind is one more class here, the class in `engine/makers.py` that it names as its `maker`, and its
rows in `tables`. A kind without fields of its own is a plain class: a plan that takes 0.3 s should not define a dozen
dataclasses, at half a millisecond each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from mergebuild.digest import checksum, tagged
from mergebuild.key import Line
from mergebuild.methods.arguments import Argument, Arguments, Flags, Numbers

if TYPE_CHECKING:
    from mergebuild.methods.kernels.kernel import Kernel
    from mergebuild.methods.method import Method

__all__ = [
    "CatalogKernel",
    "Coefficients",
    "Elementwise",
    "ExtractedLora",
    "Linear",
    "LinearByName",
    "LinearOfLoras",
    "LinearUnion",
    "LoraFactors",
    "LoraSum",
    "Making",
    "MergedLoras",
    "ModelDelta",
    "NamedTensors",
    "OwnProgram",
    "Program",
    "Rowwise",
    "Scopes",
    "Shapes",
    "Statistical",
    "Surveyed",
    "SurveyedOneByOne",
    "WholeTensor",
]

Coefficients = Callable[[int, Numbers, Flags, str], tuple[Fraction, ...]]
"""(number of inputs, numbers, flags, tensor name) -> one coefficient an input, in the order of the inputs."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of tensors, by name."""

Scopes = Callable[[Shapes, Mapping[str, object]], Sequence[tuple[str, ...]]]
"""(shapes of the tensors, arguments) -> the tensors that must be known together, by name."""


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
class Making:
    """How tensors are made. The answers here are those of most kinds."""

    reads: ClassVar[str] = ""
    """How it reads its inputs, for people, which says what memory it takes; empty where nobody knows."""
    passes: ClassVar[int] = 15
    """About how often it goes over the values of each input: an estimate, from what some of each kind take."""
    maker: ClassVar[str] = ""
    """The class of `engine/makers.py` that makes its tensors; empty where these are combinations, or made by others."""

    # What the fold asks

    makes_lora: ClassVar[bool] = False
    """Whether a target of it is a LoRA: tensors with names and shapes that no input has."""
    alpha_is_rank: ClassVar[bool] = False
    """Of a LoRA: whether the alpha of each module is its rank."""
    union_of_tensors: ClassVar[bool] = False
    """Whether tensors that only another input has are taken from there; else they are left out."""
    shares_by_name: ClassVar[bool] = False
    """Whether `shares` depends on the name of the tensor."""

    reads_loras: ClassVar[bool] = False
    """Whether all its inputs are LoRAs."""
    keeps_loras: ClassVar[bool] = False
    """Whether its input may be a LoRA, which it keeps one: what that adds to a model is what is combined."""

    def adds_lora(self, role: str) -> bool:  # noqa: ARG002
        """Whether the input of this role is a LoRA that enters as what it adds to the first input."""
        return False

    def taken_up(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[str]:  # noqa: ARG002
        """Return which tensors it changes, in the order of `shapes`; the others stay the first input's.

        Args:
            shapes: Of the tensors that all inputs have and its numbers reach.
            arguments: Its whole numbers and words, which are the same for all tensors.
        """
        return list(shapes)

    def shares(self, count: int, numbers: Numbers, flags: Flags, name: str) -> tuple[Fraction, ...] | None:  # noqa: ARG002
        """Return the exact coefficients of `count` inputs whose sum is the tensor; None: it is no combination of them.

        Raises:
            UndefinedError, ZeroDivisionError, OverflowError: there are none for these numbers.
        """
        return None

    def layout_arguments(self, layout: str) -> Mapping[str, Argument]:  # noqa: ARG002
        """Return the arguments that follow from the model's layout, whose name is empty where it is not known."""
        return {}

    # What the plan asks

    takes_statistics: ClassVar[bool] = False
    """Whether it finds out a statistic of whole tensors first, or may."""
    whole_tensors: ClassVar[bool] = False
    """Whether all inputs and the result must be in memory at once."""
    surveys: ClassVar[bool] = False
    """Whether it must know the tensors of a scope before it makes one of them."""
    looks_at_each: ClassVar[bool] = False
    """Whether a survey looks at each tensor of a scope by itself; else at all together, in memory at once."""
    name_in_key: ClassVar[bool] = False
    """Whether what a tensor becomes depends on its name, though inputs and arguments are the same."""

    @property
    def key_lines(self) -> Sequence[Line]:
        """What the key of each of its tensors has beside method, arguments and inputs."""
        return ()

    def scopes(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[tuple[str, ...]]:  # noqa: ARG002
        """Return which of some tensors must be known together, by name: each stands in one scope at most."""
        return ()

    def survey_arguments(self, arguments: Arguments) -> Arguments:  # noqa: ARG002
        """Return the arguments that what must be known depends on. The others change without another look."""
        return ()

    def module_arguments(self, arguments: Arguments) -> Arguments | None:  # noqa: ARG002
        """Return the arguments that the tensors of one module have in common, which are made by one computation.

        None: each tensor is a computation of its own.
        """
        return None

    # What the engine asks

    @property
    def program(self) -> Program | None:
        """The user's own program that it runs."""
        return None

    def kernel(self, method: Method) -> Kernel:
        """Return the arithmetic of a method that is made so. Brings torch.

        Raises:
            ProgramError: it is the user's own, and its program fails or has none.
        """
        raise NotImplementedError(method.name)

    def statistic_lines(self, name: str) -> Sequence[Line]:  # noqa: ARG002
        """Return what the keys of the statistics of the method `name` have beside those of all methods."""
        return ()


# Combinations


@dataclass(frozen=True, slots=True)
class Linear(Making):
    """A combination of the inputs, with an exact coefficient for each. Chains of these fold into one."""

    coefficients: Coefficients

    reads: ClassVar[str] = "chunk by chunk; virtual targets fold"
    passes: ClassVar[int] = 5

    def shares(self, count: int, numbers: Numbers, flags: Flags, name: str) -> tuple[Fraction, ...]:
        """Return the coefficients."""
        return self.coefficients(count, numbers, flags, name)


class LinearByName(Linear):
    """A combination whose coefficients depend on the name of the tensor."""

    __slots__ = ()

    shares_by_name: ClassVar[bool] = True


class LinearUnion(Linear):
    """A combination that has the tensors of all inputs: those that the first lacks are the next one's that has them."""

    __slots__ = ()

    union_of_tensors: ClassVar[bool] = True


class LinearOfLoras(Linear):
    """A combination of one input, which may be a LoRA."""

    __slots__ = ()

    reads_loras: ClassVar[bool] = False
    """Whether all its inputs are LoRAs."""
    keeps_loras: ClassVar[bool] = True


class LoraSum(Linear):
    """A combination of the first input and of what each of the `loras` adds to it."""

    __slots__ = ()

    reads_loras: ClassVar[bool] = False
    """Whether all its inputs are LoRAs."""
    keeps_loras: ClassVar[bool] = False
    """Whether its input may be a LoRA, which it keeps one: what that adds to a model is what is combined."""

    def adds_lora(self, role: str) -> bool:
        """Whether it is one of the list `loras`."""
        return role.startswith("loras[")


# Kernels of the catalog


@dataclass(frozen=True, slots=True)
class CatalogKernel(Making):
    """A kernel of our own; of which kind is for the classes below it to say."""

    module: str
    """The module of `mergebuild.methods.kernels` that has it, under the method's name."""

    maker: ClassVar[str] = "Operating"

    def kernel(self, method: Method) -> Kernel:
        """Return the module's kernel for the method."""
        found: Kernel = import_module(f"mergebuild.methods.kernels.{self.module}").KERNELS[method.name]
        return found


class Elementwise(CatalogKernel):
    """A kernel that makes any chunk of a tensor from the same chunks of the inputs."""

    __slots__ = ()

    reads: ClassVar[str] = "chunk by chunk"


@dataclass(frozen=True, slots=True)
class NamedTensors(Elementwise):
    """A kernel for some tensors, which it knows by their names and by the layout of the model."""

    touches: Callable[[str], bool]
    """Whether it changes the tensor of a name."""

    name_in_key: ClassVar[bool] = True

    def taken_up(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[str]:  # noqa: ARG002
        """Return those that it knows."""
        return [name for name in shapes if self.touches(name)]

    def layout_arguments(self, layout: str) -> Mapping[str, Argument]:
        """Return the name of the layout as the argument `layout`."""
        return {"layout": layout}


class Rowwise(CatalogKernel):
    """A kernel that makes any rows, or vectors along the last dimension, from the same ones of the inputs."""

    __slots__ = ()

    reads: ClassVar[str] = "row by row"
    passes: ClassVar[int] = 40


class Statistical(CatalogKernel):
    """A kernel that makes any chunk, or rows, once it knows a few numbers about the whole tensor."""

    __slots__ = ()

    reads: ClassVar[str] = "the tensor once for its statistics, which are kept; then chunk by chunk"
    passes: ClassVar[int] = 50
    takes_statistics: ClassVar[bool] = True


class WholeTensor(CatalogKernel):
    """A kernel that must have all inputs of a tensor whole."""

    __slots__ = ()

    reads: ClassVar[str] = "a whole tensor, in memory"
    passes: ClassVar[int] = 200
    whole_tensors: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Surveyed(CatalogKernel):
    """A kernel that must know all tensors of a scope, such as a layer, before it makes one; those in none it leaves."""

    scopes_of: Scopes
    parameters: tuple[str, ...] = ()
    """Those that what must be known depends on."""

    reads: ClassVar[str] = "several tensors together, in memory; then each alone"
    passes: ClassVar[int] = 200
    whole_tensors: ClassVar[bool] = True
    surveys: ClassVar[bool] = True
    name_in_key: ClassVar[bool] = True

    def taken_up(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[str]:
        """Return those that are in a scope."""
        known = {name for scope in self.scopes_of(shapes, arguments) for name in scope}
        return [name for name in shapes if name in known]

    def scopes(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[tuple[str, ...]]:
        """Return the scopes."""
        return self.scopes_of(shapes, arguments)

    def survey_arguments(self, arguments: Arguments) -> Arguments:
        """Return those of its `parameters`."""
        return tuple((name, value) for name, value in arguments if name in self.parameters)


class SurveyedOneByOne(Surveyed):
    """A kernel that must know all tensors of a scope, each of which can be looked at by itself."""

    __slots__ = ()

    looks_at_each: ClassVar[bool] = True


# A user's own


@dataclass(frozen=True, slots=True)
class OwnProgram(Making):
    """What a user's own program makes, of which nothing is known but its text."""

    defined_by: Program

    maker: ClassVar[str] = "Operating"
    takes_statistics: ClassVar[bool] = True
    name_in_key: ClassVar[bool] = True
    """It is told the tensor's name, and may make something of it."""

    @property
    def key_lines(self) -> Sequence[Line]:
        """The program, by its content."""
        return (Line("program", self.defined_by.content),)

    @property
    def program(self) -> Program:
        """The program."""
        return self.defined_by

    def kernel(self, method: Method) -> Kernel:
        """Return the kernel that the program defines."""
        found: Kernel = import_module("mergebuild.methods.kernels.programs").kernel_in(method, self.defined_by)
        return found

    def statistic_lines(self, name: str) -> Sequence[Line]:
        """Return the method's name and the program's text, which may define several methods."""
        return (Line("method", name), Line("program", self.defined_by.text))


# LoRAs


class ModelDelta(Making):
    """What a LoRA adds to a tensor of a model: of factors that have shapes of their own and are read whole."""

    __slots__ = ()

    maker: ClassVar[str] = "Adding"


class LoraFactors(Making):
    """The tensors of a module of a LoRA that is made: all of them by one computation, of what is read whole."""

    __slots__ = ()

    maker: ClassVar[str] = "Factoring"

    def module_arguments(self, arguments: Arguments) -> Arguments:
        """Return all but which tensor of the module it is."""
        return tuple((name, value) for name, value in arguments if name != "role")


class ExtractedLora(Making):
    """A LoRA that comes near to the difference of two models."""

    __slots__ = ()

    reads: ClassVar[str] = WholeTensor.reads
    makes_lora: ClassVar[bool] = True
    alpha_is_rank: ClassVar[bool] = True


class MergedLoras(Making):
    """A LoRA that does what several others do together, or that comes near to a larger one."""

    __slots__ = ()

    reads_loras: ClassVar[bool] = True

    reads: ClassVar[str] = WholeTensor.reads
    makes_lora: ClassVar[bool] = True
