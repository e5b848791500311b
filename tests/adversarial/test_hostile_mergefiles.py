"""Hostile mergefiles: each is refused by name, and costs neither the memory nor the time that it asks for.

All are loaded by one process that has little of both: what hangs or fills the memory fails for all.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from mergebuild.errors import MergeBuildError, SourceError
from mergebuild.recipe import load_recipe
from mergebuild.sources.opening import read_model
from mergebuild.system.bounded_text import MAX_TEXT, read_text

MEMORY = 700 << 20
"""Bytes of address space; the program alone takes 100 million."""
SECONDS = 90
"""Of a processor, for all of them together."""

SOURCES = '[sources]\na = "a.safetensors"\nb = "b.safetensors"\n'
TARGET = '[targets.t]\nmethod = "weighted_sum"\na = "a"\nb = "b"\n'
FAMILY = f'{SOURCES}{TARGET}alpha = 0.5\noutput = "o/${{k}}.safetensors"\n'


def mixed(alpha: str) -> str:
    return f'{SOURCES}{TARGET}alpha = {alpha}\noutput = "t.safetensors"\n'


def formula(text: str) -> str:
    return f'{SOURCES}[targets.t]\nformula = "{text}"\noutput = "t.safetensors"\n'


def doubling(first: str, each: str) -> str:
    steps = "".join(f"v{n} = {each.replace('LAST', f'v{n - 1}')}\n" for n in range(1, 60))
    return f"{mixed('0.5')}[vars]\nv0 = {first}\n{steps}"


@cache
def hostile() -> dict[str, tuple[str, str]]:
    """Return texts of mergefiles by name, each with the code of the error."""
    chain = "".join(f'[targets.t{n}]\nmethod = "copy"\na = "t{n + 1}"\n' for n in range(11_000))
    return {
        "a billion members": (f"{FAMILY}foreach.k = {{ from = 0, to = 1, step = 1e-9 }}\n", "too-many-members"),
        "steps of 1e-300": (f"{FAMILY}foreach.k = {{ from = 0, to = 1, step = 1e-300 }}\n", "bad-axis"),
        "a product of axes": (
            FAMILY + "".join(f"foreach.k{n} = {{ from = 1, to = 99999, step = 1 }}\n" for n in range(30)),
            "too-many-members",
        ),
        "axes without end": (FAMILY + "".join(f"foreach.k{n} = [1]\n" for n in range(9000)), "too-many-members"),
        "members of a thousand digits": (f"{FAMILY}foreach.k = [1e-900]\n", "bad-axis"),
        "members with names of a thousand signs": (f'{FAMILY}foreach.k = ["{"x" * 1000}"]\n', "bad-axis"),
        "a hundred families": (
            SOURCES
            + "".join(
                TARGET.replace("[targets.t]", f"[targets.t{n}]")
                + 'alpha = "${k}"\nforeach.k = { from = 1, to = 20000, step = 1 }\n'
                for n in range(100)
            ),
            "too-many-members",
        ),
        "members times numbers": (
            f"{FAMILY}foreach.k = {{ from = 1, to = 50000, step = 1 }}\n[targets.t.drop_]\n"
            + "".join(f"k{n} = {n}\n" for n in range(5000)),
            "too-many-members",
        ),
        "a number of a million digits": (mixed("0." + "1" * 1_000_000), "bad-number"),
        "a whole number of a million digits": (mixed("9" * 1_000_000), "toml-syntax"),
        "an exponent of nine digits": (mixed("1e999999999"), "bad-number"),
        "a negative exponent of nine digits": (mixed("1e-999999999"), "bad-number"),
        "strings that double": (doubling('"haha"', '"${LAST}${LAST}"'), "too-long"),
        "numbers that square": (doubling("1e900", '"${LAST * LAST}"'), "bad-variable"),
        "fractions that square": (doubling("3", '"${1 / (LAST * LAST + 1)}"'), "bad-variable"),
        "a product of a thousand": (mixed('"${' + "*".join(["1e1000"] * 1000) + '}"'), "bad-variable"),
        "a sum of fractions": (formula("+".join(f"a/{n}" for n in range(3, 9000))), "bad-formula"),
        "a factor of a million digits": (formula("a*" + "*".join(["1e999"] * 2000)), "bad-formula"),
        "a formula of a million terms": (formula("+".join(["a"] * 1_000_000)), "too-long"),
        "a formula of unknown names": (formula("+".join(f"x{n}" for n in range(10_000))), "unknown-reference"),
        "a million holes": (mixed('"' + "${m}" * 100_000 + '"'), "too-long"),
        "brackets without end": (mixed("[" * 100_000), "toml-syntax"),
        "tables in tables": (mixed("{a=" * 100_000), "toml-syntax"),
        "a key of a thousand parts": (f"{mixed('0.5')}{'.'.join('x' * 1000)} = 1\n", "too-much-text"),
        "headers of many parts": (
            "".join(f"[k{n}.{'.'.join('x' * 30)}]\n" for n in range(20_000)),
            "too-much-text",
        ),
        "a list of a hundred thousand": (mixed("[" + "0.5," * 100_000 + "]"), "too-much-text"),
        "half a million values": (mixed("[" + "0.5," * 500_000 + "]"), "too-much-text"),
        "a hundred thousand selectors": (mixed("0.5") + "drop = [" + "'w*'," * 100_000 + "]\n", "too-much-text"),
        "mistakes without end": (
            SOURCES + "".join(f"[targets.t{n}]\nx = 1\n" for n in range(50_000)),
            "too-many-mistakes",
        ),
        "mistakes in a long line": (
            "targets = { " + ", ".join(f"y{n} = 1" for n in range(30_000)) + " }\n",
            "too-many-mistakes",
        ),
        "a chain of eleven thousand": (SOURCES + chain + '[targets.t11000]\nmethod = "copy"\na = "a"\n', "too-deep"),
        "a thousand and one methods": (
            SOURCES + "".join(f'[methods.m{n}]\nfile = "m.py"\ninputs = ["a"]\n' for n in range(1002)),
            "too-much-text",
        ),
        "a name of a million signs": (mixed("0.5").replace('"a"', f'"{"x" * 90_000}"'), "unknown-reference"),
        "a circle of includes": ('[project]\ninclude = ["mergefile.toml"]\n', "include-cycle"),
        "a million includes": ("[project]\ninclude = [" + "'x'," * 300 + "]\n", "too-many-includes"),
        "an include with a NUL": ('[project]\ninclude = ["a\\u0000b"]\n', "bad-path"),
        "an include without end": ('[project]\ninclude = ["/dev/zero"]\n', "unreadable-mergefile"),
        "an include of a pipe": ('[project]\ninclude = ["pipe"]\n', "unreadable-mergefile"),
        "an include of a terabyte": ('[project]\ninclude = ["large"]\n', "unreadable-mergefile"),
        "an include of the kernel's log": ('[project]\ninclude = ["/proc/kmsg"]\n', ""),
        "a home of nobody's": ('[sources]\nx = "~nobody-has-this-name/x"\n', "bad-path"),
        "a method without end": ('[methods.m]\nfile = "/dev/zero"\ninputs = ["a"]\n', "no-program"),
        "a method of a pipe": ('[methods.m]\nfile = "pipe"\ninputs = ["a"]\n', "no-program"),
        "an output in git's folder": (mixed("0.5").replace("t.safe", ".git/hooks/t.safe"), "bad-output"),
        "an output in the store": (mixed("0.5").replace("t.safe", ".mergebuild/history/t.safe"), "bad-output"),
        "an output over the mergefile": (mixed("0.5").replace("t.safetensors", "x/../../FOLDER/"), "bad-output"),
    }  # fmt: skip


def codes_of(folder: Path) -> dict[str, tuple[list[str], int]]:
    """Load all texts, and return the codes of their errors, and the signs of the longest."""
    (folder / "m.py").touch()
    os.mkfifo(folder / "pipe")
    with (folder / "large").open("wb") as file:
        file.truncate(1 << 40)
    found: dict[str, tuple[list[str], int]] = {}
    for name, (text, _) in hostile().items():
        path = folder / "mergefile.toml"
        path.write_text(text.replace("FOLDER", folder.name))
        found[name] = [], 0
        try:
            load_recipe(path)
        except MergeBuildError as error:
            longest = max(len(problem.message) + len(problem.help) for problem in error.problems)
            found[name] = [problem.code for problem in error.problems], longest
    return found


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[list[str], int]]:
    program = (
        "import json, resource, sys, pathlib, test_hostile_mergefiles as here\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY},) * 2)\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS},) * 2)\n"
        "print(json.dumps(here.codes_of(pathlib.Path(sys.argv[1]))))\n"
    )
    folder = tmp_path_factory.mktemp("hostile")
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, tuple[list[str], int]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_mergefile_is_refused_and_costs_little(codes: Mapping[str, tuple[list[str], int]], name: str) -> None:
    expected = hostile()[name][1]
    found, longest = codes[name]
    assert expected in found if expected else not found
    assert len(found) <= 501
    assert longest < 5000


def test_a_pipe_or_a_file_of_the_systems_is_no_source_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero"), Path("/proc/kmsg")):
        with pytest.raises(SourceError):
            read_model(path)


@pytest.mark.parametrize("size", [MAX_TEXT + 1, 1 << 42])
def test_a_text_has_a_longest_length(tmp_path: Path, size: int) -> None:
    with (tmp_path / "text").open("wb") as file:
        file.truncate(size)
    with pytest.raises(OSError, match="are read"):
        read_text(tmp_path / "text")


def test_a_limit_that_this_process_has_is_its_childrens(tmp_path: Path) -> None:
    """The process of the fixture has the limit that it asked for: without it the tests above would show little."""
    program = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY},) * 2); b'x' * {MEMORY}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "MemoryError" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != MEMORY
