"""A small project for unit tests: model files of a few numbers, a mergefile, and the project's verbs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from model_files import read_model, write_model
from torch import Tensor

from mergebuild.events import Event
from mergebuild.project.project import Project, load
from mergebuild.results.build import BuildResult

__all__ = ["Lab"]


class Lab:
    """A project in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources: dict[str, str] = {}
        self.events: list[Event] = []

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def model(self, name: str, *, odd: bool = False, file: str = "", **tensors: Sequence[float] | Tensor) -> Path:
        """Write a source's file; lists of numbers become float32 tensors. Underscores in names stay."""
        made = {
            key: value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float32)
            for key, value in tensors.items()
        }
        self.sources[name] = file or f"{name}.safetensors"
        return write_model(self.root / self.sources[name], made, odd=odd)

    def write(self, text: str) -> None:
        """Write the mergefile, with a `[sources]` table for the models written so far."""
        declared = "\n".join(f'{name} = "{file}"' for name, file in self.sources.items())
        head, mark, rest = text.partition("#sources")
        text = head + "[sources]\n" + declared + "\n" + rest if mark else "[sources]\n" + declared + "\n" + text
        (self.root / "mergefile.toml").write_text(text)

    @property
    def project(self) -> Project:
        """The project, loaded again."""
        return load(self.root / "mergefile.toml")

    def build(self, *targets: str, **options: object) -> BuildResult:
        """Build in a new session."""
        return self.project.build(targets, emit=self.events.append, **options)  # type: ignore[arg-type]

    def verdicts(self, *targets: str, **options: object) -> dict[str, str]:
        """Build, and return the verdicts."""
        return {each.target: str(each.verdict) for each in self.build(*targets, **options).targets}

    def states(self) -> dict[str, str]:
        """Return the state of each target, as `status` shows it."""
        return {each.target: str(each.state) for each in self.project.status().targets}

    def read(self, output: str) -> dict[str, Tensor]:
        """Read an output's tensors."""
        return read_model(self.root / output)

    def values(self, output: str, name: str = "w") -> list[float]:
        """Return one tensor's numbers."""
        found: list[float] = self.read(output)[name].double().tolist()
        return found

    def settle(self) -> None:
        """Wait until the file system's clock has moved on, so that stat data show a later change."""
        time.sleep(0.025)

    def edit_in_place(self, name: str, offset: int = -1) -> None:
        """Flip a byte of a file and keep its size and mtime."""
        path = self.root / name
        found = path.stat()
        self.settle()
        with path.open("r+b") as file:
            file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
            old = file.read(1)
            file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
            file.write(bytes([old[0] ^ 1]))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
