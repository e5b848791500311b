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
from recipe_texts import Load

from mergebuild.errors import RecipeError
from mergebuild.project.project import Project
from mergebuild.recipe import NumberPerTensor, Target
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


@pytest.mark.slow
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


HEAD = (
    '[sources]\na = "a.safetensors"\nb = "b.safetensors"\n[vars]\nm = 0.25\n'
    "[targets.t]\nforeach.x = [0.1, 0.2, 0.3]\nforeach.s = ['b', 'a']\noutput = 'out/${s}-${x}.safetensors'\n"
)
ALIKE = {
    "a number": 'method = "weighted_sum"\na = "a"\nb = "b"\nalpha = "${x}"\n',
    "a computed number": 'method = "weighted_sum"\na = "a"\nb = "b"\nalpha = "${x*m}"\ndtype = "float16"\n',
    "a table of numbers": 'method = "weighted_sum"\na = "a"\nb = "b"\nalpha = { default = "${x}", "re:q" = 0.5 }\n',
    "a formula": 'formula = "p*a + 0.5*b"\np = "${x}"\nmetadata = "none"\n',
    "one that varies not at all": 'method = "slerp"\na = "a"\nb = "b"\nt = 0.5\n',
}
UNLIKE = {
    "its input": 'method = "scale"\na = "${s}"\nalpha = "${x}"\n',
    "its rules": 'method = "scale"\na = "a"\nalpha = 1\n[[targets.t.rules]]\ntensors = "attn"\nalpha = "${x}"\n',
    "its list of numbers": 'method = "linear"\nmodels = ["a", "b"]\nweight = ["${x}", 1]\n',
    "its selectors": 'method = "scale"\na = "a"\nalpha = 1\nmerge = "re:${s}"\n',
}


def places(target: Target) -> list[object]:
    numbers = (each for each in target.numbers.values() if isinstance(each, NumberPerTensor))
    return [each.where.place() for each in (target, *target.inputs, *(rule for each in numbers for rule in each.rules))]


@pytest.mark.parametrize("text", [*ALIKE.values(), *UNLIKE.values()], ids=[*ALIKE, *UNLIKE])
def test_a_member_made_as_its_family_is_the_one_read_by_itself(text: str, load: Load) -> None:
    """A name that is spelled oddly is read by itself."""
    names = load(HEAD + text).target_names()
    assert len(names) == 6
    for name in names[1:]:
        made, read = load(HEAD + text).target(name), load(HEAD + text).target(name.replace("=", " = "))
        assert made == read
        assert (made.row, places(made)) == (read.row, places(read))


@pytest.mark.parametrize("text", ALIKE.values(), ids=ALIKE)
def test_members_that_differ_in_numbers_alone_are_kin(text: str, load: Load) -> None:
    recipe = load(HEAD + text)
    kin = {id(recipe.target(name).kin) for name in recipe.target_names()[1:]}
    assert len(kin) == 1
    assert recipe.target(recipe.target_names()[1]).kin is not None


@pytest.mark.parametrize("text", UNLIKE.values(), ids=UNLIKE)
def test_members_that_differ_in_more_are_not_kin(text: str, load: Load) -> None:
    recipe = load(HEAD + text)
    assert {recipe.target(name).kin for name in recipe.target_names()[1:]} == {None}


def test_a_member_with_a_wrong_number_says_so_by_its_name(load: Load) -> None:
    recipe = load(HEAD + 'method = "scale"\na = "a"\nalpha = "${1/(0.3 - x)}"\n')
    assert recipe.target("t@x=0.2,s=a").kin is not None
    with pytest.raises(RecipeError, match=r"`\$\{1/\(0.3 - x\)\}` has no value: division by 0"):
        recipe.target("t@x=0.3,s=b")
    text = 'method = "scale"\na = "a"\nalpha = "${x}"\n'
    recipe = load(HEAD.replace("0.3]", "'often']") + text)
    assert recipe.target("t@x=0.2,s=a").kin is not None
    with pytest.raises(RecipeError, match="`alpha` of target `t@x=often,s=b` is the string `often`, expected a number"):
        recipe.target("t@x=often,s=b")
