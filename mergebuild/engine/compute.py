"""Compute clusters: map, widen to float32, combine, round once, hash, hand to the outputs; chunk by chunk.

A worker belongs to one thread and computes with one thread, so no reduction depends on how many there are. Fresh
memory costs more than the arithmetic, so all of it is used again. Memory is one chunk an input of the largest
cluster, whatever the size of the model.
"""

from __future__ import annotations

import math
import struct
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import xxhash

from mergebuild.engine.mappings import Mappings
from mergebuild.engine.outputs import Block, Outputs
from mergebuild.engine.work import Cluster, Leaf, Place, Step, StepResult

with warnings.catch_warnings():
    # NumPy is not needed, and its absence not worth a warning; that mapped files cannot be written is what we want.
    warnings.simplefilter("ignore")
    import torch

    from mergebuild.methods.kernels.linear import combine, pivot_of

    torch.frombuffer(bytes(1), dtype=torch.uint8)
torch.set_num_threads(1)

__all__ = ["Worker", "float32_of"]

_DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}

_LARGEST: Mapping[str, float] = {
    "float16": 65519.99609375,
    "bfloat16": struct.unpack("<f", b"\xff\x7f\x7f\x7f")[0],
    "float8_e4m3fn": 464.0,
    "float8_e5m2": 61439.99609375,
}
"""The largest float32 magnitude that still rounds to a finite value. Above it a dtype has Inf, or (float8_e4m3fn)
saturates silently."""


def float32_of(coefficient: Fraction) -> float:
    """Return the float32 nearest to an exact coefficient, ties to even, rounded once."""
    if not coefficient:
        return 0.0
    magnitude = abs(coefficient)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    rounded = round(magnitude / unit) * unit  # Fraction rounds half to even
    value = float(rounded) if rounded < Fraction(2) ** 128 else float("inf")
    return value if coefficient > 0 else -value


@dataclass(slots=True)
class _Prepared:
    """A step, ready to run: which chunks it reads, and where it stands in the cluster."""

    step: Step
    dtype: torch.dtype
    centre: int | None
    """The index of the pivot's chunk."""
    inputs: list[int]
    coefficients: Sequence[float]
    into: int | None
    """The index of the first input's chunk when nothing reads it afterwards: the result may take its place."""
    cannot_overflow: bool
    """Shares of values of no wider range stay between them."""
    kept: int | None
    """The index under which later steps read its rounded values; None when none does."""
    running: xxhash.xxh3_128
    nonfinite: int = 0
    overflowed: int = 0


def _floats(count: int) -> torch.Tensor:
    """Return a page-aligned buffer of so many float32 values."""
    return _view(Block(4 * count), torch.float32, count)


def _view(block: Block, dtype: torch.dtype, count: int) -> torch.Tensor:
    """Return the start of a block as `count` values of a dtype."""
    return torch.frombuffer(block.memory, dtype=dtype, count=count)


class Worker:
    """Computes clusters, one after another, in its own buffers."""

    def __init__(self, outputs: Outputs, mappings: Mappings, chunk: int, stop: threading.Event) -> None:
        self._outputs = outputs
        self._mappings = mappings
        self._chunk = chunk
        self._stop = stop
        self._inputs: list[torch.Tensor] = []
        self._out = _floats(chunk)
        self._spare = _floats(chunk)
        self._aligned = Block(8 * chunk)
        """Where values go that lie askew in their file."""

    def run(self, cluster: Cluster) -> dict[bytes, StepResult]:
        """Compute and write all steps of a cluster; return what came of each."""
        steps, slots = _prepare(cluster)
        while len(self._inputs) < slots:
            self._inputs.append(_floats(self._chunk))
        for start in range(0, cluster.count, self._chunk):
            if self._stop.is_set():
                return {}
            count = min(self._chunk, cluster.count - start)
            chunks = [self._load(leaf, start, count, slot) for slot, leaf in enumerate(cluster.leaves)]
            chunks += [self._inputs[slot][:count] for slot in range(len(cluster.leaves), slots)]
            for each in steps:
                self._advance(each, chunks, start, count)
            for leaf in cluster.leaves:
                size = _DTYPES[leaf.dtype].itemsize
                self._mappings.release(leaf.path, leaf.offset + start * size, count * size)
        return {each.step.digest: self._result(each, cluster) for each in steps}

    def _load(self, leaf: Leaf, start: int, count: int, slot: int) -> torch.Tensor:
        """Return a chunk of a leaf as float32: a view of the file where that is possible."""
        dtype = _DTYPES[leaf.dtype]
        mapping = self._mappings[leaf.path]
        offset = leaf.offset + start * dtype.itemsize
        if offset % dtype.itemsize:  # an odd header length
            size = count * dtype.itemsize
            self._aligned.memory[:size] = memoryview(mapping)[offset : offset + size]
            values = _view(self._aligned, dtype, count)
        else:
            values = torch.frombuffer(mapping, dtype=dtype, count=count, offset=offset)
            if dtype is torch.float32:
                return values
        return self._inputs[slot][:count].copy_(values)

    def _advance(self, each: _Prepared, chunks: Sequence[torch.Tensor], start: int, count: int) -> None:
        """Compute one chunk of a step, hash it and have it written to all its places."""
        value = combine(
            None if each.centre is None else chunks[each.centre],
            [chunks[slot] for slot in each.inputs],
            each.coefficients,
            self._out[:count] if each.into is None else chunks[each.into],
            self._spare[:count],
        )
        self._check(each, value)
        block = self._outputs.block()
        rounded = _view(block, each.dtype, count).copy_(value)
        if each.kept is not None:
            chunks[each.kept].copy_(rounded)
        size = count * each.dtype.itemsize
        each.running.update(block.memory[:size])
        places: Sequence[Place] = each.step.places
        if start:
            places = [place._replace(offset=place.offset + start * each.dtype.itemsize) for place in places]
        self._outputs.put(block, size, places)

    def _check(self, each: _Prepared, value: torch.Tensor) -> None:
        """Count what is not finite, or too large for the dtype. The common case is one look at one or two numbers."""
        if each.cannot_overflow and math.isfinite(value.sum().item()):
            return
        low, high = torch.aminmax(value)
        largest = _LARGEST.get(each.step.dtype, torch.finfo(torch.float32).max)
        if -largest <= low.item() and high.item() <= largest:
            return
        finite = torch.isfinite(value)
        each.nonfinite += int((~finite).sum())
        each.overflowed += int((finite & (value.abs() > largest)).sum())

    def _result(self, each: _Prepared, cluster: Cluster) -> StepResult:
        bad = each.nonfinite + each.overflowed
        inputs = {term for term, _ in each.step.terms}
        blamed = {leaf.digest: self._count_bad(leaf) for leaf in cluster.leaves if leaf.digest in inputs} if bad else {}
        return StepResult(
            each.running.digest(), bad, each.overflowed, {digest: count for digest, count in blamed.items() if count}
        )

    def _count_bad(self, leaf: Leaf) -> int:
        """Return how many values of a leaf are NaN or Inf."""
        return sum(
            int((~torch.isfinite(self._load(leaf, start, min(self._chunk, leaf.count - start), 0))).sum())
            for start in range(0, leaf.count, self._chunk)
        )


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
    return torch.finfo(_DTYPES[dtype]).max


def _prepare(cluster: Cluster) -> tuple[list[_Prepared], int]:
    """Return the steps ready to run, and the number of chunks that must be at hand at once."""
    slots = {leaf.digest: index for index, leaf in enumerate(cluster.leaves)}
    dtypes = {step.digest: step.dtype for step in cluster.steps} | {leaf.digest: leaf.dtype for leaf in cluster.leaves}
    last = {term: step.digest for step in cluster.steps for term, _ in step.terms}
    views = {leaf.digest for leaf in cluster.leaves if leaf.dtype == "float32"}
    found = []
    for step in cluster.steps:
        kept = None
        if step.digest in last and step.digest not in slots:  # else its readers have it from a file
            kept = slots[step.digest] = len(slots)
        shares = _shares_of(tuple(coefficient for _, coefficient in step.terms))
        terms = [term for index, (term, _) in enumerate(step.terms) if index != shares.pivot]
        first = terms[0] if terms else None
        found.append(
            _Prepared(
                step,
                _DTYPES[step.dtype],
                None if shares.pivot is None else slots[step.terms[shares.pivot][0]],
                [slots[term] for term in terms],
                shares.others,
                slots[first] if first is not None and last[first] == step.digest and first not in views else None,
                shares.is_mean and all(_range(dtypes[term]) <= _range(step.dtype) for term, _ in step.terms),
                kept,
                xxhash.xxh3_128(),
            )
        )
    return found, len(slots)
