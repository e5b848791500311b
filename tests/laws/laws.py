"""The laws themselves: each takes a project, or what is done to one, and raises AssertionError where it does not hold.

`fresh` is what every other state is held against: the project built at once, by one thread, where nothing was. It is
remembered by the world, and each output of it is compared with the independent evaluator.
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
"""The files of each target that was made."""


@dataclass(frozen=True)
class Fresh:
    """What a project comes to where nothing was built before."""

    code: int
    errors: tuple[str, ...]
    wrong: Mapping[str, str]
    artifacts: Mapping[str, str | None]
    made: Bytes


def names_of(world: World) -> list[str]:
    """Return all targets, virtual ones too."""
    return [name for each in world.targets for name in each.members]


@lru_cache(maxsize=1000)
def fresh(world: World) -> Fresh:
    """Build a project where nothing was, all of it at once."""
    with place() as places:
        there = places.new(world)
        answer = there.build(names_of(world))
        evaluator.check(world, answer.artifacts, there.root, COUNTS)
        return _fresh_of(answer, there, world)


def _fresh_of(answer: Answer, there: Place, world: World) -> Fresh:
    """Return what a build of all targets came to. Members that only others read are told of where they are built."""
    asked = set(names_of(world))
    wrong = {name: code for name, code in answer.wrong.items() if name in asked}
    artifacts = {name: digest for name, digest in answer.artifacts.items() if name in asked}
    made = {name: files for name, files in everything(there, answer, world).items() if name in asked}
    return Fresh(answer.code, tuple(answer.errors), wrong, artifacts, made)


def everything(there: Place, answer: Answer, world: World) -> dict[str, Mapping[str, bytes]]:
    """Return the bytes of all that is made: outputs, and what the store keeps of virtual targets."""
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
    """Return which of an artifact's files in the store is spelled as the first input is."""
    called = set(stored_of(first) if first is not None else ())
    return max(sorted(paths), key=lambda path: len(read_model(path).keys() & called))


def _data_of(path: Path) -> bytes:
    """Return the bytes of a file's tensors: of two targets that are one artifact, each has metadata of its own."""
    raw = path.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def same(answer: Answer, there: Place, world: World, wanted: Fresh, *, in_order: bool = True) -> None:
    """Compare what a build came to with what a fresh one comes to.

    `in_order`: whether targets were asked for in the same order. The exit code is the first failing one's.
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
    """Say which values differ first, where a file is safetensors."""
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
    """After each edit, what is built on top of what was there is what a fresh build makes: bytes, digests, errors.

    Where all targets have outputs, a build leaves a stamp, from which the next one has its answer. An edit may follow
    in the same tick of the clock.
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
                time.sleep(0.03)  # else what was edited is too new for one
            answer = there.build(names, threads=step.threads)
            same(answer, there, step.world, fresh(step.world))
            if answer.code == 0 and may_leave_stamp:
                same(there.build(names), there, step.world, fresh(step.world))


def befall(there: Place, step: Step, before: Answer | None) -> None:
    """Make an edit, and have happen to the folder what a step says."""
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
    """Take the records away; outputs that are not what their targets make would then be a stranger's, and go too."""
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
    for folder in ("kept", "history"):  # what they hold is nobody's now
        shutil.rmtree(store / folder, ignore_errors=True)


def planned_together_is_planned_alone(world: World) -> None:
    """What a target is planned to be made of does not depend on what is planned beside it."""
    with place() as places:
        there = places.new(world)
        names = names_of(world)
        together = arguments_of(there, names)
        for name in names:
            alone = arguments_of(there, [name])
            assert alone.get(name) == together.get(name), f"`{name}` is planned otherwise alone"


def a_digest_is_its_lines_hashed(world: World) -> None:
    """What a tensor is shown to follow from is what its digest is made of, now and in the store's words.

    Tensors that are made have equal lines and equal digests, or neither.
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
    """What a target becomes does not depend on what is planned and built beside it, nor in which order."""
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
    """Return of each target what the planner makes its tensors of, in the order of the file."""
    return {
        name: [
            (made.name, made.spec, made.digest, made.terms, made.is_copy,
             made.operation and (made.operation.method.name, made.operation.arguments), made.operands)
            for made in item.tensors.made
        ]
        for name, item in planned(there, names).items()
    }  # fmt: skip


def planned(there: Place, names: Sequence[str]) -> dict[str, Description]:
    """Plan targets, and return those that can be made."""
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
    """Torch, and compiled kernels of any instruction set, make the same bytes, and say the same where they can't."""
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
    """Sources that are hashed in the pass that merges them make the same bytes as sources that were hashed before.

    However many targets a pass takes, and in whichever order they are asked for; and then nothing is left to do.
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
    """Tables in another order, sources and targets by other names: the same artifacts, and the same bytes."""
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
    """A build after a build has nothing to do; `verify`, and `verify --rebuild`, find it right; `status` says so."""
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
    """Verdicts, artifacts, tensors computed, bytes written and the exit code are the plan's, if all sources were seen.

    In whichever `order` targets are asked for; also where a stranger's file is at an output (`hindered`, if not
    negative), so that its target and what reads it are blocked, and the rest does without.
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
                continue  # what only the work shows is in no plan
            assert plan.code == answer.code, f"plan ends with {plan.code}, build with {answer.code}\n{answer.err}"
            for name in names if plan.targets else ():
                said, did = plan.of(name), answer.of(name)
                verdicts = _BECOMES[said["verdict"]]
                assert did["verdict"] in verdicts, f"plan says {said['verdict']} of `{name}`, build {did['verdict']}"
                for key in () if name in blocked else ("artifact", "tensors_computed", "bytes_written"):
                    assert did[key] == said[key], f"plan says {key} {said[key]} of `{name}`, build {did[key]}"


@contextmanager
def _in_the_way(there: Place, world: World, hindered: int) -> Iterator[None]:
    """Have a stranger's file at one of the outputs for the time, or in it where that is a folder."""
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
    """One number of one target, changed alone: what it reaches is built anew, and no other tensor."""
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
    """Files that spell the same parameters otherwise: the same artifacts and values, and nothing is computed again."""
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
    """What a family's spellings are is known of each: nothing is refused that is linear and takes no other key."""
    spellings_do_not_matter(world, other)
    refused = [name for name in fresh(other).wrong if not name.partition("@")[0].endswith("-x")]
    assert not refused, f"{refused} of models that differ in spelling alone"


_UNFIT = {"too-little-in-common", "layout-mismatch", "shape-mismatch"}
"""Errors of inputs that are no models of one architecture."""


def nonsense_is_refused_or_named(world: World) -> None:
    """Where tensors of an input have names that nobody knows, its target is refused, or says what takes no part."""
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
    """Return how many tensors of floats have a name that nobody knows, and no other name of the same place."""
    stored = list(enumerate(stored_of(source).values()))
    lost = {number: each for number, each in stored if number in source.nonsense and each.is_float}
    if source.form != "ckpt":
        return len(lost)
    known = {id(each) for number, each in stored if number not in lost}
    return len({id(each) for each in lost.values()} - known)


def _looks_quantized(source: Source) -> bool:
    """Return whether a source's file holds a weight in 8 bits, and beside it what its name says is a scale."""
    there = stored_of(source)
    low = [name for name, each in there.items() if each.dtype.startswith("float8") and name.endswith(".weight")]
    return any(f"{name.removesuffix('.weight')}.scale" in there for name in low)


def session_is_fresh(steps: Sequence[Step]) -> None:
    """Verbs of one session answer and build what each would by itself, whatever befalls files and store in between.

    Beside it lies the same project, of which each verb is asked of a project that was loaded for it.
    """
    with place() as places, ExitStack() as session:
        warm, cold = places.new(), places.new()
        before: Answer | None = None
        project, text = None, ""
        for step in steps:
            COUNTS["edits"] += 1
            if step.act[0] == "kill":  # which is of a fork, and SQLite's connections must not go through one
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
                    time.sleep(0.03)  # else files are too new to be remembered
                ours, alone = _asked(warm, project, ask), _asked(cold, None, ask)
                assert ours == alone, f"verb {number} in a session: {ours}\nalone: {alone}"
            before = cold.build(names_of(step.world))
            same_bytes(everything(warm, before, step.world), everything(cold, before, step.world))
            assert warm.build(names_of(step.world)).artifacts == before.artifacts


def _verbs(step: Step) -> list[Callable[[mergebuild.Project], Any]]:
    """Return what is asked of a project after a step, in order."""
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
"""What may be another number each time, or less for who read a source before."""


def _asked(there: Place, project: mergebuild.Project | None, ask: Callable[[mergebuild.Project], Any]) -> Any:
    """Return what a project answers, of one that is loaded for it if none is given; or what is wrong."""
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
