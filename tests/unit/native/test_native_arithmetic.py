"""Compiled kernels round every operation by itself, and keep subnormal numbers, for every instruction set.

That a method's values are those of torch is held elsewhere (`methods/test_compiled_methods.py`). Here is what a
compiler could do to all of them at once: fuse products and sums, take an approximate instruction, flush subnormals.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction

import pytest

from mergebuild import native
from mergebuild.native import calls

FORBIDDEN = {
    "a product and a sum that are rounded once": r"vfn?m(add|sub)(sub|add)?(132|213|231)?[ps][sdh]|v4f.*",
    "the same on ARM": r"fn?m(add|sub)|fml[as]l?2?|fcmla",
    "an approximation that differs by processor": r"v?r(cp|sqrt)(14|28)?[ps][sdh]|fr(ecp|sqrt)[exs]",
    "a rounding that flushes subnormal numbers": r"vcvtne2?ps2?2bf16|vcvtneps2bf16|vdpbf16ps|bfcvtn?2?|bfdot|bfml.*",
    "the processor's mode set": r"v?ldmxcsr|fldcw|fldenv|msr",
}


def instructions(text: str) -> set[str]:
    """Return the names of the instructions in a disassembly."""
    return set(re.findall(r"^\s*[0-9a-f]+:\s+(?:rep[nz]* )?([a-z][a-z0-9]*)", text, re.MULTILINE))


def combined(inputs: Sequence[bytes], dtype: str, numbers: Sequence[float], count: int, out: str = "float32") -> bytes:
    room = bytearray(count * native.DTYPES[out][1])
    kernel = native.Prepared("linear", -1, native.packed(numbers))
    native.apply(kernel, [(each, dtype) for each in inputs], room, out, (0, count))
    return bytes(room)


@pytest.mark.processes
def test_no_kernel_has_an_instruction_that_would_give_other_bits() -> None:
    """Of any variant: all are in the one file."""
    extension = calls.compiled.__file__
    assert extension is not None
    read = ["objdump", "-d", "--no-show-raw-insn", extension]
    text = subprocess.run(read, capture_output=True, text=True, timeout=60, check=True).stdout
    found = instructions(text)
    assert {"ret", "call"} < found or "bl" in found
    assert {"mulss", "vmulps", "addss", "vaddps"} <= found or {"fmul", "fadd"} <= found
    for what, pattern in FORBIDDEN.items():
        assert not [name for name in found if re.fullmatch(pattern, name)], what


@pytest.mark.processes
def test_no_kernel_asks_a_library_for_a_function() -> None:
    """A logarithm or a power has other bits in every library. A square root is an instruction."""
    extension = calls.compiled.__file__
    assert extension is not None
    read = ["objdump", "-T", extension]
    text = subprocess.run(read, capture_output=True, text=True, timeout=60, check=True).stdout
    wanted = set(re.findall(r"\*UND\*\s.*\s(\w+)$", text, re.MULTILINE))
    wanted = {name for name in wanted if not name.startswith(("Py", "_Py", "__", "_ITM"))}
    assert "memcpy" in wanted
    wanted -= {"pwrite", "pwrite64"}  # no arithmetic
    assert wanted <= {"memcpy", "memset", "memmove", "memcmp", "strcmp", "sqrt", "sqrtf"}


@pytest.mark.parametrize(
    "name", ["vfmadd213ps", "vfnmsub231sd", "vfmaddsub132pd", "fmla", "fmls", "fmadd", "fnmsub", "vrcp14ps", "rsqrtss",
             "frecpe", "vcvtneps2bf16", "bfcvtn", "vldmxcsr", "msr"],
)  # fmt: skip
def test_such_an_instruction_would_be_found(name: str) -> None:
    [found] = instructions(f"    1a20:\t{name} %ymm1,%ymm2,%ymm3\n")
    assert any(re.fullmatch(pattern, found) for pattern in FORBIDDEN.values())


@pytest.mark.parametrize("count", [1, 4, 8, 16, 40])
@pytest.mark.usefixtures("variant")
def test_products_are_rounded_before_they_are_added(count: int) -> None:
    """(1 + 2^-12)^2 lies half way between two float32 values: beside the lower one 0 is left of it, or 2^-24."""
    x = 1 + 2.0**-12
    first = native.packed([-(1 + 2.0**-11)] * count)
    found = combined([first, native.packed([x] * count)], "float32", [1.0, x], count)
    assert Fraction(x) ** 2 - (1 + Fraction(1, 2**11)) == Fraction(1, 2**24)
    assert found == bytes(4 * count)


@pytest.mark.parametrize("count", [1, 4, 8, 16, 40])
@pytest.mark.usefixtures("variant")
def test_subnormal_numbers_go_in_and_come_out(count: int) -> None:
    least = 2.0**-149
    lying = native.packed([3 * least] * count)
    assert combined([lying], "float32", [1.0], count) == lying
    assert combined([lying], "float32", [0.5], count) == native.packed([2 * least] * count)  # a tie, to even
    assert combined([lying, lying], "float32", [1.0, 1.0], count) == native.packed([6 * least] * count)
    normal = native.packed([2.0**-126 + 2 * least] * count)
    lower = native.packed([2.0**-126] * count)
    assert combined([normal, lower], "float32", [1.0, -1.0], count) == native.packed([2 * least] * count)
    assert combined([native.packed([2.0**-80] * count)], "float32", [2.0**-69], count) == native.packed([least] * count)


@pytest.mark.parametrize(
    ("dtype", "least"), [("float16", -24), ("bfloat16", -133), ("float8_e4m3fn", -9), ("float8_e5m2", -16)]
)
@pytest.mark.usefixtures("variant")
def test_subnormal_numbers_of_narrow_dtypes_go_in_and_come_out(dtype: str, least: int) -> None:
    width = native.DTYPES[dtype][1]
    lying = (1).to_bytes(width, "little") * 40
    assert combined([lying], dtype, [1.0], 40) == native.packed([2.0**least] * 40)
    assert combined([lying], dtype, [1.0], 40, dtype) == lying
    assert combined([lying], dtype, [3.0], 40, dtype) == (3).to_bytes(width, "little") * 40
    assert combined([struct.pack("=40d", *[2.0**least] * 40)], "float64", [1.0], 40, dtype) == lying
