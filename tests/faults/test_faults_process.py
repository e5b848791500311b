"""A process that is asked to end in a phase that lasts: a matrix is decomposed, gigabytes are copied or waited for.

Real processes and real signals, at sizes at which such phases take seconds. Each test prints the longest time from a
request to the end (`-s` shows it); the promise is two seconds, the bound here leaves room for a loaded machine.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mergebuild.formats.layout import encode_header

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send to one process"),
]

ROOT = Path(__file__).parents[2]
PROMISED = 2.0
BOUND = 2 * PROMISED
MOMENTS = random.Random(6)
STARTED = 0.5
"""Seconds until Python itself runs, and hands requests to us."""


@dataclass(frozen=True)
class Ended:
    """What became of a process that was asked to end. `seconds`: from the request to the end."""

    code: int
    seconds: float
    said: str


class Project:
    """A folder with a project in it, and the program run on it in processes of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.longest = 0.0

    def write(self, text: str) -> None:
        (self.root / "mergefile.toml").write_text(text)

    def model(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a model of float16 tensors."""
        raw, header = encode_header(
            [(each, "float16", tuple(tensor.shape)) for each, tensor in tensors.items()], {"format": "pt"}
        )
        with (self.root / f"{name}.safetensors").open("wb") as file:
            file.write(raw)
            for each in header.tensors:
                tensor = tensors[each].half().contiguous()
                file.write(ctypes.string_at(tensor.data_ptr(), 2 * tensor.numel()))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "mergebuild", *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(self.root / "config")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str) -> str:
        """Run to the end, which must be a good one."""
        process = self.start(*arguments)
        said = process.communicate(timeout=600)[0].decode()
        assert process.returncode == 0, said
        return said

    def end(self, arguments: Sequence[str], name: str, after: float) -> Ended:
        """Start, send the process a signal so many seconds after that, and say what came of it."""
        process = self.start(*arguments)
        time.sleep(after)
        began = time.monotonic()
        process.send_signal(getattr(signal, name))
        said = process.communicate(timeout=120)[0]
        ended = Ended(process.returncode, time.monotonic() - began, said.decode())
        assert "Traceback" not in ended.said, ended.said
        assert "Exception" not in ended.said, ended.said
        self.longest = max(self.longest, ended.seconds)
        return ended

    def outputs(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.root / "out").glob("*.safetensors")}

    def leftovers(self) -> list[Path]:
        return [
            path for path in self.root.rglob(".*") if "mergebuild-" in path.name or path.name.startswith(".verify-")
        ]


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    """A project; in the end the longest wait of it is printed, and held to the bound."""
    found = Project(tmp_path)
    yield found
    print(f"\n{request.node.name}: the longest took {found.longest:.2f} s")
    assert found.longest < BOUND


LONG = {
    "rotate": 'a = "one"\nb = "two"',
    "truncate_rank": 'a = "one"',
    "crossover": 'a = "one"\nb = "two"',
    "weighted_sum": 'a = "one"\nb = "two"\nalpha = 0.3',
    "ties": 'base = "one"\nmodels = ["two", "one"]\nweight = 0.5\ndensity = 0.3',
}


@pytest.mark.parametrize("method", LONG)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_no_method_keeps_the_process_from_ending(method: str, name: str, project: Project) -> None:
    """Of a matrix of 3,000 rows, one call of some of these takes many seconds."""
    torch.manual_seed(6)
    for each in ("one", "two"):
        project.model(each, {f"{index}.weight": torch.randn(3000, 3000) for index in range(4)})
    project.write(
        f'[sources]\none = "one.safetensors"\ntwo = "two.safetensors"\n[targets.mix]\nmethod = "{method}"\n'
        f'{LONG[method]}\noutput = "out/mix.safetensors"\n'
    )
    for _ in range(5):
        ended = project.end(("build",), name, MOMENTS.uniform(STARTED, 6))
        assert ended.code in (0, 130), ended.said
        assert not project.leftovers()
        if ended.code == 0:
            project.run("clean", "--yes")
        else:
            assert not project.outputs()


@pytest.fixture
def large(project: Project) -> Project:
    """A project of one target, of two models of half a gigabyte."""
    torch.manual_seed(6)
    for each in ("one", "two"):
        project.model(each, {f"{index}.weight": torch.randn(4096, 4096) for index in range(16)})
    project.write(
        '[sources]\none = "one.safetensors"\ntwo = "two.safetensors"\n[targets.mix]\nmethod = "weighted_sum"\n'
        'a = "one"\nb = "two"\nalpha = 0.3\noutput = "out/mix.safetensors"\n'
        '[targets.same]\nmethod = "copy"\na = "one"\noutput = "out/same.safetensors"\n'
    )
    return project


@pytest.mark.parametrize(
    "arguments",
    [("build", "--durable"), ("build", "--durable", "same"), ("lock",), ("verify", "--rebuild"), ("inspect", "one")],
    ids=" ".join,
)
def test_large_files_are_read_copied_and_waited_for_in_pieces(arguments: tuple[str, ...], large: Project) -> None:
    if arguments[0] == "verify":
        large.run("build")
    whole = large.outputs()
    began = time.monotonic()
    large.run(*arguments)
    lasts = time.monotonic() - began
    whole |= large.outputs()
    for _ in range(8):
        if arguments[0] == "build":
            large.run("clean", "--yes")
        ended = large.end(arguments, "SIGINT", MOMENTS.uniform(STARTED, lasts))
        assert ended.code in (0, 130), ended.said
        assert not large.leftovers()
        assert large.outputs().items() <= whole.items()
