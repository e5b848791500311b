"""Makers: steps of a cluster, ready to be computed with torch.

A maker reads chunks, makes its own, and counts faults.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from mergebuild.configuration.token_rows import RowsOfTokens
from mergebuild.digest import new_checksum
from mergebuild.engine.findings import statistic_key
from mergebuild.engine.gathering import RowGatherer, Runs
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import Combination, KernelCall, Step
from mergebuild.key import narrows
from mergebuild.lora import DeltaSum, Extraction, Merging, Role
from mergebuild.methods.call import unit_of
from mergebuild.methods.gates import PromptTokens
from mergebuild.methods.kernels.experts import gates_of
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, all_finite
from mergebuild.methods.kernels.linear import combine
from mergebuild.methods.kernels.lora import LoraDeltas
from mergebuild.methods.kernels.lora_making import LoraModule
from mergebuild.methods.method import Method, UndefinedError
from mergebuild.methods.shares import shares_of

__all__ = [
    "DTYPES",
    "LARGEST",
    "MAKERS",
    "Adding",
    "Factoring",
    "Gating",
    "LinearMaker",
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

Found = TypeVar("Found")

LARGEST: Mapping[str, float] = {
    "float16": 65519.99609375,
    "bfloat16": struct.unpack("<f", b"\xff\x7f\x7f\x7f")[0],
    "float8_e4m3fn": 464.0,
    "float8_e5m2": 61439.99609375,
}
"""The largest float32 magnitude that still rounds to a finite value. Above it a dtype has Inf, or (float8_e4m3fn)
saturates silently."""


class Bench(Protocol):
    """What a worker offers to the makers of a cluster before the first chunk is made."""

    @property
    def place(self) -> torch.device:
        """Where tensors are computed."""

    def part(self, part: Combination, span: tuple[int, int] | None = None) -> Tensor:
        """Return an operand that is taken whole, or a range of it, flat; a single tensor as it is stored."""

    def run(self, part: Combination, first: int, count: int) -> Tensor:
        """Return elements of such an operand as float32, flat; it may be called between chunks."""

    def rows(self, part: Combination, runs: Runs, width: int) -> Tensor:
        """Return runs of rows (the first, and how many) of such an operand as float32, flat, also between chunks."""

    def release(self, parts: Iterable[Combination]) -> None:
        """Release operands that were taken whole."""

    def once(self, key: bytes, compute: Callable[[], Found], *, alone: bool) -> Found:
        """Return a result that several makers share; the first that asks has it computed.

        `alone`: while no other worker has a large tensor in memory.
        """

    def reader_to_odd(self, index: int) -> Callable[[int, Tensor], Tensor]:
        """Return a function that writes an input's values from an element on, rounded to odd, into a buffer."""

    def find_out(self, maker: Operating) -> None:
        """Give a maker the state of its statistic or of its survey, or the reason why there is none."""


class Maker(ABC):
    """Makes the chunks of one step."""

    unit = 1
    """How many elements must be made together."""
    cannot_overflow = False
    """Whether finite inputs give values in the range of the step's dtype."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None) -> None:
        self.step = step
        self.dtype = DTYPES[step.dtype]
        self.inputs = inputs
        """The indices of the chunks that it reads, in order."""
        self.kept = kept
        """The index under which later steps read its values, rounded if it is written; None if none reads them."""
        self.running = new_checksum()
        self.nonfinite = 0
        self.overflowed = 0
        self.problem: UndefinedError | None = None
        """Why it has no value."""
        self.parts: Sequence[Combination] = ()
        """Operands that it takes whole, with other shapes."""

    def prepare(self, bench: Bench) -> None:  # noqa: B027 -- combinations have all they need
        """Get what it needs besides chunks, before the first is made."""

    @abstractmethod
    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:
        """Return the float32 chunk that begins with element `start`: in `out`, in a chunk, or a new one."""


class LinearMaker(Maker):
    """A linear combination. The result is written into the first input's chunk if nothing reads that afterwards."""

    def __init__(
        self, step: Step, inputs: Sequence[int], kept: int | None, dtypes: Mapping[bytes, str], *, takes_first: bool
    ) -> None:
        super().__init__(step, inputs, kept)
        shares = shares_of(tuple(coefficient for _, coefficient in step.terms))
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
    """A single tensor that `narrows`. It is read again, since its chunk was rounded to float32."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None) -> None:
        super().__init__(step, inputs, kept)
        self._read: Callable[[int, Tensor], Tensor] | None = None

    def prepare(self, bench: Bench) -> None:
        """Get the reader of its input."""
        self._read = bench.reader_to_odd(self.inputs[0])

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return float32 values, in `out`, that round to the same values as the exact ones."""
        assert self._read is not None  # it was prepared
        return self._read(start, out)


class OperationMaker(Maker):
    """Makes what methods make by operations: each `Making` names the subclass that does."""

    @abstractmethod
    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        """Take the operation of a step."""
        super().__init__(step, inputs, kept)

    @classmethod
    @abstractmethod
    def memory_for(cls, operation: KernelCall) -> int:
        """Return how many bytes it needs besides chunks."""


class Operating(OperationMaker):
    """Makes chunks with a kernel."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        super().__init__(step, inputs, kept, operation)
        self.call = Call(operation.tensor, operation.shape, operation.arguments)
        self.kernel = kernel_of(operation.method)
        self.unit = unit_of(self.kernel.grain, self.call)
        self.survey = operation.survey
        self.state: Any = None
        self.unknowable = False
        """Whether an input has a NaN or an infinity, so that there is no statistic."""
        self._operation = operation

    @classmethod
    def memory_for(cls, operation: KernelCall) -> int:
        """Return the kernel's working set if it needs the tensor whole; else 0."""
        needed = kernel_of(operation.method).working_set
        call = Call(operation.tensor, operation.shape, operation.arguments)
        return needed(call, len(operation.inputs)) if needed is not None else 0

    def prepare(self, bench: Bench) -> None:
        """Have its statistic computed, or looked up."""
        bench.find_out(self)

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return the kernel's result."""
        inputs = [chunks[slot] for slot in self.inputs]
        if self.unknowable or (self.kernel.grain is Grain.TENSOR and not all_finite(inputs)):
            return out.fill_(math.nan)
        made = self.kernel.apply(self.call, inputs, start, self.state).reshape(-1)
        return made.to(out.device)  # without inputs it is made where nothing says otherwise

    def state_key(self, place: torch.device) -> bytes | None:
        """Return the key of the kernel's statistic; None if it has none.

        `place`: where it is computed, which matters unless the method is exact.
        """
        statistic = self.kernel.statistic
        if statistic is None:
            return None
        return statistic_key(self._operation, statistic.name, statistic.arguments, statistic.version, device=place.type)


class Adding(OperationMaker):
    """Makes what LoRAs add to a tensor, from factors with shapes of their own, in blocks of rows."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        super().__init__(step, inputs, kept, operation)
        self.parts = operation.parts
        self._deltas = self._deltas_of(operation)
        self.unit = max(1, prod(operation.shape)) if self._deltas.needs_whole else self._deltas.unit

    @classmethod
    def memory_for(cls, operation: KernelCall) -> int:
        """Return the size of the weight and of the delta in float64, if one of them is needed whole."""
        return 16 * prod(operation.shape) if cls._deltas_of(operation).needs_whole else 0

    @staticmethod
    def _deltas_of(operation: KernelCall) -> LoraDeltas:
        added = operation.arguments["deltas"]
        assert isinstance(added, DeltaSum)
        return LoraDeltas(added, operation.shape)

    def prepare(self, bench: Bench) -> None:
        """Take the factors."""
        self._deltas.take([bench.part(part) for part in self.parts])

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return the delta: in the chunk that is kept, unless it is rounded to be written first; else in `out`."""
        weight = chunks[self.inputs[0]] if self.inputs else None
        keeps = self.kept is not None and not self.step.places
        return self._deltas.fill(chunks[self.kept] if keeps and self.kept is not None else out, start, weight)


class Factoring(OperationMaker):
    """Makes one tensor of a new LoRA. All tensors of its module come from one computation."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        super().__init__(step, inputs, kept, operation)
        self._module = self._module_of(operation)
        self.parts = operation.parts
        self._together = operation.together
        self._role = cast("Role", operation.arguments["role"])
        self._value: Tensor | None = None

    @classmethod
    def memory_for(cls, operation: KernelCall) -> int:
        """Return what decomposing the weight needs, if it is decomposed."""
        return cls._module_of(operation).memory

    @staticmethod
    def _module_of(operation: KernelCall) -> LoraModule:
        making = operation.arguments["making"]
        assert isinstance(making, Extraction | Merging)
        return LoraModule(making)

    def prepare(self, bench: Bench) -> None:
        """Get its tensor of the module; None if the inputs are not finite."""
        made = bench.once(self._together, lambda: self._made(bench), alone=self._module.is_large)
        self._value = made[self._role] if made is not None else None

    def _made(self, bench: Bench) -> Mapping[Role, Tensor] | None:
        """Return the tensors of the module."""
        module = self._module
        whole = [
            bench.part(part, module.span) if part else torch.zeros(module.count, device=bench.place)
            for part in self.parts
        ]
        made = module.made(whole)
        bench.release(self.parts)
        return made

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return a piece of the tensor, in `out`; NaN if it is not known."""
        return out.fill_(math.nan) if self._value is None else out.copy_(self._value[start : start + len(out)])


class Gathering(OperationMaker):
    """Makes an embedding of rows of other embeddings. Only a chunk of its rows is in memory, wherever they are."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        super().__init__(step, inputs, kept, operation)
        rows = operation.arguments["rows"]
        assert isinstance(rows, RowsOfTokens)
        self.parts = operation.parts
        self.unit = max(1, prod(operation.shape[1:]))
        self._rows = rows
        self._gatherer: RowGatherer | None = None

    @classmethod
    def memory_for(cls, operation: KernelCall) -> int:  # noqa: ARG003 -- as all
        """Return 0: it needs its chunks only."""
        return 0

    def prepare(self, bench: Bench) -> None:
        """Get the mean of all rows, if it is needed for padding."""

        def read(part: int, runs: Runs) -> Tensor:
            return bench.rows(self.parts[part], runs, self.unit)

        self._gatherer = RowGatherer(self._rows, self.unit, read, bench.place)

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return some of its rows, in `out`."""
        assert self._gatherer is not None  # it was prepared
        return self._gatherer.fill(out, start // self.unit)


class Gating(OperationMaker):
    """Makes the gates of experts from the embeddings of their prompts' tokens, which alone are read."""

    def __init__(self, step: Step, inputs: Sequence[int], kept: int | None, operation: KernelCall) -> None:
        super().__init__(step, inputs, kept, operation)
        tokens = operation.arguments["tokens"]
        assert isinstance(tokens, PromptTokens)
        self.parts = operation.parts
        self.unit = max(1, step.count)
        self._tokens = tokens
        self._width = operation.shape[1]
        self._value: Tensor | None = None

    @classmethod
    def memory_for(cls, operation: KernelCall) -> int:  # noqa: ARG003 -- as all
        """Return 0: it needs a row at a time."""
        return 0

    def prepare(self, bench: Bench) -> None:
        """Make the gates."""
        (embedding,), width = self.parts, self._width
        self._value = gates_of(self._tokens, lambda row: bench.run(embedding, row * width, width), width)

    def make(self, chunks: Sequence[Tensor], start: int, out: Tensor, spare: Tensor) -> Tensor:  # noqa: ARG002
        """Return the gates, in `out`."""
        assert self._value is not None  # it was prepared
        return out.copy_(self._value.view(-1))


def memory_for(operation: KernelCall) -> int:
    """Return how many bytes an operation needs besides chunks: 0 unless its kernel needs the tensor whole."""
    return _maker_of(operation).memory_for(operation)


def _maker_of(operation: KernelCall) -> type[OperationMaker]:
    """Return the class that a method's `makes` names."""
    return MAKERS[operation.method.makes.maker]


_OPERATIONS = (Operating, Adding, Factoring, Gathering, Gating)
MAKERS: Mapping[str, type[OperationMaker]] = {each.__name__: each for each in _OPERATIONS}
"""By the names that `Making.maker` has for them."""


@cache
def kernel_of(method: Method) -> Kernel:
    """Return the kernel of a method.

    Raises:
        ProgramError: it is the user's own, and its program fails or defines no kernel.
    """
    return method.makes.kernel(method)


def _range(dtype: str) -> float:
    """Return the largest finite value of a dtype."""
    return torch.finfo(DTYPES[dtype]).max


def makers_of(cluster: Cluster) -> tuple[list[Maker], int]:
    """Return the makers of the steps, and the number of chunks that are needed at once."""
    slots = {leaf.digest: index for index, leaf in enumerate(cluster.leaves)}
    dtypes = {step.digest: step.dtype for step in cluster.steps}
    dtypes |= {leaf.digest: leaf.value_dtype for leaf in cluster.leaves}
    last = {digest: step.digest for step in cluster.steps for digest in step.reads}
    stored = {leaf.digest: leaf.stored for leaf in cluster.leaves}
    views = {leaf.digest for leaf in cluster.leaves if leaf.dtype == "float32"}
    found: list[Maker] = []
    for step in cluster.steps:
        inputs = [slots[digest] for digest in step.reads]
        kept = None
        if step.digest in last and step.digest not in slots:  # else it is read from a file
            kept = slots[step.digest] = len(slots)
        if step.operation is not None:
            found.append(_maker_of(step.operation)(step, inputs, kept, step.operation))
            continue
        if step.lone is not None and narrows(stored.get(step.lone, ""), step.dtype):
            found.append(Narrowing(step, inputs, kept))
            continue
        pivot = shares_of(tuple(coefficient for _, coefficient in step.terms)).pivot
        first = next((digest for index, (digest, _) in enumerate(step.terms) if index != pivot), None)
        takes_first = first is not None and last[first] == step.digest and first not in views
        found.append(LinearMaker(step, inputs, kept, dtypes, takes_first=takes_first))
    return found, len(slots)
