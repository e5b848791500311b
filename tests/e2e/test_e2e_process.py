"""What only a process of its own can show: imports, signals and encodings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from project_space import Space
from tiny_models import NAMES, sd15

HEAVY = ("torch", "numpy", "networkx", "rich")

SHOW_IMPORTS = """
import atexit, os, sys
def show():
    with open(os.environ["IMPORTS"], "w") as file:
        file.write("\\n".join(sorted({name.partition(".")[0] for name in sys.modules})))
atexit.register(show)
from mergebuild.cli import main
main(sys.argv[1:])
"""


def imported(space: Space, *arguments: str, env: dict[str, str] | None = None, code: int = 0) -> tuple[set[str], str]:
    """Run a command line in a process of its own; return the packages it imported and what it printed."""
    listing = space.root.parent / "imports.txt"
    done = subprocess.run(
        [sys.executable, "-c", SHOW_IMPORTS, *arguments],
        cwd=space.root,
        env={**os.environ, "IMPORTS": str(listing), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return set(listing.read_text().split()), done.stdout


# Imports


def test_a_build_with_nothing_to_do_imports_nothing_heavy(pair: Space) -> None:
    """And says so in one line."""
    pair.build()

    modules, out = imported(pair, "build")

    assert not modules & set(HEAVY)
    assert out.count("\n") == 1
    assert out.startswith("nothing to do")


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan",), ("status",), ("why", "mix"), ("lineage", "mix"), ("list",), ("methods",), ("--help",),
        ("build", "--help"), ("--version",), ("gc", "-n"), ("inspect", "one"), ("verify",), ("lock",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_computes_nothing_imports_no_torch(pair: Space, arguments: tuple[str, ...]) -> None:
    pair.build()
    pair.edit("alpha = 0.3", "alpha = 0.31")

    modules, _ = imported(pair, *arguments)

    assert not modules & set(HEAVY)


def test_completion_imports_nothing_heavy(pair: Space) -> None:
    """And offers the targets of the mergefile."""
    modules, out = imported(
        pair,
        env={"_MERGEBUILD_COMPLETE": "bash_complete", "COMP_WORDS": "mergebuild build m", "COMP_CWORD": "2"},
    )

    assert not modules & set(HEAVY)
    assert "mix" in out


def test_a_restore_imports_no_torch(pair: Space) -> None:
    """No arithmetic, no torch."""
    pair.write('[project]\nlink = "hard"\n' + (pair / "mergefile.toml").read_text())
    pair.build()
    (pair / "out/mix.safetensors").unlink()

    modules, _ = imported(pair, "build")

    assert "torch" not in modules
    assert (pair / "out/mix.safetensors").exists()


def test_bad_input_imports_no_torch(pair: Space) -> None:
    """Headers decide before any tensor is read."""
    model = sd15(2)
    model[NAMES[5]] = torch.zeros(3)
    pair.model("two.safetensors", model)

    modules, _ = imported(pair, "build", code=9)

    assert "torch" not in modules


def test_importing_the_package_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, mergebuild; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert not {name.partition(".")[0] for name in done.stdout.split()} & {*HEAVY, "click"}


# The program


def test_python_m_is_the_same_program(pair: Space) -> None:
    outcome = pair.process("build", "--json")

    assert outcome.json["targets"][0]["verdict"] == "built"
    assert pair.build().verdicts == {"mix": "up-to-date"}
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_no_console_encoding_is_a_crash(pair: Space, encoding: str) -> None:
    pair.write(
        (pair / "mergefile.toml")
        .read_text()
        .replace("out/mix", "out/混ぜ-é")
        .replace("[targets.mix]", '[targets."混ぜ"]')
    )

    pair.process("build", env={"PYTHONIOENCODING": encoding})
    pair.process("status", env={"PYTHONIOENCODING": encoding})
    pair.process("lineage", "混ぜ", env={"PYTHONIOENCODING": encoding})
    outcome = pair.process("build", "なし", "--json", env={"PYTHONIOENCODING": encoding}, code=2)

    assert json.loads(outcome.out)["errors"][0]["code"] == "unknown-target"
    assert (pair / "out/混ぜ-é.safetensors").exists()


def test_a_closed_pipe_is_no_traceback(pair: Space) -> None:
    process = pair.spawn("list")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(30)

    assert "Traceback" not in err


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(pair: Space) -> None:
    """Escapes go to terminals alone, and not under `NO_COLOR`."""
    import pty

    def on_a_terminal(env: dict[str, str]) -> bytes:
        pair.run("clean", "--yes")
        primary, secondary = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "mergebuild", "build"],
            cwd=pair.root, env={**os.environ, "TERM": "xterm", **env}, stdout=subprocess.DEVNULL, stderr=secondary,
        ) as process:  # fmt: skip
            os.close(secondary)
            said = b""
            try:
                while piece := os.read(primary, 65536):
                    said += piece
            except OSError:
                pass  # the other end is gone
            os.close(primary)
            assert process.wait(60) == 0
        return said

    pair.build()
    assert b"\x1b" in on_a_terminal({})
    assert b"\x1b" not in on_a_terminal({"NO_COLOR": "1"})


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_build_is_130_and_leaves_no_partial_file(large: Space, number: signal.Signals) -> None:
    """Nothing half-done is visible: no output, no file beside it; the next build does all."""
    process = large.spawn("build", "--json", "-j", "1")
    deadline = time.monotonic() + 60
    while not list(large.root.glob("out/.*mergebuild-*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert json.loads(out)["errors"][0]["code"] == "interrupted"
    assert "Traceback" not in err
    assert not list(large.root.glob("out/.*"))
    whole = list(large.root.glob("out/*.safetensors"))
    assert all(path.stat().st_size > 3_200_000 for path in whole)
    assert set(large.states("mix@alpha=0.005").values()) <= {"missing", "up-to-date"}
    assert large.build("mix@alpha=0.005", "mix@alpha=0.15").document["ok"]


def test_a_killed_build_leaves_what_the_next_one_mends(space: Space) -> None:
    """SIGKILL: the old output or the new one, and no leftovers after the next build."""
    for name, value in (("one", 1.0), ("two", 2.0)):
        space.model(
            f"{name}.safetensors", {"weight": torch.full((2, 400_000), value), "other": torch.ones(64, 64) * value}
        )
    space.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.mix]
        foreach.alpha = { from = 0.01, to = 0.3, step = 0.01 }
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = "${alpha}"
        output = "out/mix-${alpha}.safetensors"
        """
    )
    process = space.spawn("build", "-j", "1")
    deadline = time.monotonic() + 60
    while not list(space.root.glob("out/.*mergebuild-*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=60)

    built = space.build()

    assert built.document["ok"]
    assert len(list((space / "out").iterdir())) == 30
    assert space.json("verify")["ok"]
    assert set(space.build().verdicts.values()) == {"up-to-date"}
