"""What a plan decides of each target, over declared sources and a store in memory. Nothing is built; there is no torch.

The laws at the end are of any recipe: a target's digest is its own, whatever else is planned, and in whatever order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from planning import Bench, Declared, Planned

from mergebuild.sources.sources import SMALL

SUPPORT = str(Path(__file__).parents[2] / "support")

SIZE, COUNT = 16, 8
"""Bytes of a float32 tensor of four elements, and of an int64 one."""

SOURCES = {
    name: {
        "w": Declared(f"w of {name}"),
        "v": Declared(f"v of {name}"),
        "same": Declared("of both"),
        "count": Declared(f"count of {name}", (1,), "int64"),
    }
    for name in ("x", "y", "z")
}
DATA = 3 * SIZE + COUNT
"""Bytes of all tensors of one."""

NAMES = frozenset({"w", "v", "same", "count"})


def mix(name: str, alpha: float = 0.5, a: str = "x", b: str = "y", *, output: str | None = "", more: str = "") -> str:
    """Return the text of a weighted sum; `output`: its file, empty: one called as the target, None: it is virtual."""
    path = f"out/{name}.safetensors" if output == "" else output
    where = f'output = "{path}"\n' if path is not None else ""
    return f'[targets.{name}]\nmethod = "weighted_sum"\na = "{a}"\nb = "{b}"\nalpha = {alpha}\n{where}{more}'


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, SOURCES)


def one(bench: Bench, text: str) -> Planned:
    """Return what a plan says of the only target."""
    (found,) = bench.planned(text).values()
    return found


# What is there


def test_what_was_never_built_is_built(bench: Bench) -> None:
    found = one(bench, mix("m"))
    assert (found.verdict, found.reasons) == ("build", ("never built",))
    assert found.computed == {"w", "v"}
    assert (found.held, found.seen) == (frozenset(), frozenset())


def test_tensors_equal_in_all_inputs_are_read_once_and_copied(bench: Bench) -> None:
    """`same` is one tensor, and numbers that are no floats are the first input's."""
    found = one(bench, mix("m"))
    assert found.bytes_read == 2 * (SIZE + SIZE) + SIZE + COUNT
    assert found.bytes_written > DATA


def test_what_is_there_is_up_to_date(bench: Bench) -> None:
    bench.build(mix("m"))
    found = one(bench, mix("m"))
    assert (found.verdict, found.reasons) == ("up-to-date", ())
    assert (found.bytes_read, found.bytes_written, found.computed) == (0, 0, frozenset())


def test_what_is_gone_is_built_again(bench: Bench) -> None:
    bench.build(mix("m"))
    bench.remove("out/m.safetensors")
    found = one(bench, mix("m"))
    assert (found.verdict, found.reasons) == ("build", ("out/m.safetensors is missing",))
    assert found.computed == {"w", "v"}


def test_what_somebody_wrote_to_is_told(bench: Bench) -> None:
    bench.build(mix("m"))
    bench.edit("out/m.safetensors")
    found = one(bench, mix("m"))
    assert (found.verdict, found.reasons) == ("build", ("out/m.safetensors was changed by hand, or is not ours",))


def test_a_file_that_was_never_ours_is_told(bench: Bench) -> None:
    bench.edit("out/m.safetensors")
    assert one(bench, mix("m")).reasons == ("out/m.safetensors was changed by hand, or is not ours",)


def test_other_metadata_alone_are_no_reason_to_compute(bench: Bench) -> None:
    bench.build(mix("m"))
    found = one(bench, mix("m", more='metadata = "none"\n'))
    assert (found.verdict, found.reasons) == ("restore", ("its metadata changed",))
    assert found.computed == frozenset()
    assert found.bytes_written > DATA


# What changed


def test_an_edit_of_a_number_is_the_reason(bench: Bench) -> None:
    bench.build(mix("m", 0.5))
    before = one(bench, mix("m", 0.5))
    found = one(bench, mix("m", 0.25))
    assert found.verdict == "build"
    assert found.reasons == ("alpha 0.5 -> 0.25",)
    assert found.digest != before.digest
    assert {name for name in NAMES if found.tensors[name] != before.tensors[name]} == {"w", "v"}


def test_tensors_that_an_edit_does_not_touch_are_copied_from_the_last_build(bench: Bench) -> None:
    rule = '[[targets.m.rules]]\ntensors = "w"\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = {}\n'
    bench.build(mix("m", more=rule.format(0.25)))
    found = one(bench, mix("m", more=rule.format(0.75)))
    assert (found.computed, found.held) == ({"w"}, {"v"})
    assert found.bytes_read == 2 * SIZE + SIZE + SIZE + COUNT


def test_a_tensor_of_a_file_that_was_changed_is_copied_from_nowhere(bench: Bench) -> None:
    rule = '[[targets.m.rules]]\ntensors = "w"\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = {}\n'
    bench.build(mix("m", more=rule.format(0.25)))
    bench.edit("out/m.safetensors")
    found = one(bench, mix("m", more=rule.format(0.75)))
    assert (found.computed, found.held) == ({"w", "v"}, frozenset())


def test_another_content_of_a_source_is_a_reason(bench: Bench) -> None:
    bench.build(mix("m"))
    bench.sources = SOURCES | {"y": SOURCES["y"] | {"w": Declared("another w")}}
    found = one(bench, mix("m"))
    assert found.verdict == "build"
    (reason,) = found.reasons
    assert "y" in reason
    assert (found.computed, found.held) == ({"w"}, {"v"})


def test_a_tensor_that_no_target_reads_is_no_reason(bench: Bench) -> None:
    """What a source is to a target are the tensors that it reads."""
    bench.build(mix("m"))
    bench.sources = SOURCES | {"z": SOURCES["z"] | {"w": Declared("another w")}}
    assert one(bench, mix("m")).verdict == "up-to-date"


# What lies elsewhere


def test_what_another_output_is_already_is_restored_from_it(bench: Bench) -> None:
    bench.build(mix("m"))
    found = bench.planned(mix("m") + mix("n"))["n"]
    assert (found.verdict, found.reasons) == ("restore", ("never built",))
    assert found.computed == frozenset()


def test_what_the_history_has_is_put_back_and_nothing_is_written(bench: Bench) -> None:
    bench.build(mix("m", 0.5))
    bench.supersede("out/m.safetensors")
    bench.build(mix("m", 0.25))
    found = one(bench, mix("m", 0.5))
    assert (found.verdict, found.reasons) == ("restore", ("alpha 0.25 -> 0.5",))
    assert (found.computed, found.bytes_read, found.bytes_written) == (frozenset(), 0, 0)


def test_of_two_that_the_history_has_once_the_second_is_a_copy(bench: Bench) -> None:
    """The first takes it out of the history."""
    bench.build(mix("m", 0.5))
    bench.supersede("out/m.safetensors")
    found = bench.planned(mix("m") + mix("n"))
    assert [found[name].verdict for name in "mn"] == ["restore", "restore"]
    assert found["m"].bytes_written == 0
    assert found["n"].bytes_written > DATA


def test_a_tensor_in_the_history_is_copied_from_there(bench: Bench) -> None:
    bench.build(mix("m", 0.5))
    bench.supersede("out/m.safetensors")
    found = one(bench, mix("n", more='[[targets.n.rules]]\ntensors = "w"\nmethod = "weighted_sum"\n'
                           'a = "x"\nb = "y"\nalpha = 0.75\n'))  # fmt: skip
    assert (found.computed, found.held) == ({"w"}, {"v"})


@pytest.mark.parametrize(("cache", "held"), [("true", {"w"}), ("false", frozenset())])
def test_a_tensor_is_computed_whose_only_file_is_replaced_before(bench: Bench, cache: str, held: set[str]) -> None:
    """Without `cache` the old output is nowhere once another artifact was restored to its place."""
    more = f"cache = {cache}\n"
    bench.build(mix("m", 0.25, more=more) + mix("n"))
    found = bench.planned(mix("m", more=more) + mix("n") + mix("o", 0.25, more='drop = "v"\n'))
    assert (found["m"].verdict, found["o"].verdict) == ("restore", "build")
    assert (found["o"].held, found["o"].computed) == (held, {"w"} - held)


def test_targets_without_cache_that_change_places_are_restored(bench: Bench) -> None:
    """All copies are made before any file is replaced; and what goes to another place is there for who shares it."""
    more = "cache = false\n"
    bench.build(mix("m", 0.25, more=more) + mix("n", more=more))
    found = bench.planned(mix("m", more=more) + mix("n", 0.25, more=more) + mix("o", 0.25, more='drop = "v"\n'))
    assert [found[name].verdict for name in "mn"] == ["restore", "restore"]
    assert (found["o"].held, found["o"].computed) == ({"w"}, frozenset())


def test_a_file_that_several_targets_are_to_become_is_kept_once(bench: Bench) -> None:
    """Virtual targets that come to one artifact have one place in the store."""
    found = bench.planned(mix("m", output=None) + mix("n", output=None), "m", "n")
    assert [found[name].verdict for name in "mn"] == ["build", "restore"]
    assert found["m"].bytes_written > DATA
    assert found["n"].bytes_written == 0


def test_of_two_that_will_be_equal_the_second_is_a_twin(bench: Bench) -> None:
    found = bench.planned(mix("m") + mix("n"))
    assert (found["m"].verdict, found["n"].verdict) == ("build", "restore")
    assert found["m"].digest == found["n"].digest
    assert found["n"].reasons == ("never built", "it is what `m` is")
    assert (found["n"].computed, found["n"].bytes_read) == (frozenset(), 0)
    assert found["n"].bytes_written == found["m"].bytes_written


def test_a_tensor_is_computed_for_the_first_that_needs_it(bench: Bench) -> None:
    rule = '[[targets.n.rules]]\ntensors = "w"\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = 0.75\n'
    found = bench.planned(mix("m") + mix("n", more=rule))
    assert (found["m"].computed, found["m"].seen) == ({"w", "v"}, frozenset())
    assert (found["n"].computed, found["n"].seen) == ({"w"}, {"v"})
    assert found["n"].bytes_read == 2 * SIZE + SIZE + COUNT


def test_values_that_are_not_finite_serve_only_who_allows_them(bench: Bench) -> None:
    """Neither the whole artifact nor the tensor; the others of its tensors are copied."""
    allowing = 'nonfinite = "allow"\n'
    bench.nonfinite = frozenset({"w"})
    bench.build(mix("m", more=allowing))
    found = bench.planned(mix("m", more=allowing) + mix("n") + mix("o", more=allowing))
    assert (found["n"].verdict, found["n"].computed, found["n"].held) == ("build", {"w"}, {"v"})
    assert found["o"].verdict == "restore"


# Targets of targets


def test_a_virtual_target_folds_away(bench: Bench) -> None:
    """Half of half is a quarter, however it is written."""
    below = mix("below", 0.5, output=None) + mix("m", 0.5, a="x", b="below")
    formula = '[targets.m]\nformula = "x*0.75 + y*0.25"\noutput = "out/m.safetensors"\n'
    assert bench.planned(below, "m")["m"].tensors["w"] == bench.planned(formula)["m"].tensors["w"]
    assert list(bench.planned(below, "m")) == ["m"]


def test_a_file_below_is_rounded_and_built_first(bench: Bench) -> None:
    text = mix("top", 0.5, a="x", b="below") + mix("below", 0.5)
    found = bench.planned(text, "top")
    assert bench.order == ["below", "top"]
    assert found["below"].computed == found["top"].computed == {"w", "v"}
    folded = bench.planned(mix("top", 0.5, a="x", b="below") + mix("below", 0.5, output=None), "top")["top"]
    assert folded.tensors["w"] != found["top"].tensors["w"]
    assert folded.tensors["same"] == found["top"].tensors["same"]


def test_a_file_below_that_is_there_is_left_alone(bench: Bench) -> None:
    text = mix("top", 0.5, a="x", b="below") + mix("below", 0.5)
    bench.build(text, "below")
    found = bench.planned(text, "top")
    assert {name: each.verdict for name, each in found.items()} == {"below": "up-to-date", "top": "build"}
    assert found["top"].computed == {"w", "v"}


def test_a_virtual_target_asked_for_by_name_is_kept_in_float32(bench: Bench) -> None:
    text = mix("m", output=None)
    assert one(bench, text).verdict == "build"
    assert one(bench, text).digest == one(bench, mix("m", more='dtype = "float32"\n')).digest
    bench.build(text)
    assert one(bench, text).verdict == "up-to-date"


def test_what_is_a_source_tensor_as_it_is_is_copied(bench: Bench) -> None:
    """A lone term with coefficient 1 in its own dtype is that tensor: whoever comes to it, it has one digest."""
    found = bench.planned(mix("m", 0) + '[targets.n]\nformula = "x"\noutput = "out/n.safetensors"\n')
    assert found["m"].computed == found["n"].computed == frozenset()
    assert found["m"].tensors == found["n"].tensors
    assert (found["m"].verdict, found["n"].verdict) == ("build", "restore")
    assert found["m"].bytes_read == DATA


def test_what_is_rounded_to_another_dtype_is_another_tensor(bench: Bench) -> None:
    found = bench.planned(mix("m", 0) + mix("n", 0, more='dtype = "float16"\n'))
    assert found["n"].computed == {"w", "v", "same"}
    assert found["n"].tensors["count"] == found["m"].tensors["count"]


def test_a_method_that_is_not_linear_is_made_of_the_same_inputs(bench: Bench) -> None:
    """Its digest says which method it is; a tensor that is equal in both inputs is still made by it."""
    text = '[targets.{}]\nmethod = "slerp"\na = "x"\nb = "y"\nt = {}\noutput = "out/{}.safetensors"\n'
    found = bench.planned(text.format("m", 0.5, "m") + text.format("n", 0.25, "n") + mix("o"))
    assert len({found[name].tensors["w"] for name in "mno"}) == 3
    assert found["m"].computed >= {"w", "v"}


# Sources that were never read


def large(name: str) -> dict[str, Declared]:
    """Return a source too large to be read before it is planned."""
    return {"w": Declared(f"w of {name}", (SMALL // 4 + 1,))}


def test_large_sources_that_were_never_read_are_left_to_the_pass_that_merges_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"x": large("x"), "y": large("y")})
    bench.never_read = ("x", "y")
    found = one(bench, mix("m"))
    assert bench.read == []
    assert (found.verdict, found.reasons) == ("build", ("never built", "its sources were never read"))
    assert found.digest is None
    assert found.bytes_read == 2 * (SMALL + 4)
    assert bench.plan is not None
    assert bench.plan.bytes_to_hash > found.bytes_read
    known = bench.planned(mix("m"), hash_all=True)["m"]
    assert sorted(bench.read) == ["x", "y"]
    assert known.digest is not None
    assert (known.bytes_read, known.bytes_written) == (found.bytes_read, found.bytes_written)


def test_large_sources_of_what_was_built_before_are_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"x": large("x"), "y": large("y")})
    bench.build(mix("m"))
    bench.never_read = ("x", "y")
    assert one(bench, mix("m")).verdict == "up-to-date"
    assert sorted(bench.read) == ["x", "y"]


def test_small_sources_are_read_before_the_plan(bench: Bench) -> None:
    bench.never_read = ("x", "y", "z")
    assert one(bench, mix("m")).digest is not None
    assert sorted(bench.read) == ["x", "y"]


def test_a_source_that_is_missing_blocks_what_reads_it_and_no_other(bench: Bench) -> None:
    bench.missing = ("gone",)
    found = bench.planned(mix("m") + mix("n", b="gone") + mix("o", a="n"), "m", "n", "o")
    assert {name: each.verdict for name, each in found.items()} == {"m": "build", "n": "blocked", "o": "blocked"}
    assert found["n"].reasons == ("source `gone` is missing",)


def test_a_target_of_sources_that_do_not_fit_is_blocked(bench: Bench) -> None:
    bench.sources = SOURCES | {"y": SOURCES["y"] | {"w": Declared("w", (5,))}}
    found = bench.planned(mix("m") + mix("n", b="z"))
    assert {name: each.verdict for name, each in found.items()} == {"m": "blocked", "n": "build"}


# Folders and other formats


def test_the_files_of_a_folder_are_judged_one_by_one(bench: Bench) -> None:
    rule = '[[targets.m.rules]]\ntensors = "w"\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = {}\n'
    more = f'max_shard_size = "{SIZE + COUNT}B"\n'
    text = mix("m", output="out/m/", more=more + rule)
    bench.build(text.format(0.25))
    found = bench.planned(text.format(0.75))
    assert found["m"].verdict == "build"
    shards = {name: each for name, each in found.items() if name.endswith(".safetensors")}
    assert len(shards) == 3
    assert [sorted(each.tensors) for each in shards.values() if each.verdict == "build"] == [["w"]]


def test_a_checkpoint_is_not_made_of_a_safetensors_file_as_it_is(bench: Bench) -> None:
    """It holds the same tensors, and they are copied."""
    bench.build(mix("m"))
    found = bench.planned(mix("m") + mix("n", output="out/n.ckpt"))["n"]
    assert found.digest == bench.planned(mix("m"))["m"].digest
    assert (found.verdict, found.computed, found.held) == ("build", frozenset(), {"w", "v"})


# Laws of any recipe

METHODS = {
    "weighted_sum": 'method = "weighted_sum"\na = "{0}"\nb = "{1}"\nalpha = {3}\n',
    "add_difference": 'method = "add_difference"\na = "{0}"\nb = "{1}"\nc = "{2}"\nalpha = {3}\n',
    "formula": 'formula = "{0}*{3} + {1} - {2}/2"\n',
    "slerp": 'method = "slerp"\na = "{0}"\nb = "{1}"\nt = {3}\n',
    "mine of two": 'method = "mine"\na = "{0}"\nb = "{1}"\n',
    "mine of two others": 'method = "mine"\na = "{0}"\nc = "{1}"\n',
    "ties": 'method = "ties"\nbase = "{0}"\nmodels = ["{1}", "{2}"]\nweight = [1, {3}]\ndensity = 0.5\n',
}
"""Linear ones and others, by their text: three inputs and a number."""

MINE = '[methods.mine]\nfile = "mine.py"\ninputs = ["a", "b", "c"]\noptional = ["b", "c"]\nexact = true\n'

ENDINGS = ["", 'output = "out/{}.safetensors"\n', 'output = "out/{}.safetensors"\ndtype = "float16"\n',
           'output = "out/{}.ckpt"\n', 'output = "out/{}/"\n']  # fmt: skip


@st.composite
def recipes(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return a mergefile of a few targets, each of sources and of those before it, and their names."""
    names: list[str] = []
    text = MINE
    for index in range(draw(st.integers(2, 5))):
        name = f"t{index}"
        inputs = [draw(st.sampled_from(["x", "y", "z", *names])) for _ in range(3)]
        number = draw(st.sampled_from(["0", "0.25", "0.5", "1"]))
        body = METHODS[draw(st.sampled_from(sorted(METHODS)))].format(*inputs, number)
        text += f"[targets.{name}]\n{body}{draw(st.sampled_from(ENDINGS)).format(name)}"
        names.append(name)
    return text, names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the method of the recipes' own in it."""
    (tmp_path / "mine.py").write_text("def merge(*, a, b=None, c=None):\n    return a\n")
    return tmp_path


def said(found: Planned) -> tuple[object, ...]:
    """Return what a file will be, whatever else is planned."""
    return found.digest, found.header, dict(found.tensors)


any_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30
)


OTHER_INPUTS = MINE + "".join(
    f"[targets.{name}]\n{METHODS[kind].format('x', 'y', 'z', 0.5)}" + ENDINGS[1].format(name)
    for name, kind in (("t0", "mine of two"), ("t1", "mine of two others"))
)
"""Two targets that differ in which inputs they leave out, and in nothing else."""


@example((OTHER_INPUTS, ["t0", "t1"]), Random(0))
@any_folder
@given(recipes(), st.randoms(use_true_random=False))
def test_planned_together_is_planned_alone_in_any_order(
    folder: Path, drawn: tuple[str, list[str]], random: Random
) -> None:
    """A target's digest and header follow from the recipe and its sources; not from what else is asked for, or when."""
    text, names = drawn
    together = Bench(folder, SOURCES).planned(text, *names)
    shuffled = Bench(folder, SOURCES).planned(text, *random.sample(names, len(names)))
    assert {name: said(each) for name, each in together.items()} == {
        name: said(each) for name, each in shuffled.items()
    }
    for name in names:
        alone = Bench(folder, SOURCES).planned(text, name)
        assert {each: said(found) for each, found in alone.items()} == {each: said(together[each]) for each in alone}


@any_folder
@given(recipes())
def test_what_is_computed_is_computed_once_and_what_was_built_is_up_to_date(
    folder: Path, drawn: tuple[str, list[str]]
) -> None:
    """Each tensor that lies nowhere is computed for one target; after a build there is nothing to do."""
    text, names = drawn
    bench = Bench(folder, SOURCES)
    planned = bench.planned(text, *names)
    computed = [each.tensors[name] for each in planned.values() for name in each.computed]
    many = {(digest, found.digest) for found in planned.values() for digest in map(found.tensors.get, found.computed)}
    assert len(set(computed)) == len({digest for digest, _ in many}) == len(many)
    bench.build(text, *names)
    again = bench.planned(text, *names)
    assert {each.verdict for each in again.values()} == {"up-to-date"}
    assert sum(each.bytes_read + each.bytes_written for each in again.values()) == 0


@any_folder
@given(recipes(), recipes())
def test_after_any_build_a_plan_comes_to_what_it_would_come_to_without(
    folder: Path, drawn: tuple[str, list[str]], before: tuple[str, list[str]]
) -> None:
    """What lies in the store changes what is computed, and nothing of what a target is."""
    text, names = drawn
    bench = Bench(folder, SOURCES)
    fresh = Bench(folder, SOURCES).planned(text, *names)
    bench.build(*before[:1], *before[1])
    after = bench.planned(text, *names)
    for name in names:
        assert said(after[name]) == said(fresh[name])
        assert after[name].computed <= fresh[name].computed


NO_TORCH = """
import sys, tempfile, pathlib
from planning import Bench, Declared
from mergebuild.testing import memory, sources

tensors = {"w": Declared("w")}
bench = Bench(pathlib.Path(tempfile.mkdtemp()), {"x": tensors, "y": tensors})
text = '[targets.m]\\nmethod = "slerp"\\na = "x"\\nb = "y"\\nt = 0.5\\noutput = "m.safetensors"\\n'
bench.build(text)
assert bench.planned(text)["m"].verdict == "up-to-date"
print(*sorted({"torch", "numpy", "pytest"} & sys.modules.keys()))
"""


@pytest.mark.processes
def test_planning_needs_no_torch() -> None:
    """Nor do the stand-ins that these tests plan with."""
    run = subprocess.run(
        [sys.executable, "-c", NO_TORCH],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SUPPORT},
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")
