from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.models import ModelFolders


def looked_up(tmp_path: Path, model: ModelName, **options: object) -> tuple[str, list[str]]:
    draft = Draft()
    name = draft.source(model)
    ModelFolders(tmp_path, named=[tmp_path / "models"], **options).look_up(draft)  # type: ignore[arg-type]
    return draft.sources[name].path, draft.sources[name].comments


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MERGEBUILD_MODELS", raising=False)
    for path, data in {"xl/photoA.safetensors": "A", "sd/photoA.safetensors": "B", "animeB.ckpt": "C"}.items():
        (tmp_path / "models" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / path).write_text(data)
    return tmp_path / "models"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("named", "path"),
    [
        ("xl/photoA.safetensors", "models/xl/photoA.safetensors"),
        ("xl\\photoA.safetensors", "models/xl/photoA.safetensors"),
        ("xl/photoA", "models/xl/photoA.safetensors"),
        ("sd\\photoA.ckpt", "models/sd/photoA.safetensors"),
        ("animeB.ckpt", "models/animeB.ckpt"),
        ("animeB", "models/animeB.ckpt"),
        ("animeB.safetensors", "models/animeB.ckpt"),
        ("nothing.safetensors", "nothing.safetensors"),
    ],
)
def test_a_model_is_found_by_path_then_name_then_stem(models: Path, named: str, path: str) -> None:
    assert looked_up(models.parent, ModelName(named))[0] == path


def test_a_name_without_an_end_is_a_file_beside_the_mergefile_or_gets_one_to_fill_in(models: Path) -> None:
    (models.parent / "near.ckpt").write_text("N")
    assert looked_up(models.parent, ModelName("near")) == ("near.ckpt", ["the recipe names near"])
    assert looked_up(models.parent, ModelName("far v1.5")) == ("far v1.5.safetensors", ["the recipe names far v1.5"])
    (models.parent / "near.safetensors").write_text("N")
    path, comments = looked_up(models.parent, ModelName("near"))
    assert path == "near"
    assert comments[0].startswith("several fit: ")


def test_of_several_that_fit_none_is_taken(models: Path) -> None:
    path, comments = looked_up(models.parent, ModelName("photoA.safetensors"))
    assert path == "photoA.safetensors"
    assert comments == ["several fit: models/sd/photoA.safetensors, models/xl/photoA.safetensors"]


def test_a_hash_tells_which_of_several_it_is(models: Path) -> None:
    pinned = ModelName("photoA.safetensors", sha256=sha256("A"))
    assert looked_up(models.parent, pinned) == ("models/xl/photoA.safetensors", [])


@pytest.mark.parametrize("pin", [{"sha256": sha256("C")}, {"autov2": sha256("C")[:10]}])
def test_a_model_that_was_renamed_is_found_by_its_hash(models: Path, pin: dict[str, str]) -> None:
    path, comments = looked_up(models.parent, ModelName("old.ckpt", **pin))  # type: ignore[arg-type]
    assert (path, comments) == ("models/animeB.ckpt", ["the recipe names old.ckpt"])


def test_a_name_whose_content_is_another_is_not_taken(models: Path) -> None:
    assert looked_up(models.parent, ModelName("animeB.ckpt", autov2="0" * 10))[0] == "animeB.ckpt"


def test_where_there_are_many_files_only_those_with_like_names_are_hashed(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (models / f"x{number}.safetensors").write_text(f"{number}")
    assert looked_up(models.parent, ModelName("old.ckpt", sha256=sha256("C")))[0] == "old.ckpt"
    assert looked_up(models.parent, ModelName("Anime-B v2", sha256=sha256("C")))[0] == "models/animeB.ckpt"
    assert looked_up(models.parent, ModelName("old.ckpt", sha256=sha256("C")), hash_all=True)[0] == "models/animeB.ckpt"


def test_an_autov1_finds_nothing(models: Path) -> None:
    assert looked_up(models.parent, ModelName("old.ckpt [0a1b2c3d]"))[0] == "old.ckpt"


def test_a_repository_is_a_folder_of_that_name_also_in_the_cache(models: Path) -> None:
    cached = models / f"hub/models--org--base-7b/snapshots/{'a' * 40}"
    for folder in (models / "chat-7b", cached):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    assert looked_up(models.parent, ModelName("org/chat-7b", url="u", is_folder=True))[0] == "models/chat-7b/"
    found, _ = looked_up(models.parent, ModelName("org/base-7b", url="u", is_folder=True))
    assert found == f"models/hub/models--org--base-7b/snapshots/{'a' * 40}/"


def test_paths_in_folders_of_the_environment_stay_short(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_MODELS", str(models))
    draft = Draft()
    draft.source(ModelName("animeB"))
    ModelFolders(models.parent / "elsewhere").look_up(draft)
    assert draft.sources["animeB"].path == "animeB.ckpt"


def test_a_path_of_another_machine_becomes_a_name_to_fill_in(models: Path) -> None:
    found = looked_up(models.parent, ModelName("C:\\webui\\models\\z.safetensors"))
    assert found == ("z.safetensors", ["C:/webui/models/z.safetensors"])


@pytest.mark.parametrize("there", ["", "m-7b", "hub/orgB/m-7b"])
def test_two_repositories_of_one_name_never_have_one_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """Whatever is found: a folder of that name is not both, and one with the owner in its path is that owner's."""
    monkeypatch.delenv("MERGEBUILD_MODELS", raising=False)
    if there:
        (tmp_path / there).mkdir(parents=True)
        (tmp_path / there / "config.json").write_text("{}")
    draft = Draft()
    for owner in ("orgA", "orgB"):
        url = f"https://huggingface.co/{owner}/m-7b"
        draft.source(ModelName(f"{owner}/m-7b", url=url, is_folder=True))
    ModelFolders(tmp_path, named=[tmp_path / "hub"]).look_up(draft)
    paths = [source.path for source in draft.sources.values()]
    assert paths == ["orgA/m-7b/", "hub/orgB/m-7b/" if "orgB" in there else "orgB/m-7b/"]
    assert "to be filled in" in str(draft.notices)


@pytest.mark.parametrize(
    ("texts", "paths"),
    [
        (("C:\\x\\mix.safetensors", "D:\\y\\mix.safetensors"), ["x/mix.safetensors", "y/mix.safetensors"]),
        (("/mix.ckpt", "/y/mix.ckpt"), ["mix.ckpt", "mix.ckpt"]),
        (("a/mix", "mix"), ["a/mix.safetensors", "mix.safetensors"]),
        (("C:/mix.safetensors", "D:/mix.safetensors"), ["C_/mix.safetensors", "D_/mix.safetensors"]),
    ],
)
def test_paths_of_other_machines_that_end_alike_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: tuple[str, ...], paths: list[str]
) -> None:
    monkeypatch.delenv("MERGEBUILD_MODELS", raising=False)
    draft = Draft()
    for text in texts:
        draft.source(ModelName(text))
    ModelFolders(tmp_path).look_up(draft)
    assert [source.path for source in draft.sources.values()] == paths


def test_one_file_in_several_spellings_is_no_two_models(models: Path) -> None:
    draft = Draft()
    for text in ("animeB", "animeB.ckpt", "animeB.ckpt [abcdef01]"):
        draft.source(ModelName(text))
    ModelFolders(models.parent, named=[models]).look_up(draft)
    assert len({source.path for source in draft.sources.values()}) == 1
    assert not draft.notices
