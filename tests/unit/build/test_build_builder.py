"""Laws of building: what fails takes only its own down, waves change no byte, and nothing of a user's is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lab import Lab
from mergefiles import target_table

from mergebuild.build import passes, waves
from mergebuild.engine.run import PassResult
from mergebuild.engine.work import Pass
from mergebuild.errors import MergeBuildError, UsageError
from mergebuild.plan.description import Goal
from mergebuild.plan.plan import Plan
from mergebuild.plan.planner import Planner
from mergebuild.project.project import load
from mergebuild.store import DiskStore


def target(name: str, alpha: object, *, a: str = "x", b: str = "y", virtual: bool = False, more: str = "") -> str:
    """Return a weighted sum, by default with an output of its own name."""
    output = None if virtual else "out/{}.safetensors"
    return target_table(name, f"alpha = {alpha}", more, method="weighted_sum", a=a, b=b, output=output)


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """Two sources, [1, 2, 3] and [5, 6, 7]."""
    lab.model("x", w=[1.0, 2.0, 3.0], v=[0.0, 0.0], i=torch.tensor([1]))
    lab.model("y", w=[5.0, 6.0, 7.0], v=[1.0, 1.0], i=torch.tensor([2]))
    lab.settle()
    return lab


def values_ok(lab: Lab, **alphas: float) -> None:
    """Check the outputs of weighted sums of the pair, and that the store agrees."""
    for name, alpha in alphas.items():
        assert lab.values(f"out/{name}.safetensors") == [1 + 4 * alpha, 2 + 4 * alpha, 3 + 4 * alpha]
    assert lab.project.verify().problems == ()
    assert set(lab.verdicts().values()) == {"up-to-date"}


# Restoring from each other


@pytest.mark.parametrize(("head", "more"), [("", ""), ('[project]\nhistory = "0"\n', ""), ("", "cache = false")])
def test_targets_can_change_places(pair: Lab, head: str, more: str) -> None:
    """Each is restored from another's output, which is replaced in the same build."""
    alphas = {"a": 0.25, "b": 0.5, "c": 0.75}
    for turn in range(3):
        pair.write(head + "#sources\n" + "".join(target(name, alpha, more=more) for name, alpha in alphas.items()))
        expected = "restored" if turn else "built"
        assert pair.verdicts() == dict.fromkeys(alphas, expected)
        values_ok(pair, **alphas)
        alphas = dict(zip(alphas, [*list(alphas.values())[1:], alphas["a"]], strict=True))


def inside(lab: Lab) -> list[str]:
    """Return the names of what the store holds of former and present outputs."""
    return sorted(path.name for kind in ("history", "kept") for path in (lab / ".mergebuild" / kind).glob("*"))


@pytest.mark.parametrize("link", ["auto", "hard", "copy"])
def test_without_cache_a_target_has_only_its_output(pair: Lab, link: str) -> None:
    """Whether it is built, restored from another's output, or brought back from what the history had before."""
    head = f'[project]\nlink = "{link}"\n#sources\n'
    for alpha in (0.25, 0.5, 0.25):
        pair.write(head + target("a", alpha, more="cache = false"))
        assert pair.verdicts() == {"a": "built"}
        values_ok(pair, a=alpha)
        assert inside(pair) == []
    pair.write(head.replace(link, "auto") + target("a", 0.5))
    assert pair.verdicts() == {"a": "built"}
    (former,) = [
        name for name in inside(pair) if name in {path.name for path in (pair / ".mergebuild/history").glob("*")}
    ]
    pair.write(head + target("a", 0.25, more="cache = false"))
    assert pair.verdicts() == {"a": "restored"}
    values_ok(pair, a=0.25)
    assert former not in inside(pair)


def test_a_change_of_cache_builds_nothing(pair: Lab) -> None:
    """What the store has of it stays until `gc`; with `cache` again, it gets what `link` says."""
    head = '[project]\nlink = "copy"\n#sources\n'
    pair.write(head + target("a", 0.25))
    pair.build()
    (kept,) = inside(pair)
    pair.write(head + target("a", 0.25, more="cache = false"))
    assert pair.verdicts() == {"a": "up-to-date"}
    assert pair.states() == {"a": "up-to-date"}
    assert inside(pair) == [kept]
    pair.project.gc()
    assert inside(pair) == []
    values_ok(pair, a=0.25)
    pair.write(head + target("a", 0.25))
    assert pair.verdicts() == {"a": "up-to-date"}
    assert inside(pair) == [kept]


def test_what_a_target_with_cache_shares_is_kept_for_that(pair: Lab) -> None:
    head = '[project]\nlink = "copy"\n#sources\n'
    pair.write(head + target("a", 0.25, more="cache = false") + target("b", 0.25))
    assert pair.verdicts() == {"a": "built", "b": "restored"}
    (kept,) = inside(pair)
    pair.write(head + target("a", 0.5, more="cache = false") + target("b", 0.25))
    assert pair.verdicts() == {"a": "built", "b": "up-to-date"}
    pair.project.gc()
    assert inside(pair) == [kept]
    pair.project.clean(["a"])
    assert inside(pair) == [kept]
    (pair / "out/b.safetensors").unlink()
    assert pair.verdicts("b") == {"b": "restored"}


def test_without_cache_a_virtual_target_is_in_the_store_all_the_same(pair: Lab) -> None:
    """It has no other place."""
    pair.write(target("a", 0.25, virtual=True, more="cache = false"))
    assert pair.verdicts("a") == {"a": "built"}
    pair.project.gc()
    assert pair.verdicts("a") == {"a": "up-to-date"}
    assert len(inside(pair)) == 1


@pytest.mark.parametrize(("more", "computed"), [("", 0), ("cache = false", 1)])
def test_a_plan_counts_on_no_tensor_that_is_replaced_before(pair: Lab, more: str, computed: int) -> None:
    """One target is restored, which replaces the only file that has a tensor of the other."""
    pair.write(target("a", 0.25, more=more) + target("b", 0.5))
    pair.build()
    pair.write(target("a", 0.5, more=more) + target("b", 0.5) + target("c", 0.25, more='drop = "v"'))
    planned = {each.target: each for each in pair.project.plan().targets}
    built = {each.target: each for each in pair.build().targets}
    assert [str(built[name].verdict) for name in "ac"] == ["restored", "built"]
    assert planned["c"].tensors_computed == built["c"].tensors_computed == computed
    values_ok(pair, a=0.5, b=0.5, c=0.25)


def test_without_cache_tensors_are_found_in_the_output(pair: Lab) -> None:
    pair.write(target("a", 0.25, more="cache = false"))
    pair.build()
    pair.write(target("a", 0.25, more="cache = false") + target("c", 0.25, more='drop = "v"'))
    (_, other) = pair.build().targets
    assert (str(other.verdict), other.tensors_computed) == ("built", 0)


def test_what_o_writes_over_is_in_the_history_whatever_the_target_keeps(pair: Lab) -> None:
    pair.write(target("a", 0.25, more="cache = false"))
    pair.build("a", out=pair / "extra.safetensors")
    pair.write(target("a", 0.5, more="cache = false"))
    pair.build("a", out=pair / "extra.safetensors")
    assert len(inside(pair)) == 1


def test_two_targets_can_come_back_from_one_history(pair: Lab) -> None:
    for alpha, verdicts in ((0.25, ["built", "restored"]), (0.5, ["built", "restored"]), (0.25, ["restored"] * 2)):
        pair.write(target("a", alpha) + target("b", alpha))
        assert list(pair.verdicts().values()) == verdicts
        values_ok(pair, a=alpha, b=alpha)


def test_a_target_equal_to_another_is_restored(pair: Lab) -> None:
    """No arithmetic, no new artifact: in the same build, also through a failure of the first."""
    pair.write(target("a", 0.25) + target("b", "0.250"))
    one, two = pair.build().targets
    assert (str(one.verdict), one.tensors_computed) == ("built", 2)
    assert (str(two.verdict), two.tensors_computed, two.artifact) == ("restored", 0, one.artifact)
    values_ok(pair, a=0.25, b=0.25)


def test_equal_targets_fail_alone(pair: Lab) -> None:
    (pair / "out").mkdir()
    (pair / "out/a.safetensors").write_bytes(b"mine")
    pair.write(target("a", 0.25) + target("b", 0.25))
    assert pair.verdicts(keep_going=True) == {"a": "failed", "b": "built"}
    assert (pair / "out/a.safetensors").read_bytes() == b"mine"
    assert pair.values("out/b.safetensors") == [2.0, 3.0, 4.0]


def test_of_equal_targets_left_by_one_that_fails_the_next_is_built_and_the_others_restored(lab: Lab) -> None:
    """The first may not be written, for its values; the others may, and are computed once."""
    lab.model("x", w=[float("nan"), 1.0])
    lab.model("y", w=[1.0, 2.0])
    lab.settle()
    allowed = 'nonfinite = "allow"'
    lab.write(target("a", 0.25) + target("b", 0.25, more=allowed) + target("c", 0.25, more=allowed))
    found = {each.target: (str(each.verdict), each.tensors_computed) for each in lab.build(keep_going=True).targets}
    assert found == {"a": ("failed", 0), "b": ("built", 1), "c": ("restored", 0)}


@pytest.mark.parametrize("wave", [200, 1])
def test_what_reads_a_twin_waits_for_it(pair: Lab, monkeypatch: pytest.MonkeyPatch, wave: int) -> None:
    """With the first of two equal targets built or in the way: whoever reads the second has it."""
    monkeypatch.setattr(waves, "_WAVE", wave)
    text = target("a", 0.25) + target("b", 0.25) + target("g", 0.5, a="b") + target("h", 0.5, a="g")
    pair.write(text)
    assert pair.verdicts() == {"a": "built", "b": "restored", "g": "built", "h": "built"}
    whole = {path.name: path.read_bytes() for path in (pair / "out").iterdir()}
    pair.project.clean()
    (pair / "out/a.safetensors").write_bytes(b"mine")
    assert pair.verdicts(keep_going=True) == {"a": "failed", "b": "built", "g": "built", "h": "built"}
    whole["a.safetensors"] = b"mine"
    assert {path.name: path.read_bytes() for path in (pair / "out").iterdir()} == whole


def test_a_rebuild_leaves_out_what_has_no_output_any_more(pair: Lab) -> None:
    """Its last output is an orphan: it is read again, and there is nothing to compare it with."""
    pair.write(target("a", 0.25) + target("b", 0.5))
    pair.build()
    pair.write(target("a", 0.25, virtual=True) + target("b", 0.5))
    found = pair.project.verify(rebuild=True)
    assert sorted(found.checked) == ["out/a.safetensors", "out/b.safetensors"]
    assert (found.problems, found.exit_code) == ((), 0)


def test_equal_virtual_targets_are_kept_once(pair: Lab) -> None:
    pair.write(target("a", 0.25, virtual=True) + target("b", 0.25, virtual=True))
    assert pair.verdicts("a", "b") == {"a": "built", "b": "restored"}
    assert len(list((pair / ".mergebuild/kept").iterdir())) == 1
    assert pair.verdicts("a", "b") == {"a": "up-to-date", "b": "up-to-date"}


def test_a_damaged_file_of_the_store_is_made_again(pair: Lab) -> None:
    pair.write(target("a", 0.25, virtual=True))
    pair.build("a")
    (kept,) = (pair / ".mergebuild/kept").iterdir()
    pair.edit_in_place(kept.relative_to(pair.root).as_posix())
    assert pair.verdicts("a") == {"a": "built"}
    assert pair.project.verify().problems == ()


def test_a_change_of_metadata_computes_nothing(pair: Lab) -> None:
    for metadata, verdict in (
        ("minimal", "built"),
        ("none", "restored"),
        ("full", "restored"),
        ("minimal", "restored"),
    ):
        pair.write(target("a", 0.25, more=f'metadata = "{metadata}"\n'))
        (found,) = pair.build().targets
        assert (str(found.verdict), found.tensors_computed) == (verdict, 2 if verdict == "built" else 0)
        values_ok(pair, a=0.25)


def test_a_tweak_of_one_tensor_computes_one(pair: Lab) -> None:
    pair.write(target("a", 0.25))
    pair.build()
    pair.write(target("a", "{ default = 0.25, v = 0.5 }"))
    (found,) = pair.build().targets
    assert (found.tensors_computed, found.tensors_reused) == (1, 2)
    assert pair.values("out/a.safetensors", "v") == [0.5, 0.5]


# Waves


def project_of_many() -> str:
    """Return targets over files over virtual targets."""
    return (
        target("a", 0.25)
        + target("half", 0.5, virtual=True)
        + target("b", 0.5, a="a", b="half", more='dtype = "float16"\n')
        + target("c", 0.75, a="b")
        + target("d", 0.75, a="b", b="a")
        + target("e", 0.25)
    )


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:7", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused_whatever_there_is_to_do(pair: Lab, device: str) -> None:
    pair.write(target("a", 0.25))
    pair.build()
    with pytest.raises(UsageError, match="there is no device"):
        pair.build(device=device)


def test_a_copy_of_a_virtual_target_that_is_not_linear_is_what_it_is(pair: Lab) -> None:
    """Float32 all through: the copy has the digest of what the virtual target makes, which lies nowhere."""
    slerp = '[targets.{}]\nmethod = "slerp"\na = "x"\nb = "y"\nt = 0.3\n'
    copied = '[targets.c]\nmethod = "copy"\na = "s"\noutput = "out/c.safetensors"\n'
    pair.write(slerp.format("s") + copied + slerp.format("own") + 'output = "out/own.safetensors"\n')
    assert pair.verdicts("c", "own") == {"c": "built", "own": "restored"}
    assert pair.values("out/c.safetensors") == pair.values("out/own.safetensors")
    pair.project.clean()
    assert pair.verdicts("c") == {"c": "built"}


def test_a_copy_of_a_virtual_target_is_looked_at_for_infinities(lab: Lab) -> None:
    lab.model("x", w=[float("inf"), 2.0])
    lab.model("y", w=[5.0, 6.0])
    lab.settle()
    slerp = '[targets.s]\nmethod = "slerp"\na = "x"\nb = "y"\nt = 0.3\n'
    lab.write(slerp + '[targets.c]\nmethod = "copy"\na = "s"\noutput = "out/c.safetensors"\n')
    (found,) = lab.build().targets
    assert found.error is not None
    assert found.error.code == "nonfinite"


def test_a_build_that_ends_early_keeps_the_waves_before(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets without a source in common are published as soon as much is written; those with one are read once."""
    pair.model("z", w=[9.0])
    pair.model("u", w=[8.0])
    pair.settle()
    pair.write(target("a", 0.25) + target("b", 0.5) + target("c", 0.5, a="z", b="u"))
    pair.project.lock()  # which hashes the sources: else all are read in one pass
    monkeypatch.setattr(waves, "_MUCH", 1)
    real, written = passes.run_pass, []

    def run_pass(work: Pass, **words: Any) -> PassResult:
        written.append(len(work.outputs))
        if len(written) == 2:
            raise KeyboardInterrupt
        return real(work, **words)

    with monkeypatch.context() as patch:
        patch.setattr(passes, "run_pass", run_pass)
        with pytest.raises(KeyboardInterrupt):
            pair.build()
    assert written == [2, 1]
    assert pair.verdicts() == {"a": "up-to-date", "b": "up-to-date", "c": "built"}


def test_waves_change_no_byte(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One target a wave, with files read by later waves: the same files and counts as in one pass."""
    pair.write(project_of_many())
    result = pair.build(threads=2)
    whole = {path.name: path.read_bytes() for path in (pair / "out").iterdir()}
    pair.project.clean()
    assert not list((pair / "out").iterdir())
    monkeypatch.setattr(waves, "_WAVE", 1)
    again = pair.build(threads=1)
    assert {path.name: path.read_bytes() for path in (pair / "out").iterdir()} == whole
    assert [(each.target, each.verdict, each.tensors_computed, each.artifact) for each in again.targets] == [
        (each.target, each.verdict, each.tensors_computed, each.artifact) for each in result.targets
    ]
    assert set(pair.verdicts().values()) == {"up-to-date"}


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_chunks_and_threads_change_no_byte(pair: Lab, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    pair.model("x", odd=True, w=torch.randn(101).half(), v=[0.0, 0.0], i=torch.tensor([1]))
    pair.model("y", w=torch.randn(101), v=[1.0, 1.0], i=torch.tensor([2]))
    pair.write(project_of_many())
    pair.build(threads=1)
    whole = {path.name: path.read_bytes() for path in (pair / "out").iterdir()}
    pair.project.clean()
    real = passes.run_pass

    def chunked(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **(kwargs | {"chunk": chunk}))

    monkeypatch.setattr(passes, "run_pass", chunked)
    pair.build(threads=3)
    assert {path.name: path.read_bytes() for path in (pair / "out").iterdir()} == whole


# Failures


@pytest.fixture
def broken(lab: Lab) -> Lab:
    """A NaN in one source; `bad` reads it, `above` reads `bad`, `top` reads `above`, `good` does not."""
    lab.model("nan", w=[1.0, float("nan")], v=[1.0])
    lab.model("x", w=[1.0, 2.0], v=[1.0])
    lab.model("y", w=[3.0, 4.0], v=[1.0])
    lab.write(
        target("bad", 0.5, a="nan")
        + target("above", 0.5, a="bad")
        + target("top", 0.5, a="above")
        + target("good", 0.5)
    )
    return lab


@pytest.mark.parametrize("wave", [200, 1])
def test_a_failure_takes_down_what_reads_it_and_nothing_else(
    broken: Lab, monkeypatch: pytest.MonkeyPatch, wave: int
) -> None:
    monkeypatch.setattr(waves, "_WAVE", wave)
    result = broken.build(keep_going=True)
    found = {each.target: each for each in result.targets}
    assert {name: str(each.verdict) for name, each in found.items()} == {
        "bad": "failed", "above": "skipped", "top": "skipped", "good": "built",
    }  # fmt: skip
    assert result.exit_code == 1
    problem = found["bad"].error
    assert problem
    assert problem.code == "nonfinite"
    assert problem.rows == ("w: 1 values are NaN or Inf (1 in `nan`)",)
    assert [path.name for path in (broken / "out").iterdir()] == ["good.safetensors"]
    assert broken.values("out/good.safetensors") == [2.0, 3.0]


def test_an_output_in_the_way_takes_down_what_reads_it(broken: Lab) -> None:
    (broken / "out").mkdir()
    (broken / "out/bad.safetensors").write_bytes(b"mine")
    assert broken.verdicts(keep_going=True) == {"bad": "failed", "above": "skipped", "top": "skipped", "good": "built"}
    assert (broken / "out/bad.safetensors").read_bytes() == b"mine"


def test_without_keep_going_a_failure_stops_the_next_wave(broken: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "_WAVE", 1)
    assert broken.verdicts() == {"bad": "failed", "above": "skipped", "top": "skipped", "good": "skipped"}
    assert not list((broken / "out").iterdir())


def test_what_was_allowed_to_be_infinite_is_refused_again(lab: Lab) -> None:
    """Neither an artifact nor a tensor with NaN serves a target that forbids them."""
    lab.model("x", w=[1.0, float("inf")], v=[1.0])
    lab.model("y", w=[3.0, 4.0], v=[2.0])
    lab.write(target("a", 0.5, more='nonfinite = "allow"\n'))
    assert lab.verdicts() == {"a": "built"}
    before = (lab / "out/a.safetensors").read_bytes()
    lab.write(target("a", 0.5))
    result = lab.build()
    assert result.exit_code == 1
    assert (lab / "out/a.safetensors").read_bytes() == before
    assert lab.states()["a"] != "up-to-date"
    lab.write(target("a", 0.5, more='nonfinite = "allow"\n') + target("b", 0.5))
    assert lab.verdicts(keep_going=True) == {"a": "up-to-date", "b": "failed"}
    lab.write(target("a", 0.5, more='nonfinite = "allow"\n') + target("b", 0.5, more='nonfinite = "allow"\n'))
    assert lab.verdicts() == {"a": "up-to-date", "b": "restored"}


def test_a_file_with_nan_serves_a_reader_beside_one_that_refuses_it(lab: Lab) -> None:
    """One target reads the file, another wants the same tensor without NaN: one is built, one fails."""
    lab.model("x", w=[1.0, float("nan")], v=[1.0])
    lab.model("y", w=[3.0, 4.0], v=[2.0])
    first = target("f", 0.5, more='nonfinite = "allow"\n')
    lab.write(first)
    lab.build()
    lab.write(first + target("g", 0.25, a="f", more='nonfinite = "allow"\n') + target("h", 0.5))
    assert lab.verdicts("g", "h", keep_going=True) == {"g": "built", "h": "failed"}


def test_an_overflow_names_the_dtype(lab: Lab) -> None:
    lab.model("x", w=[60000.0, 1.0])
    lab.model("y", w=[80000.0, 1.0])
    lab.write(target("a", 0.5, more='dtype = "float16"\n'))
    (found,) = lab.build().targets
    assert found.error
    assert found.error.rows == ("w: 1 values overflow float16",)


# What changes meanwhile


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something when a pass is over and nothing is published yet."""

    def after(what: Callable[[], object]) -> None:
        real = passes.run_pass

        def run(*args: Any, **kwargs: Any) -> Any:
            found = real(*args, **kwargs)
            what()
            return found

        monkeypatch.setattr(passes, "run_pass", run)

    return after


Meanwhile = Callable[[Callable[[], object]], None]


def test_a_source_that_changes_during_the_pass_fails_its_targets(pair: Lab, meanwhile: Meanwhile) -> None:
    """Exit 4, nothing published; a target that does not read it is built."""
    pair.model("z", w=[0.0, 0.0, 0.0], v=[0.0, 0.0], i=torch.tensor([1]))
    pair.write(target("a", 0.25) + target("b", 0.5, a="a", b="z") + target("c", 0.5, a="z", b="z2"))
    pair.model("z2", w=[1.0, 1.0, 1.0], v=[0.0, 0.0], i=torch.tensor([1]))
    pair.write(target("a", 0.25) + target("b", 0.5, a="a", b="z") + target("c", 0.5, a="z", b="z2"))
    meanwhile(lambda: pair.edit_in_place("x.safetensors"))
    result = pair.build(keep_going=True)
    assert {each.target: str(each.verdict) for each in result.targets} == {"a": "failed", "b": "skipped", "c": "built"}
    assert result.exit_code == 4
    assert [path.name for path in (pair / "out").iterdir()] == ["c.safetensors"]


def test_a_source_that_vanishes_during_the_pass_fails_its_targets(pair: Lab, meanwhile: Meanwhile) -> None:
    pair.write(target("a", 0.25))
    meanwhile((pair / "x.safetensors").unlink)
    assert pair.build().exit_code == 4
    assert not list((pair / "out").iterdir())


def test_an_output_edited_during_the_pass_is_not_lost(pair: Lab, meanwhile: Meanwhile) -> None:
    pair.write(target("a", 0.25))
    pair.build()
    pair.write(target("a", 0.5))
    meanwhile(lambda: pair.edit_in_place("out/a.safetensors"))
    result = pair.build()
    assert result.targets[0].error
    assert result.targets[0].error.code == "changed-by-hand"
    assert pair.values("out/a.safetensors") != [3.0, 4.0, 5.0]


def test_a_file_that_appears_during_the_pass_is_not_lost(pair: Lab, meanwhile: Meanwhile) -> None:
    pair.write(target("a", 0.25))
    meanwhile(lambda: (pair / "out/a.safetensors").write_bytes(b"precious"))
    assert pair.build().exit_code == 1
    assert (pair / "out/a.safetensors").read_bytes() == b"precious"
    assert len(list((pair / "out").iterdir())) == 1


def test_an_artifact_that_changes_while_it_is_shared_fails_the_pass(pair: Lab, meanwhile: Meanwhile) -> None:
    """Tensors copied from another target's output are only as good as that output."""
    pair.write(target("a", 0.25))
    pair.build()
    pair.write(target("a", 0.25) + target("b", "{ default = 0.25, v = 0.5 }"))
    meanwhile(lambda: pair.edit_in_place("out/a.safetensors"))
    result = {each.target: each for each in pair.build(keep_going=True).targets}
    assert str(result["b"].verdict) == "failed"
    assert result["b"].error
    assert result["b"].error.code == "artifact-changed"
    assert not (pair / "out/b.safetensors").exists()


# What may stand at an output's path


def make_folder(lab: Lab) -> None:
    (lab / "out/a.safetensors").mkdir(parents=True)


def make_dangling_link(lab: Lab) -> None:
    (lab / "out").mkdir()
    (lab / "out/a.safetensors").symlink_to("nowhere")


def make_pipe(lab: Lab) -> None:
    (lab / "out").mkdir()
    os.mkfifo(lab / "out/a.safetensors")


def make_link_to_file(lab: Lab) -> None:
    (lab / "out").mkdir()
    (lab / "mine.txt").write_bytes(b"mine")
    (lab / "out/a.safetensors").symlink_to(lab / "mine.txt")


@pytest.mark.parametrize("make", [make_folder, make_dangling_link, make_pipe, make_link_to_file])
def test_what_is_no_file_of_ours_stays_and_force_puts_it_aside(pair: Lab, make: Callable[[Lab], None]) -> None:
    """A folder, a pipe, a link: never read, never lost."""
    make(pair)
    pair.write(target("a", 0.25))
    result = pair.build()
    assert result.exit_code == 1
    assert result.targets[0].error
    assert result.targets[0].error.code == "changed-by-hand"
    assert pair.states() == {"a": "changed-by-hand"}
    assert pair.build(force=True).ok
    assert os.path.lexists(pair / "out/a.by-hand-1.safetensors")
    if (pair / "mine.txt").exists():
        assert (pair / "mine.txt").read_bytes() == b"mine"
    values_ok(pair, a=0.25)


def test_a_folder_that_is_a_file_fails_only_its_target(pair: Lab) -> None:
    (pair / "deep").write_text("mine")
    pair.write(target("a", 0.25) + target("b", 0.5).replace("out/b", "deep/b"))
    result = pair.build(keep_going=True)
    assert {each.target: str(each.verdict) for each in result.targets} == {"a": "built", "b": "failed"}
    assert (pair / "deep").read_text() == "mine"


def test_an_output_that_is_there_already_is_accepted_when_it_is_the_result(pair: Lab) -> None:
    pair.write(target("a", 0.25) + target("b", 0.25))
    pair.build()
    (pair / ".mergebuild").rename(pair.root.parent / "lost")
    assert pair.build().ok
    values_ok(pair, a=0.25, b=0.25)


def test_what_a_killed_build_left_is_swept(pair: Lab) -> None:
    (pair / "out").mkdir()
    (pair / "out/.a.safetensors.mergebuild-1").write_bytes(b"half")
    (pair / "out/.mine.mergebuild-1").write_bytes(b"another's")
    pair.write(target("a", 0.25))
    pair.build()
    assert sorted(path.name for path in (pair / "out").iterdir()) == [".mine.mergebuild-1", "a.safetensors"]


# -o


def test_out_changes_nothing_else(pair: Lab) -> None:
    """A virtual target in a dtype, a file target elsewhere: no record, and the target itself stays missing."""
    pair.write(target("a", 0.25) + target("half", 0.5, virtual=True))
    assert load(pair / "mergefile.toml").build(["half"], out=pair / "x.half.safetensors", dtype="float16").ok
    assert pair.read("x.half.safetensors")["w"].dtype is torch.float16
    assert load(pair / "mergefile.toml").build(["a"], out=pair / "elsewhere.safetensors").ok
    assert pair.states() == {"a": "missing"}
    assert pair.project.status().orphans == ()


def test_out_never_writes_over_a_source_or_a_strangers_file(pair: Lab) -> None:
    before = (pair / "x.safetensors").read_bytes()
    pair.write(target("a", 0.25))
    with pytest.raises(MergeBuildError):
        pair.build("a", out=pair / "x.safetensors")
    assert (pair / "x.safetensors").read_bytes() == before
    (pair / "mine.safetensors").write_bytes(b"mine")
    assert pair.build("a", out=pair / "mine.safetensors").exit_code == 1
    assert (pair / "mine.safetensors").read_bytes() == b"mine"


# Empty things


def test_empty_and_scalar_tensors_are_built(lab: Lab) -> None:
    for name, value in (("x", 1.0), ("y", 3.0)):
        lab.model(
            name,
            scalar=torch.tensor(value),
            empty=torch.empty(0, 3, dtype=torch.float16),
            wide=torch.tensor([value], dtype=torch.float64),
            small=torch.tensor([value, 0.5]).to(torch.float8_e4m3fn),
            flag=torch.tensor([True]),
        )
    lab.write(target("a", 0.5))
    assert lab.build().ok
    found = lab.read("out/a.safetensors")
    assert found["scalar"].shape == ()
    assert found["scalar"].item() == 2.0
    assert found["empty"].shape == (0, 3)
    assert found["wide"].dtype is torch.float64
    assert found["small"].float().tolist() == [2.0, 0.5]
    assert lab.project.verify().problems == ()


# First builds


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets planned, once for each time."""
    found: list[str] = []
    real = Planner.plan

    def plan(planner: Planner, goals: Sequence[Goal | str], *, hash_all: bool = False) -> Plan:
        found.extend(goal if isinstance(goal, str) else goal.target for goal in goals)
        return real(planner, goals, hash_all=hash_all)

    monkeypatch.setattr(Planner, "plan", plan)
    return found


def test_a_first_build_is_planned_once(pair: Lab, planned: list[str]) -> None:
    """What was planned before anything was written holds while the store stays empty."""
    pair.write(target("a", 0.25))
    assert pair.verdicts() == {"a": "built"}
    assert planned == ["a"]
    values_ok(pair, a=0.25)


def test_a_first_build_that_another_one_overtook_is_planned_anew(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.write(target("a", 0.25))
    create = DiskStore.create

    def overtaken(store: DiskStore) -> None:
        monkeypatch.setattr(DiskStore, "create", create)
        pair.build()
        create(store)

    monkeypatch.setattr(DiskStore, "create", overtaken)
    assert pair.verdicts() == {"a": "up-to-date"}
    values_ok(pair, a=0.25)


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_an_output_may_have_the_longest_name_that_a_file_system_takes(lab: Lab, ending: str) -> None:
    """Written, written again, verified, and set aside where somebody else wrote to it."""
    name = "x" * (255 - len(ending)) + ending
    lab.model("a", w=[1.0, 2.0])
    text = f'[targets.t]\nmethod = "scale"\na = "a"\nalpha = {{}}\noutput = "out/{name}"\n'
    for alpha in (0.5, 0.25):
        lab.write(text.format(alpha))
        assert lab.verdicts() == {"t": "built"}
    assert lab.project.verify(rebuild=True).problems == ()
    lab.settle()
    (lab / "out" / name).write_bytes(b"mine")
    assert lab.build(force=True).ok
    aside = "x" * (255 - len(".by-hand-1") - len(ending)) + ".by-hand-1" + ending
    assert {path.name for path in (lab / "out").iterdir()} == {name, aside}
    assert (lab / "out" / aside).read_bytes() == b"mine"
