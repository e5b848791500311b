"""`why --tensor`: each line of a digest, as it was built and as the mergefile says."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import pytest
import torch
from lab import Lab

from mergebuild.errors import UsageError
from mergebuild.project.tensor_why import _labels
from mergebuild.results.looks import KeyLine, TensorWhy

if TYPE_CHECKING:
    from mergebuild.plan.origins import Origins

TEXT = """
[targets.half]
method = "weighted_sum"
a = "x"
b = "y"
alpha = {alpha}
dtype = "float16"
output = "half.safetensors"
{more}
[targets.turned]
method = "slerp"
a = "x"
b = "y"
t = {t}
[targets.top]
formula = "turned/2 + z/2"
output = "top.safetensors"
"""


@pytest.fixture
def three(lab: Lab) -> Lab:
    for seed, name in enumerate("xyz"):
        values = torch.randn((4, 4), generator=torch.Generator().manual_seed(seed))
        lab.model(name, w=values, same=[1.0, 2.0])
    write(lab)
    return lab


def write(lab: Lab, alpha: str = "0.3", t: str = "0.25", more: str = "") -> None:
    lab.write(TEXT.format(alpha=alpha, t=t, more=more))


def why(lab: Lab, target: str, tensor: str = "w") -> TensorWhy:
    found = lab.project.why(target, tensor=tensor).tensor
    assert found is not None
    return found


def lines(found: TensorWhy) -> dict[str, tuple[str | None, str | None]]:
    return {each.what: (each.before, each.after) for each in found.lines}


def differing(found: TensorWhy) -> Mapping[str, tuple[str | None, str | None]]:
    return {what: values for what, values in lines(found).items() if values[0] != values[1]}


def test_of_what_was_never_built_there_is_one_column(three: Lab) -> None:
    found = why(three, "half")
    assert (found.before, found.note) == (None, "never built")
    assert found.after is not None
    assert lines(found) == {
        "method": (None, "linear@1"),
        "dtype": (None, "float16"),
        "shape": (None, "4,4"),
        "source x: w": (None, "7/10 (0.7)"),
        "source y: w": (None, "3/10 (0.3)"),
    }


def test_what_was_built_as_the_mergefile_says_has_equal_columns(three: Lab) -> None:
    """However it was found to be up to date."""
    three.build()
    found = why(three, "half")
    assert found.before == found.after
    assert found.note == ""
    assert differing(found) == {}
    assert len(found.lines) == 5


def test_a_number_that_changed_changes_the_lines_that_it_reaches(three: Lab) -> None:
    three.build()
    write(three, alpha="0.35")
    found = why(three, "half")
    assert found.before is not None
    assert found.after is not None
    assert found.before.digest != found.after.digest
    assert differing(found) == {
        "source x: w": ("7/10 (0.7)", "13/20 (0.65)"),
        "source y: w": ("3/10 (0.3)", "7/20 (0.35)"),
    }


def test_what_only_stands_between_is_told_by_its_own_lines(three: Lab) -> None:
    """A virtual target's parameter shows in what reads it, a step further in."""
    three.build("top")
    write(three, t="0.2")
    found = why(three, "top")
    below = [each for each in found.lines if each.depth == 1]
    assert {each.what: (each.before, each.after) for each in below if each.before != each.after} == {
        "t": ("1/4 (0.25)", "1/5 (0.2)")
    }
    assert [each.after for each in below if each.what == "input"] == ["source x: w", "source y: w"]
    assert [each.what for each in found.lines if each.depth == 0 and each.before != each.after] == ["target turned: w"]


def test_an_input_with_other_content_is_told_by_its_digests(three: Lab) -> None:
    three.build("half")
    three.settle()
    three.model("y", w=torch.ones((4, 4)), same=[1.0, 2.0])
    found = why(three, "half")
    (what,) = differing(found)
    before, after = differing(found)[what]
    assert what == "source y: w"
    assert before is not None
    assert after is not None
    assert before.startswith("3/10 (0.3) [xxh3-128:")
    assert after.startswith("3/10 (0.3) [xxh3-128:")
    assert differing(why(three, "half", "same")) == {}


def test_a_copy_says_of_what(three: Lab) -> None:
    """Equal tensors of several sources are one, and named by all of them."""
    write(three, alpha="0")
    three.build("half")
    write(three, more='[targets.plain]\nmethod = "copy"\na = "x"\noutput = "plain.safetensors"\n')
    three.build("plain")
    found = why(three, "plain")
    assert found.before == found.after
    assert found.after is not None
    assert found.after.copy_of == "source x: w"
    assert found.lines == (KeyLine("copy", "source x: w", "source x: w"),)
    assert lines(why(three, "half", "same"))["source x: same = source y: same"] == ("1", "1")


def test_of_many_equal_tensors_those_that_are_read_are_named(lab: Lab) -> None:
    """A model's biases may all be 0: then they have one digest."""
    for name in "xy":
        lab.model(name, w=torch.ones(4) * ord(name), **{f"bias{number}": [0.0, 0.0] for number in range(20)})
    lab.write('[targets.half]\nmethod = "slerp"\na = "x"\nb = "y"\nt = 0.5\noutput = "half.safetensors"\n')
    inputs = [each.after for each in why(lab, "half", "bias7").lines if each.what == "input"]
    assert inputs == ["source x: bias7 = source y: bias7"] * 2


def test_a_virtual_target_has_lines_too(three: Lab) -> None:
    found = why(three, "turned")
    assert lines(found)["t"] == (None, "1/4 (0.25)")
    three.build("turned")
    write(three, t="0.5")
    assert differing(why(three, "turned")) == {"t": ("1/4 (0.25)", "1/2 (0.5)")}


def test_a_tensor_that_is_not_made_any_more_has_the_lines_that_it_had(three: Lab) -> None:
    three.build("half")
    write(three, more='drop = ["w"]\n')
    found = why(three, "half")
    assert (found.after, found.note) == (None, "the mergefile makes no such tensor now")
    assert lines(found)["dtype"] == ("float16", None)
    write(three)
    three.build("half")
    write(three, more='drop = ["w"]\n')
    three.build("half")
    write(three)
    found = why(three, "half")
    assert (found.before, found.note) == (None, "its last build had no such tensor")


def test_a_tensor_that_there_is_not_and_was_not_is_an_error(three: Lab) -> None:
    three.build("half")
    with pytest.raises(UsageError, match=r"target `half` has no tensor `quite\.another`") as caught:
        three.project.why("half", tensor="quite.another")
    (problem,) = caught.value.problems
    assert problem.code == "unknown-tensor"
    assert problem.help == "`mergebuild inspect --tensors half` lists them"
    with pytest.raises(UsageError) as caught:
        three.project.why("half", tensor="sam")
    assert caught.value.problems[0].help == "did you mean `same`?  `mergebuild inspect --tensors half` lists them"


def test_what_an_earlier_version_built_has_one_column_and_says_so(three: Lab) -> None:
    three.build("half")
    with contextlib.closing(sqlite3.connect(three / ".mergebuild/state.sqlite3", isolation_level=None)) as db:
        db.execute("UPDATE record SET keys = NULL, inputs = NULL")
    found = why(three, "half")
    assert found.before is None
    assert found.note == "built by an earlier version, which did not record what its tensors followed from"
    assert lines(found)["method"] == (None, "linear@1")


def test_a_folder_has_its_tensors_whichever_file_they_lie_in(three: Lab) -> None:
    text = 'method = "weighted_sum"\na = "x"\nb = "y"\nalpha = 0.5\noutput = "folder/"\nmax_shard_size = "70B"\n'
    write(three, more=f"[targets.folder]\n{text}")
    three.build("folder")
    assert len(list((three / "folder").glob("*.safetensors"))) > 1
    write(three, more=f"[targets.folder]\n{text.replace('0.5', '0.25')}")
    assert differing(why(three, "folder")) == {
        "source x: w": ("1/2 (0.5)", "3/4 (0.75)"),
        "source y: w": ("1/2 (0.5)", "1/4 (0.25)"),
    }


def test_what_a_target_is_refused_for_hides_no_lines(three: Lab) -> None:
    """An output that was changed by hand is blocked; its tensors are told all the same."""
    three.build("half")
    three.settle()
    three.edit_in_place("half.safetensors")
    write(three, alpha="0.5")
    found = three.project.why("half", tensor="w")
    assert str(found.verdict) == "blocked"
    assert found.tensor is not None
    assert set(differing(found.tensor)) == {"source x: w", "source y: w"}


def test_json_has_both_sides_of_each_line(three: Lab) -> None:
    three.build("half")
    assert "tensor" not in three.project.why("half").to_json()
    found = three.project.why("half", tensor="w").to_json()["tensor"]
    assert isinstance(found, dict)
    assert list(found) == ["name", "before", "after", "lines", "note"]
    assert found["before"] == found["after"]
    assert list(found["before"]) == ["digest", "copy_of"]
    assert found["lines"][0] == {"what": "method", "before": "linear@1", "after": "linear@1", "depth": 0}
    assert found["note"] is None


class KnownOrigins:
    """Knows whose tensors digests are."""

    def digest(self, owner: str, tensor: str) -> bytes:
        return {"x": b"1", "y": b"2"}[owner] + tensor.encode()

    def source_of(self, digest: bytes) -> tuple[str, str] | None:
        return {b"1w": ("x", "w"), b"2w": ("y", "w")}.get(digest)

    def label(self, owner: str, tensor: str) -> str:
        return f"source {owner}: {tensor}"


def test_whose_a_tensor_is_does_not_follow_from_the_key_that_is_explained() -> None:
    """A key that has two inputs mixed up shows them mixed up, not by the names that it should have."""
    mixed = [(b"1w", "y", "w"), (b"2w", "x", "w")]

    found = list(_labels(mixed, [(b"1w", "y", "w"), (b"3w", "z", "w")], cast("Origins", KnownOrigins())))

    assert found == [(b"1w", "source x: w"), (b"2w", "source y: w"), (b"3w", "source z: w")]
