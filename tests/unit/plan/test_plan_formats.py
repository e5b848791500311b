"""What is made of what, among files of several formats with equal tensors."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.formats import registry
from mergebuild.formats.layout import PLAIN
from mergebuild.sources.opening import read_model

MIX = '[targets.{}]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = 0.5\noutput = "{}"\n{}\n'
SUFFIXES = [suffix for each in registry.FILES for suffix in each.suffixes]


@pytest.fixture(params=[1, 3], ids=["one tensor", "three tensors"])
def pair(lab: Lab, request: pytest.FixtureRequest) -> Lab:
    for name, value in (("x", 1.0), ("y", 2.0)):
        lab.model(name, **{f"w{number}": [value, number] for number in range(request.param)})
    return lab


def first_tensor(path: Path) -> tuple[float, ...]:
    """Return the two numbers of a file's first tensor."""
    info = read_model(path).tensors["w0"]
    return struct.unpack("<2f", path.read_bytes()[info.begin : info.end])


@pytest.mark.parametrize("first", SUFFIXES)
@pytest.mark.parametrize("second", SUFFIXES)
@pytest.mark.parametrize("together", [False, True])
def test_a_file_is_restored_from_one_that_needs_another_header_at_most(
    pair: Lab, first: str, second: str, together: bool
) -> None:
    """And never from one of another layout, though its tensors may lie at the same distances: one tensor always does.

    The tensors themselves are computed once, whatever they are written into.
    """
    pair.write(MIX.format("a", f"a{first}", "") + MIX.format("b", f"b{second}", 'metadata = "none"'))
    layouts = {suffix: each.packing((), PLAIN).layout for each in registry.FILES for suffix in each.suffixes}
    if not together:
        pair.build("a")
    targets = {each.target: each for each in pair.build(*(["a", "b"] if together else ["b"])).targets}
    assert str(targets["b"].verdict) == ("restored" if layouts[first] == layouts[second] else "built")
    assert targets["b"].tensors_computed == 0
    assert first_tensor(pair / f"b{second}") == first_tensor(pair / f"a{first}") == (1.5, 0.0)
    assert str(pair.build("a", "b").targets[0].verdict) == "up-to-date"
    assert pair.project.verify().problems == ()
