"""`python -m benchmarks.kernels`: how near each compiled kernel comes to the speed of memory, compared with torch.

Inputs are float16 values in memory, by default as many as Stable Diffusion 1.5 has. Each thread makes one tensor of
them, in chunks as in builds; no file is read or written. A kernel moves the bytes of its inputs, once for each look at
them, and of its result. After each round, `memmove` copies as many bytes on as many threads: that is the speed of
memory, and the kernel's speed is given as a share of it. torch makes fewer values, in the same chunks, converted from
float16 and rounded to it, as in a build without compiled kernels.

Times are processor times of the thread that took longest. They equal elapsed time on an idle machine, and are hardly
affected by other work.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from statistics import median
from typing import Any, NamedTuple

from mergebuild import native
from mergebuild.methods.call import Call, Grain, unit_of
from mergebuild.methods.catalog import METHODS
from mergebuild.methods.compiled.catalog import FAMILIES, compiled_method
from mergebuild.methods.compiled.method import Applied
from mergebuild.methods.making import Linear
from mergebuild.methods.method import Method
from mergebuild.methods.shares import shares_of

__all__ = ["NAMES", "Row", "main", "measure"]

NAMES = ("weighted_sum", "add_difference", *FAMILIES)
"""The methods that are measured: two linear ones, and all that have a compiled form of their own."""

SD15 = 1_066_235_307
"""The number of elements of Stable Diffusion 1.5."""
CHUNK = 1 << 19
MODELS = 2
"""The number of `models` for methods that take any number."""

USUAL = {"alpha": "0.3", "beta": "0.6", "t": "0.3", "weight": "0.5", "density": "0.5", "gamma": "0.1", "seed": "5"}
"""Arguments for parameters without a default, or with a default that means no work."""
TENSORS = {"adjust": "model.diffusion_model.out.0.weight"}
"""Names of tensors for methods that change only tensors with certain names."""
WIDTH = 1280
"""The number of elements of a row."""

Making = Callable[[Call, Sequence[memoryview], memoryview], int]
"""(call, inputs, output) -> how often all inputs were read; it writes the output."""


class Row(NamedTuple):
    """The results for a method."""

    name: str
    inputs: int
    passes: int
    """How often its inputs are read: once to make the result, and before that for its statistic."""
    seconds: float
    """Per element: the time of the slowest thread, divided by the number of elements of all threads."""
    bytes_per_second: float
    share: float
    """Its speed as a share of the speed of memory, the median over rounds."""
    torch_seconds: float


@dataclass(slots=True)
class Room:
    """Inputs and output in memory."""

    inputs: list[mmap.mmap]
    output: mmap.mmap
    elements: int
    threads: int

    def parts(self, elements: int) -> Iterator[tuple[int, int]]:
        """Yield the offset (in bytes) and the number of elements of each thread's part, which is whole rows."""
        each = max(WIDTH, elements // self.threads // WIDTH * WIDTH)
        return ((2 * each * index, each) for index in range(self.threads))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the methods of the command line and print a table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("--elements", type=int, default=SD15, metavar="N", help="of each input (default: SD1.5's)")
    parser.add_argument("--torch-elements", type=int, default=1 << 24, metavar="N", help="so many for torch")
    parser.add_argument("--method", action="append", choices=NAMES, metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds of each (default 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="default: one a core")
    parser.add_argument("--hash", action="store_true", help="hash the result while it is made, as builds do")
    options = parser.parse_args(arguments)
    if not native.variant:
        print("there are no compiled kernels here", file=sys.stderr)
        return 2
    room = _room(options.elements, options.threads, max(map(_input_count, options.method or NAMES)))
    rows = []
    for name in options.method or NAMES:
        rows.append(measure(name, room, options.runs, options.torch_elements, hashed=options.hash))
        print(f"{name}: {rows[-1].seconds * 1e9:.2f} ns an element", file=sys.stderr, flush=True)
    print(_head(room, options.runs, hashed=options.hash))
    print(_table(rows))
    return 0


def measure(name: str, room: Room, runs: int, torch_elements: int, *, hashed: bool = False) -> Row:
    """Measure a method's compiled kernel, and its torch kernel."""
    row, inputs = METHODS[name], room.inputs[: _input_count(name)]

    def compiled(call: Call, views: Sequence[memoryview], out: memoryview) -> int:
        return _compiled(row, call, views, out, hashed=hashed)

    seconds, shares, moved, passes = [], [], 0, 0
    elements = sum(count for _, count in room.parts(room.elements))
    for _ in range(runs):
        took, passes = _timed(row, room, inputs, room.elements, compiled)
        moved = 2 * elements * (len(inputs) * passes + 1)
        seconds.append(took)
        shares.append(moved / took / _copy_speed(room, moved))
    fewer = min(torch_elements, room.elements)
    with_torch, _ = _timed(row, room, inputs, fewer, _torch_making(row))
    taken = median(seconds)
    of_torch = with_torch / sum(count for _, count in room.parts(fewer))
    return Row(name, len(inputs), passes, taken / elements, moved / taken, median(shares), of_torch)


def _timed(row: Method, room: Room, inputs: Sequence[mmap.mmap], elements: int, make: Making) -> tuple[float, int]:
    """Let each thread make its part; return the processor seconds of the slowest, and the number of passes."""

    def part(place: tuple[int, int]) -> tuple[float, int]:
        first, count = place
        views = [memoryview(each)[first : first + 2 * count] for each in inputs]
        begun = time.thread_time()
        with memoryview(room.output)[first : first + 2 * count] as out:
            passes = make(_call(row, count), views, out)
        return time.thread_time() - begun, passes

    with ThreadPoolExecutor(room.threads) as pool:
        seconds, passes = zip(*pool.map(part, room.parts(elements)), strict=True)
    return max(seconds), max(passes)


def _copy_speed(room: Room, moved: int) -> float:
    """Return the bytes per second that `memmove` reads and writes, when it moves about `moved` bytes."""
    size = len(room.output) // room.threads
    times = max(1, round(moved / 2 / (size * room.threads)))

    def copy(thread: int) -> float:
        begun = time.thread_time()
        for index in range(times):
            source = _address(room.inputs[index % len(room.inputs)])
            ctypes.memmove(_address(room.output) + thread * size, source + thread * size, size)
        return time.thread_time() - begun

    with ThreadPoolExecutor(room.threads) as pool:
        return 2 * times * size * room.threads / max(pool.map(copy, range(room.threads)))


def _compiled(row: Method, call: Call, views: Sequence[memoryview], out: memoryview, *, hashed: bool) -> int:
    """Make a tensor with the compiled kernel, and return the number of passes."""
    method = compiled_method(row.name)
    grain = method.grain if method is not None else Grain.ELEMENT
    state: Any = None
    passes = 1
    if method is not None and method.statistic is not None:
        statistic = method.statistic
        account = statistic.begin(call, len(views))
        more = account is not None
        while more:
            for start, count in _spans(grain, call):
                chunks = [(each[2 * start : 2 * (start + count)], "float16") for each in views]
                if passes == 1 and statistic.is_finite is None:  # otherwise the state tells whether all were finite
                    for chunk in chunks:
                        native.count_nonfinite(chunk, count)
                statistic.look(call, account, chunks, (start, count))
            passes += 1
            more = statistic.turn(call, account)
        state = statistic.end(call, account) if account is not None else None
    applied = method.apply(call, len(views), state) if method is not None else _linear(row, call, len(views))
    running = native.Hash() if hashed else None
    for start, count in _spans(grain, call):
        chunks = [(views[index][2 * start : 2 * (start + count)], "float16") for index in applied.inputs]
        given = applied.given(chunks, (start, count))
        native.apply(applied.kernel, given, out[2 * start :], "float16", (start, count), hash=running)
    return passes


def _torch_making(row: Method) -> Making:
    """Return the function that makes a tensor with the torch kernel."""
    import torch

    from mergebuild.methods.kernels.linear import combine

    torch.set_num_threads(1)

    def make(call: Call, views: Sequence[memoryview], out: memoryview) -> int:
        halves = [torch.frombuffer(each, dtype=torch.float16) for each in views]
        result = torch.frombuffer(out, dtype=torch.float16)
        kernel = None if isinstance(row.makes, Linear) else row.makes.kernel(row)
        grain = kernel.grain if kernel is not None else Grain.ELEMENT
        state: Any = None
        passes = 1
        if kernel is not None and kernel.statistic is not None:
            account = kernel.statistic.begin(call, len(halves))
            more = account is not None
            while more:
                for start, count in _spans(grain, call):
                    kernel.statistic.look(
                        call, account, [each[start : start + count].float() for each in halves], start
                    )
                passes += 1
                more = kernel.statistic.turn(call, account)
            state = kernel.statistic.end(call, account) if account is not None else None
        for start, count in _spans(grain, call):
            chunks = [each[start : start + count].float() for each in halves]
            if kernel is not None:
                made = kernel.apply(call, chunks, start, state).reshape(-1)
            else:
                shares = shares_of(_coefficients(row, call, len(halves)))
                centre = None if shares.pivot is None else chunks.pop(shares.pivot)
                made = combine(centre, chunks, shares.others, torch.empty(count), torch.empty(count))
            result[start : start + count].copy_(made)
        return passes

    return make


def _linear(row: Method, call: Call, inputs: int) -> Applied:
    """Return how to make a linear combination, as the engine does."""
    shares = shares_of(_coefficients(row, call, inputs))
    pivot = -1 if shares.pivot is None else shares.pivot
    return Applied(native.Prepared("linear", pivot, native.packed(shares.others)), range(inputs))


def _coefficients(row: Method, call: Call, inputs: int) -> tuple[Fraction, ...]:
    numbers = {name: each for name, each in call.arguments.items() if isinstance(each, Fraction | tuple)}
    found = row.makes.shares(inputs, numbers, {}, call.tensor)
    assert found is not None
    return tuple(found)


def _spans(grain: Grain, call: Call) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a tensor: the index of the first element, and the number of elements."""
    unit = unit_of(grain, call)
    size = max(unit, CHUNK // unit * unit)
    return ((start, min(size, call.count - start)) for start in range(0, call.count, size))


def _call(row: Method, count: int) -> Call:
    """Return a call for a tensor of `count` elements, with the row's defaults, or the arguments of `USUAL`."""
    arguments: dict[str, Any] = {"has_base": True} if row.optional else {}
    for parameter in row.parameters:
        usual = USUAL.get(parameter.name)
        value: Any = parameter.default if usual is None else Fraction(usual)
        arguments[parameter.name] = (value,) * MODELS if parameter.per == "model" else value
    shape = (count // WIDTH, WIDTH)
    assert prod(shape) == count
    return Call(TENSORS.get(row.name, "block.0.weight"), shape, arguments)


def _input_count(name: str) -> int:
    return sum(MODELS if each == "models" else 1 for each in METHODS[name].inputs)


def _room(elements: int, threads: int, inputs: int) -> Room:
    """Return inputs of seeded random values, each a small change of the first, and an output."""
    import torch

    generator = torch.Generator().manual_seed(7)
    block = 1 << 20
    size = 2 * max(elements, threads * WIDTH)
    first = torch.randn(block, generator=generator) * 0.02
    found = []
    for index in range(inputs):
        values = first if not index else first + 0.001 * torch.randn(block, generator=generator)
        halves = values.half()
        data = ctypes.string_at(halves.data_ptr(), 2 * block)
        lying = mmap.mmap(-1, size)
        for begin in range(0, size, 2 * block):
            lying[begin : begin + 2 * block] = data[: size - begin]
        found.append(lying)
    output = mmap.mmap(-1, size)
    ctypes.memset(_address(output), 1, size)  # so that its pages are allocated before the clock starts
    return Room(found, output, size // 2, threads)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _head(room: Room, runs: int, *, hashed: bool) -> str:
    return (
        f"{room.elements:,} elements of float16 an input, {room.threads} threads, {native.variant}, medians of {runs}, "
        f"{'the result hashed' if hashed else 'nothing hashed'}, {platform.machine()}\n"
    )


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| method | inputs | passes | ns an element | GB/s | of memory's speed | torch, ns | torch / ours |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ours, theirs = row.seconds * 1e9, row.torch_seconds * 1e9
        lines.append(
            f"| {row.name} | {row.inputs} | {row.passes} | {ours:.2f} | {row.bytes_per_second / 1e9:.1f} "
            f"| {row.share:.0%} | {theirs:.1f} | {theirs / ours:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
