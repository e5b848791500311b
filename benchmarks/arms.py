"""The programs that a case compares: an arm is one of them, with everything that it needs for one run.

Arms of a case run in turn, A B C A B C, so that other work of the machine affects all of them alike. Preparing and
cleaning up are not timed. Unless an arm is about another state, inputs are in the page cache and outputs do not exist
when the clock starts, and the project has no store, so sources are read for the first time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.lab import REPOSITORY, Lab
from benchmarks.process import ProcessFailedError, Sample, even_out, measure

__all__ = [
    "SOURCES",
    "Arm",
    "Project",
    "answer_numbers",
    "bare_python",
    "copies",
    "dd",
    "import_torch",
    "mergekit",
    "sd_mecha",
]

SOURCES = "abcdefghij"
"""The names of a project's models in its mergefile, in order."""
_PEERS = Path(__file__).parent / "peers"


def _nothing(_: int) -> None:
    """Prepare nothing."""


def _no_extra(_: str) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, slots=True)
class Arm:
    """A command to time.

    `prepare` is called with the round's number; `finish` with the command's output, and returns extra numbers.
    """

    name: str
    command: Sequence[str]
    prepare: Callable[[int], None] = _nothing
    finish: Callable[[str], Mapping[str, float]] = _no_extra
    outputs: tuple[Path, ...] = ()
    """Paths that must exist afterwards; they are removed before and after each run."""
    is_peer: bool = False

    def run(self, number: int, log: Path) -> Sample:
        """Run once, and return the measurements.

        Raises:
            ProcessFailedError: It ended with an error, or did not make its outputs.
        """
        remove(self.outputs)
        self.prepare(number)
        os.sync()  # so that this run doesn't wait for writes of earlier ones
        even_out()
        sample, said = measure(self.command, folder=REPOSITORY, log=log)
        missing = [str(path) for path in self.outputs if not path.exists()]
        if missing:
            raise ProcessFailedError(f"{' '.join(self.command)}\nleft no {', '.join(missing)}")
        extra = self.finish(said)
        remove(self.outputs)
        return replace(sample, extra=extra)


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders, if they exist."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a mergefile over models, and arms that run the program under test in it."""

    lab: Lab
    folder: Path
    models: Sequence[Path]
    text: str
    """The mergefile's targets. Sources are `a`, `b`, `c`, ..., the models in order."""
    keys: Mapping[str, object] = field(default_factory=dict)
    """Keys of `[project]`."""

    def write(self, text: str = "") -> None:
        """Write the mergefile, with these targets or the project's own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        head = "".join(f"{key} = {json.dumps(value)}\n" for key, value in self.keys.items())
        named = zip(SOURCES, self.models, strict=False)
        sources = "".join(f"{name} = {json.dumps(str(path))}\n" for name, path in named)
        (self.folder / "mergefile.toml").write_text(
            f"[project]\n{head}\n[sources]\n{sources}\n{text or self.text}", encoding="utf-8"
        )

    def command(self, verb: str, *arguments: str) -> list[str]:
        """Return a command line of the program under test."""
        return [self.lab.python, "-m", "mergebuild", "-C", str(self.folder), "--json", verb, *arguments]

    def build(self) -> None:
        """Build once, untimed."""
        measure(self.command("build"), folder=REPOSITORY, log=self.folder / "build.log")

    def fresh(self, name: str, outputs: Sequence[str], *arguments: str, cold: bool = False) -> Arm:
        """Return an arm that builds everything without a store; `cold`: with an empty page cache."""

        def prepare(_: int) -> None:
            remove([self.folder / ".mergebuild"])
            self.write()
            (self.lab.cool if cold else self.lab.warm)(self.models)

        made = tuple(self.folder / output for output in outputs)
        return Arm(name, self.command("build", *arguments), prepare, answer_numbers, made)

    def first(self, name: str, verb: str) -> Arm:
        """Return an arm that runs a verb which builds nothing, in a project that was never built."""

        def prepare(_: int) -> None:
            remove([self.folder / ".mergebuild"])
            self.write()
            self.lab.warm(self.models)

        return Arm(name, self.command(verb), prepare)

    def again(self, name: str, verb: str, edited: Callable[[int], str] | None = None) -> Arm:
        """Return an arm that runs a verb after everything was built once.

        Before each run, `edited` makes new targets from the round's number; None changes nothing.
        """
        self.write()
        self.build()

        def prepare(number: int) -> None:
            if edited:
                self.write(edited(number))
                self.lab.warm(self.models)

        return Arm(name, self.command(verb), prepare, answer_numbers)


def answer_numbers(said: str) -> dict[str, float]:
    """Return the times and bytes of the program's own `--json` answer."""
    answer = json.loads(said)
    targets = [each for each in answer.get("targets", []) if each.get("verdict") == "built"]
    numbers = {f"own_{key}": answer[key] for key in ("seconds", "bytes_read", "bytes_written") if key in answer}
    return numbers | ({"merge_seconds": sum(each["seconds"] for each in targets)} if targets else {})


def bare_python(lab: Lab) -> Arm:
    """Return the arm that only starts and ends Python."""
    return Arm("python -c pass", [lab.python, "-c", "pass"])


def import_torch(lab: Lab) -> Arm:
    """Return the arm that only imports torch: every process that computes with torch takes this time."""
    return Arm("import torch", [lab.python, "-c", "import torch"])


def copies(lab: Lab, folder: Path, model: Path, count: int = 1) -> Arm:
    """Return the arm that copies one input `count` times with `cp`, one copy after another, never as a clone."""
    made = tuple(folder / f"copy{number}.safetensors" for number in range(count))
    script = 'model=$1; shift; for copy; do cp --reflink=never "$model" "$copy" || exit; done'
    command = ["sh", "-c", script, "cp", str(model), *map(str, made)]
    return Arm("cp" if count == 1 else f"cp x {count}", command, lambda _: lab.warm([model]), outputs=made)


def dd(lab: Lab, folder: Path, models: Sequence[Path]) -> Arm:
    """Return the arm that reads the inputs from disk, and writes as many bytes as one of them has, with `dd`.

    No merge of files that are not in the page cache can be faster.
    """
    output = folder / "dd.bin"
    script = (
        'output=$1; size=$2; shift 2; for input; do dd if="$input" of=/dev/null bs=4M status=none || exit; done; '
        'dd if=/dev/zero of="$output" bs=4M count="$size" iflag=count_bytes status=none'
    )
    command = ["sh", "-c", script, "dd", str(output), str(models[0].stat().st_size), *map(str, models)]
    return Arm("dd", command, lambda _: lab.cool(models), outputs=(output,))


def sd_mecha(
    lab: Lab, folder: Path, settings: str, method: str, models: Sequence[Path], alphas: Sequence[float] = (0.3,)
) -> Arm:
    """Return the arm of sd-mecha, with its best settings or its defaults; several alphas are a sweep."""
    outputs = [folder / f"sd-mecha{number or ''}.safetensors" for number in range(len(alphas))]
    command = [str(lab.peer("sd-mecha") / "python"), str(_PEERS / "merge_with_sd_mecha.py"), settings, method]
    command += [str(outputs[0]), *map(str, models), *(f"--alpha={alpha}" for alpha in alphas)]
    name = f"sd-mecha, {settings}"
    return Arm(name, command, lambda _: lab.warm(models), outputs=tuple(outputs), is_peer=True)


def mergekit(
    lab: Lab,
    folder: Path,
    models: Sequence[Path],
    method: str,
    numbers: Mapping[str, float],
    *,
    weights: Sequence[float] = (),
    on_llama: bool,
) -> Arm:
    """Return the arm of mergekit, over folders of Llama, or over checkpoints of an architecture that it doesn't know.

    `numbers` are the method's parameters. The first model is the base; with `weights`, one per model, there is no base.
    """
    output, recipe = folder / "mergekit", folder / "mergekit.json"  # JSON is YAML
    paths = [str(path) for path in (lab.directories(models) if on_llama else models)]
    config: dict[str, object] = {
        "merge_method": method,
        "dtype": "bfloat16" if on_llama else "float16",
        "parameters": numbers,
        "models": [
            {"model": path, "parameters": {"weight": weight}} for path, weight in zip(paths, weights, strict=True)
        ]
        if weights
        else [{"model": path} for path in paths],
    }
    recipe.write_text(json.dumps(config if weights else {**config, "base_model": paths[0]}), encoding="utf-8")
    program, settings = ("mergekit-yaml", ["--no-copy-tokenizer"]) if on_llama else ("mergekit-pytorch", [])
    command = [str(lab.peer("mergekit") / program), str(recipe), str(output), "--quiet", "--random-seed=7", *settings]
    return Arm("mergekit", command, lambda _: lab.warm(models), outputs=(output,), is_peer=True)
