"""The package is built with compiled kernels where they can be compiled, and without them where not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lab import Lab

import mergebuild

pytestmark = pytest.mark.processes

PACKAGE = Path(mergebuild.__file__).parent
CLONE = PACKAGE.parent


def setup(*arguments: str, **environment: str) -> str:
    """Run the package's own build and return what it said."""
    found = subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=CLONE,
        env=os.environ | {"MERGEBUILD_KERNELS": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stdout
    return found.stdout


@pytest.mark.parametrize(
    "broken",
    [
        {"CC": "false"},
        {"CC": "no-such-compiler"},
        {"CFLAGS": "-include no-such-file.h"},
    ],
    ids=["fails", "missing", "an error"],
)
def test_without_a_compiler_that_works_the_package_is_built_without_kernels(
    broken: dict[str, str], tmp_path: Path
) -> None:
    said = setup("build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "made"), **broken)
    assert "mergebuild.native._compiled" in said
    assert not list((tmp_path / "lib").rglob("*.so"))


def test_without_a_compiler_that_works_the_build_fails_where_kernels_are_required(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="_compiled"):
        setup("build_ext", "--build-lib", str(tmp_path), CC="false", MERGEBUILD_KERNELS="required")


@pytest.mark.parametrize("variant", ["plain", "avx2", "avx512", "neon"])
def test_a_compiler_that_is_not_like_gcc_is_given_c11_alone(variant: str) -> None:
    """MSVC, for one: of the instruction sets it compiles plain C, and the other files hold nothing for it."""
    source = str(PACKAGE / f"native/variant_{variant}.c")
    strict = ["cc", "-std=c11", "-pedantic-errors", "-Werror=vla", "-fsyntax-only", source]
    subprocess.run(strict, timeout=60, check=True)
    unlike = ["cc", "-std=c11", "-U__GNUC__", "-U__aarch64__", "-E", source]
    read = subprocess.run(unlike, capture_output=True, text=True, timeout=60, check=True).stdout
    ours = "".join(part for part in re.split(r"^# \d+ ", read, flags=re.MULTILINE) if "mergebuild/native" in part[:200])
    assert not re.findall(r"__builtin_\w+|__attribute__|__asm__|__int128|__restrict", ours)
    assert ("struct variant variant_plain =" in ours) == (variant == "plain")


@pytest.mark.slow
def test_flags_that_would_change_bits_are_left_out(tmp_path: Path) -> None:
    """With `-ffast-math` at linking, gcc has every program that loads the extension flush subnormal numbers."""
    folders = ("--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "made"))
    setup("build_ext", *folders, CFLAGS="-ffast-math -Ofast -O1")
    [extension] = (tmp_path / "lib").rglob("*.so")
    read = ["objdump", "-d", "--no-show-raw-insn", str(extension)]
    text = subprocess.run(read, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "vmulps" in text or "fmul" in text
    assert "ldmxcsr" not in text


def test_the_package_holds_its_data_and_neither_tests_nor_sources_in_c(tmp_path: Path) -> None:
    setup("build_py", "--build-lib", str(tmp_path))
    built = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    there = {path.relative_to(CLONE).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    left_out = (".pyc", ".so", ".c", ".h", ".inc")
    assert built == {name for name in there if not name.endswith(left_out)}
    assert "mergebuild/py.typed" in built
    assert "mergebuild/layouts/data/position_ids.safetensors" in built


def run_copy(folder: Path, *arguments: str) -> str:
    """Run the program as it is in a folder, with what is installed beside it; return what it prints."""
    found = subprocess.run(
        [sys.executable, "-c", f"from mergebuild.cli import main; main({list(arguments)!r})"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_package_without_kernels_works_by_torch(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "mergebuild", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    version = f"mergebuild {mergebuild.__version__}"
    assert run_copy(tmp_path, "--version", "-v").splitlines() == [
        version,
        "kernels: torch (installed without a C compiler)",
    ]
    made = {}
    for name in ("without", "with"):
        lab = Lab(tmp_path / name)
        lab.root.mkdir()
        for source, value in (("x", 1.0), ("y", 3.0)):
            lab.model(source, w=[value, 2 * value], v=[value])
        targets = (("sum", 'formula = "0.3*x + 0.7*y"'), ("arc", 'method = "slerp"\na = "x"\nb = "y"\nt = 0.3'))
        lab.write("".join(f'[targets.{each}]\n{text}\noutput = "{each}.safetensors"\n' for each, text in targets))
        if name == "with":
            lab.build()
        else:
            run_copy(tmp_path, "-f", str(lab.root / "mergefile.toml"), "build")
        made[name] = [(lab.root / f"{each}.safetensors").read_bytes() for each, _ in targets]
    assert made["without"] == made["with"]


def test_kernels_of_other_sources_are_not_used(tmp_path: Path) -> None:
    """As in a clone that was brought up to date: what Python packs, they might take for something else."""
    shutil.copytree(PACKAGE, tmp_path / "mergebuild", ignore=shutil.ignore_patterns("__pycache__"))
    program = "from mergebuild import native; print(bool(native.variant), native.reason)"

    def said() -> str:
        found = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "MERGEBUILD_NATIVE": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return found.stdout.strip()

    assert said() == "True"
    with (tmp_path / "mergebuild/native/linear.inc").open("a") as file:
        file.write("/* changed */")
    assert said() == "False compiled of other sources: install the package anew"
    for path in (tmp_path / "mergebuild/native").glob("*.inc"):
        path.unlink()
    for path in (tmp_path / "mergebuild/native").glob("*.[ch]"):
        path.unlink()
    assert said() == "True"
