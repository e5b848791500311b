"""model-mixer: chains of modes, in metadata and among the parameters of a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
import tomli
import torch
from recipe_lab import RecipeLab, sd15_block
from torch import Tensor

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.merges.blocks import LONG
from mergebuild.exchange.readers import model_metadata, model_mixer_picture
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of

NUMBERS = [Decimal(n) / 100 for n in range(10, 62, 2)]


def recipe(**said: object) -> dict[str, object]:
    plain: dict[str, object] = {
        "type": "sd-webui-model-mixer",
        "model_a": "a",
        "model_b": "b",
        "model_c": "c",
        "base_model": "d",
    }
    plain |= {
        "uses": [True],
        "mode": ["Sum"],
        "calcmode": ["Normal"],
        "alpha": [0.4],
        "mbw": [False],
        "weights_alpha": [None],
    }
    return plain | said


@pytest.fixture
def lab(tmp_path: Path) -> RecipeLab:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("abcd", 1):
        lab.model(name, seed)
    return lab


def built(lab: RecipeLab, **said: object) -> Path:
    lab.take(lab.carrier("mixer.safetensors", sd_merge_recipe=recipe(**said), sd_merge_models={}))
    (path,) = lab.build().values()
    return path


def drafted(**said: object) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    file = RecipeFile(Path("mixer.safetensors"), b"", {"sd_merge_recipe": json.dumps(recipe(**said))})
    draft = Draft()
    model_metadata.read(file, draft)
    return tomli.loads(text_of(draft), parse_float=Decimal)["targets"], draft


def test_models_are_merged_one_after_another(lab: RecipeLab) -> None:
    path = built(lab, uses=[True, True], mode=["Sum", "Add-Diff"], alpha=[0.4, 0.8], calcmode=["Normal"] * 2)

    def formula(_: str, of: Mapping[str, Tensor]) -> Tensor:
        return 0.6 * of["a"] + 0.4 * of["b"] + 0.8 * (of["c"] - of["d"])

    lab.assert_made(path, formula)


def largest(delta: Tensor, share: float) -> Tensor:
    """Return which values are among a share of the largest magnitudes."""
    count = int(delta.numel() * share)
    mask = torch.zeros(delta.numel(), dtype=torch.bool)
    mask[delta.reshape(-1).abs().argsort(descending=True)[:count]] = True
    return mask.reshape(delta.shape)


@pytest.mark.parametrize(
    ("mode", "alpha", "formula"),
    [
        ("TIES", 0.4, lambda a, b: torch.where(largest(b - a, 0.5), 0.6 * a + 0.4 * b, a)),
        ("Ties-Fixed", 0.25, lambda a, b: torch.where(largest(b - a, 0.25), b, a)),
        ("Ties-Fixed", 3, lambda _, b: b),
    ],
)
def test_modes_are_their_formulas(lab: RecipeLab, mode: str, alpha: float, formula: Callable[..., Tensor]) -> None:
    """Odd counts are rounded otherwise by us; the small models have none but in the VAE."""
    path = built(lab, mode=[mode], alpha=[alpha])
    lab.assert_made(path, lambda _, of: formula(of["a"], of["b"]), skip=("first_stage_model.",))


def test_self_scales_and_0_leaves_it(lab: RecipeLab) -> None:
    path = built(lab, mode=["Self"], alpha=[0.5])

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        return of["a"] * (1 if any(word in name for word in ("to_out", "proj_out", "norm")) else 0.5)

    lab.assert_made(path, formula)
    assert drafted(mode=["Self"], alpha=[0])[0]["mixer"]["alpha"] == 1


def test_by_blocks_the_vae_is_base_and_time_embed_and_out_stay(lab: RecipeLab) -> None:
    path = built(
        lab, mbw=[True], weights_alpha=[list(map(float, NUMBERS))], use_elemental=[True], elemental=["IN04:attn2:0.9"]
    )
    weights = dict(zip(LONG, map(float, NUMBERS), strict=True))

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        number = 0.9 if sd15_block(name) == "IN04" and "attn2" in name else weights[sd15_block(name)]
        number = 0 if "time_embed" in name or "diffusion_model.out." in name else number
        return (1 - number) * of["a"] + number * of["b"]

    lab.assert_made(path, formula)


def test_what_cosine_makes_of_the_unet_is_never_stored(lab: RecipeLab) -> None:
    path = built(lab, calcmode=["Cosine"])

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        return of["a"] if name.startswith("model.") else 0.6 * of["a"] + 0.4 * of["b"]

    lab.assert_made(path, formula)
    assert lab.made is not None
    assert "its tensors stay" in lab.made.text


@pytest.mark.parametrize(
    ("mode", "keys"),
    [
        ("DARE", {"weight": Decimal("0.4"), "density": Decimal("0.5"), "seed": 1}),
        ("Dare-Fixed", {"weight": 1, "density": Decimal("0.4"), "rescale": "none", "seed": 1}),
    ],
)
def test_random_modes_have_an_invented_seed(mode: str, keys: dict[str, object]) -> None:
    targets, draft = drafted(mode=[mode])
    assert (
        targets["mixer"]
        == {"method": "dare_linear", "base": "a", "models": ["b"], "output": "mixer.safetensors"} | keys
    )
    assert [each.message[:10] for each in draft.notices] == ["the random"]


def test_rebasin_and_adjust_are_targets_of_their_own() -> None:
    targets, _ = drafted(calcmode=["Rebasin"], adjust="0,0,0,0.5")
    assert list(targets) == ["mixer-1-rebasin", "mixer-1", "mixer"]
    assert targets["mixer-1-rebasin"] == {"method": "rebasin", "a": "b", "b": "a"}
    assert targets["mixer"]["method"] == "adjust"


def test_only_models_that_are_used_count() -> None:
    targets, _ = drafted(uses=[False, True], mode=["?", "Replace"], alpha=[1, 1], calcmode=["?", "Normal"])
    assert (targets["mixer"]["b"], targets["mixer"]["method"]) == ("c", "replace")


@pytest.mark.parametrize(
    "said",
    [
        {"uses": []},
        {"model_a": ""},
        {"model_b": None},
        {"mode": ["unheard of"]},
        {"calcmode": ["unheard of"]},
        {"alpha": ["x"]},
        {"mbw": [True], "weights_alpha": [[0.1] * 58]},
        {"mbw": [True], "weights_alpha": ["x"]},
        {"mode": ["Add-Diff"], "base_model": None},
    ],
)
def test_what_no_mergefile_says_is_an_error(said: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        drafted(**said)


def picture(pairs: Sequence[tuple[str, object]]) -> RecipeFile:
    shown = ", ".join(f"ModelMixer {key}: {json.dumps(v) if ',' in str(v) else v}" for key, v in pairs)
    text = f"a cat\nNegative prompt: dog\nSteps: 20, Model hash: 0123456789, {shown}, Version: v1.9"
    return RecipeFile(Path("cat.png"), b"", {"parameters": text})


def test_a_picture_carries_the_recipe() -> None:
    listed = ",".join(map(str, NUMBERS))
    file = picture(
        [("model a", "a.safetensors [0123456789]"), ("base model", "d"), ("max models", 3), ("adjust", "0,0,0,1"), ("use model b", True), ("model b", "b"), ("merge mode b", "Sum"), ("alpha b", 0.3), ("use model c", True), ("model c", "c"), ("merge mode c", "Add-Diff"), ("mbw c", True), ("mbw weights c", listed), ("elemental c", "")]  # noqa: E501
    )  # fmt: skip
    assert model_mixer_picture.recognizes(file)
    draft = Draft()
    model_mixer_picture.read(file, draft)
    targets = tomli.loads(text_of(draft), parse_float=Decimal)["targets"]
    assert list(targets) == ["cat-1", "cat-2", "cat"]
    assert draft.sources["a"].pins == {"autov2": "0123456789"}
    assert targets["cat-1"]["alpha"] == Decimal("0.3")
    assert targets["cat-2"]["alpha"]["mbw"] == NUMBERS
    assert targets["cat"]["cont"] == 1


def test_a_picture_of_another_model_carries_none() -> None:
    assert not model_mixer_picture.recognizes(RecipeFile(Path("x.png"), b"", {"parameters": "a cat, Model: x"}))
