"""The table of commands is what the commands say of themselves; help, version and completion need none of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from program_under_test import Mergebuild

import mergebuild as mergebuild_package
from mergebuild import __version__, native
from mergebuild.cli.program import COMMANDS, module_of

pytestmark = pytest.mark.processes

HERE = {"PYTHONPATH": str(Path(mergebuild_package.__file__).parents[1])}
HEAVY = {"torch", "numpy", "networkx", "rich", "safetensors"}


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | HERE | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def imported_by(*arguments: str, cwd: Path | None = None, **environment: str) -> set[str]:
    """Return the modules that a run of the program has imported when it ends."""
    code = f"import sys\nfrom mergebuild.cli import run\nrun({list(arguments)!r})\nprint(*sys.modules, file=sys.stderr)"
    found = run("-c", code, cwd=cwd, **environment)
    assert found.returncode == 0, found.stderr
    return set(found.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_named_and_summarized_as_in_the_table(name: str) -> None:
    command = import_module(module_of(name)).command
    assert command.name == name
    assert command.help
    assert len(COMMANDS[name]) <= 60


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name: str, mergebuild: Mergebuild) -> None:
    found = mergebuild(name, "--help")
    assert found.code == 0
    shown = found.out
    command = import_module(module_of(name)).command
    for parameter in command.params:
        for option in parameter.opts:
            assert not option.startswith("-") or re.search(rf"(?<![-\w]){re.escape(option)}\b", shown)


def test_help_imports_no_command_and_nothing_heavy() -> None:
    modules = imported_by("--help")
    assert not modules & HEAVY
    assert not set(map(module_of, COMMANDS)) & modules
    assert "mergebuild.project.project" not in modules


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    if name in ("build", "list"):  # the others import a subset; processes are what costs
        assert not imported_by(name, "--help") & HEAVY


def test_completion_of_commands_imports_no_command() -> None:
    modules = imported_by(COMP_WORDS="mergebuild ", COMP_CWORD="1", _MERGEBUILD_COMPLETE="bash_complete")
    assert not modules & HEAVY
    assert not set(map(module_of, COMMANDS)) & modules


def test_version_is_the_packages(mergebuild: Mergebuild) -> None:
    assert mergebuild("--version").out == f"mergebuild {__version__}\n"
    assert mergebuild("build", "--version", "--json").json == {"version": __version__}


def test_version_says_more_where_more_is_asked_for(mergebuild: Mergebuild) -> None:
    """Wherever the options stand."""
    best = native.variants()[0]
    first = f"mergebuild {__version__}\nkernels: "
    for arguments in (
        ("--version", "-v"),
        ("-v", "--version"),
        ("-v", "build", "--version"),
        ("build", "--version", "-v"),
    ):
        assert mergebuild(*arguments).out.startswith(first)
    asked = ("-m", "mergebuild", "--version", "-v")
    assert run(*asked, MERGEBUILD_NATIVE="").stdout == f"{first}compiled, {best}\n"
    assert run(*asked, MERGEBUILD_NATIVE="plain").stdout == f"{first}compiled, plain (MERGEBUILD_NATIVE=plain)\n"
    assert run(*asked, MERGEBUILD_NATIVE="0").stdout == f"{first}torch (MERGEBUILD_NATIVE=0)\n"
    unknown = run(*asked, MERGEBUILD_NATIVE="mmx").stdout
    assert unknown == f"{first}compiled, {best} (MERGEBUILD_NATIVE=mmx, which this processor lacks)\n"


def test_version_in_json_says_which_kernels_merge() -> None:
    asked = ("-m", "mergebuild", "--version", "-v", "--json")
    compiled = {"compiled": True, "instructions": "plain", "reason": "MERGEBUILD_NATIVE=plain"}
    assert json.loads(run(*asked, MERGEBUILD_NATIVE="plain").stdout) == {"version": __version__, "kernels": compiled}
    torch = {"compiled": False, "instructions": None, "reason": "MERGEBUILD_NATIVE=0"}
    assert json.loads(run(*asked, MERGEBUILD_NATIVE="0").stdout) == {"version": __version__, "kernels": torch}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("ModuleNotFoundError('no such module')", "installed without a C compiler"),
        ("ImportError('wrong ELF class')", "wrong ELF class"),
    ],
)
def test_version_says_why_kernels_are_torchs(failure: str, reason: str) -> None:
    code = f"""
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "mergebuild.native._compiled":
            raise {failure}
sys.meta_path.insert(0, Broken())
from mergebuild.cli import run
run(["--version", "-v"])
"""
    found = run("-c", code, MERGEBUILD_NATIVE="")
    assert found.stdout == f"mergebuild {__version__}\nkernels: torch ({reason})\n"


def test_the_module_is_the_same_program() -> None:
    found = run("-m", "mergebuild", "--version")
    assert (found.returncode, found.stdout) == (0, f"mergebuild {__version__}\n")


def test_an_ascii_console_shows_any_name(tmp_path: Path) -> None:
    found = run("-m", "mergebuild", "-f", "橙.toml", "plan", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert found.returncode == 3
    assert "\\u6a59.toml" in found.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`mergebuild methods | head -1`: silence, and the exit code of a broken pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mergebuild", "methods"],
        env=os.environ | HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_behind_stdout_exits_with_7() -> None:
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "mergebuild", "methods"],
            env=os.environ | HERE, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert found.returncode == 7
    assert "error[no-space]" in found.stderr


SLEEPER = """
import sys, time
from mergebuild.project import project
class Sleeper:
    def plan(self, targets, **options):
        try:
            print("ready", file=sys.stderr, flush=True)
            time.sleep(60)
        finally:
            print("cleaned up", file=sys.stderr, flush=True)
project.load = lambda path, **options: Sleeper()
from mergebuild.cli import main
main(["plan", "--json"])
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send to one process")
def test_a_request_to_end_ends_in_order(name: str, tmp_path: Path) -> None:
    (tmp_path / "mergefile.toml").touch()
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        cwd=tmp_path,
        env=os.environ | HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=60)
    assert (process.returncode, first) == (130, "ready\n")
    assert err == "cleaned up\nerror[interrupted]: interrupted\n"
    assert json.loads(out)["errors"][0]["code"] == "interrupted"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose only target is built."""
    folder = tmp_path_factory.mktemp("built")
    header = json.dumps({"weight": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    for name, value in (("a", b"\x00\x3c"), ("b", b"\x00\x40")):
        (folder / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + value * 4)
    (folder / "mergefile.toml").write_text(
        '[sources]\na = "a.safetensors"\nb = "b.safetensors"\n[targets.mix]\nmethod = "weighted_sum"\n'
        'a = "a"\nb = "b"\nalpha = 0.5\noutput = "out/mix.safetensors"\n'
    )
    found = run("-m", "mergebuild", "build", cwd=folder)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.mark.parametrize("arguments", ["build", "build --json", "plan", "status", "list", "lineage mix", "why mix"])
def test_what_computes_nothing_imports_nothing_heavy(arguments: str, built: Path) -> None:
    """torch, numpy, networkx and rich cost more to import than a null build takes."""
    assert not imported_by(*arguments.split(), cwd=built) & HEAVY


UNWANTED = {
    "dataclasses", "decimal", "difflib", "fractions", "locale", "pathlib", "sqlite3", "tomli", "unicodedata",
    "mergebuild.cli.failures", "mergebuild.cli.plan", "mergebuild.events", "mergebuild.results.looks",
    "mergebuild.system.platform", "mergebuild.project.project", "mergebuild.recipe", "mergebuild.report.looks",
    "mergebuild.report.problems", "mergebuild.report.progress", "mergebuild.store",
}  # fmt: skip


def test_a_build_with_nothing_to_do_imports_the_least(built: Path) -> None:
    """Click would be half of what it takes; each of the others would be a part of the rest."""
    modules = imported_by("build", cwd=built)
    assert "mergebuild.project.stamp" in modules
    assert not modules & (UNWANTED | {"click", "inspect"})
    assert not imported_by("--version") & (UNWANTED | {"json", "mergebuild.project.stamp", "xxhash"})


def test_what_only_looks_imports_no_engine(built: Path) -> None:
    assert not imported_by("status", cwd=built) & {"mergebuild.build.builder", "mergebuild.engine.run", "filelock"}


def test_completion_of_targets_imports_nothing_heavy(built: Path) -> None:
    complete = {"COMP_WORDS": "mergebuild build ", "COMP_CWORD": "2", "_MERGEBUILD_COMPLETE": "bash_complete"}
    assert not imported_by(cwd=built, **complete) & HEAVY


@pytest.mark.parametrize(
    "arguments", ["build mix", "build out/mix.safetensors", "build --no-color", "--no-color build"]
)
def test_a_build_with_nothing_to_do_is_answered_alike_with_options_and_without(arguments: str, built: Path) -> None:
    """What has none is read before click is there to do it."""
    assert run("-m", "mergebuild", *arguments.split(), cwd=built).returncode == 0
    folder = built / "out"
    for cwd in (built, folder):
        here = [os.path.relpath(built / word, cwd) if "/" in word else word for word in arguments.split()]
        found, plain = (run("-m", "mergebuild", *words, cwd=cwd) for words in (here, ["build"]))
        assert found.returncode == plain.returncode == 0
        told, as_told = (re.sub(r"\([\d.]+ s\)", "(some time)", each.stdout) for each in (found, plain))
        assert told == as_told


@pytest.mark.parametrize("words", [["build", "no-such"], ["build", ""], ["build", "--no-such"], ["build", "--", "mix"]])
def test_what_is_no_plain_build_is_read_by_the_command(words: list[str], built: Path) -> None:
    found = run("-m", "mergebuild", *words, cwd=built)
    assert (found.returncode, "error[" in found.stderr) == ((0, False) if words[-1] == "mix" else (2, True))


def test_a_build_with_nothing_to_do_says_so_in_one_line(built: Path) -> None:
    found = run("-m", "mergebuild", "build", cwd=built)
    assert (found.returncode, found.stderr) == (0, "")
    assert re.fullmatch(r"nothing to do: 1 target is up to date \(\d+\.\d\d s\)\n", found.stdout)
