"""What `init` writes is a mergefile that loads, with its example uncommented too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.errors import UsageError
from mergebuild.project import init as init_module
from mergebuild.project.init import EXAMPLE_BEGINS, init
from mergebuild.recipe import load_recipe


def model(path: Path, *names: str) -> None:
    """Write a model of these tensors, each one byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]} for at, name in enumerate(names)}
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(len(names)))


def uncommented(text: str) -> str:
    """Return a mergefile with its example in force."""
    before, example = text.split(EXAMPLE_BEGINS)
    return before + "\n".join(line.removeprefix("# ") for line in example.splitlines())


def test_models_become_sources_named_after_their_files(tmp_path: Path) -> None:
    model(tmp_path / "models/opk v1-5.safetensors", "a", "b")
    model(tmp_path / "models/deep/down/opk_v1.5.safetensors", "a", "b")
    model(tmp_path / "橙色.safetensors", "c")
    made = init(tmp_path)
    assert made.path == tmp_path / "mergefile.toml"
    assert made.sources == {
        "opk_v1_5": "models/deep/down/opk_v1.5.safetensors",
        "opk_v1_5_2": "models/opk v1-5.safetensors",
        "橙色": "橙色.safetensors",
    }
    recipe = load_recipe(made.path)
    assert {name: source.path for name, source in recipe.sources.items()} == made.sources
    assert recipe.target_names() == []


def test_the_example_merges_two_models_that_fit_and_loads_when_uncommented(tmp_path: Path) -> None:
    model(tmp_path / "a.safetensors", "x")
    model(tmp_path / "b.safetensors", "y")
    model(tmp_path / "c.safetensors", "y")
    path = init(tmp_path).path
    path.write_text(uncommented(path.read_text("utf-8")), "utf-8")
    target = load_recipe(path).target("mix")
    assert [each.ref for each in target.inputs] == ["b", "c"]
    assert target.output == "out/mix.safetensors"


def test_a_single_model_is_copied_by_the_example(tmp_path: Path) -> None:
    model(tmp_path / "mix.safetensors", "x")
    path = init(tmp_path).path
    path.write_text(uncommented(path.read_text("utf-8")), "utf-8")
    target = load_recipe(path).target("mix")
    assert (target.method, [each.ref for each in target.inputs]) == ("copy", ["mix_2"])


def test_a_folder_without_models_gets_a_mergefile_that_loads(tmp_path: Path) -> None:
    made = init(tmp_path)
    assert made.sources == {}
    assert load_recipe(made.path).target_names() == []


def test_what_is_no_sound_model_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "bad\nname.safetensors").write_bytes(b"oops")
    model(tmp_path / "empty.safetensors")
    model(tmp_path / "good.safetensors", "x")
    made = init(tmp_path)
    assert list(made.sources) == ["good"]
    assert made.path.read_text("utf-8").count("# left out, ") == 2
    assert list(load_recipe(made.path).sources) == ["good"]


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mergefile.toml").write_text("mine")
    with pytest.raises(UsageError):
        init(tmp_path)
    assert (tmp_path / "mergefile.toml").read_text() == "mine"
    other = init(tmp_path, mergefile=tmp_path / "other.toml")
    assert other.path.is_file()


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mergefile.toml").symlink_to(tmp_path / "elsewhere.toml")
    with pytest.raises(UsageError):
        init(tmp_path)
    assert not (tmp_path / "elsewhere.toml").exists()


def test_a_missing_folder_is_an_error_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        init(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_the_search_is_bounded_and_leaves_hidden_folders_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init_module, "_MOST_FILES", 2)
    model(tmp_path / ".mergebuild/hidden.safetensors", "x")
    model(tmp_path / "1/2/3/4/5/6/7/deep.safetensors", "x")
    (tmp_path / "loop").symlink_to(tmp_path)
    for name in ("c", "d", "e"):
        model(tmp_path / f"{name}.safetensors", "x")
    assert list(init(tmp_path).sources) == ["c", "d"]


def test_names_that_mean_something_in_a_path_are_kept_from_meaning_it(tmp_path: Path) -> None:
    model(tmp_path / "~root.safetensors", "x")
    model(tmp_path / "a${b}.safetensors", "x")
    made = init(tmp_path)
    assert made.sources == {"root": "./~root.safetensors"}
    (source,) = load_recipe(made.path).sources.values()
    assert (source.folder / source.path).exists()


def test_paths_are_relative_to_the_mergefile_wherever_it_is(tmp_path: Path) -> None:
    model(tmp_path / "models/a.safetensors", "x")
    (tmp_path / "recipes").mkdir()
    made = init(tmp_path / "models", mergefile=tmp_path / "recipes/m.toml")
    assert made.sources == {"a": "../models/a.safetensors"}


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20)


@given(st.sets(NAMES, min_size=1, max_size=4))
def test_any_file_name_gives_a_mergefile_that_loads(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    folder = tmp_path_factory.mktemp("models")
    for name in names:
        model(folder / f"m{name}.safetensors", "x")
    made = init(folder)
    assert len(made.sources) == sum("${" not in name and all(ord(sign) >= 32 for sign in name) for name in names)
    path = made.path
    if made.sources:
        path.write_text(uncommented(path.read_text("utf-8")), "utf-8")
    recipe = load_recipe(path)
    assert {name: source.path for name, source in recipe.sources.items()} == made.sources
    assert recipe.target_names() == (["mix"] if made.sources else [])
