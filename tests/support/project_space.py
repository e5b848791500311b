"""A folder with a project, in which tests run the program: in this process for speed, or in one of its own.

`Space` writes mergefiles and models, runs command lines and reads their results. Models have a few kilobytes and real
tensor names, so that layouts are detected and blocks have names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from textwrap import dedent
from typing import Any

from model_files import Tensors, read_model, write_model
from torch import Tensor

from mergebuild.cli import run

__all__ = ["PAIR", "Built", "NewSpace", "Outcome", "Space"]

PAIR = """
[sources]
one = "one.safetensors"
two = "two.safetensors"

[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.3
output = "out/mix.safetensors"
"""
"""A mergefile with two fine-tunes of one model, and a mix of them."""


@dataclass(frozen=True)
class Outcome:
    """The result of a run of the program."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The only JSON document on stdout."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """The codes of the errors in the document."""
        return [error["code"] for error in self.json["errors"]]


@dataclass(frozen=True)
class Built:
    """The answer of `build --json` or `plan --json`."""

    document: dict[str, Any]

    def __getitem__(self, target: str) -> dict[str, Any]:
        (found,) = [each for each in self.document["targets"] if each["target"] == target]
        return found

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict of each target, in the answer's order."""
        return {each["target"]: each["verdict"] for each in self.document["targets"]}

    @property
    def computed(self) -> int:
        """The number of tensors computed, for all targets."""
        return sum(each["tensors_computed"] for each in self.document["targets"])

    @property
    def bytes_read(self) -> int:
        """The number of bytes read from sources."""
        found: int = self.document["bytes_read"]
        return found


class Space:
    """A project's folder. Commands run in it, or in the folder that `here` names."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self.root = root
        self.here = root
        self._environment = environment
        root.mkdir(parents=True, exist_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    # Files

    def write(self, text: str, name: str = "mergefile.toml") -> Path:
        """Write a text file; common indentation is removed."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    def edit(self, before: str, after: str, name: str = "mergefile.toml") -> None:
        """Replace a text in a file, which must occur exactly once."""
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in {name}"
        path.write_text(text.replace(before, after), encoding="utf-8")

    def model(self, name: str, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
        """Write a model file."""
        return write_model(self.root / name, tensors, metadata)

    def read(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a file."""
        return read_model(self.root / name)

    def bytes(self, name: str) -> bytes:
        """Read a file."""
        return (self.root / name).read_bytes()

    def tree(self) -> dict[str, bytes | None]:
        """Return every file below the folder with its bytes, folders with None. Files inside the store are left out."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes() if path.is_file() else None
            for path in sorted(self.root.rglob("*"))
            if ".mergebuild" not in path.parent.relative_to(self.root).parts
        }

    def settle(self) -> None:
        """Wait until the files are old enough that their stat data are trusted: the file system's clock is coarse."""
        time.sleep(0.03)

    # Runs

    def run(self, *arguments: str | Path, code: int | None = 0) -> Outcome:
        """Run one command line in this process and check its exit code (None: any)."""
        out, err = StringIO(), StringIO()
        before = Path.cwd()
        os.chdir(self.here)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                found = Outcome(run([str(each) for each in arguments]), "", "")
        finally:
            os.chdir(before)
        outcome = Outcome(found.code, out.getvalue(), err.getvalue())
        self._check(arguments, outcome, code)
        return outcome

    def json(self, *arguments: str | Path, code: int | None = 0) -> Any:
        """Run with `--json` and return the one document on stdout."""
        return self.run(*arguments, "--json", code=code).json

    def build(self, *arguments: str | Path, code: int | None = 0) -> Built:
        """Build, with `--json`."""
        return Built(self.json("build", *arguments, code=code))

    def plan(self, *arguments: str | Path, code: int | None = 0) -> Built:
        """Plan, with `--json`."""
        return Built(self.json("plan", *arguments, code=code))

    def states(self, *arguments: str) -> dict[str, str]:
        """Return the state of each target, by `status --json`."""
        return {each["target"]: each["state"] for each in self.json("status", *arguments)["targets"]}

    def reasons(self, target: str) -> list[str]:
        """Return the reasons of `why --json`."""
        found: list[str] = self.json("why", target)["reasons"]
        return found

    def refused(self, *arguments: str | Path, code: int) -> Outcome:
        """Run a command with `--json` that must fail with this exit code, and check that it writes no file."""
        before = self.tree()
        outcome = self.run(*arguments, "--json", code=code)
        document = outcome.json
        assert document["ok"] is False
        assert document["errors"]
        for error in document["errors"]:
            assert {"code", "message", "where", "help"} <= error.keys()
            assert f"error[{error['code']}]" in outcome.err
            first = error["message"][0]
            assert first.islower() or first in "`[-" or first.isdigit(), error["message"]
        after = self.tree()
        assert after == before, f"written: {sorted(set(after) ^ set(before)) or 'other bytes'}"
        return outcome

    def process(
        self,
        *arguments: str | Path,
        code: int | None = 0,
        env: Mapping[str, str] | None = None,
        python: Iterable[str] = (),
        **options: Any,
    ) -> Outcome:
        """Run one command line in a process of its own."""
        done = subprocess.run(
            [sys.executable, *python, "-m", "mergebuild", *map(str, arguments)],
            cwd=self.here,
            env={**os.environ, **self._environment, **(env or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=120,
            **options,
        )
        outcome = Outcome(done.returncode, done.stdout, done.stderr)
        self._check(arguments, outcome, code)
        return outcome

    def spawn(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start one command line in a process of its own and return it running."""
        return subprocess.Popen(
            [sys.executable, "-m", "mergebuild", *map(str, arguments)],
            cwd=self.here,
            env={**os.environ, **self._environment, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _check(self, arguments: Iterable[str | Path], outcome: Outcome, code: int | None) -> None:
        if code is not None:
            asked = " ".join(map(str, arguments))
            said = "\n".join(outcome.err.splitlines()[-12:])
            assert outcome.code == code, f"`{asked}` gave {outcome.code}, not {code}\n{said}"


NewSpace = Callable[[str], Space]
"""Makes another space beside the first, by its name."""
