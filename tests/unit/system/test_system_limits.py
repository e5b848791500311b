"""Laws of `mergebuild.system.limits`: what the process may have, as far as the system says."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from mergebuild.system import limits as system_limits


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module `resource` that says `now` and `most`, and raises the first up to `really`."""

    def get(_what: int) -> tuple[int, int]:
        return found.now, found.most

    def put(_what: int, both: tuple[int, int]) -> None:
        if both[0] > found.really:
            raise ValueError
        found.now = both[0]

    found = SimpleNamespace(now=0, most=0, really=1 << 30, RLIMIT_NOFILE=7, getrlimit=get, setrlimit=put)
    monkeypatch.setitem(sys.modules, "resource", found)
    return found


@pytest.mark.parametrize(
    ("now", "most", "files", "after"),
    [
        (1024, 4096, 200, 1024), (256, 4096, 200, 816), (256, -1, 200, 816), (-1, -1, 200, -1), (256, 256, 60, 256),
        (64, 128, 28, 128), (32, 32, 4, 32), (16, 16, 1, 16), (8, 8, 1, 8),
    ],
)  # fmt: skip
def test_files_at_once_fit_the_limit_that_the_process_may_give_itself(
    now: int, most: int, files: int, after: int, limits: SimpleNamespace
) -> None:
    limits.now, limits.most = now, most
    assert system_limits.files_at_once() == files
    assert limits.now == after


def test_files_at_once_take_no_for_an_answer(limits: SimpleNamespace) -> None:
    """Some systems name a higher limit than they give."""
    limits.now, limits.most, limits.really = 256, -1, 256
    assert system_limits.files_at_once() == 60


def test_files_at_once_are_many_where_there_is_no_limit_to_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert system_limits.files_at_once() == 200
