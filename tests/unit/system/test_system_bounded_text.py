"""Texts that strangers wrote, and what Python would say of them by itself."""

from __future__ import annotations

import warnings

import pytest

from mergebuild.errors import Place, UsageError
from mergebuild.system.bounded_text import compiled


@pytest.mark.parametrize("text", ["[[a]b", "a[b&&c]", "[a||b]", "[!--b]"])
def test_a_pattern_that_a_later_python_may_read_otherwise_warns_nobody(text: str) -> None:
    """The warning would stand on stderr, with a line of our own program."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        compiled(text)
    assert not warned


def test_what_is_quoted_in_an_error_may_be_of_any_length() -> None:
    """A name on the command line, in its variables, or of a member of a family."""
    name = "k" * 100_000
    (problem,) = UsageError.one(
        "unknown-variable", f"unknown variable `{name}`", where=Place(f"--set {name}=1"), help=name, rows=[name]
    ).problems
    assert problem.where is not None
    for text in (problem.message, problem.where.file, problem.help, *problem.rows):
        assert len(text) == 2000
        assert "kk…kk" in text
