"""What commands say from the text of a real mergefile alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from program_under_test import Mergebuild

from mergebuild.cli.program import program
from mergebuild.cli.settings import Settings
from mergebuild.methods.catalog import METHODS

MERGEFILE = """
[sources]
opk = { path = "models/opk.safetensors", sha256 = "%s", autov3 = "cdcdcdcdcdcd" }
merong = "models/merong.safetensors"

[targets.base]
method = "weighted_sum"
a = "opk"
b = "merong"
alpha = 0.5

[targets.mix]
foreach.alpha = [0.1, 0.2]
method = "weighted_sum"
a = "base"
b = "merong"
alpha = "${alpha}"
output = "out/mix-${alpha}.safetensors"
""" % ("ab" * 32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a mergefile and one of its two models, which is the current one."""
    (tmp_path / "mergefile.toml").write_text(MERGEFILE)
    (tmp_path / "models").mkdir()
    raw = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "models/opk.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_names_sources_targets_and_layouts(mergebuild: Mergebuild) -> None:
    found = mergebuild("list")
    assert (found.code, found.err) == (0, "")
    assert found.out.splitlines()[:6] == [
        "sources:",
        "  opk     models/opk.safetensors",
        "  merong  models/merong.safetensors",
        "targets:",
        "  base  weighted_sum  (virtual)",
        "  mix   weighted_sum  mix@alpha=0.1 … mix@alpha=0.2 (2)",
    ]
    assert "  sdxl " in found.out
    assert mergebuild("list", "sources").out == "opk     models/opk.safetensors\nmerong  models/merong.safetensors\n"


def test_list_as_json_has_a_key_a_kind(mergebuild: Mergebuild) -> None:
    found = mergebuild("list", "--json").json
    assert list(found) == ["sources", "targets", "layouts"]
    assert found["sources"][0] == {
        "name": "opk",
        "path": "models/opk.safetensors",
        "sha256": "ab" * 32,
        "autov2": None,
        "autov3": "cd" * 6,
        "url": None,
    }
    assert found["targets"] == [
        {"name": "base", "method": "weighted_sum", "output": None, "members": None},
        {"name": "mix", "method": "weighted_sum", "output": None, "members": ["mix@alpha=0.1", "mix@alpha=0.2"]},
    ]
    assert list(mergebuild("list", "targets", "--json").json) == ["targets"]


def test_layouts_are_listed_without_a_mergefile(folder: Path, mergebuild: Mergebuild) -> None:
    (folder / "mergefile.toml").unlink()
    assert "Stable Diffusion XL" in mergebuild("list", "layouts").out
    assert mergebuild("list", "sources").code == 3


def test_graph_prints_each_form(mergebuild: Mergebuild) -> None:
    assert mergebuild("graph").out.startswith("mix@alpha=0.1  -> out/mix-0.1.safetensors\n  a: base\n")
    assert mergebuild("graph", "--format", "dot").out.startswith("digraph")
    assert mergebuild("graph", "base", "--format", "mermaid").out.startswith("flowchart LR\n")
    by_flag = mergebuild("graph", "--json").json
    assert json.loads(mergebuild("graph", "--format", "json").out) == by_flag
    assert mergebuild("graph", "--format", "dot", "--json").json == by_flag
    assert len(by_flag["nodes"]) == 5


def test_methods_shows_the_catalog(mergebuild: Mergebuild) -> None:
    assert [each["name"] for each in mergebuild("methods", "--json").json["methods"]] == list(METHODS)
    assert all(name in mergebuild("methods").out for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_shown_whole_by_name_and_by_alias(name: str, mergebuild: Mergebuild) -> None:
    method = METHODS[name]
    shown = mergebuild("methods", name).out
    wanted = (method.formula, method.summary, method.cite, method.differs, *method.aliases)
    assert all(text in shown for text in wanted)
    for alias in method.aliases:
        assert mergebuild("methods", alias).out == shown or alias.casefold() in METHODS


def test_inspect_takes_a_file_a_source_or_a_target(folder: Path, mergebuild: Mergebuild) -> None:
    by_file = mergebuild("inspect", "models/opk.safetensors", "--json").json
    assert mergebuild("inspect", "opk", "--json").json == by_file
    assert by_file["path"] == "models/opk.safetensors"
    assert by_file["dtypes"] == {"float32": 1}
    (folder / "out").mkdir()
    (folder / "models/opk.safetensors").rename(folder / "out/mix-0.1.safetensors")
    assert mergebuild("inspect", "mix@alpha=0.1", "--json").json["path"] == "out/mix-0.1.safetensors"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("merong", 4),
        ("missing.safetensors", 4),
        ("models/missing", 4),
        ("nobody", 2),
        ("base", 2),
        ("mix", 2),
        ("mix@alpha=0.1", 4),
        (".", 4),
    ],
)
def test_what_cannot_be_inspected_says_why(asked: str, code: int, mergebuild: Mergebuild) -> None:
    found = mergebuild("inspect", asked, "--json")
    assert found.code == code
    assert found.json["errors"][0]["help"]


def test_a_file_is_inspected_beside_a_broken_mergefile(folder: Path, mergebuild: Mergebuild) -> None:
    (folder / "mergefile.toml").write_text("[targets")
    assert mergebuild("inspect", "models/opk.safetensors").code == 0


def test_init_says_what_it_wrote_and_never_overwrites(folder: Path, mergebuild: Mergebuild) -> None:
    assert mergebuild("init", "--json").code == 2
    made = mergebuild("init", "models")
    assert (made.code, made.out) == (0, "wrote models/mergefile.toml: 1 model found\n")
    elsewhere = mergebuild("init", "-f", "other.toml", "--json").json
    assert elsewhere == {"ok": True, "mergefile": "other.toml", "sources": {"opk": "models/opk.safetensors"}}


def completed(*words: str, incomplete: str = "") -> list[str]:
    shell = ShellComplete(program, {"obj": Settings()}, "mergebuild", "_MERGEBUILD_COMPLETE")
    return [item.value for item in shell.get_completions(list(words), incomplete)]


def test_targets_are_completed_and_members_behind_an_at_sign(folder: Path) -> None:
    assert completed("build") == ["base", "mix"]
    assert completed("plan", "base", incomplete="m") == ["mix"]
    assert completed("why", incomplete="mix@") == ["mix@alpha=0.1", "mix@alpha=0.2"]
    assert completed("-C", str(folder / "models"), "-f", "../mergefile.toml", "status", incomplete="b") == ["base"]


def test_sources_methods_and_commands_are_completed() -> None:
    assert completed("inspect", incomplete="o") == ["opk"]
    assert completed("methods", incomplete="add_d") == ["add_difference"]
    assert completed(incomplete="li") == ["lineage", "list"]
    assert completed("list", incomplete="t") == ["targets"]
    assert "--keep-going" in completed("build", incomplete="--")


def test_completion_does_not_mind_a_mistake_in_a_target(folder: Path) -> None:
    """It reads no target: that is for who builds, and would take a while for ten thousand."""
    text = (folder / "mergefile.toml").read_text()
    (folder / "mergefile.toml").write_text(text + '[targets.wrong]\nmethod = "no such"\n')
    assert completed("build") == ["base", "mix", "wrong"]
    assert completed("build", incomplete="mix@") == ["mix@alpha=0.1", "mix@alpha=0.2"]
    assert completed("build", incomplete="base@") == completed("build", incomplete="none@") == []


def test_completion_in_a_broken_mergefile_offers_nothing(folder: Path) -> None:
    (folder / "mergefile.toml").write_text("[targets")
    assert completed("build") == []
    (folder / "mergefile.toml").unlink()
    assert completed("build") == []
