"""Laws of the pass: coefficients rounded once, the same bytes for any chunk, thread and alignment, honest counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import xxhash
from model_files import TORCH, as_bytes, tensor_of
from torch import Tensor

from mergebuild.engine.run import run_pass
from mergebuild.engine.work import (
    Copy,
    Leaf,
    Location,
    OutputFile,
    OutputRange,
    Pass,
    Step,
    StepResult,
)
from mergebuild.events import Event, PassBegun, PassEnded, Progress, silent

# Passes


class Bench:
    """Tensors in a file, steps over them, and the files that a pass writes."""

    def __init__(self, folder: Path, tensors: Mapping[str, Tensor], *, odd: int = 0) -> None:
        self.folder = folder
        self.leaves: dict[bytes, Leaf] = {}
        self.tensors = dict(tensors)
        words = {dtype: word for word, dtype in TORCH.items()}
        path = folder / f"in-{odd}"
        data = bytearray(odd)
        for name, tensor in tensors.items():
            raw = as_bytes(tensor)
            key = name.encode()
            self.leaves[key] = Leaf(key, words[tensor.dtype], tensor.numel(), Location(path, len(data), len(raw)))
            data += raw
        path.write_bytes(data + b"end")

    def run(
        self, steps: Sequence[tuple[str, str, Mapping[str, Fraction]]], *, chunk: int = 1 << 19, threads: int = 1
    ) -> tuple[dict[str, Tensor], dict[str, StepResult], list[Event]]:
        """Compute steps, given as (name, dtype, terms), each into a file of its own; later ones may read earlier."""
        counts = {name: tensor.numel() for name, tensor in self.tensors.items()}
        outputs: list[OutputFile] = []
        made: dict[bytes, Step] = {}
        for index, (name, dtype, terms) in enumerate(steps):
            count = counts[name] = counts[next(iter(terms))]
            outputs.append(OutputFile(self.folder / f"out-{name}", b"HEAD", 4 + count * TORCH[dtype].itemsize))
            parts = [(term.encode(), share) for term, share in terms.items()]
            made[name.encode()] = Step(name.encode(), dtype, count, parts, [OutputRange(index, 4)])
        work = Pass(outputs, self.leaves, made)
        events: list[Event] = []
        results = run_pass(work, threads=threads, emit=events.append, targets=("t",), chunk=chunk).steps
        found = {}
        for output, (name, dtype, _) in zip(outputs, steps, strict=True):
            data = output.path.read_bytes()
            output.path.unlink()
            assert data[:4] == b"HEAD"
            assert xxhash.xxh3_128_digest(data[4:]) == results[name.encode()].checksum
            found[name] = tensor_of(data[4:], dtype, (counts[name],))
        return found, {digest.decode(): result for digest, result in results.items()}, events


HALF = Fraction(1, 2)
TENTHS = {"a": Fraction(3, 10), "b": Fraction(7, 10)}


def random(dtype: str, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator, dtype=torch.float64).to(TORCH[dtype])


FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("odd", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", FLOATS)
def test_chunks_threads_and_alignment_change_nothing(tmp_path: Path, dtype: str, odd: int) -> None:
    """All dtypes in and out, whole or in pieces of one element."""
    tensors = {
        "a": random(dtype, 37, 1),
        "b": random("float32", 37, 2),
        "c": random(dtype, 37, 3),
        "d": random("float16", 37, 4),
    }
    steps = [
        ("sum", dtype, TENTHS),
        ("three", "float16", {"c": Fraction(1, 3), "a": Fraction(1, 3), "d": Fraction(1, 3)}),
        ("plain", "float32", {"a": Fraction(2), "b": Fraction(-1, 3)}),
        ("above", "bfloat16", {"sum": Fraction(1, 4), "d": Fraction(3, 4)}),
    ]
    bench = Bench(tmp_path, tensors, odd=odd)
    whole, results, _ = Bench(tmp_path, tensors).run(steps)
    for chunk, threads in ((1, 1), (5, 3), (36, 2), (37, 4), (1000, 1)):
        found, again, _ = bench.run(steps, chunk=chunk, threads=threads)
        assert all(as_bytes(found[name]) == as_bytes(whole[name]) for name in whole)
        assert again == results
    a, b = tensors["a"].float(), tensors["b"]
    assert as_bytes(whole["sum"]) == as_bytes((b + torch.tensor(0.3) * (a - b)).to(TORCH[dtype]))
    rounded, d = whole["sum"].float(), tensors["d"].float()
    assert as_bytes(whole["above"]) == as_bytes((d + 0.25 * (rounded - d)).to(torch.bfloat16))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_change_of_dtype_rounds_once_to_even(tmp_path: Path, dtype: str) -> None:
    """Exactly what the dtype's own conversion gives, for values beside every tie of the small dtypes."""
    small = torch.arange(0, 0x7800, 3).to(torch.int16).view(torch.float16).float()
    values = torch.cat([small, small * (1 + 2**-12), -small * (1 - 2**-13)])
    values = values[values.abs() < 440]
    found, results, _ = Bench(tmp_path, {"a": values}).run([("t", dtype, {"a": Fraction(1)})])
    assert as_bytes(found["t"]) == as_bytes(values.to(TORCH[dtype]))
    assert results["t"].nonfinite == 0


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single_tensors(tmp_path: Path, count: int) -> None:
    tensors = {"a": torch.full((count,), 2.0), "b": torch.full((count,), 4.0)}
    found, results, events = Bench(tmp_path, tensors).run(
        [("t", "float16", {"a": HALF, "b": HALF}), ("u", "float32", {"t": Fraction(3)})]
    )
    assert found["t"].tolist() == [3.0] * count
    assert found["u"].tolist() == [9.0] * count
    assert results["t"].nonfinite == 0
    assert isinstance(events[0], PassBegun)
    assert isinstance(events[-1], PassEnded)


def test_no_terms_write_zeros(tmp_path: Path) -> None:
    path = tmp_path / "out"
    work = Pass([OutputFile(path, b"", 12)], {}, {b"z": Step(b"z", "float32", 3, [], [OutputRange(0, 0)])})
    run_pass(work, threads=2, emit=silent, targets=("t",))
    assert path.read_bytes() == bytes(12)


def test_one_step_goes_to_many_places(tmp_path: Path) -> None:
    """Tensors that are the same are computed once and written wherever they stand."""
    bench = Bench(tmp_path, {"a": torch.tensor([1.0, 2.0])})
    step = Step(b"t", "float32", 2, [(b"a", HALF)], [OutputRange(0, 0), OutputRange(0, 8), OutputRange(1, 4)])
    one, two = tmp_path / "one", tmp_path / "two"
    work = Pass([OutputFile(one, b"", 16), OutputFile(two, b"HEAD", 12)], bench.leaves, {b"t": step})
    events: list[Event] = []
    run_pass(work, threads=1, emit=events.append, targets=("t",))
    data = as_bytes(torch.tensor([0.5, 1.0]))
    assert one.read_bytes() == data + data
    assert two.read_bytes() == b"HEAD" + data
    assert sum(event.bytes_written for event in events if isinstance(event, Progress)) == 3 * len(data)


LARGEST = {"float16": 65504.0, "bfloat16": 2.0**127 * (2 - 2**-7), "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
HALFWAY = {"float16": 65520.0, "bfloat16": 2.0**127 * (2 - 2**-8), "float8_e4m3fn": 464.0, "float8_e5m2": 61440.0}


@pytest.mark.parametrize("dtype", LARGEST)
def test_overflow_is_what_does_not_round_to_a_finite_value(tmp_path: Path, dtype: str) -> None:
    """Up to the last float32 below half way to the next power, values round down; from there on they overflow.

    Half way itself goes to even, which for `float8_e4m3fn` is the largest value and for the others is none.
    """
    middle = torch.tensor(HALFWAY[dtype])
    below, above = (torch.nextafter(middle, torch.tensor(end)) for end in (0.0, torch.inf))
    values = torch.stack([torch.tensor(LARGEST[dtype]), below, -below, middle, above, -above, torch.tensor(1.0)])
    found, results, _ = Bench(tmp_path, {"a": values}).run([("t", dtype, {"a": Fraction(1)})])
    expected = 2 if dtype == "float8_e4m3fn" else 3
    assert (results["t"].overflowed, results["t"].nonfinite) == (expected, expected)
    assert found["t"][:3].double().tolist() == [LARGEST[dtype], LARGEST[dtype], -LARGEST[dtype]]


def test_what_is_not_finite_is_counted_with_its_input(tmp_path: Path) -> None:
    """NaN and Inf are told from overflow, and from which input they came."""
    a = torch.tensor([1.0, torch.nan, torch.inf, 6e4, 1.0])
    b = torch.tensor([1.0, 1.0, 1.0, 1e5, 1.0])
    bench = Bench(tmp_path, {"a": a, "b": b, "c": torch.ones(5)})
    for chunk in (1, 2, 100):
        _, results, _ = bench.run(
            [("t", "float16", {"a": HALF, "b": HALF}), ("u", "float32", {"b": HALF, "c": HALF})], chunk=chunk
        )
        assert results["t"][1:] == (3, 1, {b"a": 2}, "", None)
        assert results["u"][1:] == (0, 0, {}, "", None)


def test_a_failed_pass_leaves_nothing(tmp_path: Path) -> None:
    """A file that is gone, or an output that exists: whatever was created goes."""
    bench = Bench(tmp_path, {"a": torch.ones(3)})
    (tmp_path / "in-0").unlink()
    with pytest.raises(FileNotFoundError):
        bench.run([("t", "float32", {"a": HALF}), ("u", "float32", {"a": Fraction(2)})], threads=2)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_moves_bytes_of_any_kind(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(bytes(range(256)) * 100)
    out = tmp_path / "out"
    work = Pass(
        [OutputFile(out, b"ab", 2 + 1000)],
        copies=[
            Copy(Location(source, 77, 600), OutputRange(0, 2)),
            Copy(Location(source, 3, 400), OutputRange(0, 602)),
        ],
    )
    assert run_pass(work, threads=3, emit=silent, targets=("t",)).steps == {}
    data = source.read_bytes()
    assert out.read_bytes() == b"ab" + data[77:677] + data[3:403]


def test_a_tensor_may_be_read_from_a_file_and_made_anew(tmp_path: Path) -> None:
    """A digest that is a leaf for one step and a step for another target gives both the same values."""
    bench = Bench(tmp_path, {"a": torch.tensor([1.0, 3.0]), "t": torch.tensor([0.5, 1.5])})
    steps = {
        b"u": Step(b"u", "float32", 2, [(b"t", Fraction(2))], [OutputRange(0, 0)]),
        b"t": Step(b"t", "float32", 2, [(b"a", HALF)], [OutputRange(1, 0)]),
    }
    work = Pass([OutputFile(tmp_path / "u", b"", 8), OutputFile(tmp_path / "t", b"", 8)], bench.leaves, steps)
    run_pass(work, threads=2, emit=silent, targets=("t",))
    assert (tmp_path / "u").read_bytes() == as_bytes(torch.tensor([1.0, 3.0]))
    assert (tmp_path / "t").read_bytes() == as_bytes(torch.tensor([0.5, 1.5]))
