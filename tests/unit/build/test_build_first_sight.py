"""Laws of first sight: hashing sources in the pass that merges them changes no byte of a result, and reads once."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from example_counts import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from lab import Lab
from mergefiles import target_table
from model_files import TORCH, as_bytes
from torch import Tensor

from mergebuild.build import passes, waves
from mergebuild.errors import MergeBuildError, NoSpaceError, SourceError
from mergebuild.events import Event, Hashing, PassBegun, Progress, TargetDone
from mergebuild.formats.header import read_header
from mergebuild.project.session import Session
from mergebuild.system import platform

ALWAYS = ("mergebuild.plan.describe.SMALL", -1)
"""No source is so small that it is hashed before."""


def target(name: str, formula: str, *more: str, virtual: bool = False) -> str:
    """Return a target with a formula, by default with an output of its own name."""
    return target_table(name, *more, formula=formula, output=None if virtual else "out/{}.safetensors")


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def of_kind(lab: Lab, kind: type[Event]) -> list[Any]:
    return [event for event in lab.events if isinstance(event, kind)]


def data_size(lab: Lab, *names: str) -> int:
    """Return the bytes of all tensors of sources."""
    return sum(info.nbytes for name in names for info in read_header(lab / f"{name}.safetensors").tensors.values())


def hashed_before(lab: Lab, folder: Path, *targets: str, **options: Any) -> Lab:
    """Build a copy of the project's text and sources in another folder, its sources hashed before."""
    other = Lab(folder)
    other.root.mkdir()
    for path in lab.root.glob("*.*"):
        if path.is_file():
            shutil.copy(path, other.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mergebuild.plan.describe.SMALL", 1 << 40)
        other.build(*targets, **options)
    return other


@pytest.fixture
def fresh(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Three sources with all kinds of tensors, of which no file is hashed before the pass."""
    monkeypatch.setattr(*ALWAYS)
    for number, name in enumerate("xyz"):
        lab.model(
            name,
            w=torch.arange(7.0) + 10 * number,
            v=torch.full((2, 3), float(number)).half(),
            bias_one=[0.0, 0.0],
            bias_two=[0.0, 0.0],
            none=torch.empty(0, 3),
            i=torch.tensor([number]),
        )
    lab.settle()
    return lab


# The same bytes


FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e5m2"]
SHAPES = {"w": (5,), "v": (2, 2), "bias_one": (3,), "bias_two": (3,), "none": (0, 2)}
NUMBERS = ["0.3", "0.7", "1", "0", "1/2", "1/3", "2", "-1"]
UNET, EMA = "model.diffusion_model.a.b", "model_ema.diffusion_modelab"


@st.composite
def sources(draw: st.DrawFn) -> list[dict[str, Tensor]]:
    """Return a few models; tensors are equal between them often, whole models sometimes."""
    models: list[dict[str, Tensor]] = []
    has_ema = draw(st.booleans())
    for _ in range(draw(st.integers(2, 4))):
        if models and draw(st.integers(0, 3)) == 0:
            models.append(models[draw(st.integers(0, len(models) - 1))])
            continue
        model = {}
        for name, shape in SHAPES.items() | ({UNET: (2,), EMA: (2,)}.items() if has_ema else set()):
            value = torch.full(shape, float(draw(st.integers(0, 2))))
            if value.numel():
                value.view(-1)[0] += draw(st.integers(0, 1)) / 4
            model[name] = value.to(TORCH[draw(st.sampled_from(FLOATS))])
        model["i"] = torch.tensor([draw(st.integers(0, 1))])
        models.append(dict(sorted(model.items(), key=lambda each: each[0])))
    return models


@st.composite
def recipes(draw: st.DrawFn, names: Sequence[str], *, has_ema: bool) -> str:
    """Return targets over sources and over each other: chains, equal ones, sweeps, drops, copies."""
    inputs, text, whole = list(names), "", set(names)
    for number in range(draw(st.integers(1, 6))):
        name = f"t{number}"
        used = draw(st.lists(st.sampled_from(inputs), min_size=1, max_size=3))
        formula = " + ".join(f"{draw(st.sampled_from(NUMBERS))}*{each}" for each in used)
        virtual = draw(st.booleans()) and number > 0
        more = []
        if not virtual:
            more.append(f'dtype = "{draw(st.sampled_from([*FLOATS[1:], "source"]))}"')
            more.append(f'metadata = "{draw(st.sampled_from(["minimal", "none"]))}"')
        if used[0] in whole:
            option = draw(st.sampled_from(["", "", "", 'drop = ["v"]', 'merge = ["w", "bias_one"]']))
            more += [option] if option else []
            if not option.startswith("drop"):
                whole.add(name)
        if has_ema:
            more.append(f'ema = "{draw(st.sampled_from(["drop", "keep", "use"]))}"')
        text += target(name, formula, *more, virtual=virtual)
        inputs.append(name)
    if draw(st.booleans()):
        text += (
            '[targets.s]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = "${alpha}"\n'
            'foreach.alpha = [0, 0.5, 1]\noutput = "out/s-${alpha}.safetensors"\n'
        )
    return text


def outcome(lab: Lab, **options: Any) -> object:
    """Return what a build came to, as far as it does not matter when sources are hashed."""
    try:
        result = lab.build(keep_going=True, **options)
    except MergeBuildError as error:
        return [problem.code for problem in error.problems]
    return result.exit_code, [
        (each.target, each.artifact, str(each.verdict) in ("built", "restored"), each.error and each.error.code)
        for each in result.targets
    ]


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_first_sight_changes_no_byte(tmp_path: Path, data: st.DataObject) -> None:
    """Any recipe over any sources: the files, digests and failures of a build that hashed everything first."""
    root = tmp_path / str(len(list(tmp_path.iterdir())))
    models = data.draw(sources())
    names = list("xyzu"[: len(models)])
    text = data.draw(recipes(names, has_ema=UNET in models[0]))
    labs = [Lab(root), Lab(root.with_name(root.name + "-before"))]
    for each in labs:
        each.root.mkdir(parents=True)
        for name, model in zip(names, models, strict=True):
            each.model(name, **model)
        each.write(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*ALWAYS)
        found = outcome(labs[0], threads=data.draw(st.sampled_from([1, 3])))
    assert found == outcome(labs[1], threads=1)
    assert files(labs[0] / "out") == files(labs[1] / "out")
    if (labs[0] / "out").exists():
        assert labs[0].project.verify().problems == ()
        assert not of_kind(labs[0], Hashing) or len(of_kind(labs[0], PassBegun)) != 1


CHAIN = (
    target("a", "0.3*x + 0.7*y", 'dtype = "float16"')
    + target("half", "a/2 + z/2", virtual=True)
    + target("b", "0.3*half + 0.7*x", 'dtype = "bfloat16"', 'drop = ["v"]')
    + target("c", "b - a/3")
    + target("copied", "x")
)


@pytest.mark.parametrize("chunk", [1, 3, 1 << 19])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_chunks_and_threads_change_no_byte(
    fresh: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, chunk: int
) -> None:
    fresh.write(CHAIN)
    expected = files(hashed_before(fresh, tmp_path / "before") / "out")
    real = passes.run_pass
    monkeypatch.setattr(passes, "run_pass", lambda *args, **more: real(*args, **(more | {"chunk": chunk})))
    result = fresh.build(threads=threads)
    assert result.ok
    assert {each.target: str(each.verdict) for each in result.targets} == dict.fromkeys(
        ["a", "b", "c", "copied"], "built"
    )
    assert files(fresh / "out") == expected
    assert not of_kind(fresh, Hashing)
    assert len(of_kind(fresh, PassBegun)) == 1


def test_odd_offsets_and_equal_tensors_under_many_names(fresh: Lab, tmp_path: Path) -> None:
    """Tensors that lie unaligned, and are equal to others of the same and of another source."""
    fresh.model("x", odd=True, **{name: torch.tensor([0.0, 1.0]).half() for name in ("p", "q", "r")})
    fresh.model("y", odd=True, p=torch.tensor([0.0, 1.0]).half(), q=[5.0, 6.0], r=torch.tensor([0.0, 1.0]).half())
    fresh.write(target("a", "x/2 + y/2") + target("b", "x - y") + target("c", "2*a - b"))
    assert fresh.build().ok
    assert files(fresh / "out") == files(hashed_before(fresh, tmp_path / "before") / "out")
    found = fresh.read("out/a.safetensors")
    assert as_bytes(found["p"]) == as_bytes(torch.tensor([0.0, 1.0]).half())
    assert found["q"].tolist() == [2.5, 3.5]
    assert fresh.read("out/b.safetensors")["r"].tolist() == [0.0, 0.0]


def test_sources_that_turn_out_to_be_one_are_built_all_the_same(lab: Lab, tmp_path: Path) -> None:
    """Their header has one proportion where two were foreseen; where that moves the data, the target is made anew.

    And so is what reads it, whatever the length of its own header.
    """
    passes = set()
    for length in range(3400, 4000, 30):
        root = tmp_path / str(length)
        root.mkdir()
        each = Lab(root)
        for name in "xy":
            each.model(name, **{"n" * length: [1.0, 2.0], "v": [1.0]})
        each.settle()
        each.write(target("a", "x/3 + 2*y/3") + target("b", "a/2", 'metadata = "none"', 'drop = ["v"]'))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*ALWAYS)
            result = each.build()
        assert [str(found.verdict) for found in result.targets] == ["built", "built"]
        assert files(each / "out") == files(hashed_before(each, tmp_path / f"{length}-before") / "out")
        passes.add(len(of_kind(each, PassBegun)))
        done = [event.target for event in of_kind(each, TargetDone)]
        assert sorted(done) == ["a", "b"]
    assert passes == {1, 2}


def test_what_reads_a_target_that_is_left_waits_for_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that must be made anew then fails, so that nothing may be made of it, whatever its header's length."""
    monkeypatch.setattr(*ALWAYS)
    passes = set()
    for length in range(3400, 4000, 30):
        name = "n" * length
        for source in "xy":
            lab.model(source, **{name: [1.0, float("nan")], "v": [1.0]})
        lab.settle()
        lab.events.clear()
        lab.write(target("a", "x/3 + y/3") + target("b", "a/2", 'metadata = "none"', 'drop = ["n*"]'))
        assert lab.verdicts(keep_going=True) == {"a": "failed", "b": "skipped"}
        assert files(lab / "out") == {}
        passes.add(len(of_kind(lab, PassBegun)))
    assert passes == {1, 2}


# Reading once, and remembering


def test_each_byte_of_a_source_is_read_once(fresh: Lab) -> None:
    """The sum of the sources' data, tensors that nothing is made of among them."""
    fresh.write(CHAIN + target("other", "x/2 - y", 'drop = ["w"]'))
    result = fresh.build()
    assert result.ok
    assert result.bytes_read == data_size(fresh, "x", "y", "z")
    assert not of_kind(fresh, Hashing)


def test_tensors_that_nothing_is_made_of_are_hashed_too(fresh: Lab) -> None:
    fresh.write(target("a", "x/2 + y/2", 'drop = ["w", "v"]'))
    assert fresh.build().bytes_read == data_size(fresh, "x", "y")
    assert set(fresh.verdicts().values()) == {"up-to-date"}
    assert not of_kind(fresh, Hashing)


def test_an_unused_source_is_not_read(fresh: Lab) -> None:
    """Its coefficient is 0: only its header says whether it fits."""
    fresh.write(target("a", "x/2 + y/2 + 0*z"))
    assert fresh.build().bytes_read == data_size(fresh, "x", "y")


def test_known_sources_beside_unseen_ones_are_read_as_far_as_they_are_used(fresh: Lab) -> None:
    """One source was hashed for another target, one is new; only the new one is read whole."""
    fresh.write(target("a", "x/2"))
    fresh.build()
    fresh.write(target("a", "x/2") + target("b", "x/4 + y", 'drop = ["w"]'))
    result = fresh.build()
    unused = 4 * 7
    assert {each.target: str(each.verdict) for each in result.targets} == {"a": "up-to-date", "b": "built"}
    assert result.bytes_read == data_size(fresh, "x") - unused + data_size(fresh, "y")
    assert not of_kind(fresh, Hashing)


def test_a_source_hashed_in_the_same_build_is_not_counted_again(fresh: Lab) -> None:
    """A pin makes one of two sources be hashed first; the pass finds it at hand."""
    pin = hashlib.sha256((fresh / "x.safetensors").read_bytes()).hexdigest()
    (fresh / "mergefile.toml").write_text(
        f'[sources]\nx = {{ path = "x.safetensors", sha256 = "{pin}" }}\ny = "y.safetensors"\n' + target("a", "x/2 + y")
    )
    result = fresh.build()
    assert [event.path for event in of_kind(fresh, Hashing)] == ["x.safetensors"]
    assert result.bytes_read == (fresh / "x.safetensors").stat().st_size + data_size(fresh, "y")


def test_after_first_sight_sources_are_remembered(fresh: Lab) -> None:
    """The second build is up to date, and a change of the recipe computes what it must, without hashing."""
    fresh.write(CHAIN)
    fresh.build()
    assert set(fresh.verdicts().values()) == {"up-to-date"}
    assert fresh.build().bytes_read == 0
    fresh.write(CHAIN.replace("0.3*x", "0.4*x"))
    assert fresh.verdicts() == {"a": "built", "b": "built", "c": "built", "copied": "up-to-date"}
    assert not of_kind(fresh, Hashing)
    assert fresh.project.verify().problems == ()


def test_sources_of_this_moment_are_remembered_too(fresh: Lab) -> None:
    """They were opened once they had settled."""
    fresh.write(target("a", "x/2 + y/2"))
    for name in ("x", "y"):
        (fresh / f"{name}.safetensors").touch()
    assert fresh.verdicts() == {"a": "built"}
    assert fresh.verdicts() == {"a": "up-to-date"}
    assert not of_kind(fresh, Hashing)


def test_every_target_is_reported_once(fresh: Lab) -> None:
    """Though it is planned twice."""
    fresh.write(CHAIN + target("equal", "0.3*x + 0.35*y + 0.35*y", 'dtype = "float16"'))
    result = fresh.build()
    assert {each.target: str(each.verdict) for each in result.targets} == {
        "a": "built", "b": "built", "c": "built", "copied": "built", "equal": "restored",
    }  # fmt: skip
    said = [(event.target, event.verdict) for event in of_kind(fresh, TargetDone)]
    assert sorted(said) == sorted((each.target, str(each.verdict)) for each in result.targets)
    assert {each.reasons[0] for each in result.targets} == {"never built"}


# What changes meanwhile


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something when the first pass is over and nothing is published yet."""

    def after(what: Callable[[], object]) -> None:
        real, waiting = passes.run_pass, [what]

        def run(*args: Any, **kwargs: Any) -> Any:
            found = real(*args, **kwargs)
            if waiting:
                waiting.pop()()
            return found

        monkeypatch.setattr(passes, "run_pass", run)

    return after


Meanwhile = Callable[[Callable[[], object]], None]


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_source_that_changes_during_the_pass_fails_its_targets(
    fresh: Lab, meanwhile: Meanwhile, keep_going: bool
) -> None:
    """Exit 4, nothing published, nothing remembered of it; a target that does not read it is built."""
    fresh.write(target("a", "x/2 + y/2") + target("b", "a/2 + z/2") + target("c", "y/2 - z"))
    before = (fresh / "x.safetensors").read_bytes()
    meanwhile(lambda: fresh.edit_in_place("x.safetensors"))
    result = fresh.build(keep_going=keep_going)
    assert {each.target: str(each.verdict) for each in result.targets} == {"a": "failed", "b": "skipped", "c": "built"}
    assert result.exit_code == 4
    assert result.targets[0].error
    assert result.targets[0].error.code == "source-changed"
    assert list(files(fresh / "out")) == ["c.safetensors"]
    fresh.settle()
    (fresh / "x.safetensors").write_bytes(before)
    fresh.settle()
    fresh.events.clear()
    assert fresh.verdicts() == {"a": "built", "b": "built", "c": "up-to-date"}
    assert not [event for event in of_kind(fresh, Hashing) if event.path != "x.safetensors"]
    assert fresh.values("out/a.safetensors") == [5.0 + number for number in range(7)]


def test_a_source_that_vanishes_during_the_pass_fails_its_targets(fresh: Lab, meanwhile: Meanwhile) -> None:
    fresh.write(target("a", "x/2 + y/2"))
    meanwhile((fresh / "x.safetensors").unlink)
    assert fresh.build().exit_code == 4
    assert files(fresh / "out") == {}


@pytest.mark.parametrize("hidden", ["", "1"])
def test_a_source_that_is_cut_short_before_the_pass_reads_it_has_changed(
    fresh: Lab, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """However the pass fails of it; what it had written is gone."""
    monkeypatch.setenv("MERGEBUILD_PORTABLE", hidden)
    fresh.write(target("a", "x/2 + y/2"))
    real = passes.run_pass

    def run(*args: Any, **kwargs: Any) -> Any:
        os.truncate(fresh / "x.safetensors", 100)
        return real(*args, **kwargs)

    monkeypatch.setattr(passes, "run_pass", run)
    with pytest.raises(SourceError) as caught:
        fresh.build()
    assert caught.value.problems[0].code == "source-changed"
    assert "`x` changed" in caught.value.problems[0].message
    assert files(fresh / "out") == {}


def test_a_pass_that_fails_of_a_source_does_not_keep_others_from_being_built(
    fresh: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in waves of their own here, so that the one pass has nothing to do with the other."""
    fresh.model("z", w=[9.0])
    fresh.settle()
    fresh.write(target("a", "x/2 + y/2") + target("b", "z/2"))
    fresh.project.lock()
    monkeypatch.setattr(waves, "_WAVE", 1)
    real = passes.run_pass

    def run(*args: Any, **kwargs: Any) -> Any:
        if (fresh / "x.safetensors").stat().st_size > 100:
            os.truncate(fresh / "x.safetensors", 100)
        return real(*args, **kwargs)

    monkeypatch.setattr(passes, "run_pass", run)
    assert fresh.verdicts(keep_going=True) == {"a": "failed", "b": "built"}


def test_a_file_that_appears_during_the_pass_is_not_lost(fresh: Lab, meanwhile: Meanwhile) -> None:
    fresh.write(target("a", "x/2 + y/2") + target("b", "a/2"))
    meanwhile(lambda: (fresh / "out/a.safetensors").write_bytes(b"precious"))
    result = fresh.build()
    assert result.exit_code == 1
    assert {each.target: str(each.verdict) for each in result.targets} == {"a": "failed", "b": "skipped"}
    assert files(fresh / "out") == {"a.safetensors": b"precious"}


@pytest.mark.parametrize("keep_going", [False, True])
@pytest.mark.parametrize("what", ["a place that is taken", "a source that vanishes", "an interrupt"])
def test_what_the_pass_made_is_published_whatever_comes_then(
    fresh: Lab, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch, what: str, keep_going: bool
) -> None:
    """The plan that follows finds something to refuse, or is never made; all that came whole stays."""
    fresh.write(target("a", "x/2 + y/2") + target("b", "y/2 - z"))
    if what == "a place that is taken":
        meanwhile(lambda: (fresh / "out/a.safetensors").write_bytes(b"mine"))
        assert fresh.build(keep_going=keep_going).exit_code == 1
    elif what == "a source that vanishes":
        meanwhile((fresh / "x.safetensors").unlink)
        assert fresh.build(keep_going=keep_going).exit_code == 4
    else:
        real, calls = Session.plan, []

        def planned(*args: Any, **kwargs: Any) -> Any:
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
            return real(*args, **kwargs)

        monkeypatch.setattr(Session, "plan", planned)
        with pytest.raises(KeyboardInterrupt):
            fresh.build(keep_going=keep_going)
    left = {"a.safetensors"} if what == "a place that is taken" else set()
    found = {"a.safetensors", "b.safetensors"} if what == "an interrupt" else {"b.safetensors"} | left
    assert set(files(fresh / "out")) == found
    monkeypatch.undo()
    assert fresh.verdicts("b") == {"b": "up-to-date"}


def test_a_disk_needs_room_for_the_files_once(fresh: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written at first sight is there already when the rest is planned, and is not asked for again."""
    fresh.write(target("a", "x/2 + y/2") + target("b", "y/2 - z"))
    room = fresh.project.plan().space_needed

    def free_space(_folder: Path) -> int:
        return room - sum(map(len, files(fresh / "out").values()))

    monkeypatch.setattr(platform, "free_space", free_space)
    assert fresh.verdicts() == {"a": "built", "b": "built"}


def test_a_pass_that_fails_leaves_no_file_when_the_rest_goes_on(fresh: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass wrote some of its files, and then a source turns out to be cut short."""
    fresh.write(target("a", "x/2 + y/2") + target("b", "y/2 - z"))
    real = passes.run_pass

    def run(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        os.truncate(fresh / "x.safetensors", 100)
        raise RuntimeError

    monkeypatch.setattr(passes, "run_pass", run)
    assert fresh.verdicts(keep_going=True) == {"a": "failed", "b": "failed"}
    assert files(fresh / "out") == {}


def test_a_source_changed_after_the_pass_is_hashed_for_the_next_build(fresh: Lab) -> None:
    fresh.write(target("a", "x/2 + y/2"))
    fresh.build()
    fresh.edit_in_place("x.safetensors")
    assert fresh.states() == {"a": "stale"}
    assert fresh.verdicts() == {"a": "built"}


# Failures


@pytest.fixture
def broken(fresh: Lab) -> Lab:
    """A NaN in one source; `bad` reads it, `above` and `top` read `bad`, `good` and `good2` do not."""
    fresh.sources.clear()
    fresh.model("nan", w=[1.0, float("nan")], v=[1.0])
    fresh.model("x", w=[1.0, 2.0], v=[1.0])
    fresh.model("y", w=[3.0, 4.0], v=[1.0])
    fresh.settle()
    fresh.write(
        target("bad", "nan/2 + x/2")
        + target("above", "bad/2 + x/2", 'drop = ["w"]')
        + target("top", "above/2 + x/2")
        + target("good", "x/2 + y/2")
        + target("good2", "good/2 + y/2")
    )
    return fresh


def test_a_nan_takes_down_what_reads_it_and_nothing_else(broken: Lab) -> None:
    """Though what reads it does not read the tensor that holds it."""
    result = broken.build(keep_going=True)
    found = {each.target: each for each in result.targets}
    assert {name: str(each.verdict) for name, each in found.items()} == {
        "bad": "failed", "above": "skipped", "top": "skipped", "good": "built", "good2": "built",
    }  # fmt: skip
    assert result.exit_code == 1
    problem = found["bad"].error
    assert problem
    assert problem.code == "nonfinite"
    assert problem.rows == ("w: 1 values are NaN or Inf (1 in `nan`)",)
    assert sorted(files(broken / "out")) == ["good.safetensors", "good2.safetensors"]
    assert broken.values("out/good.safetensors") == [2.0, 3.0]
    said = [event.target for event in of_kind(broken, TargetDone)]
    assert sorted(said) == ["above", "bad", "good", "good2", "top"]


def test_without_keep_going_no_pass_follows_a_failure(broken: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "_WAVE", 1)
    assert broken.verdicts() == {
        "bad": "failed", "above": "skipped", "top": "skipped", "good": "skipped", "good2": "skipped",
    }  # fmt: skip
    assert files(broken / "out") == {}
    assert broken.verdicts(keep_going=True)["good2"] == "built"


def test_a_nan_that_is_allowed_is_written(broken: Lab) -> None:
    broken.write(target("bad", "nan/2 + x/2", 'nonfinite = "allow"') + target("copied", "nan") + target("lone", "bad"))
    assert broken.verdicts() == {"bad": "built", "copied": "built", "lone": "restored"}
    assert str(broken.values("out/copied.safetensors")) == "[1.0, nan]"


def test_an_unwritable_folder_takes_down_what_reads_its_target(fresh: Lab) -> None:
    (fresh / "deep").write_text("mine")
    fresh.write(target("a", "x/2 + y/2").replace("out/a", "deep/a") + target("b", "a/2 + z/2") + target("c", "x/2 - z"))
    result = fresh.build(keep_going=True)
    assert {each.target: str(each.verdict) for each in result.targets} == {"a": "failed", "b": "skipped", "c": "built"}
    assert (fresh / "deep").read_text() == "mine"
    assert sorted(event.target for event in of_kind(fresh, TargetDone)) == ["a", "b", "c"]


def no_space(*_args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("virtual", [False, True])
def test_a_full_disk_leaves_nothing(fresh: Lab, monkeypatch: pytest.MonkeyPatch, virtual: bool) -> None:
    fresh.write(target("a", "x/2 + y/2", virtual=virtual) + target("b", "x/2 - y", virtual=virtual))
    with monkeypatch.context() as patch:
        patch.setattr(platform, "preallocate", no_space)
        with pytest.raises(NoSpaceError):
            fresh.build("a", "b")
    assert files(fresh / "out") == {}
    assert files(fresh / ".mergebuild/kept") == {}
    assert fresh.verdicts("a", "b") == {"a": "built", "b": "built"}


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupt_leaves_nothing(fresh: Lab, threads: int) -> None:
    fresh.write(CHAIN)

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fresh.project.build(threads=threads, emit=interrupt)
    assert files(fresh / "out") == {}
    assert set(fresh.verdicts().values()) == {"built"}


# Who is hashed before


def kinds() -> Iterator[Any]:
    """Yield ways to ask for digests before anything is merged: (what to write, what to do before, options)."""
    plain = target("a", "x/2 + y/2")

    def pins(lab: Lab) -> str:
        pinned = (
            f'{name} = {{ path = "{name}.safetensors", sha256 = "{digest}" }}'
            for name in "xy"
            for digest in [hashlib.sha256((lab / f"{name}.safetensors").read_bytes()).hexdigest()]
        )
        return "[sources]\n" + "\n".join(pinned) + "\n" + plain

    def own(lab: Lab) -> str:
        return '[sources]\nx = "x.safetensors"\ny = "y.safetensors"\n' + plain

    def full(lab: Lab) -> str:
        return own(lab) + 'metadata = "full"\n'

    def foreign(lab: Lab) -> str:
        """A file of the size that the output will have: it may be what the target makes."""
        (lab / "mergefile.toml").write_text(own(lab))
        (lab / "out").mkdir()
        (lab / "out/a.safetensors").write_bytes(bytes(lab.project.plan().targets[0].bytes_written))
        return own(lab)

    yield pytest.param(pins, id="pinned")
    yield pytest.param(full, id="full")
    yield pytest.param(foreign, id="foreign")


@pytest.mark.parametrize("text", list(kinds()))
def test_what_must_be_known_before_is_hashed_before(fresh: Lab, text: Callable[[Lab], str]) -> None:
    """Pins, full metadata, something in the way: known before anything is merged."""
    (fresh / "mergefile.toml").write_text(text(fresh))
    result = fresh.build()
    assert {event.path for event in of_kind(fresh, Hashing)} == {"x.safetensors", "y.safetensors"}
    in_the_way = not any((fresh / "out/a.safetensors").read_bytes())
    assert result.exit_code == in_the_way
    first = next((number for number, event in enumerate(fresh.events) if isinstance(event, PassBegun)), None)
    last = max(number for number, event in enumerate(fresh.events) if isinstance(event, Hashing))
    assert first is None if in_the_way else first is not None and last < first


def test_what_can_not_be_the_result_is_in_the_way_before_anything_is_read(fresh: Lab) -> None:
    (fresh / "mergefile.toml").write_text(
        '[sources]\nx = "x.safetensors"\ny = "y.safetensors"\n' + target("a", "x/2 + y/2") + target("b", "x/4 + y/2")
    )
    (fresh / "out").mkdir()
    (fresh / "out/b.safetensors").write_bytes(b"mine")
    assert [(each.target, str(each.verdict)) for each in fresh.project.plan().targets] == [
        ("a", "build"), ("b", "blocked"),
    ]  # fmt: skip
    result = fresh.build()
    assert [(each.target, str(each.verdict)) for each in result.targets] == [("a", "skipped"), ("b", "failed")]
    assert result.exit_code == fresh.project.plan().exit_code == 1
    assert of_kind(fresh, Hashing) == of_kind(fresh, PassBegun) == []
    assert fresh.verdicts(keep_going=True) == {"a": "built", "b": "failed"}
    assert (fresh / "out/b.safetensors").read_bytes() == b"mine"


def test_a_wrong_pin_is_known_before_anything_is_written(fresh: Lab) -> None:
    (fresh / "mergefile.toml").write_text(
        f'[sources]\nx = {{ path = "x.safetensors", sha256 = "{"0" * 64}" }}\ny = "y.safetensors"\n'
        + target("a", "x/2 + y/2")
    )
    with pytest.raises(SourceError):
        fresh.build()
    assert not (fresh / ".mergebuild").exists()
    assert not (fresh / "out").exists()


def test_a_locked_build_holds_sources_before(fresh: Lab) -> None:
    fresh.write(target("a", "x/2 + y/2"))
    fresh.project.lock()
    shutil.rmtree(fresh / ".mergebuild", ignore_errors=True)
    assert fresh.build(locked=True).ok
    assert {event.path for event in of_kind(fresh, Hashing)} == {"x.safetensors", "y.safetensors"}
    shutil.rmtree(fresh / ".mergebuild")
    shutil.rmtree(fresh / "out")
    fresh.edit_in_place("x.safetensors")
    with pytest.raises(SourceError):
        fresh.build(locked=True)
    assert files(fresh / "out") == {}


def test_what_was_built_before_may_read_what_never_was(fresh: Lab, tmp_path: Path) -> None:
    """A target with a record is planned to the last digest, and so is all that it reads."""
    fresh.write(target("h", "x/2 + y/2"))
    fresh.build()
    for wanted in (("h",), ("f", "h"), ("g", "f", "h")):
        fresh.write(target("f", "y/2 + z/2") + target("g", "z/2 - x") + target("h", "f/2 + g/2"))
        assert str(fresh.build(*wanted).targets[-1].verdict) in ("built", "restored", "up-to-date")
        expected = files(hashed_before(fresh, tmp_path / wanted[0], *wanted) / "out")
        found = files(fresh / "out")
        assert {f"{name}.safetensors" for name in wanted} <= found.keys()
        assert {name: expected[name] for name in found} == found
        fresh.project.clean(["f", "g"])


def test_what_another_target_made_known_is_restored(fresh: Lab) -> None:
    """A target never built, planned before one that makes its sources known, is what an artifact is already."""
    (fresh / "out").mkdir()
    fresh.write(target("old", "x/2 + y/2"))
    fresh.build()
    for name in "xy":
        shutil.copy(fresh / f"{name}.safetensors", fresh / f"{name}2.safetensors")
        fresh.sources[name] = f"{name}2.safetensors"
    fresh.settle()
    fresh.write(target("new", "x/2 + y/2") + target("old", "x/2 + y/2", 'dtype = "source"'))
    assert fresh.verdicts("new", "old") == {"new": "restored", "old": "up-to-date"}


# More than one pass, and places


def test_more_targets_than_a_pass_takes(fresh: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest follows in ordinary waves, a chain across them too."""
    monkeypatch.setattr(waves, "_WAVE", 3)
    text = "".join(target(f"t{number}", f"x/{number + 2} + y") for number in range(7))
    text += target("over", "t0/2 + t6/2") + target("chain", "over/2 + z")
    fresh.write(text)
    result = fresh.build()
    assert {str(each.verdict) for each in result.targets} == {"built"}
    assert len(result.targets) == 9
    assert files(fresh / "out") == files(hashed_before(fresh, tmp_path / "before") / "out")
    assert fresh.project.verify().problems == ()
    assert set(fresh.verdicts().values()) == {"up-to-date"}
    assert sorted(event.target for event in of_kind(fresh, TargetDone) if event.verdict == "built") == sorted(
        each.target for each in result.targets
    )


def test_virtual_targets_are_kept_in_the_store(fresh: Lab, tmp_path: Path) -> None:
    """Under the name that their digest gives them, as if it had been known before."""
    fresh.write(target("half", "x/2 + y/2", virtual=True) + target("other", "half - z", virtual=True))
    assert fresh.verdicts("half", "other") == {"half": "built", "other": "built"}
    before = hashed_before(fresh, tmp_path / "before", "half", "other")
    assert files(fresh / ".mergebuild/kept") == files(before / ".mergebuild/kept")
    assert len(files(fresh / ".mergebuild/kept")) == 2
    assert fresh.verdicts("half", "other") == {"half": "up-to-date", "other": "up-to-date"}
    assert not of_kind(fresh, Hashing)


def test_virtual_targets_that_come_to_the_same_are_kept_once(fresh: Lab) -> None:
    """Of two models that are copies, either mixed with a third is one artifact, and nothing goes into the history."""
    fresh.sources["copy"] = "copy.safetensors"
    shutil.copy(fresh / "y.safetensors", fresh / "copy.safetensors")
    fresh.settle()
    fresh.write(target("a", "x/2 + y/2", virtual=True) + target("b", "x/2 + copy/2", virtual=True))
    one, two = fresh.build("a", "b").targets
    assert (str(one.verdict), str(two.verdict), two.tensors_computed) == ("built", "restored", 0)
    assert len(files(fresh / ".mergebuild/kept")) == 1
    assert files(fresh / ".mergebuild/history") == {}
    assert fresh.verdicts("a", "b") == {"a": "up-to-date", "b": "up-to-date"}


def test_out_is_written_at_first_sight(fresh: Lab, tmp_path: Path) -> None:
    """In another dtype, of a virtual target over a file target; the target itself stays missing."""
    fresh.write(target("f", "x/3 + y/3") + target("half", "f/2 + z/2", virtual=True))
    result = fresh.build("half", out=fresh / "half.safetensors", dtype="float16")
    assert result.ok
    assert not of_kind(fresh, Hashing)
    other = hashed_before(fresh, tmp_path / "before", "half", out=tmp_path / "before/half.safetensors", dtype="float16")
    assert (fresh / "half.safetensors").read_bytes() == (other / "half.safetensors").read_bytes()
    assert fresh.read("half.safetensors")["w"].dtype is torch.float16
    assert fresh.states() == {"f": "up-to-date"}
    again = fresh.build("half", out=fresh / "half.safetensors", dtype="float16")
    assert [str(each.verdict) for each in again.targets] == ["up-to-date"]


# Equal artifacts


@pytest.mark.parametrize("same", ["0.3*x + 0.35*y + 0.35*y", "0.3*x + 0.7*copy", "0.3*copy2 + 0.7*copy"])
def test_equal_artifacts_are_computed_once(fresh: Lab, same: str) -> None:
    """By their forms, or because sources turn out to be copies of each other: no arithmetic for the second.

    Unless nothing ties the two together before the bytes are known: then both are made, and say so.
    """
    for name, copy in (("y", "copy"), ("x", "copy2")):
        fresh.sources[copy] = f"{copy}.safetensors"
        shutil.copy(fresh / f"{name}.safetensors", fresh / f"{copy}.safetensors")
    fresh.settle()
    fresh.write(target("a", "0.3*x + 0.7*y") + target("b", same))
    one, two = fresh.build().targets
    assert (str(one.verdict), one.artifact) == ("built", two.artifact)
    if "copy2" in same:
        assert (str(two.verdict), two.tensors_computed) == ("built", one.tensors_computed)
    else:
        assert (str(two.verdict), two.tensors_computed) == ("restored", 0)
    assert files(fresh / "out")["a.safetensors"] == files(fresh / "out")["b.safetensors"]
    assert fresh.project.verify().problems == ()
    assert set(fresh.verdicts().values()) == {"up-to-date"}


def test_what_reads_a_twin_waits_for_it(fresh: Lab, tmp_path: Path) -> None:
    fresh.write(
        target("a", "x/2 + y/2") + target("b", "x/2 + y/4 + y/4") + target("c", "b/2 + z/2") + target("d", "c/2 + a/2")
    )
    assert fresh.verdicts() == {"a": "built", "b": "restored", "c": "built", "d": "built"}
    assert files(fresh / "out") == files(hashed_before(fresh, tmp_path / "before") / "out")
