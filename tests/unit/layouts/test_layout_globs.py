"""Globs: the same names as `fnmatch` finds, in steps that are few whatever the glob."""

from __future__ import annotations

import re
import time
from fnmatch import fnmatchcase

import pytest
from example_counts import examples
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from mergebuild.layouts import globs
from mergebuild.layouts.globs import Glob, SortedNames, is_glob

SIGNS = "ab.-]![^\\\n&~|"
GLOBS = st.text("ab.-*?[]!^\\\n&~|", max_size=9) | st.text("ab*", max_size=9)
NAMES = st.lists(st.text(f"{SIGNS}*?", max_size=9), max_size=9, unique=True)


@pytest.mark.parametrize("few", [0, 4096], ids=["by bits", "by expressions"])
@examples(500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=GLOBS, names=NAMES)
@example(text="*ab*ba", names=["aba", "abba", "ab", "xabxba"])
@example(text="[]a]*[!]]", names=["]b", "a]", "aab"])
@example(text="[*", names=["[", "[a", "a"])
def test_globs_are_those_of_fnmatch(text: str, names: list[str], few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globs, "_FEW", few)
    glob = Glob(text)
    expected = tuple(name for name in names if fnmatchcase(name, text))
    assert tuple(name for name in names if glob.matches(name)) == expected
    assert SortedNames(names).like(glob) == expected


def test_what_is_no_glob_has_no_sign_that_stands_for_others() -> None:
    assert [text for text in ("a", "a*", "a?", "[a]", "]", "IN00-IN04") if is_glob(text)] == ["a*", "a?", "[a]"]


class Counted(str):
    """A text that counts what is asked of it."""

    __slots__ = ()
    asked = 0

    def find(self, *arguments: object) -> int:
        Counted.asked += 1
        return super().find(*arguments)  # type: ignore[arg-type]

    def startswith(self, *arguments: object) -> bool:
        Counted.asked += 1
        return super().startswith(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["*a" * 30 + "*b", "*a*" * 30 + "b", "*aa" * 30 + "*c*b"])
def test_a_glob_tries_no_piece_twice(text: str) -> None:
    """A pattern that goes back would try each way to share the signs between its pieces: more than there are atoms."""
    Counted.asked = 0
    assert not Glob(text).matches(Counted("a" * 200 + "c"))
    assert Counted.asked <= 2 + 30


def test_a_piece_with_sets_and_any_signs_goes_back_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its pieces is of fixed length, and one expression, which has no repetition but at its end."""
    made: list[str] = []

    def noted(text: str) -> re.Pattern[str]:
        made.append(text)
        return compile_(text)

    compile_ = re.compile
    monkeypatch.setattr(globs.re, "compile", noted)
    assert not Glob("*?a[ab]" * 20 + "*b").matches("a" * 300)
    assert len(made) == 20
    assert {text.count("*") for text in made} == {1}


def test_a_long_piece_takes_a_step_for_each_of_its_signs() -> None:
    """Tried at each place by itself, it would take the signs of the name times its own: a billion."""
    name = f"c{'a' * 60_000}7"
    glob, other = (Glob(f"*{'[ab]' * 20_000}{end}*") for end in ("c", "?7"))
    began = time.thread_time()
    assert not glob.matches(name)
    assert other.matches(f"{name[:-1]}x7")
    assert time.thread_time() - began < 1  # of some hundredths; by an expression it takes 5


@pytest.mark.parametrize(
    "text", ["model.layers.{}.p{}.*", "*.{}.p{}.weight", "model.layers.{}.p{}.?eight", "model.*.{}.p{}.weight"]
)
def test_a_glob_is_compared_with_names_that_begin_or_end_as_it_does(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So thousands of globs over thousands of names take no longer than both together."""
    names = [f"model.layers.{n // 8}.p{n % 8}.weight" for n in range(800)]
    known = SortedNames(names)
    matched: list[str] = []
    matches = Glob.matches

    def counted(self: Glob, name: str) -> bool:
        matched.append(name)
        return matches(self, name)

    monkeypatch.setattr(Glob, "matches", counted)
    for n, name in enumerate(names):
        assert known.like(Glob(text.format(n // 8, n % 8))) == (name,)
    assert len(matched) <= 2 * len(names)  # `*.1.p0.weight` ends `model.layers.11.p0.weight` no more than its own
