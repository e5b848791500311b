"""The documentation is what the program is: generated pages are current, and examples run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from mergebuild.cli.program import COMMANDS
from mergebuild.methods.catalog import METHODS
from mergebuild.naming.rules import families

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["methods.md", "cli.md", "names.md"])
def test_a_generated_page_is_current(name: str, generate: ModuleType) -> None:
    assert (DOCS / name).read_text("utf-8") == generate.PAGES[name](), "run `python docs/generate.py`"


def test_the_check_fails_for_a_stale_page_and_writing_mends_it(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "__file__", str(tmp_path / "generate.py"))
    (tmp_path / "cli.md").write_text("old")
    assert generate.main(["--check"]) == 1
    assert (tmp_path / "cli.md").read_text() == "old"
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def test_the_page_of_names_shows_every_row_and_where_it_is_from() -> None:
    page = (DOCS / "names.md").read_text("utf-8")
    for family in families():
        assert f"## {family.title}\n" in page
        for part in family.parts:
            assert all(f"`{prefix}` ({source})" in page for prefix, source in part.prefixes.items())
            for spelling in part.spellings:
                assert spelling.source in page
                assert all(f"`{name}`" in page for row in spelling.rows for name in (*row.ours, *row.theirs) if name)


def test_pages_show_every_command_and_every_method() -> None:
    cli, methods = (DOCS / "cli.md").read_text("utf-8"), (DOCS / "methods.md").read_text("utf-8")
    assert all(f"## mergebuild {name}\n" in cli for name in COMMANDS)
    assert all(f"## {name}\n" in methods and METHODS[name].formula in methods for name in METHODS)


MERGEFILE = """
[sources]
opk = "opk.safetensors"
merong = "merong.safetensors"

[targets.orange]
method = "weighted_sum"
a = "opk"
b = "merong"
alpha = 0.3
output = "out/orange.safetensors"
"""


def write_model(path: Path, value: bytes) -> None:
    """Write one float16 tensor of four equal elements."""
    header = json.dumps({"weight": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + value * 4)


def test_the_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mergefile.toml").write_text(MERGEFILE)
    write_model(tmp_path / "opk.safetensors", b"\x00\x3c")
    write_model(tmp_path / "merong.safetensors", b"\x00\x40")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    shown = capsys.readouterr().out
    assert shown.startswith("orange build 1")
    assert "did you mean `orange`?" in shown
    assert (tmp_path / "out/orange.safetensors").is_file()
    assert "\nreading " not in shown  # all of them were seen by then
    assert shown.endswith("bytes for orange\norange built\n")
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_what_shows_a_deviation_exists() -> None:
    """Each row of docs/deviations.md names tests by file and name, and there they are."""
    tests = DOCS.parent / "tests"
    rows = [line for line in (DOCS / "deviations.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| topic |")]
    assert len(rows) > 40
    for row in rows:
        *_, topic, elsewhere, here, shown = row.strip("| ").split(" | ")
        assert all((topic, elsewhere, here))
        named = re.findall(r"`(\S+?)::(test_\w+)`", shown)
        assert named, row
        for file, name in named:
            assert f"\ndef {name}(" in (tests / file).read_text("utf-8"), f"{file}::{name}"


def test_a_deviation_is_of_a_method_that_there_is() -> None:
    """A word in code in the first column is a method or a parameter of one."""
    words = {*METHODS, *(parameter.name for row in METHODS.values() for parameter in row.parameters)}
    for line in (DOCS / "deviations.md").read_text("utf-8").splitlines():
        if line.startswith("| ") and "::" in line:
            assert set(re.findall(r"`(\w+)`", line.split(" | ")[0])) <= words, line


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md"])
def test_functions_that_a_page_names_with_their_files_are_there(page: str) -> None:
    root = DOCS.parent
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", (root / page).read_text("utf-8"))
    assert named
    for file, name in named:
        text = (root / "mergebuild" / file).read_text("utf-8")
        assert re.search(rf"^\s*(def|class) {name.rpartition('.')[2]}\b", text, re.MULTILINE), f"{file}:{name}"
