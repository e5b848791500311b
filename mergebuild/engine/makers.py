"""Makers: a step of a cluster, ready to run. Which chunks it reads, how it makes its own, and what came of it."""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib import import_module
from math import prod
from typing import Any, NamedTuple, cast

import torch
import xxhash
from torch import Tensor

from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import Combination, KernelCall, Step
from mergebuild.key import Key, Line, narrows
from mergebuild.lora import Role
from mergebuild.methods.kernels.blend import float32_of
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, all_finite
from mergebuild.methods.kernels.linear import combine, pivot_of
from mergebuild.methods.kernels.lora import LoraDeltas
from mergebuild.methods.kernels.lora_making import LoraModule
from mergebuild.methods.kernels.programs import kernel_in
from mergebuild.methods.method import Method, UndefinedError
from mergebuild.methods.tables.lora import DELTA, FACTOR

__all__ = [
    "DTYPES",
    "LARGEST",
    "Adding",
    "Factoring",
    "Linear",
    "Maker",
    "Narrowing",
    "Operating",
    "kernel_of",
    "makers_of",
    "memory_for",
]

DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}

_STATISTICS = "2"
"""Part of the key of every statistic: those kept under an earlier one may be of memory that nothing had filled."""

LARGEST: Mapping[str, float] = {
    "float16": 65519.99609375,
    "bfloat16": struct.unpack("<f", b"\xff\x7f\x7f\x7f")[0],
    "float8_e4m3fn": 464.0,
    "float8_e5m2": 61439.99609375,
}
"""The largest float32 magnitude that still rounds to a finite value. Above it a dtype has Inf, or (float8_e4m3fn)
saturates silently."""


class Maker(ABC):
    """Makes the chunks of one step."""

    grain = Grain.ELEMENT
    cannot_overflow = False
    """Whether finite inputs give values in the range of the step's dtype."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None) -> None:
        self.step = step
        self.dtype = DTYPES[step.dtype]
        self.inputs = inputs
        """The indices of the chunks that it reads, in order."""
        self.kept = kept
        """The index under which later steps read its values, rounded if it has a place; None when none does."""
        self.running = xxhash.xxh3_128()
        self.nonfinite = 0
        self.overflowed = 0
        self.problem: UndefinedError | None = None
        """Why it has no value."""
        self.parts: Sequence[Combination] = ()
        """What it takes whole, of other shapes."""

    @abstractmethod
    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:
        """Return the float32 chunk that begins with element `start`: in `out`, in a chunk, or a new one."""


class Linear(Maker):
    """A linear combination. The first input's chunk holds the result, when nothing reads it afterwards."""

    def __init__(
        self, step: Step, inputs: Sequence[int], kept: int | None, dtypes: Mapping[bytes, str], *, takes_first: bool
    ) -> None:
        super().__init__(step, inputs, kept)
        shares = _shares_of(tuple(coefficient for _, coefficient in step.terms))
        self._centre = None if shares.pivot is None else inputs[shares.pivot]
        self._others = [slot for index, slot in enumerate(inputs) if index != shares.pivot]
        self._coefficients = shares.others
        self._takes_first = takes_first and bool(self._others)
        self.cannot_overflow = shares.is_mean and all(
            _range(dtypes[digest]) <= _range(step.dtype) for digest, _ in step.terms
        )

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return the combination, in `out` or in the first input's chunk."""
        return combine(
            None if self._centre is None else chunks[self._centre],
            [chunks[slot] for slot in self._others],
            self._coefficients,
            chunks[self._others[0]] if self._takes_first else out,
            spare,
        )


class Narrowing(Maker):
    """A lone float64 tensor in a narrower dtype than float32. It is read anew: its chunk was rounded to float32."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None) -> None:
        super().__init__(step, inputs, kept)
        self._read: Callable[[int, Tensor], Tensor] | None = None

    def take(self, read: Callable[[int, Tensor], Tensor]) -> None:
        """Give it what writes the values from an element on, rounded to odd, into a buffer, and returns that."""
        self._read = read

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return float32 values, in `out`, that round to what the float64 ones round to."""
        assert self._read is not None  # given before anything is made
        return self._read(start, out)


class Operating(Maker):
    """A kernel's work."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        super().__init__(step, inputs, kept)
        self.call = Call(operation.tensor, operation.shape, operation.arguments)
        self.kernel = kernel_of(operation.method)
        self.grain = self.kernel.grain
        self.survey = operation.survey
        self.state: Any = None
        self.unknowable = False
        """Whether an input has a NaN or an infinity, so that there is no statistic."""
        self._operation = operation

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return what the kernel makes."""
        inputs = [chunks[slot] for slot in self.inputs]
        if self.unknowable or (self.grain is Grain.TENSOR and not all_finite(inputs)):
            return out.fill_(math.nan)
        return self.kernel.apply(self.call, inputs, start, self.state).reshape(-1)

    def state_key(self, place: torch.device) -> bytes | None:
        """Return what the kernel's statistic depends on, hashed; None when there is none.

        `place`: where it is computed, on which it depends unless the method is exact.
        """
        statistic = self.kernel.statistic
        if statistic is None:
            return None
        lines = [Line("schema", _STATISTICS), Line("statistic", statistic.name), Line("version", statistic.version)]
        lines.append(Line("shape", str(self.call.shape)))
        method = self._operation.method
        if not method.exact and place.type != "cpu":
            lines.append(Line("device", place.type))
        if method.program is not None:
            lines += [Line("method", method.name), Line("program", method.program.text)]
        if statistic.arguments or method.program is not None:
            lines.append(Line("tensor", self.call.tensor))
            lines += [Line("argument", f"{name}={self.call.arguments[name]}") for name in statistic.arguments]
        return Key((*lines, *(Line("input", digest) for digest in self._operation.inputs))).digest_of_values


class Adding(Maker):
    """What LoRAs add to a tensor: made of tensors that have shapes of their own, in blocks of rows."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        super().__init__(step, inputs, kept)
        deltas = operation.arguments["deltas"]
        assert isinstance(deltas, str)
        self.parts = operation.parts
        self._deltas = LoraDeltas(deltas, operation.shape)
        self._count = max(1, prod(operation.shape))

    @property
    def unit(self) -> int:
        """How many elements must be made together."""
        return self._count if self._deltas.needs_whole else self._deltas.unit

    def take(self, factors: Sequence[Tensor]) -> None:
        """Give it what it is made of: the parts in their order, flat."""
        self._deltas.take(factors)

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return what is added: where it is kept, unless it is rounded for a place first, else in `out`."""
        weight = chunks[self.inputs[0]] if self.inputs else None
        keeps = self.kept is not None and not self.step.places
        return self._deltas.fill(chunks[self.kept] if keeps and self.kept is not None else out, start, weight)


class Factoring(Maker):
    """A tensor of a LoRA that is made: one of those that its module has, which are one computation."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        super().__init__(step, inputs, kept)
        self.module = LoraModule(str(operation.arguments["making"]))
        self.parts = operation.parts
        self.together = operation.together
        self._role = cast("Role", operation.arguments["role"])
        self._value: Tensor | None = None

    def take(self, made: Mapping[Role, Tensor] | None) -> None:
        """Give it what its module has; None: its values are not known, as what they are made of is not finite."""
        self._value = made[self._role] if made is not None else None

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return a piece of the tensor, in `out`."""
        return out.fill_(math.nan) if self._value is None else out.copy_(self._value[start : start + len(out)])


def memory_for(operation: KernelCall) -> int:
    """Return how many bytes an operation needs beside chunks: 0 unless its kernel needs the tensor whole."""
    if operation.method is FACTOR:
        return LoraModule(str(operation.arguments["making"])).memory
    if operation.method is DELTA:
        deltas = str(operation.arguments["deltas"])
        return 16 * prod(operation.shape) if LoraDeltas(deltas, operation.shape).needs_whole else 0
    needed = kernel_of(operation.method).working_set
    call = Call(operation.tensor, operation.shape, operation.arguments)
    return needed(call, len(operation.inputs)) if needed is not None else 0


@cache
def kernel_of(method: Method) -> Kernel:
    """Return the kernel of a method.

    Raises:
        ProgramError: it is the user's own, and its program fails or has none.
    """
    if method.program is not None:
        return kernel_in(method)
    found: Kernel = import_module(f"mergebuild.methods.kernels.{method.kernel}").KERNELS[method.name]
    return found


class _Shares(NamedTuple):
    """The numbers of a linear form: the pivot's index, the others as float32, and whether all of it is a mean."""

    pivot: int | None
    others: Sequence[float]
    is_mean: bool


@cache
def _shares_of(coefficients: tuple[Fraction, ...]) -> _Shares:
    """Return what a form's exact coefficients come to; most tensors of a model have the same."""
    pivot = pivot_of(coefficients)
    others = [float32_of(each) for index, each in enumerate(coefficients) if index != pivot]
    return _Shares(pivot, others, pivot is not None and min(coefficients) >= 0)


def _range(dtype: str) -> float:
    """Return the largest finite value of a dtype."""
    return torch.finfo(DTYPES[dtype]).max


def makers_of(cluster: Cluster) -> tuple[list[Maker], int]:
    """Return what makes the steps, and the number of chunks that must be at hand at once."""
    slots = {leaf.digest: index for index, leaf in enumerate(cluster.leaves)}
    dtypes = {step.digest: step.dtype for step in cluster.steps} | {leaf.digest: leaf.dtype for leaf in cluster.leaves}
    last = {digest: step.digest for step in cluster.steps for digest in step.reads}
    leaves = {leaf.digest: leaf.dtype for leaf in cluster.leaves}
    views = {leaf.digest for leaf in cluster.leaves if leaf.dtype == "float32"}
    found: list[Maker] = []
    for step in cluster.steps:
        inputs = [slots[digest] for digest in step.reads]
        kept = None
        if step.digest in last and step.digest not in slots:  # else its readers have it from a file
            kept = slots[step.digest] = len(slots)
        if step.operation is not None and step.operation.method.by_parts:
            maker = Factoring if step.operation.method is FACTOR else Adding
            found.append(maker(step, inputs, kept, step.operation))
            continue
        if step.operation is not None:
            found.append(Operating(step, inputs, kept, step.operation))
            continue
        if step.lone is not None and narrows(leaves.get(step.lone, ""), step.dtype):
            found.append(Narrowing(step, inputs, kept))
            continue
        pivot = _shares_of(tuple(coefficient for _, coefficient in step.terms)).pivot
        first = next((digest for index, (digest, _) in enumerate(step.terms) if index != pivot), None)
        takes_first = first is not None and last[first] == step.digest and first not in views
        found.append(Linear(step, inputs, kept, dtypes, takes_first=takes_first))
    return found, len(slots)
