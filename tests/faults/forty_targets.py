"""A project of forty small targets, and the promise that must hold of it whatever was done to it.

Three sources lie outside the project's folder, so that projects are cheap to make and inputs are seen to stay. Among
the targets are virtual links, families, a method that looks at its inputs first, outputs that read outputs, a folder of
shards and a `.ckpt`. `[vars] m` reaches most of them: with another `m` nearly everything is made again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from forked_runs import Ended, Program
from model_files import write_model
from tiny_models import sd15

__all__ = [
    "FIRST",
    "OTHER",
    "TARGETS",
    "Reference",
    "check_promise",
    "check_tidy",
    "make_project",
    "make_sources",
    "outputs",
    "published",
    "reference",
    "remove",
    "strays",
]

FIRST, OTHER = "0.25", "0.75"
"""Two values of `m`."""
TARGETS = 40

_MERGEFILE = """
[project]
link = "{link}"
[vars]
m = {m}
[sources]
one = "{sources}/one.safetensors"
two = "{sources}/two.safetensors"
three = "{sources}/three.safetensors"

[targets.half]
method = "weighted_sum"
a = "one"
b = "two"
alpha = "${{m}}"
[targets.far]
formula = "half + x*(two - three)"
x = "${{m}}"

[targets.mix]
foreach.alpha = {{ from = 0.05, to = 0.9, step = 0.05 }}
method = "weighted_sum"
a = "half"
b = "three"
alpha = "${{alpha}}"
output = "out/mix/${{alpha}}.safetensors"
[targets.turn]
foreach.t = {{ from = 0.1, to = 0.8, step = 0.1 }}
method = "slerp"
a = "one"
b = "three"
t = "${{t * m}}"
output = "out/turn/${{t}}.safetensors"
[targets.chain]
foreach.n = [1, 2, 3, 4, 5, 6, 7]
formula = "0.5*'mix@alpha=0.05' + c*far"
c = "${{n / 10}}"
output = "out/chain-${{n}}.safetensors"
[targets.next]
foreach.n = [1, 2]
formula = "'chain@n=${{n}}' - 0.25*'turn@t=0.1'"
output = "out/next-${{n}}.safetensors"
[targets.blocks]
method = "weighted_sum"
a = "one"
b = "two"
alpha = {{ default = 0.5, OUT00 = "${{m}}" }}
output = "out/blocks.safetensors"
dtype = "float32"
[targets.same]
formula = "0.5*one + 0.5*two"
output = "out/same.safetensors"
[targets.folder]
formula = "far - 0.1*one"
output = "out/folder/"
max_shard_size = "20KB"
[targets.pickled]
formula = "0.33*half + 0.67*three"
output = "out/pickled.ckpt"
[targets.plain]
formula = "1.5*half - 0.5*three"
output = "out/plain.safetensors"
"""

_STATE = {"state.sqlite3", "state.sqlite3-wal", "state.sqlite3-shm", "state.sqlite3.unreadable"}
_LOCKS = {"lock", "verify.lock", "lockfile.lock"}
_STORE_FILES = {".gitignore", *_LOCKS, *(f"{name}.holder" for name in _LOCKS), *_STATE}
_STORE_FOLDERS = {"kept", "history", "stamps", "between", "quarantine"}


@dataclass(frozen=True)
class Reference:
    """What an undisturbed build of the project comes to: outputs with their bytes, and tensors computed for each."""

    m: str
    outputs: Mapping[str, bytes]
    computed: Mapping[str, int]
    seconds: float

    @property
    def all_computed(self) -> int:
        """The tensors that the build computes."""
        return sum(self.computed.values())


def make_sources(folder: Path) -> Path:
    """Write the three sources; they are fine-tunes of one model."""
    names = list(sd15(1))[:24]
    for seed, name in enumerate(("one", "two", "three"), 1):
        write_model(folder / f"{name}.safetensors", sd15(seed, names=names))
    time.sleep(0.05)  # older than the clock's grain: their stat data are trusted
    return folder


def make_project(root: Path, sources: Path, *, m: str = FIRST, link: str = "auto") -> Path:
    """Write the mergefile; return the project's folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "mergefile.toml").write_text(_MERGEFILE.format(m=m, link=link, sources=sources))
    return root


def outputs(root: Path) -> dict[str, bytes]:
    """Return every file of a project's outputs with its bytes, whatever its name."""
    folder = root / "out"
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def published(root: Path) -> dict[str, bytes]:
    """Return the files at paths of outputs: all but temporary ones, which a killed process may leave for the next."""
    return {name: data for name, data in outputs(root).items() if ".mergebuild-" not in name}


def strays(root: Path, store: Path | None = None) -> list[str]:
    """Return what a finished build must not leave: temporary files beside outputs, and anything odd in the store."""
    store = store or root / ".mergebuild"
    found = [name for name in outputs(root) if ".mergebuild-" in name]
    for path in store.rglob("*") if store.is_dir() else ():
        name = path.relative_to(store)
        if path.is_dir():
            is_known = str(name) in _STORE_FOLDERS
        elif len(name.parts) == 1:
            is_known = path.name in _STORE_FILES
        else:
            is_known = name.parts[0] in _STORE_FOLDERS - {"between"} and not path.name.startswith(".")
        if not is_known:
            found.append(f"store: {name}")
    return found


def check_tidy(root: Path, store: Path | None = None) -> None:
    """Check that nothing is left of what is only there while a command runs."""
    found = strays(root, store)
    assert not found, f"left behind: {', '.join(sorted(found)[:5])}{f', {len(found)} in all' if len(found) > 5 else ''}"


def check_promise(
    program: Program,
    root: Path,
    wanted: Reference,
    *former: Reference,
    arguments: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    execute: bool = False,
    nothing_twice: bool = True,
) -> Ended:
    """Check what stands after a fault, build again with nothing done by hand, and check that.

    `wanted`: what the build is to come to. `former`: what stood there before, which outputs may still be.
    `nothing_twice`: whether outputs that are the wanted ones already must be known to be.
    """
    there = published(root)
    for name, data in there.items():
        known = [each.outputs.get(name) for each in (wanted, *former)]
        assert data in known, f"`{name}` ({len(data)} bytes) is neither the old nor the new one after the fault"
    again = program.run("build", "--json", *arguments, here=root, env=env, execute=execute).checked()
    found = outputs(root)
    assert found.keys() == wanted.outputs.keys(), strays(root)
    for name, data in wanted.outputs.items():
        assert found[name] == data, f"`{name}` is wrong after the next build"
    check_tidy(root)
    for target in again.document["targets"]:
        files = [name for name in wanted.outputs if name.startswith(target["output"])]
        if nothing_twice and all(there.get(name) == wanted.outputs[name] for name in files):
            what = f"{target['target']} was published, and is {target['verdict']} now"
            assert target["verdict"] in ("up-to-date", "restored"), what
            assert target["tensors_computed"] == 0, what
    return again


def reference(program: Program, root: Path, sources: Path, m: str) -> Reference:
    """Build the project undisturbed."""
    done = program.run("build", "--json", here=make_project(root, sources, m=m)).checked()
    targets = done.document["targets"]
    assert len(targets) == TARGETS
    check_tidy(root)
    return Reference(m, outputs(root), {each["target"]: each["tensors_computed"] for each in targets}, done.seconds)


def remove(root: Path) -> None:
    """Remove a project that served."""
    shutil.rmtree(root)
