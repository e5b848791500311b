"""The roofline of the compiled kernels, on tensors too small to say anything about speed."""

from __future__ import annotations

import pytest

from benchmarks import kernels
from mergebuild import native
from mergebuild.methods.compiled.catalog import FAMILIES


@pytest.mark.slow
def test_every_compiled_method_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.main(["--elements", "6000", "--torch-elements", "3000", "--runs", "1", "--threads", "2"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows[1:]] == ["weighted_sum", "add_difference", *FAMILIES]
    assert {len(row) for row in rows} == {8}


def test_passes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """One for what must be known of the whole tensors, one to make the result."""
    words = ["--elements", "6000", "--runs", "1", "--method", "ramplus_tl", "--method", "ram", "--hash"]
    assert kernels.main(words) == 0
    table = capsys.readouterr().out
    assert "| ramplus_tl | 3 | 2 |" in table
    assert "| ram | 3 | 1 |" in table
    assert "the result hashed" in table


def test_without_compiled_kernels_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "variant", "")
    assert kernels.main([]) == 2
    assert capsys.readouterr().err == "there are no compiled kernels here\n"
