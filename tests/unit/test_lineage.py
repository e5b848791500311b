"""Lineage is the exact share of every source, through virtual targets and files, per block where shares differ."""

from __future__ import annotations

import pytest
from lab import Lab

SUM = '[targets.{}]\nmethod = "weighted_sum"\na = "{}"\nb = "{}"\nalpha = {}\n{}\n'


@pytest.fixture
def three(lab: Lab) -> Lab:
    for name in "xyz":
        lab.model(name, w=[1.0], v=[2.0])
    return lab


def test_shares_go_through_files_and_virtual_targets(three: Lab) -> None:
    three.write(
        SUM.format("file", "x", "y", 0.3, 'output = "file.safetensors"')
        + SUM.format("virtual", "file", "z", 0.5, "")
        + SUM.format("top", "virtual", "x", 0.2, 'output = "top.safetensors"')
    )
    found = three.project.lineage("top")
    assert found.linear
    assert found.proportions == {"x": "12/25", "y": "3/25", "z": "2/5"}
    assert found.rounded_at == ("file",)
    assert three.project.lineage("virtual").proportions == {"x": "7/20", "y": "3/20", "z": "1/2"}


def test_shares_that_differ_have_no_sum(three: Lab) -> None:
    three.write(SUM.format("t", "x", "y", "{ default = 0.5, v = 0.25 }", 'output = "t.safetensors"'))
    found = three.project.lineage("t")
    assert found.proportions is None
    assert {share for shares in found.by_block.values() for share in shares.items()} == {
        ("x", "1/2"), ("y", "1/2"), ("x", "3/4"), ("y", "1/4"),
    }  # fmt: skip


def test_what_cancels_is_in_nothing(three: Lab) -> None:
    three.write('[targets.t]\nformula = "x + 0.3*(y - z) + 0.3*z"\noutput = "t.safetensors"\n')
    assert three.project.lineage("t").proportions == {"x": "1", "y": "3/10"}
