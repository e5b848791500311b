from __future__ import annotations

import json
import struct
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from mergebuild.errors import InternalError, RecipeError, SourceError, UsageError
from mergebuild.exchange import kinds
from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.importing import import_recipes
from mergebuild.exchange.new_file import write_new
from mergebuild.exchange.recipe_file import RecipeFile


class Toy(ModuleType):
    """Recipes of one line: `toy NAME`, or in metadata the key `toy`.

    `toy !` is broken, `toy ?` makes nonsense, `toy long` too much.
    """

    def recognizes(self, file: RecipeFile) -> bool:
        return file.text.startswith("toy ") or "toy" in file.metadata

    def read(self, file: RecipeFile, draft: Draft) -> None:
        name = file.metadata.get("toy") or file.text.split()[1]
        stem = name.removesuffix(".safetensors")
        output = draft.free_output(name if stem != name else f"{name}/")
        source = draft.source(ModelName(f"{stem}.safetensors"))
        method = "nonsense" if name == "?" else "scale"
        keys = {"method": method, "a": source, "alpha": Decimal("0.30"), "output": output}
        if name == "long":
            keys = {"method": "linear", "models": [source] * 10_001, "weight": 1}
        draft.target(f"{name}-copy", keys)  # type: ignore[arg-type]
        if name == "!":
            raise RecipeError.one("bad-recipe", f"`{file.path.as_posix()}`: it is broken")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", ("toy",))
    monkeypatch.setattr(kinds, "import_module", lambda _: Toy("toy"))


def write_model(path: Path, metadata: dict[str, str]) -> None:
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_a_kind_is_told_by_the_content(tmp_path: Path) -> None:
    (tmp_path / "r.png").write_text("toy x")
    write_model(tmp_path / "m.txt", {"toy": "y"})
    text = import_recipes([tmp_path / "r.png", tmp_path / "m.txt"], tmp_path).text
    assert "[targets.x-copy]" in text
    assert "[targets.y-copy]" in text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_may_have_a_mark_of_its_encoding(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("toy x", encoding=encoding)
    assert "[targets.x-copy]" in import_recipes([tmp_path / "r.txt"], tmp_path).text


def test_of_a_folder_all_recipes_are_read_and_of_a_merge_of_mergekit_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("toy a")
    (tmp_path / "readme.txt").write_text("nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 8 + b"{")
    assert import_recipes([tmp_path], tmp_path).text.count("[targets.") == 1
    (tmp_path / "mergekit_config.yml").write_text("toy own")
    assert "[targets.own-copy]" in import_recipes([tmp_path], tmp_path).text


def test_a_folder_without_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of its files is a recipe"):
        import_recipes([tmp_path], tmp_path)


def test_the_only_recipe_that_is_broken_is_an_error_one_of_several_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("toy a")
    (tmp_path / "b.txt").write_text("toy !")
    with pytest.raises(RecipeError, match="it is broken"):
        import_recipes([tmp_path / "b.txt"], tmp_path)
    found = import_recipes([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path)
    assert [tuple(lost) for lost in found.unmapped] == [((tmp_path / "b.txt").as_posix(), "it is broken")]
    assert found.text.count("[targets.") == 1
    assert found.text.count("safetensors") == 1


def test_what_does_not_load_is_a_bug_of_ours_and_names_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("toy ?")
    with pytest.raises(InternalError, match="reader of toy"):
        import_recipes([tmp_path / "a.txt"], tmp_path)


def test_what_is_more_than_a_mergefile_may_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("toy long")
    with pytest.raises(RecipeError, match=r"more than a mergefile may have: .*10,001 items"):
        import_recipes([tmp_path / "a.txt"], tmp_path)


def test_an_output_is_no_source_and_is_in_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("toy a")
    (tmp_path / "a.safetensors").write_text("")
    (tmp_path / "b.txt").write_text("toy a.safetensors")
    text = import_recipes([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path).text
    assert 'output = "a/"' in text
    assert 'output = "out/a.safetensors"' in text


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"\0" * 11_000_000, UsageError, "holds more than 10,000,000 bytes"),
        (b"PK\x03\x04", UsageError, "a checkpoint carries no recipe"),
        (struct.pack("<Q", 1 << 30) + b"{}", SourceError, "claims a header of"),
        (struct.pack("<Q", 2) + b"{}xx", SourceError, "which nothing describes"),
        (b"\xff\xfe\x00", UsageError, "no kind of recipe"),
        (b"", UsageError, "no kind of recipe"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, data: bytes, error: type[Exception], said: str) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(error, match=said):
        import_recipes([tmp_path / "f"], tmp_path)


def test_texts_of_a_model_are_bounded(tmp_path: Path) -> None:
    write_model(tmp_path / "m.safetensors", {"toy": "x" * 10_000_001})
    with pytest.raises(UsageError, match="holds more than"):
        import_recipes([tmp_path / "m.safetensors"], tmp_path)


def test_a_mergefile_is_never_overwritten(tmp_path: Path) -> None:
    write_new(tmp_path / "m.toml", "one", "mergefile")
    with pytest.raises(UsageError, match="exists already"):
        write_new(tmp_path / "m.toml", "two", "mergefile")
    assert (tmp_path / "m.toml").read_text() == "one"
