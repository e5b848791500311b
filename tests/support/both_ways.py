"""Build a project with torch and with compiled kernels, which must write the same files and give the same answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from lab import Lab

from mergebuild import native

__all__ = ["Answer", "both_ways", "built"]

Answer = tuple[Mapping[str, bytes], Mapping[str, tuple[object, ...]]]
"""The bytes of all outputs; and for each target its verdict, artifact, number of tensors computed, and error."""


def built(lab: Lab) -> Answer:
    """Build all targets of a project, and return the new files and the answer."""
    files = lab.root.rglob("*")
    before = {path for path in files if path.is_file()}
    result = lab.build(keep_going=True)
    made = {path for path in lab.root.rglob("*") if path.is_file() and ".mergebuild" not in str(path)} - before
    told = {
        each.target: (str(each.verdict), each.artifact, each.tensors_computed, repr(each.error))
        for each in result.targets
    }
    return {str(path.relative_to(lab.root)): path.read_bytes() for path in made}, told


def both_ways(
    root: Path, monkeypatch: pytest.MonkeyPatch, fill: Callable[[Lab, pytest.MonkeyPatch], None], variant: str = ""
) -> Answer:
    """Build a project in two folders, with torch and with compiled kernels; assert that both give the same, return it.

    `fill` writes the project. `variant`: the instruction set of the compiled kernels; empty: the best.
    """
    answers = []
    for name, chosen in (("torch", ""), ("compiled", variant or native.variant)):
        lab = Lab(root / name)
        lab.root.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(native, "variant", chosen)
            if chosen and variant:
                native.choose(variant)
            fill(lab, patch)
            answers.append(built(lab))
    first, second = answers
    assert second[1] == first[1]
    assert second[0].keys() == first[0].keys()
    assert [name for name in first[0] if first[0][name] != second[0][name]] == []
    return first
