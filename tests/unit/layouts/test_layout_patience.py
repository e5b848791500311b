"""How long the patterns of a mergefile may take."""

from __future__ import annotations

import pytest
from layout_headers import AtPath

from mergebuild.errors import Problem, RecipeError
from mergebuild.layouts import Patience, Selector, detect, patience
from mergebuild.layouts.globs import Glob
from mergebuild.layouts.patience import UntriedError
from mergebuild.recipe.model import LayoutText, SelectorText

ENDLESS = "re:(a|a)*$x"
NAMES = ("a" * 60, "b", "c.weight")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)
    monkeypatch.setattr(patience, "LIMIT", 0.1)


def refused(selector: Selector, *keys: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        selector.select([SelectorText(key, AtPath(f"merge.{key}")) for key in keys])
    return list(caught.value.problems)


class Clock:
    """A thread's clock, on which each pattern takes as long as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def thread_time(self) -> float:
        return self.now


def test_patterns_have_their_limit_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred that take nine tenths of it are as sound as one."""
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    one = Patience()
    for _ in range(100):
        with one.limit():
            clock.now += 0.09


def test_once_a_pattern_took_too_long_the_others_have_as_long_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    limits: list[float] = []
    monkeypatch.setattr(patience, "time_limit", lambda seconds: limits.append(seconds) or _Rings(clock, seconds))
    one = Patience()
    with pytest.raises(TimeoutError), one.limit():
        clock.now += 1
    for _ in range(2):
        with one.limit():
            clock.now += 0.04
    with pytest.raises(UntriedError), one.limit():
        clock.now += 0.04
    with pytest.raises(UntriedError), one.limit():
        pass
    assert limits == pytest.approx([0.1, 0.1, 0.06, 0.02])


class _Rings:
    """A limit of time by that clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.now + seconds

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        if self._clock.now > self._end:
            raise TimeoutError


def test_a_pattern_that_never_ends_hides_no_other_mistake() -> None:
    """What is sound stays sound, and what selects nothing is told beside it."""
    found = refused(Selector(None, NAMES), ENDLESS, "b", "re:^d", "d*", "re:^c")
    assert [(problem.code, problem.message) for problem in found] == [
        ("bad-regex", f"`{ENDLESS}` is not found within 5 seconds"),
        ("selector-matches-nothing", "`re:^d` matches no tensor"),
        ("selector-matches-nothing", "`d*` matches no tensor"),
    ]


def test_a_thousand_patterns_that_never_end_are_refused_as_soon_as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all selectors of a mergefile; and which was asked for before is not tried again."""
    tried: list[float] = []
    limit = patience.time_limit

    def noted(seconds: float) -> object:
        tried.append(seconds)
        return limit(seconds)

    monkeypatch.setattr(patience, "time_limit", noted)
    whole = Patience()
    endless = [f"re:(a|a)*${n}" for n in range(1000)]
    found = refused(Selector(None, NAMES, whole), *endless)
    again = refused(Selector(None, ("a" * 61,), whole), *endless)
    assert len(tried) == 2
    assert {problem.code for problem in (*found, *again)} == {"bad-regex"}
    more = "is not looked for any longer, as another pattern takes more than 5 seconds"
    assert [problem.message for problem in found[1:3]] == [f"`re:(a|a)*${n}` {more}" for n in (1, 2)]


def test_what_was_refused_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    selector = Selector(None, NAMES)
    first = refused(selector, ENDLESS)
    monkeypatch.setattr(patience, "time_limit", lambda _seconds: pytest.fail("it was tried again"))
    assert refused(selector, ENDLESS) == first


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ({"blocks": [["(a|a)*$x", "B"]]}, "blocks"),
        ({"blocks": [["(a|a)*$x(\\d)", "B{}"]], "stack": "B"}, "blocks"),
        ({"blocks": [["", "B"]], "components": {"unet": "(a|a)*$x"}}, "unet"),
        ({"blocks": [["", "B"]], "groups": {"attn": "(a|a)*$x"}}, "attn"),
    ],
)
def test_a_layout_whose_patterns_never_end_is_refused(table: dict[str, object], what: str) -> None:
    """When it is found to be that of a file: whoever looks for its blocks, components and groups later has no limit."""
    text = LayoutText("mine", {"detect": ["b"], **table}, AtPath("layouts.mine"))
    with pytest.raises(RecipeError) as caught:
        detect(dict.fromkeys(NAMES, (1,)), {"mine": text})
    (problem,) = caught.value.problems
    assert (problem.code, problem.message) == (
        "bad-regex", f"the {what} of layout `mine` are not found within 5 seconds",
    )  # fmt: skip
    assert problem.where == AtPath("layouts.mine").place()


def _never_ends(_self: Glob, _name: str) -> bool:
    while True:
        pass


def test_a_glob_has_the_limit_of_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """One over thousands of long names takes long, though it goes back nowhere."""
    monkeypatch.setattr(Glob, "matches", _never_ends)
    (problem,) = refused(Selector(None, NAMES), "*?b*")
    assert (problem.code, problem.help) == ("bad-glob", patience.SHORTER)
    assert problem.message == "`*?b*` is not found within 5 seconds"


def test_the_signs_of_a_layout_have_the_limit_of_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Glob, "matches", _never_ends)
    text = LayoutText("mine", {"detect": ["*?b*"], "blocks": [["", "B"]]}, AtPath("layouts.mine"))
    with pytest.raises(RecipeError) as caught:
        detect(dict.fromkeys(NAMES, (1,)), {"mine": text})
    (problem,) = caught.value.problems
    assert (problem.code, problem.message) == (
        "bad-glob", "the signs of layout `mine` are not found within 5 seconds",
    )  # fmt: skip
