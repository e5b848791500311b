"""One call of the C library fails, at each place where one can: the laws of whatever it is that failed.

A library that stands before the C library's (failing_calls.c) counts the calls that concern a project's folder, and has
the n-th fail, move fewer bytes, or be the process's last. A round has the verb run so, and then holds what there is to
the laws: the process ended as the contract says, outputs are wholly the old ones or the new, records know them, and a
build that nobody disturbs comes to the same as ever, without `--force`. In the long form every n has its turn, for each
verb and each failure.

Two recipes of one project take turns, so that each round begins where the one before ended: in a store that has lived.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
import torch
from bench import Bench, Trouble
from failing_calls import FAILURES, Call, Failure, Group, compiled, count_only
from forked_runs import Ended, Program
from forty_targets import FIRST, OTHER, outputs, published, strays
from model_files import write_model

from mergebuild.cli import run

ROOT = Path(__file__).parents[2]
CODES = {*range(11), 75, 130}
"""What a command may end with; 70 is a bug."""
_NO_SPACE = 7
_SHORT = 2
"""Rounds of each verb in the normal suite."""
_FOLDER = "out/folder/"
_LOCK = "mergefile.lock"
_LISTING = ("opendir", "fdopendir", "readdir", "readdir64")
_NOISE = ("Traceback", "Exception ignored", "Warning:", "Fatal Python error")
"""What Python says by itself, and no error of ours does."""

_MERGEFILE = """
[project]
link = "{link}"
[vars]
m = {m}
[sources]
one = "models/one/"
two = "models/two/"
[targets.plain]
method = "weighted_sum"
a = "one"
b = "two"
alpha = "${{m}}"
output = "out/plain.safetensors"
[targets.turned]
method = "slerp"
a = "one"
b = "two"
t = "${{m}}"
output = "out/turned.ckpt"
[targets.folder]
formula = "one + x*(two - one)"
x = "${{m}}"
output = "out/folder/"
max_shard_size = "600B"
"""
_TARGETS = ("plain", "turned", "folder")
_EDITED = ("out/plain.safetensors", "out/folder/config.json")
"""What is changed by hand."""
_TEXTS = {
    "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "model_type": "llama"}),
    "tokenizer.json": json.dumps({"version": "1.0"}),
}


@dataclass(frozen=True)
class Verb:
    """A command line, and where it is run.

    `built`: the project was built before. `changed`: its recipe is another one since. `edited`: some outputs were
    changed by hand since. `link`: how the store keeps outputs. `keeps_history`: the recipe was built once before, and
    what it made lies in the history.
    """

    name: str
    arguments: Sequence[str]
    built: bool = True
    changed: bool = False
    edited: bool = False
    link: str = "auto"
    keeps_history: bool = False

    @property
    def is_build(self) -> bool:
        """Whether it is to publish outputs."""
        return self.arguments[0] == "build"

    @property
    def is_clean(self) -> bool:
        """Whether it is to remove them."""
        return self.arguments[0] == "clean"


VERBS = (
    Verb("first build", ["build"], built=False),
    Verb("build again", ["build"], changed=True),
    Verb("durable build", ["build", "--durable"], changed=True),
    Verb("build with copies", ["build"], changed=True, link="copy"),
    Verb("build back", ["build"], changed=True, keeps_history=True),
    Verb("build of nothing", ["build"]),
    Verb("build over edits", ["build", "-k"], changed=True, edited=True),
    Verb("verify", ["verify"], keeps_history=True),
    Verb("verify by building", ["verify", "--rebuild"]),
    Verb("gc", ["gc", "--max-size", "0B"], link="copy", keeps_history=True),
    Verb("clean", ["clean", *_TARGETS], link="copy", keeps_history=True),
    Verb("clean around edits", ["clean", *_TARGETS], edited=True),
    Verb("lock", ["lock"]),
    Verb("status", ["status"], changed=True),
)


@dataclass(frozen=True)
class Looked:
    """How an undisturbed command ended."""

    code: int
    out: str
    err: str


def look(root: Path, *arguments: str) -> Looked:
    """Run a command in this process, undisturbed."""
    out, err, before = StringIO(), StringIO(), Path.cwd()
    os.chdir(root)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = run(arguments)
    finally:
        os.chdir(before)
    return Looked(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program, whose calls may fail."""
    folder = tmp_path_factory.mktemp("failing")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MERGEBUILD_STORE", "MERGEBUILD_MODELS", "MERGEBUILD_BOOT_ID", "MERGEBUILD_PORTABLE"):
            patch.delenv(name, raising=False)
        patch.setenv(
            "XDG_CONFIG_HOME", str(folder / "config")
        )  # of this process as well: it looks at what became of it
        before = os.environ.get("LD_PRELOAD", "")
        library = f"{compiled(folder)} {before}".strip()
        program = Program(folder, {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "LD_PRELOAD": library})
        yield program
        program.close()


@pytest.fixture(scope="module")
def references(failing: Program, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, bytes]]:
    """What the project comes to, by `m`, built and locked undisturbed: in the environment that `failing` cares for."""
    found = {}
    for m in (FIRST, OTHER):
        root = make_project(tmp_path_factory.mktemp("undisturbed") / "project", m)
        for verb in ("build", "lock"):
            done = look(root, verb)
            assert done.code == 0, done.err
        found[m] = {**outputs(root), _LOCK: (root / _LOCK).read_bytes()}
    assert found[FIRST].keys() == found[OTHER].keys()
    assert not any(found[FIRST][name] == found[OTHER][name] for name in found[FIRST] if name.endswith("safetensors"))
    return found


def make_project(root: Path, m: str, link: str = "auto") -> Path:
    """Write the project; return its folder. Its models are written once."""
    if not root.exists():
        for seed, name in enumerate(("one", "two")):
            generator = torch.Generator().manual_seed(seed)
            tensors = {
                f"model.layers.{layer}.mlp.up_proj.weight": torch.randn(8, 8, generator=generator) for layer in range(4)
            }
            write_model(root / "models" / name / "model.safetensors", tensors)
            for text, content in _TEXTS.items():
                (root / "models" / name / text).write_text(content)
        time.sleep(0.05)  # older than the clock's grain: their stat data are trusted
    (root / "mergefile.toml").write_text(_MERGEFILE.format(m=m, link=link))
    return root


@dataclass
class Rounds:
    """Rounds of one verb in one project."""

    verb: Verb
    root: Path
    program: Program
    references: Mapping[str, Mapping[str, bytes]]
    report: Path
    usual: int = 0
    """The exit code of the verb when nothing fails."""
    m: str = FIRST
    """The recipe that the project was last built by, or is to be."""
    is_sound: bool = False
    """Whether the project is as an undisturbed build left it."""
    codes: Counter[str] = field(default_factory=Counter)
    """How processes ended."""
    calls: Counter[str] = field(default_factory=Counter)
    """The functions that failed."""

    def prepare(self) -> None:
        """Have the project be as the verb is to find it."""
        if not self.is_sound or not self.verb.built:
            self._begin_afresh()
        if self.verb.changed:
            self._turn()
        if self.verb.edited:
            for name in _EDITED:
                edit(self.root / name)
        self.is_sound = False

    def _begin_afresh(self) -> None:
        for path in self.root.glob("*"):
            if path.is_dir() and path.name != "models":
                shutil.rmtree(path)
        for path in self.root.glob("*"):
            if path.is_file():
                path.unlink()
        make_project(self.root, self.m, self.verb.link)
        if self.verb.keeps_history:
            self._build()
            self._turn()
        if self.verb.built:
            self._build()

    def trace(self) -> list[Call]:
        """Return the calls of an undisturbed run."""
        self.prepare()
        self.usual = self.run(count_only(self.root, self.report)).code
        assert self.usual == int(self.verb.edited and self.verb.is_build)
        found = Call.all(self.report)
        self.after()
        return found

    def run(self, environment: Mapping[str, str]) -> Ended:
        """Run the verb."""
        self.report.write_text("")
        return self.program.run(*self.verb.arguments, here=self.root, env=environment)

    def round(self, failure: Failure, nth: int) -> None:
        """Run the verb, have the n-th of its calls that may fail so do it, and check all there is to check."""
        self.prepare()
        before = written(self.root)
        ended = self.run(failure.environment(self.root, self.report, nth))
        failed = Call.all(self.report)[:1]
        self.codes[str(ended.code)] += 1
        self.calls.update(call.function for call in failed)
        try:
            self.check_end(ended, failure, failed)
            self.check_outputs(before, ended)
            self.after()
        except Exception as error:
            error.args = (f"{error.args[0]}\nthe call: {failed}\n{ended.code}: {ended.out}{ended.err}",)
            raise

    def check_end(self, ended: Ended, failure: Failure, failed: Sequence[Call]) -> None:
        """Check how a process ended whose call failed, and what it left."""
        if not failed:
            assert ended.code == self.usual, f"ends with {ended.code} though no call failed"
        if failure.is_kill and failed:
            assert ended.code == -9, "was killed, and ended otherwise"
            return
        noise = next((each for each in _NOISE if each in ended.err), None)
        assert noise is None, f"{noise} on stderr"
        assert ended.code in CODES, f"exit code {ended.code}"
        assert ended.code != _NO_SPACE or failure.is_want_of_space, "calls want of space what is none"
        assert not ended.code or "error[" in ended.err, "fails without an error"
        is_excused = failure.lasting or (ended.code and any(map(is_of_removal, failed)))
        if not is_excused:  # who can't remove a file, and says so, leaves it to the next
            found = all_strays(self.root)
            assert not found, f"leaves temporary files\n{found}"

    def check_outputs(self, before: Mapping[str, bytes], ended: Ended) -> None:
        """Check that every output is what it was or what it is to be, and so a folder with all its files."""
        there, wanted = written(self.root), self.references[self.m]
        may_go = self.verb.is_clean
        for name in sorted({*there, *before, *wanted}):
            data, old, new = there.get(name), before.get(name), wanted.get(name)
            if self.verb.edited and name in _EDITED:
                assert data == old, f"what was changed by hand is lost\n{name}"
                continue
            is_made = self.verb.name == "lock" if name == _LOCK else self.verb.is_build
            is_known = data == old or (is_made and data == new) or (may_go and data is None)
            assert is_known, f"what is written is neither the old nor the new\n{name}"
            if is_made and ended.code == 0:
                assert data == new, f"says that it is done, and what is written is not the new\n{name}"
        if may_go:  # it takes a folder's files one by one
            return
        folder = [name for name in sorted({*there, *wanted}) if name.startswith(_FOLDER)]
        found = {name: there.get(name) for name in folder}
        states = [{name: each.get(name) for name in folder} for each in (before, wanted)]
        assert found in states, "a folder is of two recipes\n" + "\n".join(
            f"{name}: {'old' if found[name] == before.get(name) else 'new'}" for name in folder
        )

    def after(self) -> None:
        """Check that the records know what is there, and that undisturbed builds come to what they are to.

        What was changed by hand its owner takes away before.
        """
        for name in _EDITED if self.verb.edited else ():
            (self.root / name).unlink(missing_ok=True)
        self.check_records()
        if not self.verb.changed and self.verb.built:
            self._turn()  # what is not ours is told only of what is to be replaced
        self._build()
        found, wanted = outputs(self.root), dict(self.references[self.m])
        del wanted[_LOCK]
        assert found == wanted, f"the next build is not right\n{differing(found, wanted)}"
        if self.verb.name == "lock":
            self._undisturbed("lock")
            assert (self.root / _LOCK).read_bytes() == self.references[self.m][_LOCK], "the next lock is not right"
        left = all_strays(self.root)
        assert not left, f"temporary files are left by the next, too\n{left}"
        self.check_verified(all_of=found)
        if not self.verb.keeps_history:
            self._undisturbed("gc", "--max-size", "0B")
        self.is_sound = True

    def check_records(self) -> None:
        """Check that whatever stands there is known to be ours, and that nothing of it is to go."""
        status = json.loads(self._undisturbed("status", "--json").out)
        for each in status["targets"]:
            assert each["state"] != "changed-by-hand", f"an output is taken for somebody else's\n{each}"
        assert not status["orphans"], f"an output is taken for an orphan\n{status}"
        self.check_verified()
        there = published(self.root)
        freed = json.loads(self._undisturbed("gc", "-n", "--json").out)["removed"]
        assert not any(each in there for each in freed), f"gc would take outputs\n{freed}"
        assert not any("unreadable" in each for each in freed), f"the database was put aside\n{freed}"

    def check_verified(self, all_of: Iterable[str] = ()) -> None:
        """Check that all is as it was written, and that it was all read."""
        checked = json.loads(self._undisturbed("verify", "--json").out)["checked"]
        missing = set(all_of) - set(checked)
        assert not missing, f"verify does not know all outputs\n{missing}"

    def _turn(self) -> None:
        self.m = OTHER if self.m == FIRST else FIRST
        make_project(self.root, self.m, self.verb.link)

    def _build(self) -> None:
        self._undisturbed("build")

    def _undisturbed(self, *arguments: str) -> Looked:
        done = look(self.root, *arguments)
        assert done.code == 0, f"the next `{arguments[0]}` ends with {done.code}\n{done.err}"
        assert "Traceback" not in done.err, done.err
        return done


def is_of_removal(call: Call) -> bool:
    """Whether a call may be one by which a temporary file or folder is removed."""
    is_hidden = any(mark in call.path for mark in (".mergebuild-", ".verify-"))
    return call.group is Group.REMOVE or call.function in _LISTING or (is_hidden and call.group is Group.LOOK)


def edit(path: Path) -> None:
    """Change an output by hand."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def written(root: Path) -> dict[str, bytes]:
    """Return what was made, but for temporary files: outputs, and the lock file."""
    lock = root / _LOCK
    return {**published(root), **({_LOCK: lock.read_bytes()} if lock.exists() else {})}


def all_strays(root: Path) -> list[str]:
    """Return what is not to be left anywhere."""
    return [*strays(root), *(path.name for path in root.iterdir() if ".mergebuild-" in path.name)]


def differing(found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> list[str]:
    """Return the names of files that are not the same in both."""
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name.replace(" ", "-"))
def test_a_call_that_fails(
    bench: Bench, verb: Verb, failing: Program, references: Mapping[str, Mapping[str, bytes]]
) -> None:
    rounds = Rounds(verb, bench.space / "project", failing, references, bench.space / "report")
    traced = rounds.trace()
    numbers = [
        (failure, nth)
        for failure in FAILURES
        for nth in range(1, 1 + sum(bool(call.group & failure.groups) for call in traced), failure.step)
    ]
    if not bench.is_long:
        numbers = [bench.chance.choice([each for each in numbers if each[0] is failure]) for failure in FAILURES]
        numbers = bench.chance.sample(numbers, _SHORT)
    trouble, done = Trouble(), Counter[str]()
    for failure, nth in numbers:
        done[failure.name] += 1
        with trouble.noted(f"{failure.name} at {nth}"):
            rounds.round(failure, nth)
    bench.report(rounds=len(numbers), failures=done, calls=rounds.calls, codes=rounds.codes)
    trouble.check()
