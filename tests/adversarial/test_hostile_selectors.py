"""Selectors that ask for much: patterns without end, globs that go back, thousands of mistakes, numbers of any length.

Each is refused by name, or planned. What is refused is told in a text that somebody can read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from project_space import PAIR, Space

from mergebuild.layouts import keys, patience

NAMES = [f"model.layers.{n // 8}.p{n % 8}.weight" for n in range(80)]


@pytest.fixture
def space(tmp_path: Path, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)
    found = Space(tmp_path / "project", environment)
    for name in ("one", "two"):
        found.model(f"{name}.safetensors", {each: torch.ones(1) for each in (*NAMES, "a" * 60)})
    return found


def merging(*selectors: str) -> str:
    return f"{PAIR}merge = [{', '.join(repr(each) for each in selectors)}]\n"


def test_thousands_of_selectors_that_match_nothing_are_told_in_a_text_of_bounded_length(space: Space) -> None:
    """They were 1.7 million signs. The help for a misspelt one compares it with all names: that has a bound as well."""
    space.write(merging(*(f"*a*a*a*{n}" for n in range(5000)), *(f"modle.weight.{n}" for n in range(4000))))
    outcome = space.refused("plan", code=3)
    assert len(outcome.err) < 200_000
    assert len(outcome.json["errors"]) == 501
    last = outcome.json["errors"][-1]
    assert last["code"] == "too-many-mistakes"
    assert last["message"].startswith("these are the first 500 mistakes, and there are ")


def test_misspelt_selectors_are_compared_with_what_there_is_a_few_times(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    near = keys.near

    def noted(found: str, *arguments: object) -> str:
        compared.append(found)
        return near(found, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(keys, "near", noted)
    space.write(merging(*(f"modle.weight.{n}" for n in range(300))))
    outcome = space.refused("plan", code=3)
    assert [error["code"] for error in outcome.json["errors"]] == ["selector-matches-nothing"] * 300
    assert len(compared) == 40


def test_what_a_selector_says_is_told_without_its_middle_where_it_is_long(space: Space) -> None:
    space.write(merging("x" * 100_000))
    assert len(space.refused("plan", code=3).err) < 10_000


def test_globs_that_go_back_are_planned(space: Space) -> None:
    """By a pattern that goes back, each way to share sixty signs between thirty pieces would be tried."""
    space.write(merging("a*" * 30, "*a" * 30 + "*", "*?a[a]" * 15 + "*"))
    assert space.plan().verdicts == {"mix": "build"}
    space.write(merging("a*" * 30 + "b"))
    assert space.refused("plan", code=3).errors == ["selector-matches-nothing"]


def test_a_pattern_without_end_is_refused_beside_all_that_is_wrong(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LIMIT", 0.2)
    space.write(merging("re:(a|a)*$x", "nothing.*", "re:^model", "re:none"))
    outcome = space.refused("plan", code=3)
    assert [(error["code"], error["message"]) for error in outcome.json["errors"]] == [
        ("bad-regex", "`re:(a|a)*$x` is not found within 5 seconds"),
        ("selector-matches-nothing", "`nothing.*` matches no tensor"),
        ("selector-matches-nothing", "`re:none` matches no tensor"),
    ]


def test_a_pattern_without_end_is_as_slow_in_twenty_targets_as_in_one(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each of them merges other tensors."""
    ended: list[float] = []
    limit = patience.time_limit

    @contextmanager
    def noted(seconds: float) -> Iterator[None]:
        try:
            with limit(seconds):
                yield
        except TimeoutError:
            ended.append(seconds)
            raise

    monkeypatch.setattr(patience, "LIMIT", 0.2)
    monkeypatch.setattr(patience, "time_limit", noted)
    head, table, keys_of_it = merging(*(f"re:(a|a)*${sign}" for sign in "xyz")).partition("[targets.mix]")
    more = (
        f"{table.replace('mix', f'mix{n}')}{keys_of_it.replace('mix.', f'mix{n}.')}drop = ['{NAMES[n]}']\n"
        for n in range(20)
    )
    space.write(head + "".join(more))
    assert space.refused("plan", code=3).errors == ["bad-regex"] * 60
    assert len(ended) == 2
