"""What the README shows is what the program does."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from mergebuild.cli import run
from mergebuild.methods.catalog import METHODS
from mergebuild.recipe import load_recipe

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def block(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def without_times(text: str) -> str:
    """Return a transcript with every time the same."""
    return re.sub(r"\d+(\.\d+)? s\b", "N s", text)


def test_the_transcript_is_what_the_program_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, _ = block("toml")
    (transcript,) = block("console")
    digits = tmp_path / "examples/digits"
    shutil.copytree(REPOSITORY / "examples/digits/models", digits / "models")
    shutil.copy(REPOSITORY / "examples/digits/layout.toml", digits)
    (tmp_path / "mergefile.toml").write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERGEBUILD_STORE", raising=False)
    steps = re.findall(r"^\$ mergebuild (.*)\n((?:(?!\$ ).*\n)*)", transcript, re.MULTILINE)

    said = ""
    for command, _ in steps:
        assert run(shlex.split(command)) == 0
        said += f"$ mergebuild {command}\n{capsys.readouterr().out}"

    assert len(steps) == transcript.count("$ mergebuild ")
    assert without_times(said) == without_times(transcript)


def test_the_example_of_files_is_a_mergefile(tmp_path: Path) -> None:
    _, text = block("toml")
    (tmp_path / "mergefile.toml").write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "mergefile.toml")
    assert recipe.target_names() == ["llama", "deeper", "styled"]


def test_the_number_of_methods_is_right() -> None:
    assert f"In this version: {len(METHODS)} merge methods" in README


def test_the_two_commands_set_up_build_and_test() -> None:
    """CI runs the second one's steps; a newcomer either."""
    build, test = (command.strip() for command in block("sh"))
    install = ".venv/bin/pip install -c constraints.txt -e"
    assert build == f"python3 -m venv .venv && {install} . && .venv/bin/mergebuild build"
    assert test == f"python3 -m venv .venv && {install} '.[dev]' && .venv/bin/pytest -n 2"
    ci = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    assert 'environment "$scratch/venv" constraints.txt dev\n' in ci
    assert "\ntests() { pytest -n 2; }\n" in ci


def test_every_link_leads_somewhere() -> None:
    for page in (
        REPOSITORY / "README.md",
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / "examples").glob("*/*.md"),
    ):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
