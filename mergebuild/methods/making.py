"""The kinds of methods: an object that answers whatever other rooms must know of how a method makes tensors. No torch.

A row of the catalog has such an object as `makes`. Other rooms ask it and never look at its class. The fold asks which
tensors are changed and whether these are combinations of the inputs; the plan asks what a tensor's key has besides
inputs and arguments, and what must be known first; the engine asks which of its makers does the work; the report asks
how inputs are read. Only `fold/lora_made.py` tells classes apart, at one place, if a target is to be a LoRA.

A new kind is one more class here, the class in `engine/makers.py` that it names as its `maker`, and its rows in
`tables`. A kind without fields of its own is a plain class, not a dataclass: defining a dataclass takes half a
millisecond, and a whole plan may take 0.3 s.
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
    "Experts",
    "ExtractedLora",
    "GatheredRows",
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
    "PromptGate",
    "RandomGate",
    "Rowwise",
    "Scopes",
    "Shapes",
    "Statistical",
    "Surveyed",
    "SurveyedOneByOne",
    "WholeTensor",
]

Coefficients = Callable[[int, Numbers, Flags, str], tuple[Fraction, ...]]
"""(number of inputs, numbers, flags, tensor name) -> one coefficient per input, in the order of the inputs."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""

Scopes = Callable[[Shapes, Mapping[str, object]], Sequence[tuple[str, ...]]]
"""(shapes of the tensors, arguments) -> the scopes: for each, the names of the tensors that must be known together."""


@dataclass(frozen=True, slots=True)
class Program:
    """The Python text that defines a user's own method, and what the mergefile says about it."""

    file: str
    """The path as shown to people: relative to the project's folder if it is inside."""
    text: str
    table: str
    """The method's table in the mergefile, as text that changes whenever the table does."""

    @property
    def content(self) -> str:
        """The digest of the text."""
        return tagged(checksum(self.text.encode()))


@dataclass(frozen=True, slots=True)
class Making:
    """How a method makes tensors. The answers of this class are those of most kinds."""

    reads: ClassVar[str] = ""
    """How it reads its inputs, for people; this decides how much memory it takes. Empty: not known."""
    passes: ClassVar[int] = 15
    """About how often it goes over the values of each input: an estimate, measured for some methods of each kind."""
    maker: ClassVar[str] = ""
    """The class of `engine/makers.py` that makes its tensors; empty if they are combinations, or other methods make
    them."""

    # What the fold asks

    makes_lora: ClassVar[bool] = False
    """Whether its target is a LoRA, whose tensors have names and shapes that no input has."""
    alpha_is_rank: ClassVar[bool] = False
    """For a LoRA: whether the alpha of each module equals its rank."""
    makes_experts: ClassVar[bool] = False
    """Whether its target is a stack of experts, whose feed-forward layers are in one for each of the `models`."""
    union_of_tensors: ClassVar[bool] = False
    """Whether a tensor that the first input lacks is taken from the next input that has it; else it is left out."""
    shares_by_name: ClassVar[bool] = False
    """Whether `shares` depends on the tensor's name."""

    reads_loras: ClassVar[bool] = False
    """Whether all its inputs are LoRAs."""
    keeps_loras: ClassVar[bool] = False
    """Whether its input may be a LoRA. The target is a LoRA then, and its delta is what is combined."""

    def adds_lora(self, role: str) -> bool:  # noqa: ARG002
        """Whether the input with this role is a LoRA whose deltas are added to the first input."""
        return False

    def taken_up(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[str]:  # noqa: ARG002
        """Return the names of the tensors that it changes, in the order of `shapes`.

        The others stay as in the first input.

        Args:
            shapes: The tensors that all inputs have and that its numbers reach.
            arguments: Its whole numbers and words, which are the same for all tensors.
        """
        return list(shapes)

    def shares(self, count: int, numbers: Numbers, flags: Flags, name: str) -> tuple[Fraction, ...] | None:  # noqa: ARG002
        """Return the exact coefficient of each of `count` inputs in a tensor.

        None if the tensor is no combination of them.

        Raises:
            UndefinedError, ZeroDivisionError, OverflowError: these numbers give no coefficients.
        """
        return None

    def layout_arguments(self, layout: str) -> Mapping[str, Argument]:  # noqa: ARG002
        """Return the arguments that follow from the layout's name; that is empty for an unknown layout."""
        return {}

    # What the plan asks

    takes_statistics: ClassVar[bool] = False
    """Whether it needs a statistic of whole tensors first, or may need one."""
    whole_tensors: ClassVar[bool] = False
    """Whether all inputs and the result must be in memory at once."""
    surveys: ClassVar[bool] = False
    """Whether it must know all tensors of a scope before it makes one of them."""
    looks_at_each: ClassVar[bool] = False
    """Whether a survey looks at the tensors of a scope one at a time; else all of them are in memory at once."""
    name_in_key: ClassVar[bool] = False
    """Whether the result depends on the tensor's name, for equal inputs and arguments."""

    @property
    def key_lines(self) -> Sequence[Line]:
        """The lines in the key of each tensor besides method, arguments and inputs."""
        return ()

    def scopes(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[tuple[str, ...]]:  # noqa: ARG002
        """Return the scopes among some tensors: for each, the names of the tensors that must be known together.

        A tensor is in one scope at most.
        """
        return ()

    def survey_arguments(self, arguments: Arguments) -> Arguments:  # noqa: ARG002
        """Return the arguments that the survey depends on. Changing any other one reuses the survey's result."""
        return ()

    def module_arguments(self, arguments: Arguments) -> Arguments | None:  # noqa: ARG002
        """Return the arguments by which tensors of one module of a LoRA are known: one computation makes them all.

        Tensors belong together if these arguments and the inputs are equal. None: each tensor is computed by itself.
        """
        return None

    # What the engine asks

    @property
    def program(self) -> Program | None:
        """The user's program that it runs; None for methods of the catalog."""
        return None

    def kernel(self, method: Method) -> Kernel:
        """Return the kernel of a method of this kind. Imports torch.

        Raises:
            ProgramError: it is a user's own method, and its program fails or defines no such kernel.
        """
        raise NotImplementedError(method.name)

    def statistic_lines(self, name: str) -> Sequence[Line]:  # noqa: ARG002
        """Return the lines that the keys of this method's statistics have besides those of all methods."""
        return ()


# Combinations


@dataclass(frozen=True, slots=True)
class Linear(Making):
    """A combination of the inputs with an exact coefficient for each.

    Chains of linear targets become one combination.
    """

    coefficients: Coefficients

    reads: ClassVar[str] = "chunk by chunk; virtual targets fold"
    passes: ClassVar[int] = 5

    def shares(self, count: int, numbers: Numbers, flags: Flags, name: str) -> tuple[Fraction, ...]:
        """Return the coefficients."""
        return self.coefficients(count, numbers, flags, name)


class LinearByName(Linear):
    """A combination whose coefficients depend on the tensor's name."""

    __slots__ = ()

    shares_by_name: ClassVar[bool] = True


class LinearUnion(Linear):
    """A combination that has the tensors of all inputs.

    One that the first input lacks is that of the next one that has it.
    """

    __slots__ = ()

    union_of_tensors: ClassVar[bool] = True


class LinearOfLoras(Linear):
    """A combination of one input, which may be a LoRA."""

    __slots__ = ()

    reads_loras: ClassVar[bool] = False
    """Whether all its inputs are LoRAs."""
    keeps_loras: ClassVar[bool] = True


class LoraSum(Linear):
    """The first input plus the deltas of the `loras`, each with its strength."""

    __slots__ = ()

    reads_loras: ClassVar[bool] = False
    """Whether all its inputs are LoRAs."""
    keeps_loras: ClassVar[bool] = False
    """Whether its input may be a LoRA."""

    def adds_lora(self, role: str) -> bool:
        """Whether the input is in the list `loras`."""
        return role.startswith("loras[")


# Kernels of the catalog


@dataclass(frozen=True, slots=True)
class CatalogKernel(Making):
    """A kernel of the catalog. Its subclasses say of which kind."""

    module: str
    """The module of `mergebuild.methods.kernels` whose `KERNELS` has it, under the method's name."""

    maker: ClassVar[str] = "Operating"

    def kernel(self, method: Method) -> Kernel:
        """Return the method's kernel from that module."""
        found: Kernel = import_module(f"mergebuild.methods.kernels.{self.module}").KERNELS[method.name]
        return found


class Elementwise(CatalogKernel):
    """A kernel that makes any chunk of a tensor from the same elements of the inputs."""

    __slots__ = ()

    reads: ClassVar[str] = "chunk by chunk"


@dataclass(frozen=True, slots=True)
class NamedTensors(Elementwise):
    """A kernel for some tensors only, chosen by their names and the model's layout."""

    touches: Callable[[str], bool]
    """Whether it changes the tensor with a name."""

    name_in_key: ClassVar[bool] = True

    def taken_up(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[str]:  # noqa: ARG002
        """Return the tensors that it touches."""
        return [name for name in shapes if self.touches(name)]

    def layout_arguments(self, layout: str) -> Mapping[str, Argument]:
        """Return the layout's name as the argument `layout`."""
        return {"layout": layout}


class Rowwise(CatalogKernel):
    """A kernel that makes any rows, or vectors along the last dimension, from the same ones of the inputs."""

    __slots__ = ()

    reads: ClassVar[str] = "row by row"
    passes: ClassVar[int] = 40


class Statistical(CatalogKernel):
    """A kernel that makes any chunk, or any rows, once it knows a few numbers about the whole tensor."""

    __slots__ = ()

    reads: ClassVar[str] = "the tensor once for its statistics, which are kept; then chunk by chunk"
    passes: ClassVar[int] = 50
    takes_statistics: ClassVar[bool] = True


class WholeTensor(CatalogKernel):
    """A kernel that needs all inputs of a tensor whole."""

    __slots__ = ()

    reads: ClassVar[str] = "a whole tensor, in memory"
    passes: ClassVar[int] = 200
    whole_tensors: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Surveyed(CatalogKernel):
    """A kernel that must know all tensors of a scope, such as a layer, before it makes one.

    It changes no tensor outside them.
    """

    scopes_of: Scopes
    parameters: tuple[str, ...] = ()
    """The parameters that the survey depends on."""

    reads: ClassVar[str] = "several tensors together, in memory; then each alone"
    passes: ClassVar[int] = 200
    whole_tensors: ClassVar[bool] = True
    surveys: ClassVar[bool] = True
    name_in_key: ClassVar[bool] = True

    def taken_up(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[str]:
        """Return the tensors that are in a scope."""
        known = {name for scope in self.scopes_of(shapes, arguments) for name in scope}
        return [name for name in shapes if name in known]

    def scopes(self, shapes: Shapes, arguments: Mapping[str, object]) -> Sequence[tuple[str, ...]]:
        """Return the scopes."""
        return self.scopes_of(shapes, arguments)

    def survey_arguments(self, arguments: Arguments) -> Arguments:
        """Return the arguments of its `parameters`."""
        return tuple((name, value) for name, value in arguments if name in self.parameters)


class SurveyedOneByOne(Surveyed):
    """A kernel that must know all tensors of a scope, and whose survey looks at them one at a time."""

    __slots__ = ()

    looks_at_each: ClassVar[bool] = True


# A user's own


@dataclass(frozen=True, slots=True)
class OwnProgram(Making):
    """A user's own method: nothing is known of it but the text of its program."""

    defined_by: Program

    maker: ClassVar[str] = "Operating"
    takes_statistics: ClassVar[bool] = True
    name_in_key: ClassVar[bool] = True
    """The program is told the tensor's name, so its result may depend on it."""

    @property
    def key_lines(self) -> Sequence[Line]:
        """The digest of the program's text."""
        return (Line("program", self.defined_by.content),)

    @property
    def program(self) -> Program:
        """The program."""
        return self.defined_by

    def kernel(self, method: Method) -> Kernel:
        """Return the kernel that the program defines for the method."""
        found: Kernel = import_module("mergebuild.methods.kernels.programs").kernel_in(method, self.defined_by)
        return found

    def statistic_lines(self, name: str) -> Sequence[Line]:
        """Return the method's name and the program's text: one program may define several methods."""
        return (Line("method", name), Line("program", self.defined_by.text))


# Rows of tokens


class GatheredRows(Making):
    """A tensor of rows of other tensors, which have other numbers of rows."""

    __slots__ = ()

    reads: ClassVar[str] = "row by row, where each is"
    maker: ClassVar[str] = "Gathering"


# Experts


class Experts(Making):
    """A stack of experts: tensors of the inputs under other names, and gates."""

    __slots__ = ()

    reads: ClassVar[str] = "nothing: tensors are copied"
    makes_experts: ClassVar[bool] = True


class RandomGate(WholeTensor):
    """Gates that are drawn: a tensor without inputs."""

    __slots__ = ()


class PromptGate(Making):
    """Gates of the embeddings of prompts: the embedding has another shape, and some rows of it are read."""

    __slots__ = ()

    maker: ClassVar[str] = "Gating"


# LoRAs


class ModelDelta(Making):
    """The delta that a LoRA adds to a tensor of a model, made of factors with other shapes, which are read whole."""

    __slots__ = ()

    maker: ClassVar[str] = "Adding"


class LoraFactors(Making):
    """The tensors of one module of a LoRA that is made, all by one computation on operands that are read whole."""

    __slots__ = ()

    maker: ClassVar[str] = "Factoring"

    def module_arguments(self, arguments: Arguments) -> Arguments:
        """Return all arguments but `role`, which says which tensor of the module it is."""
        return tuple((name, value) for name, value in arguments if name != "role")


class ExtractedLora(Making):
    """A LoRA that approximates the difference of two models."""

    __slots__ = ()

    reads: ClassVar[str] = WholeTensor.reads
    makes_lora: ClassVar[bool] = True
    alpha_is_rank: ClassVar[bool] = True


class MergedLoras(Making):
    """A LoRA that does what several LoRAs do together, or that approximates a larger one."""

    __slots__ = ()

    reads_loras: ClassVar[bool] = True

    reads: ClassVar[str] = WholeTensor.reads
    makes_lora: ClassVar[bool] = True
