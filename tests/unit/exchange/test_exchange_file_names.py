"""Names of model files: their ends, hashes and folders."""

from __future__ import annotations

import pytest

from mergebuild.exchange.file_names import last_step, split_hash, stem_of, suffix_of, without_suffix
from mergebuild.formats.registry import READ_SUFFIXES


@pytest.mark.parametrize("end", [*READ_SUFFIXES, *(each.upper() for each in READ_SUFFIXES)])
def test_ends_of_all_formats_that_are_read(end: str) -> None:
    assert (suffix_of(f"v1.5{end}"), without_suffix(f"v1.5{end}")) == (end, "v1.5")


def test_other_ends_are_of_the_name() -> None:
    assert (suffix_of("v1.5"), without_suffix("v1.5"), suffix_of("")) == ("", "v1.5", "")


@pytest.mark.parametrize(
    ("name", "plain", "digits"),
    [
        ("a.safetensors [ABCDEF0123]", "a.safetensors", "abcdef0123"),
        ("a [01234567] ", "a", "01234567"),
        ("a [0123456]", "a [0123456]", ""),
        ("[abcdef0123] a", "[abcdef0123] a", ""),
    ],
)
def test_a_hash_stands_behind_a_name(name: str, plain: str, digits: str) -> None:
    assert split_hash(name) == (plain, digits)


@pytest.mark.parametrize("path", ["b.ckpt", "x/b.ckpt", r"C:\x\b.ckpt", "x/b.ckpt/", r"x\y/b.ckpt"])
def test_the_last_step_of_a_path(path: str) -> None:
    assert last_step(path) == "b.ckpt"


def test_names_of_one_model_have_one_stem() -> None:
    assert {stem_of(each) for each in ("xl/Photo.safetensors [abcdef0123]", "photo", r"D:\m\PHOTO.ckpt")} == {"photo"}
