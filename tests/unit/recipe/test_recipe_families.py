"""Families of many members: what each costs does not depend on how many there are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import ClassVar

import pytest
from lab import Lab

from mergebuild.project.project import Project
from mergebuild.recipe.families import Axis, Family, MemberError
from mergebuild.recipe.numbers import shortest_text


class Compared(str):
    """A text that counts how often it is compared with another."""

    __slots__ = ()
    count: ClassVar[int] = 0

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def axis(count: int) -> Axis:
    values = [Fraction(number, 8) for number in range(count)]
    return Axis("x", tuple(values), tuple(Compared(shortest_text(value)) for value in values))


@pytest.mark.parametrize("count", [100, 400])
def test_a_member_finds_its_value_without_looking_through_all(count: int) -> None:
    """It compared its text with all before it: a family of 20,000 took seven times as long as one of 5,000."""
    family = Family("t", (axis(count),))
    names = [name for name, _ in family.members()]
    Compared.count = 0
    for number, name in enumerate(names):
        member = family.member(family.read(str(name).partition("@")[2]))
        assert (member.name, dict(member.values), member.is_listed) == (name, {"x": Fraction(number, 8)}, True)
    assert Compared.count <= 4 * count


def test_a_member_that_is_not_listed_says_so() -> None:
    family = Family("t", (axis(3), Axis("y", ("a", "b"), ("a", "b"))))
    assert family.member(family.read("x=0.2500,y=b")) == ("t@x=0.25,y=b", {"x": Fraction(1, 4), "y": "b"}, True)
    assert family.member(family.read("y=c,x=0.25")) == ("t@x=0.25,y=c", {"x": Fraction(1, 4), "y": "c"}, False)
    assert family.member(family.read("y=a,x=9")) == ("t@x=9,y=a", {"x": Fraction(9), "y": "a"}, False)
    with pytest.raises(MemberError, match="`a` is no number, as `x` is"):
        family.read("x=a")


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions were called, and generators asked, in Python and in C."""
    count = 0

    def noted(_frame: FrameType, event: str, _of: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(noted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("verb", [Project.plan, Project.status], ids=["plan", "status"])
def test_a_family_costs_as_much_a_member_whatever_its_size(verb: Callable[[Project], object], tmp_path: Path) -> None:
    """Never built, so that all of it is read, folded, identified and judged."""
    lab = Lab(tmp_path)
    lab.model("a", **{"model.layers.0.w": [1, 2], "model.layers.1.w": [3]})
    lab.model("b", **{"model.layers.0.w": [5, 6], "model.layers.1.w": [7]})
    counts = []
    for members in (50, 50, 100, 200, 400):  # what is only done once is done before
        lab.write(
            f"[targets.t]\nforeach.x = {{ from = 0.001, to = {members / 1000}, step = 0.001 }}\n"
            'method = "weighted_sum"\na = "a"\nb = "b"\nalpha = "${x}"\noutput = "out/${x}.safetensors"\n'
        )
        counts.append(calls_of(lambda: verb(lab.project)))
    more = [after - before for before, after in pairwise(counts[1:])]
    assert more[1] <= 2.1 * more[0]
    assert more[2] <= 2.1 * more[1]
