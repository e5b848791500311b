"""Options of a build that a program gives are checked as those of the command are."""

from __future__ import annotations

import math
from typing import Any

import pytest
from lab import Lab

from mergebuild import BuildOptions
from mergebuild.errors import UsageError


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0},
        {"threads": -1},
        {"threads": "2"},
        {"threads": True},
        {"threads": 1.5},
        {"device": None},
        {"out": 5},
        {"out": b"m.safetensors"},
        {"out": "\0.safetensors"},
        {"out": "m.safetensors", "dtype": "bogus"},
        {"lock_timeout": -1},
        {"lock_timeout": math.nan},
        {"lock_timeout": math.inf},
        {"lock_timeout": "x"},
    ],
    ids=repr,
)
def test_a_value_that_an_option_cannot_have_is_an_error_in_words(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        BuildOptions(**wrong).checked()
    [problem] = caught.value.problems
    assert problem.code == "bad-option"
    assert problem.message == f"`{list(wrong)[-1]}` is {list(wrong.values())[-1]!r}"


def test_a_dtype_goes_with_an_output(lab: Lab) -> None:
    """As on the command line: the mergefile says which dtype outputs have."""
    lab.model("x", w=[1.0])
    lab.write('[targets.m]\nmethod = "copy"\na = "x"\noutput = "m.safetensors"\n')
    with pytest.raises(UsageError) as caught:
        lab.project.build(dtype="float16")
    assert caught.value.problems[0].code == "dtype-without-out"


def test_targets_are_a_list_and_no_string(lab: Lab) -> None:
    lab.model("x", w=[1.0])
    lab.write('[targets.m]\nmethod = "copy"\na = "x"\noutput = "m.safetensors"\n')
    for verb in (lab.project.build, lab.project.plan, lab.project.status):
        with pytest.raises(UsageError) as caught:
            verb("m")
        assert caught.value.problems[0].code == "bad-targets"
