"""What is said of a path at which there is nothing."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from mergebuild.system.missing import brought_back_by, near

ALIKE = "it differs in spaces, or in characters that look alike"
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("there", "wanted", "form", "other"),
    [
        (COMPOSED, DECOMPOSED, "NFC (é: U+00E9)", f"NFD ({unicodedata.normalize('NFC', 'é')}: U+0065 U+0301)"),
        (DECOMPOSED, COMPOSED, f"NFD ({unicodedata.normalize('NFC', 'é')}: U+0065 U+0301)", "NFC (é: U+00E9)"),
    ],
)
def test_a_name_in_another_unicode_form_is_said_to_be_in_that(
    tmp_path: Path, there: str, wanted: str, form: str, other: str
) -> None:
    found = near(put(tmp_path / there / "a.safetensors").parent.with_name(wanted) / "a.safetensors")
    if found is None:
        pytest.skip("the file system does not tell the forms apart")
    assert found.path == tmp_path / there / "a.safetensors"
    assert found.why == f"it is in the Unicode form {form} there, and in {other} as it is written here"
    assert "rename" in found.help


@pytest.mark.parametrize(
    ("there", "wanted", "why"),
    [
        ("Models/A.safetensors", "models/a.safetensors", "it differs in letter case"),
        ("my\N{NO-BREAK SPACE}model.ckpt", "my model.ckpt", ALIKE),
        (
            "\N{FULLWIDTH LATIN CAPITAL LETTER A}B.ckpt",
            "ab.ckpt",
            ALIKE,
        ),
    ],
)
def test_a_name_that_looks_alike_is_found(tmp_path: Path, there: str, wanted: str, why: str) -> None:
    put(tmp_path / there)
    found = near(tmp_path / wanted)
    assert found is not None
    assert (found.path, found.why) == (tmp_path / there, why)


def test_what_is_there_or_is_nothing_alike_has_nothing_near(tmp_path: Path) -> None:
    assert near(put(tmp_path / "a.safetensors")) is None
    assert near(tmp_path / "b.safetensors") is None
    assert near(tmp_path / "no/such/folder.safetensors") is None


@pytest.mark.parametrize(
    ("end", "command"),
    [
        (".dvc/cache/files/md5/12/34", "`dvc pull` in its repository"),
        ("shared/files/md5/12/34", "`dvc pull` in its repository"),
        (".git/annex/objects/x/y/k/k", "`git annex get a.bin` in its folder"),
        ("models--org--name/blobs/12", "`hf download org/name`"),
        ("elsewhere/a.bin", None),
    ],
)
def test_a_link_that_leads_nowhere_says_what_brings_its_file_back(
    tmp_path: Path, end: str, command: str | None
) -> None:
    path = tmp_path / "a.bin"
    path.symlink_to(end)
    assert brought_back_by(path) == command


def test_a_note_of_dvc_beside_a_file_or_folder_says_so(tmp_path: Path) -> None:
    put(tmp_path / "model.dvc")
    assert brought_back_by(tmp_path / "model/config.json") == "`dvc pull model.dvc` in its folder"
    assert brought_back_by(tmp_path / "other") is None
