"""A project writes into its own folder alone until its user has said otherwise, for exactly what it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import Lab

from mergebuild import trust
from mergebuild.errors import TrustError
from mergebuild.methods.catalog import METHODS, Method, Program

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
        assert one.project.trust() == ((str(path.parent),), ())
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


def own(text: str, table: str = "", name: str = "blend") -> Method:
    return Method(name, ("a",), (), "", "", program=Program(f"{name}.py", text, table))


def test_code_runs_as_it_was_trusted_and_no_other(one: Lab, tmp_path: Path) -> None:
    """For each method its text and its table; for one project; folders stand apart."""
    blend, other = own("x = 1"), own("x = 2", name="other")
    with pytest.raises(TrustError) as caught:
        trust.require_code(one.root, [blend, other])
    assert caught.value.exit_code == 10
    assert caught.value.problems[0].rows == ("runs blend.py for `blend`", "runs other.py for `other`")
    assert trust.grant(one.root, [tmp_path / "out" / "t"], [blend, other]) == (
        (str(tmp_path / "out"),),
        ("blend.py", "other.py"),
    )
    trust.require_code(one.root, [blend, other, blend])
    for changed in (own("x = 3"), own("x = 1", "table")):
        trust.require_code(one.root, [other])
        with pytest.raises(TrustError, match="changed since"):
            trust.require_code(one.root, [other, changed])
    with pytest.raises(TrustError):
        trust.require_code(tmp_path / "another", [blend])
    trust.grant(one.root, [tmp_path / "out" / "t"])
    with pytest.raises(TrustError):
        trust.require_code(one.root, [blend])


@pytest.mark.parametrize(
    "kept", ["[]", '{"folders": 3, "methods": {}}', '{"methods": {}}', '{"folders": [], "methods": 3}']
)
def test_a_word_of_another_shape_is_none(one: Lab, kept: str) -> None:
    trust.grant(one.root, [], [own("x")])
    trust._file().write_text(f'{{"{one.root.resolve().as_posix()}": {kept}}}')
    with pytest.raises(TrustError):
        trust.require_code(one.root, [own("x")])


def test_a_method_of_the_catalog_needs_no_word(one: Lab) -> None:
    trust.require_code(one.root, [METHODS["ties"]])
