"""Laws of rounding once: a lone float64 tensor comes to the value nearest to it in every narrower dtype."""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import torch
from example_counts import examples
from fake_device import FakeDevice
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from model_files import TORCH

from mergebuild.engine import choice as choosing
from mergebuild.engine import hands
from mergebuild.engine import transfers as ways
from mergebuild.engine.rounding import to_odd
from mergebuild.engine.run import run_pass
from mergebuild.engine.work import Leaf, Location, OutputFile, OutputRange, Pass, Step, StepResult

NARROW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
LARGEST = {"float16": Fraction(65520), "bfloat16": Fraction(2) ** 128 - Fraction(2) ** 119,
           "float8_e4m3fn": Fraction(464), "float8_e5m2": Fraction(61440)}  # fmt: skip
"""The magnitude from which on values round to Inf; of float8_e4m3fn, which has none, beyond which."""


@cache
def values_of(dtype: str) -> list[tuple[Fraction, int]]:
    """All finite values of a dtype that are not negative, in order, each with its bits."""
    width = TORCH[dtype].itemsize
    patterns = range(1 << (8 * width - 1))
    raw = torch.tensor(patterns, dtype=torch.int32).to(torch.uint8 if width == 1 else torch.int16)
    numbers = raw.view(TORCH[dtype]).double().tolist()
    return [(Fraction(number), bits) for bits, number in enumerate(numbers) if math.isfinite(number)]


def nearest(value: float, dtype: str) -> int | None:
    """The bits of the value of a dtype that is nearest, ties to even; None beyond its largest: by exact fractions."""
    size, table = abs(Fraction(value)), values_of(dtype)
    limit = LARGEST[dtype]
    if size > limit or (size == limit and dtype != "float8_e4m3fn"):
        return None
    at = bisect_left(table, (size, -1))
    around = table[max(0, at - 1) : at + 1]
    distance = min(abs(size - each) for each, _ in around)
    near = [bits for each, bits in around if abs(size - each) == distance]
    found = next(bits for bits in near if len(near) == 1 or bits % 2 == 0)
    return found | (math.copysign(1, value) < 0) << (8 * TORCH[dtype].itemsize - 1)


@st.composite
def beside_ties(draw: st.DrawFn) -> float:
    """A float64 value on, or a little beside, a value of a narrow dtype or a tie between two."""
    table = values_of(draw(st.sampled_from(NARROW)))
    at = draw(st.integers(0, len(table) - 2))
    middle = (table[at][0] + table[at + 1][0]) / 2
    around = float(draw(st.sampled_from([table[at][0], middle, middle])))
    step = draw(st.sampled_from([0.0, 2.0**-52, -(2.0**-52), 2.0**-40, -(2.0**-30), 2.0**-25, -(2.0**-24)]))
    return draw(st.sampled_from([1, -1])) * around * (1 + step)


VALUES = st.lists(beside_ties() | st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=50)
SURE = [1 + 2**-11 + 2**-40, 65519.9999, -65519.9999, 464.0, 448.00001, 2.0**-150, -(2.0**-1074), -0.0, 0.0]


def copied(
    folder: Path, values: list[float], dtype: str, device: str = "cpu", *, chunk: int = 1 << 19
) -> tuple[list[int], StepResult]:
    """Return the bits of a lone float64 tensor in a dtype, and what a pass says of it."""
    raw = struct.pack(f"<{len(values)}d", *values)
    (folder / "in").write_bytes(raw)
    leaf = Leaf(b"a", "float64", len(values), Location(folder / "in", 0, len(raw)))
    width = TORCH[dtype].itemsize
    work = Pass(
        outputs=[OutputFile(folder / "out", b"", width * len(values))],
        leaves={b"a": leaf},
        steps={b"t": Step(b"t", dtype, len(values), [(b"a", Fraction(1))], [OutputRange(0, 0)])},
    )
    result = run_pass(work, threads=1, emit=lambda _: None, targets=("t",), chunk=chunk, device=device).steps[b"t"]
    data = (folder / "out").read_bytes()
    (folder / "out").unlink()
    return list(struct.unpack(f"<{len(values)}{'H' if width == 2 else 'B'}", data)), result


@pytest.mark.parametrize("dtype", NARROW)
def test_a_lone_tensor_of_float64_is_rounded_once(tmp_path_factory: pytest.TempPathFactory, dtype: str) -> None:
    """To what exact fractions say; and what is too large is counted by the value itself, not by one rounded before."""
    folder = tmp_path_factory.mktemp("once")

    @examples(200)
    @given(VALUES)
    def check(values: list[float]) -> None:
        values = values + SURE
        wanted = [nearest(each, dtype) for each in values]
        found, result = copied(folder, values, dtype)
        for value, bits, right in zip(values, found, wanted, strict=True):
            assert right is None or bits == right, value.hex()
        assert (result.nonfinite, result.overflowed) == (wanted.count(None), wanted.count(None))

    check()


def test_what_is_not_finite_stays_so() -> None:
    found = to_odd(torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float64), torch.empty(3)).tolist()
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize("dtype", NARROW)
def test_chunks_and_devices_round_it_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    found = FakeDevice()
    monkeypatch.setattr(choosing, "devices", lambda: [found])
    monkeypatch.setattr(choosing, "device_named", lambda _: [found])
    monkeypatch.setattr(ways, "STAGED", 512)
    monkeypatch.setattr(hands, "DEVICE_CHUNK", 384)
    values = [each * (1 + 2**-11 + index * 2.0**-40) for index, each in enumerate(SURE * 60)] + [1e300, 463.9]
    here = copied(tmp_path, values, dtype)
    assert here[0][-1] == nearest(463.9, dtype)
    assert copied(tmp_path, values, dtype, chunk=7) == here
    assert copied(tmp_path, values, dtype, "cuda") == here


PLAIN = 1 + 2.0**-11 + 2.0**-40
"""Rounds to 1 + 2^-10 in float16, and to 1 by way of float32."""

RECIPES = {
    "copy": 'method = "copy"\na = "x"',
    "lone 1": 'formula = "1*x + 0*y"',
    "folded": 'method = "weighted_sum"\na = "half"\nb = "half2"\nalpha = 0.5',
    "unmerged": 'method = "weighted_sum"\na = "x"\nb = "y"\nalpha = 0.5\nmerge = ["v"]',
    "beside an operation": 'method = "slerp"\na = "x"\nb = "y"\nt = { "v" = 0.5 }',
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("planned", [True, False], ids=["planned", "first sight"])
def test_every_way_to_a_lone_tensor_rounds_it_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, recipe: str, *, planned: bool
) -> None:
    """Copied, with a coefficient of 1, through virtual targets that fold away, not reached by a number."""
    monkeypatch.setattr("mergebuild.plan.describe.SMALL", 1 << 20 if planned else 0)
    lab.model("x", w=torch.tensor([PLAIN], dtype=torch.float64), v=torch.tensor([2.0, 1.0], dtype=torch.float64))
    lab.model("y", w=torch.tensor([3.0], dtype=torch.float64), v=torch.tensor([5.0, 4.0], dtype=torch.float64))
    lab.write(
        '[targets.half]\nformula = "x + y"\n[targets.half2]\nformula = "x - y"\n'
        f'[targets.t]\n{RECIPES[recipe]}\ndtype = "float16"\noutput = "t.safetensors"\n'
    )
    lab.build()
    assert lab.values("t.safetensors") == [1 + 2.0**-10]


def test_what_was_rounded_twice_counts_as_stale(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By plan and stamp, and only that: what was not rounded twice stays as it is."""
    lab.model("x", w=torch.tensor([PLAIN], dtype=torch.float64))
    lab.model("y", w=[3.0])
    lab.write(
        '[targets.t]\nmethod = "copy"\na = "x"\ndtype = "float16"\noutput = "t.safetensors"\n'
        '[targets.u]\nmethod = "copy"\na = "y"\ndtype = "float16"\noutput = "u.safetensors"\n'
    )
    lab.settle()  # else nothing is remembered
    with monkeypatch.context() as before:
        for room in ("engine.makers", "engine.compiled", "key"):
            before.setattr(f"mergebuild.{room}.narrows", lambda *_: False)
        for room in ("plan.freshness", "project.stamp"):
            before.setattr(f"mergebuild.{room}.REVISION", 1)
        lab.build()
        lab.settle()
        assert lab.verdicts() == {"t": "up-to-date", "u": "up-to-date"}
        assert lab.values("t.safetensors") == [1.0]
    assert lab.states() == {"t": "stale", "u": "up-to-date"}
    assert lab.verdicts() == {"t": "built", "u": "up-to-date"}
    assert lab.values("t.safetensors") == [1 + 2.0**-10]
