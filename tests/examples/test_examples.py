"""The repository's examples build, from models that are there or that their script makes."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import safetensors

from mergebuild.cli import run

REPOSITORY = Path(__file__).parents[2]
MODELS = REPOSITORY / "examples/digits/models"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("MERGEBUILD_STORE", "MERGEBUILD_MODELS"):
        monkeypatch.delenv(name, raising=False)


def test_the_models_are_small_and_stock_readers_load_them() -> None:
    paths = sorted(MODELS.glob("*.safetensors"))
    assert [path.stem for path in paths] == ["base", "bold", "narrow", "slant"]
    assert sum(path.stat().st_size for path in paths) < 5_000_000
    for path in paths:
        with safetensors.safe_open(path, "pt") as file:
            assert len(file.keys()) == 151


def test_the_repositorys_mergefile_builds(capsys: pytest.CaptureFixture[str]) -> None:
    """A chain, a block-weighted merge and a sweep; and then there is nothing to do."""
    shutil.copytree(MODELS, "examples/digits/models")
    shutil.copy(REPOSITORY / "examples/digits/layout.toml", "examples/digits")
    shutil.copy(REPOSITORY / "mergefile.toml", ".")

    assert run(["build", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert run(["build", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)

    assert [each["target"] for each in built["targets"]] == [
        "poster", "blocks", "mix@alpha=0.1", "mix@alpha=0.2", "mix@alpha=0.3", "mix@alpha=0.4", "mix@alpha=0.5",
    ]  # fmt: skip
    assert {each["verdict"] for each in built["targets"]} == {"built"}
    assert {each["verdict"] for each in again["targets"]} == {"up-to-date"}
    for each in built["targets"]:
        with safetensors.safe_open(each["output"], "pt") as file:
            assert len(file.keys()) == 151


def test_the_recipe_of_real_size_builds_from_small_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same names, dtypes and blocks; every dimension divided by 16."""
    shutil.copy(REPOSITORY / "examples/sd15/mergefile.toml", ".")
    script = REPOSITORY / "examples/sd15/make_checkpoints.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--count", "4", "--shrink", "16", "--out", str(tmp_path / "models")])
    runpy.run_path(str(script), run_name="__main__")
    capsys.readouterr()

    assert run(["build", "blend", "orange", "by_list", "by_preset", "sweep", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert run(["build", "orange", "--set", "orange.alpha.IN04=0.4", "--json"]) == 0
    (tweaked,) = json.loads(capsys.readouterr().out)["targets"]

    assert {each["verdict"] for each in built["targets"]} == {"built"}
    assert tweaked["tensors_computed"] == 38
    assert tweaked["tensors_reused"] == 1131 - 38
