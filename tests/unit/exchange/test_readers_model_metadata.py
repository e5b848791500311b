"""The recipe in a model file: of AUTOMATIC1111's merger, with all merges behind it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import tomli
import torch
from recipe_lab import RecipeLab
from torch import Tensor

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.readers import model_metadata
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of

A, B, C, D = (letter * 64 for letter in "abcd")
SLIDER = 0.1 + 0.2


def webui(first: str | None, second: str | None = None, third: str | None = None, **said: object) -> dict[str, object]:
    """Return a recipe of AUTOMATIC1111."""
    count = sum(each is not None for each in (first, second, third))
    hashes = {"primary_model_hash": first, "secondary_model_hash": second, "tertiary_model_hash": third}
    method = ("", "No interpolation", "Weighted sum", "Add difference")[count]
    plain = {"type": "webui", **hashes, "interp_method": method, "multiplier": 0.3, "save_as_half": False}
    rest = {"custom_name": "mix", "config_source": 0, "bake_in_vae": "None", "discard_weights": ""}
    return plain | rest | {"is_inpainting": False, "is_instruct_pix2pix": False} | said


def entry(name: str, recipe: object = None) -> dict[str, object]:
    return {"name": name, "legacy_hash": "0a1b2c3d", "sd_merge_recipe": recipe}


def drafted(recipe: object, models: object = None, **more: str) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    texts = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models or {})} | more
    file = RecipeFile(Path("kept.safetensors"), b"", texts)
    assert model_metadata.recognizes(file)
    draft = Draft()
    model_metadata.read(file, draft)
    return tomli.loads(text_of(draft)).get("targets", {}), draft


def told(draft: Draft) -> list[str]:
    return [each.message for each in draft.notices]


def lost(draft: Draft) -> list[str]:
    return [each.message for each in draft.unmapped]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_whole_lineage_is_built_again_from_files_found_by_hash(tmp_path: Path) -> None:
    """A chain of two merges, whose names say nothing: every source is found by its hash."""
    lab = RecipeLab(tmp_path)
    a, b, c = (sha256(lab.model(f"renamed{seed}", seed)) for seed in (1, 2, 3))
    inner = webui(a, b, multiplier=SLIDER)
    carrier = lab.carrier(
        "got.safetensors",
        sd_merge_recipe=webui(D, b, c, multiplier=0.7),
        sd_merge_models={D: entry("mid.safetensors", inner), a: entry("x"), b: entry("y"), c: entry("z")},
    )
    made = lab.take(carrier)
    assert made.unmapped == ()
    assert "# 0.30000000000000004" in made.text

    outputs = lab.build()

    def formula(_: str, of: Mapping[str, Tensor]) -> Tensor:
        mid = 0.7 * of["renamed1"] + 0.3 * of["renamed2"]
        return mid + 0.7 * (of["renamed2"] - of["renamed3"])

    lab.assert_made(outputs["mix"], formula)


def test_a_vae_is_baked_and_weights_are_discarded(tmp_path: Path) -> None:
    lab = RecipeLab(tmp_path)
    a, vae = lab.model("a", 1), lab.model("v", 2)
    recipe = webui(sha256(a), bake_in_vae=vae.name, discard_weights=r"norm\d", save_as_half=True)
    lab.take(lab.carrier("got.safetensors", sd_merge_recipe=recipe, sd_merge_models={}))
    outputs = lab.build()
    found = lab.read(outputs["mix"])

    assert not [name for name in found if "norm1" in name]
    for name, tensor in found.items():
        wanted = lab.models["v" if name.startswith("first_stage_model.") else "a"][name]
        assert torch.equal(tensor, wanted.half() if wanted.is_floating_point() else wanted)


def test_a_model_with_a_recipe_is_a_target_and_one_without_a_pinned_source() -> None:
    models = {D: entry("mid.ckpt", webui(A, B, multiplier=0.5)), A: entry("a"), B: entry("b")}
    targets, draft = drafted(webui(D, B), models)
    assert list(targets) == ["mid", "mix"]
    assert "output" not in targets["mid"]
    assert {name: each.pins for name, each in draft.sources.items()} == {"a": {"sha256": A}, "b": {"sha256": B}}
    assert draft.sources["a"].model.autov1 == "0a1b2c3d"
    assert f"sha256 of the file that was merged: {D}" in text_of(draft)


def test_a_nested_recipe_may_be_a_text_and_entries_that_are_no_hashes_are_skipped() -> None:
    models = {D: entry("mid", json.dumps(webui(A, B))), "sd_merge_recipe": {"name": "Forge"}, "x": 3, B: entry("b")}
    targets, _ = drafted(webui(D, B), models)
    assert list(targets) == ["mid", "mix"]


def test_the_first_form_of_the_metadata_is_read() -> None:
    recipe = {key: each for key, each in webui(D, B).items() if key != "type"}
    models = {D: {"name": "mid", "hash": "0a1b2c3d", "merge_recipe": webui(A, B)}}
    file = RecipeFile(Path("x.safetensors"), b"", {"merge_recipe": json.dumps(recipe), "models": json.dumps(models)})
    assert model_metadata.recognizes(file)
    draft = Draft()
    model_metadata.read(file, draft)
    assert list(draft.targets) == ["mid", "mix"]


def test_the_number_of_a_merge_of_one_model_means_nothing() -> None:
    targets, _ = drafted(webui(A))
    assert targets["mix"] == {"method": "copy", "a": A[:10], "output": "mix.safetensors"}


def test_ema_alone_is_dropped_here_anyway() -> None:
    for pattern in ("^model_ema", "model_ema", r"^model_ema\.", "model_ema.*"):
        targets, draft = drafted(webui(A, discard_weights=pattern))
        assert "drop" not in targets["mix"]
        assert f"discarded {pattern};" in text_of(draft)


def test_another_expression_is_kept_and_a_broken_one_told() -> None:
    targets, _ = drafted(webui(A, discard_weights="^model_ema|first"))
    assert targets["mix"]["drop"] == ["re:^model_ema|first"]
    targets, draft = drafted(webui(A, discard_weights="("))
    assert "drop" not in targets["mix"]
    assert lost(draft) == ["`discard_weights` is no regular expression: ("]


def test_channels_of_a_model_for_inpainting_stay() -> None:
    targets, _ = drafted(webui(A, B, is_inpainting=True))
    assert targets["mix"]["on_channels"] == "common"
    targets, _ = drafted(webui(A, is_inpainting=True))
    assert "on_channels" not in targets["mix"]


def test_without_a_name_of_its_own_the_target_has_that_of_the_file() -> None:
    targets, _ = drafted(webui(A, B, custom_name=""))
    assert targets["kept"]["output"] == "kept.safetensors"


def test_a_merge_of_a_tool_that_is_not_known_is_a_source() -> None:
    _, draft = drafted(webui(D, B), {D: entry("mid", {"type": "unheard of"}), B: entry("b")})
    assert list(draft.sources) == ["mid", "b"]
    assert lost(draft) == ["how `mid` was made: by a tool of type 'unheard of'"]


def test_a_step_that_can_not_be_said_is_a_source() -> None:
    _, draft = drafted(webui(D, B), {D: entry("mid", webui(A, B, multiplier="lots")), B: entry("b")})
    assert draft.sources["mid"].pins == {"sha256": D}
    assert lost(draft) == ["how `mid` was made: `multiplier` is 'lots': it is no number"]


@pytest.mark.parametrize(
    "recipe",
    [
        webui(None),
        webui(A, B, interp_method="Magic"),
        webui(A, B, multiplier=None),
        webui(A, B, multiplier=True),
        {},
        [],
    ],
)
def test_a_recipe_that_says_nothing_is_an_error(recipe: object) -> None:
    with pytest.raises(RecipeError):
        drafted(recipe)


def test_a_circle_is_an_error() -> None:
    with pytest.raises(RecipeError, match="made of itself"):
        drafted(webui(D, B), {D: entry("x", webui(C, B)), C: entry("y", webui(D, B))})


def test_a_recipe_of_another_tool_beside_it_is_told() -> None:
    models = {A: entry("a"), B: entry("b")}
    _, draft = drafted(webui(A, B), models, mecha_recipe="version 0.1.0")
    assert told(draft) == ["`mecha_recipe` is there too, and was taken for that of a model before this merge"]


def test_a_recipe_that_was_copied_from_an_older_model_gives_way() -> None:
    texts = {"sd_merge_recipe": json.dumps(webui(A, B)), "sd_merge_models": json.dumps({A: entry("a")})}
    assert model_metadata.recognizes(RecipeFile(Path("x"), b"", texts))
    assert not model_metadata.recognizes(RecipeFile(Path("x"), b"", texts | {"prompt": "{}"}))


def test_a_hostile_lineage_ends_soon() -> None:
    """Ten megabytes of models, a long chain, deep JSON, numbers of a million digits."""
    chain = {f"{n:064x}": entry(f"m{n}", webui(f"{n + 1:064x}", B)) for n in range(12_000)}
    deep = '{"type": "webui", "a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    begin = time.monotonic()
    with pytest.raises(RecipeError, match="more than 2000 models"):
        drafted(webui(f"{0:064x}", B), chain)
    for text in (deep, '{"type": "webui", "multiplier": 1' + "0" * 1_000_000 + "}", "{", "\ud800", "[" * 9_000_000):
        with pytest.raises(RecipeError):
            model_metadata.read(RecipeFile(Path("x"), b"", {"sd_merge_recipe": text}), Draft())
    assert time.monotonic() - begin < 10
