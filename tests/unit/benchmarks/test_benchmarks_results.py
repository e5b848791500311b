"""Figures are medians of ratios within rounds, and a regression is what is worse than it ever was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import main
from benchmarks.cases import CASES, Case, Figure, Round, seconds
from benchmarks.process import Sample
from benchmarks.results import compare, markdown, missed, summary, table


def sample(took: float, *, anonymous: int = 100 << 20, read: int = 0) -> Sample:
    return Sample(took, took, anonymous, 2 * anonymous, read, 0)


def document(*figures: Figure, rounds: list[Round]) -> dict[str, Any]:
    case = Case("one", "a case", lambda _lab, _folder: [], figures)
    made = {"version": 1, "cases": {"one": summary(case, rounds)}, "failed": {}}
    return dict(json.loads(json.dumps(made)))


def rounds_of(*times: tuple[float, float]) -> list[Round]:
    return [Round({"mergebuild": sample(ours), "cp": sample(copy)}) for ours, copy in times]


OVER_COPY = seconds("mergebuild", "cp", at_most=1.5)


def regressions(before: dict[str, Any], after: dict[str, Any], tolerance: float = 0.1) -> list[str]:
    return [label for _, label, _, _, worse in compare(before, after, tolerance) if worse]


def test_a_figure_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    made = document(OVER_COPY, rounds=rounds_of((1, 1), (4, 2), (9, 3)))
    (figure,) = made["cases"]["one"]["figures"]
    assert figure["rounds"] == [1, 2, 3]
    assert figure["median"] == 2
    assert figure["holds"] is False
    assert missed(made)


@pytest.mark.parametrize(
    ("figure", "value", "holds"),
    [
        (Figure("", lambda _: 0, at_most=1), 1.0, True),
        (Figure("", lambda _: 0, at_most=1), 1.01, False),
        (Figure("", lambda _: 0, at_least=8), 8.0, True),
        (Figure("", lambda _: 0, at_least=8), 7.9, False),
        (Figure("", lambda _: 0, at_least=0.95, at_most=1.05), 0.9, False),
        (Figure("", lambda _: 0), 1e9, True),
    ],
)
def test_a_bound_is_at_most_at_least_or_none(figure: Figure, value: float, holds: bool) -> None:
    assert figure.holds(value) is holds


def test_rounds_in_which_a_peer_did_not_run_are_left_out_of_its_figures() -> None:
    rounds = rounds_of((1, 1), (2, 1))
    rounds[0]["peer"] = sample(5)
    made = document(seconds("peer", "mergebuild"), seconds("other", "mergebuild"), rounds=rounds)
    assert [(each["label"], each["rounds"]) for each in made["cases"]["one"]["figures"]] == [("peer / mergebuild", [5])]


def test_a_run_equals_itself() -> None:
    made = document(OVER_COPY, rounds=rounds_of((1, 1), (1.2, 1)))
    assert regressions(made, made) == []


def test_slower_than_ever_is_a_regression_of_the_time_and_of_the_ratio() -> None:
    before = document(OVER_COPY, rounds=rounds_of((1, 1), (1.1, 1), (1, 1)))
    after = document(OVER_COPY, rounds=rounds_of((1.3, 1), (1.4, 1), (1.3, 1)))
    assert regressions(before, after) == ["mergebuild: seconds", "mergebuild / cp"]
    assert regressions(after, before) == []


def test_a_median_within_what_was_seen_before_is_none() -> None:
    before = document(OVER_COPY, rounds=rounds_of((1, 1), (1, 1), (1.5, 1)))
    after = document(OVER_COPY, rounds=rounds_of((1.4, 1)))
    assert regressions(before, after) == []


def test_a_figure_with_a_lower_bound_gets_worse_downwards() -> None:
    peer = Figure("peer / mergebuild", lambda each: each["cp"].seconds / each["mergebuild"].seconds, at_least=5)
    before = document(peer, rounds=rounds_of((1, 8)))
    assert regressions(before, document(peer, rounds=rounds_of((1, 6)))) == ["peer / mergebuild"]
    assert regressions(before, document(peer, rounds=rounds_of((1, 10)))) == []


def test_more_memory_and_more_reading_are_regressions_of_ours_alone() -> None:
    before = document(rounds=[Round({"mergebuild": sample(1), "cp": sample(1)})])
    worse = sample(1, anonymous=200 << 20, read=5 << 20)
    after = document(rounds=[Round({"mergebuild": worse, "cp": worse})])
    assert regressions(before, after) == ["mergebuild: anonymous", "mergebuild: read"]


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=7), st.floats(0.0, 1.0))
def test_no_run_is_a_regression_of_itself(times: list[float], tolerance: float) -> None:
    made = document(OVER_COPY, rounds=rounds_of(*((time, 1.0) for time in times)))
    assert regressions(made, made, tolerance) == []


def test_compare_ends_with_1_for_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "a.json", tmp_path / "b.json"
    good.write_text(json.dumps(document(OVER_COPY, rounds=rounds_of((1, 1)))))
    bad.write_text(json.dumps(document(OVER_COPY, rounds=rounds_of((3, 1)))))
    assert main(["compare", str(good), str(good)]) == 0
    assert "REGRESSION" not in capsys.readouterr().out
    assert main(["compare", str(good), str(bad)]) == 1
    assert "+200.0%  REGRESSION" in capsys.readouterr().out


def test_a_result_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"version": 2}')
    with pytest.raises(SystemExit, match="another version"):
        main(["show", str(path)])


def test_the_tables_say_what_holds_and_what_does_not() -> None:
    memory = Figure("anonymous memory, bytes", lambda each: each["mergebuild"].anonymous, at_most=450 << 20)
    made = document(OVER_COPY, memory, rounds=rounds_of((2, 1)))
    assert "mergebuild / cp: 2  (MISSED: at most 1.5)" in table(made)
    assert "anonymous memory, bytes: 105 MB  (holds: at most 472 MB)" in table(made)
    assert "| a case | mergebuild / cp | 2 | at most 1.5 | **missed** |" in markdown(made)
    assert "| a case | mergebuild | 2.00 | 105 MB | 210 MB | 0 B | 0 B |" in markdown(made)


def test_every_case_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CASES)
