"""Every answer is a table in a notebook, and no text of anybody's is HTML there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from enum import Enum
from html.parser import HTMLParser
from typing import Any, get_args, get_origin, get_type_hints

import pytest

import mergebuild
from mergebuild import results
from mergebuild.errors import Place, Problem
from mergebuild.results import html
from mergebuild.results.build import BuildResult, PlanResult, TargetResult, Verdict
from mergebuild.results.looks import Change, Lineage, WhyResult

NASTY = "<script>alert('&\"')</script>"

SHOWN = [
    each for name in results.__all__ if hasattr(each := getattr(results, name), "_repr_html_") and inspect.isclass(each)
]


class Tags(HTMLParser):
    """The tags of a text, and its words; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name != "colspan"]
        self.tags.append(tag)
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def made_of(kind: Any) -> Any:
    """Return a value of a type in which every text is nasty."""
    if kind is str or kind is object:
        return NASTY
    if kind in (int, float, bool):
        return kind(1)
    if get_origin(kind) in (tuple, Sequence):
        inside = [each for each in get_args(kind) if each is not Ellipsis]
        return tuple(made_of(each) for each in inside)
    if get_origin(kind) is frozenset:
        return frozenset()
    if get_origin(kind) in (dict, Mapping):
        return {made_of(get_args(kind)[0]): made_of(get_args(kind)[1])}
    if get_args(kind):  # a union: not None
        return made_of(get_args(kind)[0])
    if issubclass(kind, Enum):
        return next(iter(kind))
    names = {name: getattr(results, name) for name in results.__all__} | {"Mapping": Mapping, "Sequence": Sequence}
    hints = get_type_hints(kind, vars(inspect.getmodule(kind)) | names)
    return kind(**{name: made_of(hints[name]) for name in kind._fields})


@pytest.mark.parametrize("kind", SHOWN, ids=lambda kind: kind.__name__)
def test_a_text_of_an_answer_is_never_html(kind: Any) -> None:
    shown = made_of(kind)._repr_html_()
    assert "<script" not in shown
    found = Tags(shown)
    assert set(found.tags) <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert any(NASTY in words for words in found.words)


def test_all_answers_of_verbs_are_shown() -> None:
    verbs = {name: getattr(mergebuild.Project, name) for name in dir(mergebuild.Project) if name[0] != "_"}
    answers = {inspect.signature(verb).return_annotation for verb in verbs.values() if callable(verb)}
    answers -= {"list[str]", "Path", "Self", "None", "Answer"}  # `ask` returns what its caller's own verb does
    assert answers == {each.__name__ for each in SHOWN} - {"TargetResult", "TensorWhy", "Inspection"}


def test_a_build_is_a_row_a_target_and_a_row_a_problem() -> None:
    problem = Problem("bad-values", "`mix` has NaN", Place("mergefile.toml", 3), "mend it")
    targets = (
        TargetResult("mix", Verdict.FAILED, "out/mix.safetensors", error=problem),
        TargetResult("other", Verdict.BUILT, "out/other.safetensors", tensors_computed=3, bytes_written=2_100_000_000),
    )
    found = Tags(BuildResult(False, 1.9, 0, 2_100_000_000, targets, 1, (problem,))._repr_html_())
    assert found.words[0] == "build failed in 1.9 s: 0 B read, 2.1 GB written"
    assert found.tags.count("tr") == 1 + 2 + 1 + 1
    assert {"mix", "failed", "`mix` has NaN", "2.1 GB", "mergefile.toml:3", "mend it"} <= set(found.words)


def test_a_plan_says_why() -> None:
    target = TargetResult("mix", Verdict.BUILD, "mix.safetensors", reasons=("never built", "x was read"))
    found = Tags(PlanResult(0.1, (target,), 1000, 2000)._repr_html_())
    assert found.words[0] == "plan: 1.0 kB needed, 2.0 kB free"
    assert "never built; x was read" in found.words


def test_a_change_is_told_once() -> None:
    change = Change("alpha", "0.4", "0.5", "alpha 0.4 -> 0.5")
    found = Tags(WhyResult("mix", Verdict.BUILD, (change,), ("alpha 0.4 -> 0.5", "also this"))._repr_html_())
    assert [each for each in found.words if "alpha" in each] == ["alpha"]
    assert found.words[-1] == "also this"


def test_shares_are_exact() -> None:
    lineage = Lineage("mix", True, {"x": "3/10", "y": "7/10"}, {}, ())
    assert Tags(lineage._repr_html_()).words[-4:] == ["x", "3/10", "y", "7/10"]


def test_a_long_table_says_how_much_more_there_is() -> None:
    found = Tags(html.table(("a", "b"), [(number, None) for number in range(1200)]))
    assert found.words[-1] == "and 1,000 more"
    assert found.tags.count("tr") == 202


def test_a_table_without_rows_is_nothing() -> None:
    assert html.table(("a",), ()) == ""
