"""The notebook among the examples is one, without outputs, and runs from top to bottom; what it shows are tables."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").rglob("*.ipynb"))


def cells_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
    return found


def run(source: str, names: dict[str, object]) -> object:
    """Run a cell, and return the value of its last line if that is an expression: what is shown below it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def test_there_is_one() -> None:
    assert [path.relative_to(ROOT).as_posix() for path in NOTEBOOKS] == ["examples/digits/tour.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_of_its_format_and_has_no_outputs(path: Path) -> None:
    """What nbformat 4.5 asks for; outputs would be another file after each run."""
    text = path.read_text("utf-8")
    notebook = json.loads(text)
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert cell["metadata"] == {}
        lines = cell["source"]
        assert lines
        assert all(line.endswith("\n") for line in lines[:-1])
        assert not lines[-1].endswith("\n")
        if cell["cell_type"] == "code":
            assert cell.keys() == {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}
            assert (cell["execution_count"], cell["outputs"]) == (None, [])
        else:
            assert (cell["cell_type"], cell.keys()) == ("markdown", {"cell_type", "id", "metadata", "source"})
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def test_the_tour_runs_and_shows_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = tmp_path / "digits"
    shutil.copytree(ROOT / "examples/digits", example, ignore=shutil.ignore_patterns("out", ".mergebuild"))
    monkeypatch.chdir(example)
    names: dict[str, object] = {}
    shown: dict[str, Any] = {}
    for cell in cells_of(example / "tour.ipynb"):
        if cell["cell_type"] == "code":
            shown[cell["id"]] = run("".join(cell["source"]), names)
    for name, answer in shown.items():
        assert "<table>" in answer._repr_html_() if name != "recipe" else isinstance(answer, list), name
    assert {str(each.verdict) for each in shown["plan"].targets} == {"build"}
    assert {str(each.verdict) for each in shown["build"].targets} == {"built"}
    assert {str(each.verdict) for each in shown["again"].targets} == {"up-to-date"}
    assert shown["lineage"].proportions == {"base": "-4/5", "bold": "1", "slant": "4/5"}
    assert [(each.what, each.before, each.after) for each in shown["why"].changes] == [("alpha", "0.8", "0.5")]
    assert [str(each.verdict) for each in shown["rebuild"].targets] == ["built", "up-to-date", "up-to-date"]
    assert [str(each.verdict) for each in shown["member"].targets] == ["built"]
    assert sorted(path.name for path in (example / "out").iterdir()) == [
        "bold_slant.safetensors", "mix-0.125.safetensors", "mix-0.25.safetensors", "mix-0.5.safetensors",
    ]  # fmt: skip
    assert [str(each.state) for each in shown["end"].targets] == ["stale", "up-to-date", "up-to-date"]
