"""Each format of single files is held to the laws of `mergebuild.testing.formats`; a path says which an output has."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergebuild.formats import registry
from mergebuild.formats.registry import CHECKPOINT, FILES, FOLDER, SAFETENSORS
from mergebuild.testing.formats import FormatTests


class TestSafetensors(FormatTests):
    format = SAFETENSORS


class TestCheckpoint(FormatTests):
    format = CHECKPOINT


def test_every_format_is_held_to_the_laws() -> None:
    assert {each.format.name for each in FormatTests.__subclasses__()} >= {each.name for each in FILES}


@pytest.mark.parametrize(
    ("path", "expected"),
    [(None, SAFETENSORS), ("a.safetensors", SAFETENSORS), ("a.ckpt", CHECKPOINT), ("a", FOLDER), ("v1.5", FOLDER)],
)
def test_the_end_of_a_path_says_what_an_output_is(path: str | None, expected: object) -> None:
    """What the store keeps is safetensors; a folder's path ends in no suffix of a file."""
    found = None if path is None else Path("/out", path)
    assert registry.of_output(found) is expected
    assert registry.is_folder(found) is (expected is FOLDER)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", SAFETENSORS), ("out\\a.ckpt", CHECKPOINT), ("out/a/", FOLDER), ("out\\a\\", FOLDER),
        ("a", None), ("a.pt", None), ("a.CKPT", None), (".ckpt", None), ("out/.safetensors", None),
        ("a.ckpt/", None), ("/", None), ("", None),
    ],
)  # fmt: skip
def test_a_text_that_is_no_outputs_has_no_format(text: str, expected: object) -> None:
    """A folder says so by the slash at its end, and has no name of a file."""
    assert registry.of_text(text) is expected


def test_what_is_no_format_is_given_to_the_reader_that_says_so() -> None:
    assert registry.recognized(b"<html>") is SAFETENSORS
    assert registry.recognized(b"") is SAFETENSORS


@pytest.mark.parametrize(
    ("suffixes", "expected"),
    [((".a",), "`.a`"), ((".a", ".b"), "`.a` or `.b`"), ((".a", ".b", ".c"), "`.a`, `.b` or `.c`")],
)
def test_suffixes_are_listed_for_a_sentence(
    monkeypatch: pytest.MonkeyPatch, suffixes: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(registry, "SUFFIXES", suffixes)
    assert registry.shown_suffixes(" or ") == expected
