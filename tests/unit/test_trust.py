"""A project writes into its own folder alone until its user has said otherwise, for exactly what it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import Lab

from mergebuild import trust
from mergebuild.errors import TrustError

COPY = '[targets.t]\nmethod = "copy"\na = "x"\noutput = "{}"\n'


@pytest.fixture
def one(lab: Lab) -> Lab:
    lab.model("x", w=[1.0])
    return lab


@pytest.mark.parametrize("inside", ["t.safetensors", "a/b/t.safetensors", "a/../t.safetensors"])
def test_inside_needs_no_word(one: Lab, inside: str) -> None:
    one.write(COPY.format(inside))
    assert one.build().ok


def test_outside_needs_a_word_which_ends_with_a_change(one: Lab, tmp_path: Path) -> None:
    for folder, code in (("out", True), ("other", True)):
        path = tmp_path / folder / "t.safetensors"
        one.write(COPY.format(path.as_posix()))
        with pytest.raises(TrustError):
            one.build()
        assert not path.parent.exists()
        assert one.project.trust() == (str(path.parent),)
        assert one.build().ok is code
        assert path.exists()


def test_a_link_out_of_the_project_is_outside(one: Lab, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (one / "out").symlink_to(tmp_path / "elsewhere")
    one.write(COPY.format("out/t.safetensors"))
    with pytest.raises(TrustError):
        one.build()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_word_is_for_one_project(one: Lab, tmp_path: Path) -> None:
    paths = [tmp_path / "out" / "t"]
    trust.grant(one.root, paths)
    trust.require(one.root, dict.fromkeys(paths), paths)
    with pytest.raises(TrustError):
        trust.require(tmp_path / "another", dict.fromkeys(paths), paths)
    trust.grant(one.root, [one / "inside"])
    with pytest.raises(TrustError):
        trust.require(one.root, dict.fromkeys(paths), paths)


def test_a_broken_record_of_trust_is_none(one: Lab, tmp_path: Path) -> None:
    paths = [tmp_path / "out" / "t"]
    trust.grant(one.root, paths)
    trust._file().write_text("{")
    with pytest.raises(TrustError):
        trust.require(one.root, dict.fromkeys(paths), paths)
