"""The laws: each takes a project, or a sequence of edits to one, and raises AssertionError if it does not hold.

Most compare with a *fresh build* (`fresh`): all targets of a project built at once, by one thread, in an empty folder.
Its result is cached by the world, and each of its outputs is compared with the independent evaluator.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import evaluator
from drawing import Step
from runner import CONTENTS, COUNTS, Answer, Place, place
from tensor_files import read_model
from worlds import FAMILIES, Source, World, inputs_of, mergefile, root_of, stored_of

import mergebuild
from mergebuild import native
from mergebuild.events import silent
from mergebuild.plan.built_keys import BuiltKeys, packed_keys
from mergebuild.plan.description import Description

__all__ = ["LAWS", "Fresh", "fresh"]

Bytes = Mapping[str, Mapping[str, bytes]]
"""By target that was made, the bytes of its files by name."""


@dataclass(frozen=True)
class Fresh:
    """The result of a fresh build: exit code, errors, targets with errors, artifacts and bytes."""

    code: int
    errors: tuple[str, ...]
    wrong: Mapping[str, str]
    artifacts: Mapping[str, str | None]
    made: Bytes


def names_of(world: World) -> list[str]:
    """Return the names of all targets, with members of families and virtual ones."""
    return [name for each in world.targets for name in each.members]


@lru_cache(maxsize=1000)
def fresh(world: World) -> Fresh:
    """Build all targets of a project in an empty folder, check them by the evaluator, and return the result."""
    with place() as places:
        there = places.new(world)
        answer = there.build(names_of(world))
        evaluator.check(world, answer.artifacts, there.root, COUNTS)
        return _fresh_of(answer, there, world)


def _fresh_of(answer: Answer, there: Place, world: World) -> Fresh:
    """Return the result of a build of all targets.

    Other targets in the answer (members that were built because a target reads them) are left out.
    """
    asked = set(names_of(world))
    wrong = {name: code for name, code in answer.wrong.items() if name in asked}
    artifacts = {name: digest for name, digest in answer.artifacts.items() if name in asked}
    made = {name: files for name, files in everything(there, answer, world).items() if name in asked}
    return Fresh(answer.code, tuple(answer.errors), wrong, artifacts, made)


def everything(there: Place, answer: Answer, world: World) -> dict[str, Mapping[str, bytes]]:
    """Return the bytes of all targets: of outputs, and of the store's files of virtual targets."""
    found: dict[str, Mapping[str, bytes]] = dict(there.made(answer, world))
    state = there.root / ".mergebuild" / "state.sqlite3"
    kept: dict[str, list[Path]] = {}
    if state.exists():
        with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as opened:
            for path, digest in opened.execute("SELECT path, digest FROM artifact WHERE kind = 'kept'"):
                kept.setdefault(f"xxh3-128:{digest.hex()}", []).append(state.parent / path)
    for name in answer.targets:
        artifact = answer.artifacts.get(name)
        if name not in world.outputs and artifact in kept:
            path = _spelled_as(root_of(world, name), kept[artifact])
            found[name] = {"": _data_of(path)}
            read = evaluator.parameters_of(world, name, there.root, path)
            CONTENTS.hold(artifact, read, f"{name} of\n{mergefile(world)}")
    return found


def _spelled_as(first: Source | None, paths: Sequence[Path]) -> Path:
    """Return that of an artifact's files in the store which is spelled like the first input."""
    called = set(stored_of(first) if first is not None else ())
    return max(sorted(paths), key=lambda path: len(read_model(path).keys() & called))


def _data_of(path: Path) -> bytes:
    """Return a safetensors file without its header, as targets with the same artifact have different metadata."""
    raw = path.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def same(answer: Answer, there: Place, world: World, wanted: Fresh, *, in_order: bool = True) -> None:
    """Compare the result of a build with that of a fresh one.

    `in_order`: whether targets were named in the same order. The exit code is that of the first one that fails.
    """
    found = _fresh_of(answer, there, world)
    assert found.errors == wanted.errors, f"errors {found.errors}, expected {wanted.errors}\n{answer.err}"
    assert found.wrong == wanted.wrong, f"wrong {found.wrong}, expected {wanted.wrong}\n{answer.err}"
    if in_order or not found.code or not wanted.code:
        assert found.code == wanted.code, f"exit code {found.code}, expected {wanted.code}\n{answer.err}"
    assert found.artifacts == wanted.artifacts, f"artifacts {found.artifacts}, expected {wanted.artifacts}"
    same_bytes(found.made, wanted.made)


def same_bytes(found: Bytes, wanted: Bytes) -> None:
    """Compare all files of all targets."""
    assert found.keys() == wanted.keys(), f"made {sorted(found)}, expected {sorted(wanted)}"
    for name, files in found.items():
        others = wanted[name]
        assert files.keys() == others.keys(), f"`{name}` has the files {sorted(files)}, expected {sorted(others)}"
        differ = sorted(file or "its file" for file in files if files[file] != others[file])
        assert not differ, f"`{name}` has other bytes: {', '.join(differ)}\n{_difference(files, others)}"


def _difference(files: Mapping[str, bytes], others: Mapping[str, bytes]) -> str:
    """Return a text with the first values that differ, if a file is safetensors."""
    from tensor_files import _parsed

    for file in files:
        try:
            one, other = _parsed(files[file]), _parsed(others[file])
        except (ValueError, KeyError, AssertionError):
            continue
        for name in one.keys() & other.keys():
            if one[name] != other[name]:
                a, b = one[name].values[:6].tolist(), other[name].values[:6].tolist()
                return f"{name}: {one[name].dtype} {a}\nexpected {other[name].dtype} {b}"
    return ""


# The laws


def incremental_is_fresh(steps: Sequence[Step]) -> None:
    """After each edit, an incremental build gives the same bytes, digests and errors as a fresh build.

    If all targets have outputs, a build writes a stamp, which answers the next one. An edit may follow in the same tick
    of the clock.
    """
    with place() as places:
        there = places.new()
        answer: Answer | None = None
        for step in steps:
            COUNTS["edits"] += 1
            befall(there, step, answer)
            names = names_of(step.world)
            may_leave_stamp = set(names) == step.world.outputs.keys()
            if may_leave_stamp:
                time.sleep(0.03)  # otherwise the edited files are too new for a stamp
            answer = there.build(names, threads=step.threads)
            same(answer, there, step.world, fresh(step.world))
            if answer.code == 0 and may_leave_stamp:
                same(there.build(names), there, step.world, fresh(step.world))


def befall(there: Place, step: Step, before: Answer | None) -> None:
    """Make the edit of a step, and do what else it says: delete files, `gc`, `clean`, lose records, kill a build."""
    act, number = step.act
    outputs = step.world.outputs
    if act == "lose":
        _lose(there, step, before)
    there.lay(step.world)
    if act == "delete" and outputs:
        gone = there.root / sorted(outputs.values())[number % len(outputs)]
        files = sorted(gone.rglob("*")) if gone.is_dir() else [gone]
        files = [each for each in files if each.is_file()]
        for each in files[number % 2 :]:
            each.unlink()
    elif act == "gc":
        assert there.run("gc").code in (0, 3, 4, 9)
        there.check_clean()
    elif act == "clean" and step.world.targets:
        names = names_of(step.world)
        assert there.run("clean", names[number % len(names)]).code in (0, 3, 4, 9)
    elif act == "kill":
        there.killed(["build", *names_of(step.world), "-k"], after=number)


def _lose(there: Place, step: Step, before: Answer | None) -> None:
    """Remove the store's records, and outputs that are not up to date: without records these count as foreign files."""
    for name, output in step.world.outputs.items():
        path = there.root / output
        if before is None or name not in before.targets or not before.is_made(name):
            for each in [path] if path.is_file() else [*path.rglob("*")]:
                if each.is_file():
                    each.unlink()
    store = there.root / ".mergebuild"
    if step.act[1] % 2:
        shutil.rmtree(store, ignore_errors=True)
        return
    for each in store.glob("state.sqlite3*"):
        each.unlink()
    for folder in ("kept", "history"):  # their files have no records now
        shutil.rmtree(store / folder, ignore_errors=True)


def planned_together_is_planned_alone(world: World) -> None:
    """The plan for a target does not depend on other targets that are planned with it."""
    with place() as places:
        there = places.new(world)
        names = names_of(world)
        together = arguments_of(there, names)
        for name in names:
            alone = arguments_of(there, [name])
            assert alone.get(name) == together.get(name), f"`{name}` is planned otherwise alone"


def a_digest_is_its_lines_hashed(world: World) -> None:
    """The lines shown for a tensor are those that its digest is the hash of, in the plan and in the store.

    Two tensors that are made have equal digests if and only if their lines are equal.
    """
    lines: dict[bytes, bytes] = {}
    with place() as places:
        there = places.new(world)
        for name, item in planned(there, names_of(world)).items():
            assert item.tensors is not None
            kept = BuiltKeys.of(packed_keys(item.tensors, item.intermediates), item.tensors.artifact)
            assert kept is not None
            for made in item.tensors.made:
                key, told = made.key, f"`{made.name}` of `{name}`"
                assert key.digest == made.digest, f"{told} has other lines than its digest: {key}"
                assert kept.key(made.name) == key, f"{told} is kept as {kept.key(made.name)}, and is {key}"
                if not key.is_copy:
                    assert lines.setdefault(key.digest, key.text) == key.text, f"{told} is two things with one digest"
            for between in item.intermediates:
                for made in between.made:
                    assert made.is_copy or kept.intermediate(made.digest) == made.key, f"`{made.name}` below `{name}`"
        assert len(set(lines.values())) == len(lines), "the same lines have two digests"


def together_is_alone(world: World, order: Sequence[int]) -> None:
    """A target's result does not depend on other targets that are built with it, nor on the order."""
    wanted = fresh(world)
    names = names_of(world)
    with place() as places:
        ordered = [names[number] for number in order]
        there = places.new(world)
        same(there.build(ordered), there, world, wanted, in_order=False)
        if wanted.code not in (0, 1):
            return
        one_by_one = places.new(world)
        for name in names:
            one_by_one.build([name])
        same(one_by_one.build(names), one_by_one, world, wanted)
        together = arguments_of(there, names)
        for name in names:
            alone = places.new(world)
            answer = alone.build([name])
            made = everything(alone, answer, world)
            for each, artifact in answer.artifacts.items():
                if each in wanted.artifacts:
                    assert artifact == wanted.artifacts[each], f"`{each}` is {artifact} when `{name}` is built alone"
            known = made.keys() & wanted.made.keys()
            same_bytes({each: made[each] for each in known}, {each: wanted.made[each] for each in known})
            if name in wanted.artifacts:
                assert name in answer.artifacts, f"`{name}` alone: {answer.wrong}"
                plans = arguments_of(alone, [name])
                assert plans[name] == together[name], f"`{name}` is planned otherwise alone"
            places.gone(alone)


def arguments_of(there: Place, names: Sequence[str]) -> dict[str, list[tuple[Any, ...]]]:
    """Return for each target how the plan makes its tensors, in the order of the file."""
    return {
        name: [
            (made.name, made.spec, made.digest, made.terms, made.is_copy,
             made.operation and (made.operation.method.name, made.operation.arguments), made.operands)
            for made in item.tensors.made
        ]
        for name, item in planned(there, names).items()
    }  # fmt: skip


def planned(there: Place, names: Sequence[str]) -> dict[str, Description]:
    """Plan targets, and return the descriptions of those that can be made."""
    project = mergebuild.load(there.root / "mergefile.toml")
    with project._sessions.open(silent) as session:
        plan = session.planner.plan([session.planner.goal_of(name) for name in names], hash_all=True)
        found = {each.name: each.description for each in plan.judged}
        return {name: found[name] for name in names if name in found and found[name].tensors is not None}


def threads_and_chunks_do_not_matter(world: World, threads: int, chunk: int) -> None:
    """One thread and many, and chunks of any size, make the same bytes."""
    wanted = fresh(world)
    with place() as places:
        there = places.new(world)
        same(there.build(names_of(world), threads=threads, chunk=chunk), there, world, wanted)


def compiled_kernels_make_the_same(world: World, variant: str, chunk: int) -> None:
    """Torch and compiled kernels of any instruction set give the same bytes and the same errors."""
    wanted = fresh(world)
    before = native.variant
    if variant:
        native.choose(variant)
    try:
        with place() as places, mock.patch("mergebuild.native.variant", variant):
            there = places.new(world)
            same(there.build(names_of(world), chunk=chunk), there, world, wanted)
    finally:
        native.choose(before)


def first_sight_makes_the_same(world: World, threads: int, wave: int, order: int) -> None:
    """Sources that are hashed in the pass that merges them give the same bytes as sources that were hashed before.

    This holds for any number of targets per pass and any order of targets; and the next build has nothing to do.
    """
    wanted = fresh(world)
    names = names_of(world)
    random.Random(order).shuffle(names)
    with (
        place() as places,
        mock.patch("mergebuild.plan.describe.SMALL", -1),
        mock.patch("mergebuild.build.waves._WAVE", wave),
    ):
        there = places.new(world)
        answer = there.build(names, threads=threads)
        same(answer, there, world, wanted, in_order=False)
        again = there.build(names, threads=threads)
        for name in names:
            if name in answer.targets and answer.is_made(name):
                assert again.of(name)["verdict"] == "up-to-date", f"`{name}` is {again.of(name)['verdict']} after that"


def order_and_names_do_not_matter(world: World, other: World, names: Mapping[str, str]) -> None:
    """A mergefile with its tables in another order and with other names gives the same artifacts and bytes."""
    wanted = fresh(world)
    with place() as places:
        there = places.new(other)
        answer = there.build(names_of(other))
        made = everything(there, answer, other)

        def old(name: str) -> str:
            head, mark, tail = name.partition("@")
            return {new: before for before, new in names.items()}.get(head, head) + mark + tail

        asked = set(names_of(world))
        found = {old(name): artifact for name, artifact in answer.artifacts.items() if old(name) in asked}
        assert found == wanted.artifacts, f"artifacts {found}, expected {wanted.artifacts}\n{answer.err}"
        plainly = {name for name in asked if world.target(name).get("metadata") != "full"}
        same_bytes(
            {old(name): files for name, files in made.items() if old(name) in plainly},
            {name: files for name, files in wanted.made.items() if name in plainly},
        )


def nothing_is_left_to_do(steps: Sequence[Step]) -> None:
    """A second build has nothing to do; `verify` and `verify --rebuild` find no problem; `status` says up-to-date."""
    with place() as places:
        there = places.new()
        answer: Answer | None = None
        for step in steps[:3]:
            befall(there, step, answer)
            first = answer = there.build(names_of(step.world), threads=step.threads)
            made = everything(there, first, step.world)
            again = there.build(names_of(step.world))
            assert again.wrong.items() <= first.wrong.items(), f"{again.wrong} again, {first.wrong} before"
            for name in names_of(step.world):
                if name in first.targets and first.is_made(name):
                    each = again.of(name)
                    assert each["verdict"] == "up-to-date", f"`{name}` is {each['verdict']} again"
                    assert not each["bytes_written"], f"`{name}` writes again"
                    assert not each["tensors_computed"], f"`{name}` computes again"
                    assert each["artifact"] == first.of(name)["artifact"]
            found = everything(there, again, step.world)
            same_bytes(found, {name: files for name, files in made.items() if name in found})
        done = [name for name in names_of(step.world) if name in first.targets and first.is_made(name)]
        if done:
            assert there.run("verify", *done).code == 0
            rebuilt = there.run("verify", *done, "--rebuild")
            assert rebuilt.code == 0, f"verify --rebuild ends with {rebuilt.code}\n{rebuilt.err}"
            states = there.run("status", *done)
            assert {each["state"] for each in states.targets.values()} == {"up-to-date"}, states.document
            there.check_clean()


_BECOMES: Mapping[str, Sequence[str]] = {
    "up-to-date": ("up-to-date",),
    "restore": ("restored",),
    "build": ("built",),
    "blocked": ("failed", "skipped"),
}


def plan_says_what_build_does(steps: Sequence[Step], order: int = 0, hindered: int = -1) -> None:
    """If all sources were read before, a build's verdicts, artifacts, counts and exit code are those of its plan.

    `order` shuffles the targets. `hindered`, if not negative, chooses an output at which a foreign file is: then its
    target and its readers are blocked, and the others are built without them.
    """
    with place() as places:
        there = places.new()
        answer: Answer | None = None
        for step in steps:
            befall(there, step, answer)
            names = names_of(step.world)
            random.Random(order).shuffle(names)
            with _in_the_way(there, step.world, hindered):
                plan = there.plan(names)
                answer = there.run("build", *names, "-k", "-j", str(step.threads))
            there.check_clean()
            blocked = {name for name, each in plan.targets.items() if each["verdict"] == "blocked"}
            if plan.document.get("bytes_to_hash") or step.act[0] == "lose" or answer.wrong.keys() - blocked:
                continue  # the build met something that a plan can't know
            assert plan.code == answer.code, f"plan ends with {plan.code}, build with {answer.code}\n{answer.err}"
            for name in names if plan.targets else ():
                said, did = plan.of(name), answer.of(name)
                verdicts = _BECOMES[said["verdict"]]
                assert did["verdict"] in verdicts, f"plan says {said['verdict']} of `{name}`, build {did['verdict']}"
                for key in () if name in blocked else ("artifact", "tensors_computed", "bytes_written"):
                    assert did[key] == said[key], f"plan says {key} {said[key]} of `{name}`, build {did[key]}"


@contextmanager
def _in_the_way(there: Place, world: World, hindered: int) -> Iterator[None]:
    """Put a foreign file at one of the outputs within the context; if that is a folder, into it."""
    outputs = sorted(world.outputs.values())
    if hindered < 0 or not outputs:
        yield
        return
    output = outputs[hindered % len(outputs)]
    path = there.root / output
    path = path / "model.safetensors" if output.endswith("/") else path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(b"a stranger's")
    try:
        yield
    finally:
        path.unlink()


def a_parameter_rebuilds_what_it_reaches(before: World, after: World, changed: str, reached: str) -> None:
    """After a change of a single number, only the tensors that it reaches are built again."""
    with place() as places:
        there = places.new(before)
        first = there.build(names_of(before))
        same(first, there, before, fresh(before))
        name = after.target(changed).members[0]
        was = arguments_of(there, [name]) if first.code == 0 else {}
        there.lay(after)
        plan = there.plan(names_of(after))
        second = there.build(names_of(after))
        same(second, there, after, fresh(after))
        is_now = arguments_of(there, [name]) if second.code == 0 else {}
        if first.code or second.code or not was or not is_now:
            return
        old = {each[0]: each[2] for each in was[name]}
        new = {each[0]: each for each in is_now[name]}
        selects = FAMILIES[before.sources[0].family].keys.get(reached, lambda _name: True)
        beyond = [each for each in new if each in old and not selects(each) and old[each] != new[each][2]]
        assert not beyond, f"{changed} changed where {reached} does not select: {beyond}"
        anew = [each for each in new if old.get(each) != new[each][2]]
        if not any(each.axis for each in after.targets):
            computed = second.of(name)["tensors_computed"]
            assert computed <= len(anew), f"`{name}` computes {computed} tensors, and {len(anew)} are others"
        assert plan.of(name)["artifact"] == second.of(name)["artifact"]


def spellings_do_not_matter(world: World, other: World) -> None:
    """If files spell the same parameters differently, artifacts and values are equal, and nothing is computed again."""
    wanted, found = fresh(world), fresh(other)
    assert found.errors == wanted.errors, f"errors {found.errors}, expected {wanted.errors}"
    assert found.wrong == wanted.wrong, f"wrong {found.wrong}, expected {wanted.wrong}"
    assert found.artifacts == wanted.artifacts, f"artifacts {found.artifacts}, expected {wanted.artifacts}"
    names = names_of(world)
    with place() as places:
        there = places.new(world)
        made = [name for name in world.outputs if name in wanted.artifacts]
        there.build(names)
        values = {name: evaluator.parameters_of(world, name, there.root) for name in made}
        there.lay(other)
        answer = there.build(names)
        same(answer, there, other, found)
        for name in wanted.artifacts:
            computed = answer.of(name)["tensors_computed"]
            assert not computed, f"`{name}` computes {computed} tensors again"
        for name in made:
            again = evaluator.parameters_of(other, name, there.root)
            differ = sorted(tensor for tensor in values[name] | again if values[name].get(tensor) != again.get(tensor))
            assert not differ, f"`{name}` has other parameters: {differ}"


def every_spelling_is_the_same_model(world: World, other: World) -> None:
    """Models in different spellings of a family can be merged: no linear target without other keys is refused."""
    spellings_do_not_matter(world, other)
    refused = [name for name in fresh(other).wrong if not name.partition("@")[0].endswith("-x")]
    assert not refused, f"{refused} of models that differ in spelling alone"


_UNFIT = {"too-little-in-common", "layout-mismatch", "shape-mismatch"}
"""Errors for inputs that are not models of one architecture."""


def nonsense_is_refused_or_named(world: World) -> None:
    """If tensors of an input have unknown names, its target is refused, or its notices count the unmerged tensors."""
    with place() as places:
        there = places.new(world)
        answer = there.build(names_of(world))
        is_low = any(map(_looks_quantized, world.sources))
        assert set(answer.wrong.values()) <= (_UNFIT | {"quantized-weights"} if is_low else _UNFIT), answer.wrong
        for target in world.targets:
            if target.name in answer.wrong:
                continue
            first, other = inputs_of(target)
            told = " ".join(answer.of(target.name)["notices"])
            for ref, said in ((first, f"`{other}` lacks stay"), (other, f"only `{other}` has")):
                source = world.source(ref)
                assert source is not None
                count = _nameless(source)
                named = sum(int(each) for each in re.findall(rf"(\d+) tensors? that {said}", told))
                assert named >= count, f"{count} tensors of `{ref}` have no name, and {named} are told of: {told}"


def _nameless(source: Source) -> int:
    """Return how many floating-point tensors have only unknown names."""
    stored = list(enumerate(stored_of(source).values()))
    lost = {number: each for number, each in stored if number in source.nonsense and each.is_float}
    if source.form != "ckpt":
        return len(lost)
    known = {id(each) for number, each in stored if number not in lost}
    return len({id(each) for each in lost.values()} - known)


def _looks_quantized(source: Source) -> bool:
    """Return whether a source's file has an 8-bit weight, and beside it a tensor with the name of a scale."""
    there = stored_of(source)
    low = [name for name, each in there.items() if each.dtype.startswith("float8") and name.endswith(".weight")]
    return any(f"{name.removesuffix('.weight')}.scale" in there for name in low)


def session_is_fresh(steps: Sequence[Step]) -> None:
    """Verbs in one session give the same answers and files as outside it, whatever happens to files in between.

    A second folder has the same project; there each verb runs on a newly loaded project.
    """
    with place() as places, ExitStack() as session:
        warm, cold = places.new(), places.new()
        before: Answer | None = None
        project, text = None, ""
        for step in steps:
            COUNTS["edits"] += 1
            if step.act[0] == "kill":  # forks this process, and SQLite's connections must not be open then
                session.close()
                text = ""
            for there in (warm, cold):
                befall(there, step, before)
            if project is None or text != mergefile(step.world):  # a session's is read once
                session.close()
                text = mergefile(step.world)
                project = session.enter_context(mergebuild.load(warm.root / "mergefile.toml"))
            for number, ask in enumerate(_verbs(step)):
                if number % 3 == 2:
                    time.sleep(0.03)  # otherwise files are too new to be remembered
                ours, alone = _asked(warm, project, ask), _asked(cold, None, ask)
                assert ours == alone, f"verb {number} in a session: {ours}\nalone: {alone}"
            before = cold.build(names_of(step.world))
            same_bytes(everything(warm, before, step.world), everything(cold, before, step.world))
            assert warm.build(names_of(step.world)).artifacts == before.artifacts


def _verbs(step: Step) -> list[Callable[[mergebuild.Project], Any]]:
    """Return the verbs to run after a step, in order."""
    names = names_of(step.world)
    some = names[step.act[1] % len(names) :]

    def build(project: mergebuild.Project) -> Any:
        return project.build(names, keep_going=True, threads=step.threads)

    return [
        lambda project: project.plan(names),
        lambda project: project.why(some[0]),
        lambda project: project.build(some, keep_going=True),
        lambda project: project.status(names),
        build,
        build,
        build,
        lambda project: project.plan(names),
        lambda project: project.lineage(some[0]),
        *_clearing(step.act[1], some),
    ]


def _clearing(number: int, some: Sequence[str]) -> list[Callable[[mergebuild.Project], Any]]:
    """Return what a session does after some steps that others may see: files read again, room made, targets built."""
    verbs: list[Callable[[mergebuild.Project], Any]] = [
        lambda project: project.verify(some),
        lambda project: project.gc(max_size=0),
        lambda project: project.clean(some),
        lambda project: project.build(some, keep_going=True),
    ]
    return verbs[number % 4 :] if number % 4 else []


_BY_THE_WAY = ("seconds", "bytes_read", "bytes_to_hash", "space_free")
"""Numbers that differ each time, or that are smaller if a source was read before."""


def _asked(there: Place, project: mergebuild.Project | None, ask: Callable[[mergebuild.Project], Any]) -> Any:
    """Run a verb on a project (None: on a newly loaded one), and return its answer, or its error."""
    COUNTS["runs"] += 1
    try:
        with chdir(there.root):
            found = ask(project or mergebuild.load(there.root / "mergefile.toml")).to_json()
    except mergebuild.MergeBuildError as error:
        found = {"error": type(error).__name__, "problems": [each.to_json() for each in error.problems]}
    there.check_clean()
    text = json.dumps(found).replace(str(there.root), "")
    return _but(json.loads(text), _BY_THE_WAY)


def _but(found: Any, names: Sequence[str]) -> Any:
    if isinstance(found, dict):
        return {key: _but(value, names) for key, value in found.items() if key not in names}
    return [_but(each, names) for each in found] if isinstance(found, list) else found


LAWS: Mapping[str, Callable[..., None]] = {
    each.__name__: each
    for each in (
        incremental_is_fresh,
        planned_together_is_planned_alone,
        a_digest_is_its_lines_hashed,
        together_is_alone,
        threads_and_chunks_do_not_matter,
        compiled_kernels_make_the_same,
        first_sight_makes_the_same,
        order_and_names_do_not_matter,
        nothing_is_left_to_do,
        session_is_fresh,
        plan_says_what_build_does,
        a_parameter_rebuilds_what_it_reaches,
        spellings_do_not_matter,
        every_spelling_is_the_same_model,
        nonsense_is_refused_or_named,
    )
}
