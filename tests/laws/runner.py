"""Writes a world to a folder, and runs the program there, in this process; runs that are killed are forked children.

`Place` writes only the files that differ, as a user's edit does. Every run is checked for what always holds: an exit
code of the contract, no traceback, no temporary files left.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from evaluator import parameters_of
from tensor_files import Stored, write_model
from worlds import World, beside, mergefile, program, stored_of

import mergebuild.build.options
from mergebuild.cli import run

__all__ = ["COUNTS", "Answer", "Contents", "Place", "place"]

CODES = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 75, 130})
"""The exit codes of the contract except 70, which means a bug."""

COUNTS: Counter[str] = Counter()
"""What the laws did: projects, edits, builds, tensors compared."""


class Contents:
    """The content of each digest seen in the whole run of tests: a digest must always have the same content."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}

    def hold(self, digest: str, tensors: Mapping[str, Stored], where: str) -> None:
        """Record the content of a digest; assert that it is the same as before."""
        content = _sum_of(tensors)
        before, place_before = self._known.setdefault(digest, (content, where))
        assert before == content, f"{digest} stands for two contents: in {place_before}\nand in {where}"


CONTENTS = Contents()


@dataclass(frozen=True)
class Answer:
    """The result of a run."""

    code: int
    document: Mapping[str, Any]
    err: str
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, target: str) -> Mapping[str, Any]:
        """Return the answer's object of a target."""
        return self.targets[target]

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict of each target."""
        return {name: each["verdict"] for name, each in self.targets.items()}

    @property
    def artifacts(self) -> dict[str, str | None]:
        """The digest of each target that is up to date now."""
        return {name: each["artifact"] for name, each in self.targets.items() if self.is_made(name)}

    def is_made(self, name: str) -> bool:
        """Return whether a target is up to date now."""
        return self.targets[name]["verdict"] in ("up-to-date", "built", "restored")

    @property
    def wrong(self) -> dict[str, str]:
        """The code of the error of each target that has one."""
        return {name: each["error"]["code"] for name, each in self.targets.items() if each["error"]}

    @property
    def errors(self) -> list[str]:
        """The codes of the errors that ended the whole command."""
        return sorted({each["code"] for each in self.document.get("errors", ())})


class Place:
    """A folder with a project in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir(parents=True, exist_ok=True)
        self._there: dict[str, object] = {}

    # Laying out

    def lay(self, world: World) -> None:
        """Write a world's files that differ from those in the folder, and touch no others."""
        for source in world.sources:
            content = (stored_of(source), beside(source) if source.form in ("folder", "shards") else None)
            key = f"{source.place} {source.form}"
            if self._there.get(key) != content:
                path = self.root / source.place
                if path.is_dir():
                    shutil.rmtree(path)
                write_model(path, content[0], source.form, content[1])
                self._there = {each: it for each, it in self._there.items() if each.split()[0] != source.place}
                self._there[key] = content
        for own in world.methods:
            self._text(f"methods/{own.name}.py", program(own))
        self._text("mergefile.toml", mergefile(world))
        if world.methods:
            self.run("trust")

    def _text(self, name: str, text: str) -> None:
        path = self.root / name
        if self._there.get(name) != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            self._there[name] = text

    # Running

    def run(self, *arguments: str, chunk: int | None = None) -> Answer:
        """Run a command line."""
        COUNTS["runs"] += 1
        out, err = io.StringIO(), io.StringIO()
        plain = mergebuild.build.options.BuilderOptions
        options = partial(plain, chunk=chunk) if chunk else plain
        with (
            mock.patch.object(mergebuild.build.options, "BuilderOptions", options),
            redirect_stdout(out),
            redirect_stderr(err),
            chdir(self.root),
        ):
            code = run([*arguments, "--json"])
        assert code in CODES, f"exit code {code}\n{err.getvalue()}"
        assert "Traceback" not in err.getvalue(), err.getvalue()
        document = json.loads(out.getvalue())
        listed = document.get("targets", ()) if isinstance(document, dict) else ()
        targets = {each["target"]: each for each in listed if isinstance(each, dict) and "target" in each}
        return Answer(code, document, err.getvalue(), targets)

    def build(self, targets: Sequence[str] = (), *, threads: int = 1, chunk: int | None = None) -> Answer:
        """Build as far as possible; assert that no unrecorded file is left afterwards."""
        COUNTS["builds"] += 1
        answer = self.run("build", *targets, "-k", "-j", str(threads), chunk=chunk)
        self.check_clean()
        return answer

    def plan(self, targets: Sequence[str] = ()) -> Answer:
        """Run `plan`."""
        return self.run("plan", *targets)

    def killed(self, arguments: Sequence[str], after: int) -> bool:
        """Run a command in a child that is killed at its operation number `after` on files; return whether it was.

        The child is a fork of this process, with torch imported already, so it takes no longer than a build.
        """
        COUNTS["kills"] += 1
        child = os.fork()
        if child == 0:
            try:
                _die_at(after)
                with Path(os.devnull).open("w") as nothing:
                    os.dup2(nothing.fileno(), 1)
                    os.dup2(nothing.fileno(), 2)
                os.chdir(self.root)
                run(arguments)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)

    # Looking

    def files(self, output: str) -> dict[str, bytes]:
        """Return the bytes of an output's file, or of all files of its folder by name."""
        path = self.root / output
        if output.endswith("/"):
            return {
                each.relative_to(path).as_posix(): each.read_bytes()
                for each in sorted(path.rglob("*"))
                if each.is_file()
            }
        return {"": path.read_bytes()}

    def made(self, answer: Answer, world: World) -> dict[str, dict[str, bytes]]:
        """Return the bytes of all outputs that are up to date now; assert that each artifact has its known content."""
        found = {}
        for name, output in world.outputs.items():
            if name in answer.targets and answer.is_made(name):
                found[name] = self.files(output)
                where = f"{name} of\n{mergefile(world)}"
                CONTENTS.hold(answer.of(name)["artifact"], parameters_of(world, name, self.root), where)
        return found

    def check_clean(self) -> None:
        """Assert that no temporary file is left, and that files in the store and records agree."""
        names = [path for path in self.root.rglob("*") if ".mergebuild-" in path.name and path.name.startswith(".")]
        assert not names, f"left behind: {names}"
        store = self.root / ".mergebuild"
        if not (store / "state.sqlite3").exists():
            return
        lies = {
            path for folder in ("kept", "history", "between") for path in (store / folder).rglob("*") if path.is_file()
        }
        with sqlite3.connect(f"file:{store / 'state.sqlite3'}?mode=ro", uri=True) as state:
            rows = state.execute("SELECT path, kind FROM artifact").fetchall()
        state.close()
        known = {Path(os.path.normpath(store / os.fsdecode(path))) for path, _ in rows}
        assert not lies - known, f"in the store without a record: {sorted(lies - known)}"
        intended = {Path(os.path.normpath(store / os.fsdecode(path))) for path, kind in rows if kind == "intended"}
        assert not [path for path in intended if path.exists()], f"an intent was left: {intended}"
        there = {
            Path(os.path.normpath(store / os.fsdecode(path))) for path, kind in rows if kind in ("kept", "history")
        }
        assert not there - lies, f"on record and not there: {sorted(there - lies)}"


def _sum_of(tensors: Mapping[str, Stored]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        each = tensors[name]
        found.update(repr((name, each.dtype, each.shape)).encode())
        found.update(each.data)
    return found.hexdigest()


_TOUCHING = (
    "open",
    "os.rename",
    "os.remove",
    "os.link",
    "os.mkdir",
    "os.utime",
    "os.truncate",
    "os.rmdir",
    "os.scandir",
)


def _die_at(after: int) -> None:
    """Let this process be killed at its operation number `after` on files."""
    left = after

    def hook(event: str, _arguments: object) -> None:
        nonlocal left
        if event in _TOUCHING or event.startswith(("sqlite3.", "fcntl.", "mmap.")):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@contextmanager
def place() -> Iterator[Places]:
    """Give a maker of temporary folders for projects, with a configuration folder of their own for trust."""
    COUNTS["projects"] += 1
    with tempfile.TemporaryDirectory(prefix="laws-") as name:
        root = Path(name).resolve()
        with mock.patch.dict(os.environ, {"XDG_CONFIG_HOME": str(root / "config")}):
            for key in ("MERGEBUILD_STORE", "MERGEBUILD_MODELS"):
                os.environ.pop(key, None)
            yield Places(root)


class Places:
    """Makes folders for projects, beside each other."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0

    def new(self, world: World | None = None) -> Place:
        """Return an empty folder, or one with a world laid out in it."""
        self._count += 1
        found = Place(self._root / f"project-{self._count}")
        if world is not None:
            found.lay(world)
        return found

    def gone(self, each: Place) -> None:
        """Remove a folder that is not needed any more."""
        shutil.rmtree(each.root, ignore_errors=True)
