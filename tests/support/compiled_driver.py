"""Run a method's compiled form as the engine does, on chunks as they are in files, cut as its grain allows."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from kernel_driver import cut
from model_files import as_bytes
from torch import Tensor

from mergebuild import native
from mergebuild.methods.call import Call, State
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic

__all__ = ["DTYPES", "Stored", "compiled_state_of", "rounded", "run_compiled", "running_with", "stored"]

DTYPES = {name: getattr(torch, name) for name in native.DTYPES}

_NANS = {1: 0x7F, 2: 0x7E00, 4: 0x7FC00000, 8: 0x7FF8000000000000}
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Stored(NamedTuple):
    """A tensor as it is stored in a file."""

    bytes: bytes
    dtype: str
    values: Tensor
    """The same values as float32, which torch computes with."""


def stored(values: Tensor, dtype: str) -> Stored:
    """Return values as they would be stored in a file, rounded to its dtype."""
    lying = values.reshape(-1).to(DTYPES[dtype])
    return Stored(as_bytes(lying), dtype, lying.to(torch.float32).reshape(values.shape))


def rounded(values: Tensor, dtype: str) -> bytes:
    """Return the bytes that float32 values are written as; any NaN becomes the dtype's one NaN."""
    found = values.reshape(-1).to(DTYPES[dtype])
    words = found.view(_WORDS[found.dtype.itemsize]).clone()
    nan = 0x7FC0 if dtype == "bfloat16" else _NANS[found.dtype.itemsize]
    words[values.reshape(-1).isnan()] = nan
    return as_bytes(words)


@contextmanager
def running_with(variant: str) -> Iterator[None]:
    """Run kernels with an instruction set within the context."""
    before = native.variant
    native.choose(variant)
    try:
        yield
    finally:
        native.choose(before)


def run_compiled(
    method: CompiledMethod, call: Call, inputs: Sequence[Stored], dtype: str, cuts: random.Random | None
) -> tuple[bytes, native.Seen]:
    """Return the bytes of the result, and the counts of its values. Each pass is cut into other chunks.

    Asserts that no byte beyond the result is written, and that the hash is that of the result.
    """
    state: State = None
    statistic = method.statistic
    looks = statistic is not None and statistic.begin(call, len(inputs)) is not None
    is_known = not looks or not any(native.count_nonfinite((each.bytes, each.dtype), call.count) for each in inputs)
    if statistic is not None and looks and statistic.is_finite is not None and statistic.tells(call, len(inputs)):
        state = compiled_state_of(statistic, method, call, inputs, cuts)
        assert statistic.is_finite(state) == is_known
    elif statistic is not None and is_known:
        state = compiled_state_of(statistic, method, call, inputs, cuts)
    nothing = Applied(native.Prepared("constant", 0, native.packed([math.nan])), ())
    applied = method.apply(call, len(inputs), state) if is_known else nothing
    width = native.DTYPES[dtype][1]
    made, running, seen = bytearray(), native.Hash(), native.Seen(0, 0)
    for start, stop in cut(method.grain, call, cuts):
        out = bytearray(b"\xa5" * ((stop - start) * width + 8))
        chunks = [_chunk(inputs[index], start, stop) for index in applied.inputs]
        given = applied.given(chunks, (start, stop - start))
        each = native.apply(applied.kernel, given, out, dtype, (start, stop - start), hash=running)
        seen = native.Seen(seen.nonfinite + each.nonfinite, seen.overflowed + each.overflowed)
        assert out[-8:] == b"\xa5" * 8
        made += out[:-8]
    again = native.Hash()
    again.update(made)
    assert running.digest() == again.digest()
    return bytes(made), seen


def compiled_state_of(
    statistic: CompiledStatistic,
    method: CompiledMethod,
    call: Call,
    inputs: Sequence[Stored],
    cuts: random.Random | None,
) -> State:
    """Return the state of a statistic, for whole inputs."""
    account = statistic.begin(call, len(inputs))
    more = account is not None  # None: nothing needs to be known with these arguments
    while more:
        for start, stop in cut(method.grain, call, cuts):
            statistic.look(call, account, [_chunk(each, start, stop) for each in inputs], (start, stop - start))
        more = statistic.turn(call, account)
    return statistic.end(call, account) if account is not None else None


def _chunk(tensor: Stored, start: int, stop: int) -> Chunk:
    width = native.DTYPES[tensor.dtype][1]
    return memoryview(tensor.bytes)[start * width : stop * width], tensor.dtype
