"""Recipes that sd-mecha serializes, imported and built: what sd-mecha itself merges of them, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import sd_mecha
import torch
from model_files import read_model, write_model
from sd_mecha.extensions.builtin.merge_methods import linear, ties
from sd_mecha.recipe_nodes import RecipeNode
from tiny_models import full_checkpoint
from torch import Tensor

from mergebuild.exchange.importing import import_recipes
from mergebuild.project.project import load

Models = Sequence[RecipeNode]

_CONFIGS = {"sd15": "sd1-ldm", "sdxl": "sdxl-sgm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models of each architecture, with all their tensors, small."""
    root = tmp_path_factory.mktemp("mecha")
    for layout in _CONFIGS:
        for seed, name in enumerate("abcd"):
            write_model(root / f"{layout}-{name}.safetensors", full_checkpoint(layout, seed))
    return root


def _blocks(count: int, **more: float) -> dict[str, float]:
    numbers = range(count)
    inputs = {f"IN{n:02}": round(0.05 * n, 2) for n in numbers}
    outputs = {f"OUT{n:02}": round(0.07 * n, 2) for n in numbers}
    return {"BASE": 0.2, **inputs, "M00": 0.5, **outputs, **more}


def _by_block(x: Models, layout: str) -> RecipeNode:
    config = _CONFIGS[layout].partition("-")[0]
    blocks = _blocks(12) if layout == "sd15" else _blocks(9, VAE=0.1)
    return sd_mecha.convert(sd_mecha.literal(blocks, config=f"{config}-supermerger_blocks"), x[0])


def _deltas(x: Models, base: RecipeNode | None = None) -> Models:
    return [linear.subtract(each, base or x[0]) for each in x[1:]]


RECIPES: Mapping[str, Callable[[Models], RecipeNode]] = {
    "weighted sum": lambda x: sd_mecha.weighted_sum(x[0], x[1], alpha=0.3),
    "average": lambda x: sd_mecha.n_average(*x),
    "add difference": lambda x: sd_mecha.add_difference(*x[:3], alpha=0.8),
    "add difference, clamped": lambda x: sd_mecha.add_difference(*x[:3], alpha=0.8, clamp_to_ab=True),
    "add perpendicular": lambda x: sd_mecha.add_perpendicular(*x[:3], alpha=0.8),
    "slerp": lambda x: sd_mecha.slerp(x[0], x[1], alpha=0.3),
    "train difference": lambda x: linear.add_difference(
        x[0], linear.subtract(x[1], x[2]), alpha=linear.train_difference_mask(*x[:3], alpha=0.5)
    ),
    "add opposite": lambda x: linear.add_difference(
        x[0], linear.subtract(x[1], x[2]), alpha=linear.add_opposite_mask(*x[:3])
    ),
    "ties, all elements": lambda x: linear.add_difference(x[0], ties.ties_sum(*_deltas(x), k=1.0), alpha=0.7),
    "ties, by sums": lambda x: linear.add_difference(x[0], ties.ties_sum(*_deltas(x), k=1.0, vote_sgn=True), alpha=1.0),
    "ties of a base, added to another": lambda x: linear.add_difference(
        x[1], ties.ties_sum(*_deltas(x, x[3])[:2], k=1.0), alpha=0.5
    ),
    "cosine": lambda x: sd_mecha.add_cosine_a(x[0], x[1], alpha=0.2),
    "crossover": lambda x: sd_mecha.crossover(x[0], x[1], alpha=0.4, tilt=0.2),
    "tensor sum": lambda x: sd_mecha.tensor_sum(x[0], x[1], width=0.4),
    "tensor sum of differences": lambda x: sd_mecha.tensor_sum(*x[:3], width=0.4),
    "a weighted sum of differences to one model": lambda x: linear.add_difference(
        x[0], linear.weighted_sum(linear.subtract(x[1], x[3]), linear.subtract(x[2], x[3]), alpha=0.3), alpha=0.5
    ),
    "a weighted sum of any differences": lambda x: linear.add_difference(
        x[0], linear.weighted_sum(linear.subtract(x[1], x[3]), linear.subtract(x[2], x[0]), alpha=0.3), alpha=0.5
    ),
    "a chain": lambda x: sd_mecha.weighted_sum(sd_mecha.add_difference(*x[:3], alpha=0.8), x[3], alpha=0.25),
    "a component of another": lambda x: sd_mecha.pick_component(x[0], "diffuser") | x[1],
    "all but a component": lambda x: sd_mecha.omit_component(x[0], "vae") | x[1],
    "a cast at the end": lambda x: sd_mecha.cast(sd_mecha.weighted_sum(x[0], x[1], alpha=0.3), dtype="bfloat16"),
}


def _check(folder: Path, tmp_path: Path, recipe: RecipeNode) -> str:
    """Compare each tensor of the output, to a step of its dtype, with what sd-mecha merges; return the mergefile."""
    text = sd_mecha.serialize(recipe)
    (tmp_path / "recipe.mecha").write_text(text)
    theirs = _merged(recipe, tmp_path)
    made = import_recipes([tmp_path / "recipe.mecha"], tmp_path, models=[folder])
    assert made.unmapped == ()
    (tmp_path / "mergefile.toml").write_text(made.text)
    assert load(tmp_path / "mergefile.toml").build(()).ok
    ours = read_model(tmp_path / "recipe.safetensors")
    floats = {name: tensor for name, tensor in ours.items() if tensor.is_floating_point()}
    assert set(floats) == {name for name in theirs if theirs[name].is_floating_point() and name in ours}
    assert len(floats) > 1000
    for name, tensor in floats.items():
        wanted = theirs[name].double()
        step = torch.finfo(tensor.dtype).eps * wanted.abs() + 1e-6 * wanted.abs().max() + 1e-7
        assert ((tensor.double() - wanted).abs() <= step).all(), name
    return made.text


def _merged(recipe: RecipeNode, folder: Path) -> Mapping[str, Tensor]:
    """Return what sd-mecha merges, without EMA copies."""
    output = folder / "theirs.safetensors"
    sd_mecha.merge(recipe, merge_dtype=torch.float64, output_dtype=torch.float64, output=output)
    return {name: tensor for name, tensor in read_model(output).items() if not name.startswith("model_ema")}


def _models(folder: Path, layout: str) -> Models:
    return [sd_mecha.model(folder / f"{layout}-{name}.safetensors", config=_CONFIGS[layout]) for name in "abcd"]


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_imported_is_what_sd_mecha_merges(folder: Path, tmp_path: Path, name: str) -> None:
    _check(folder, tmp_path, RECIPES[name](_models(folder, "sd15")))


@pytest.mark.parametrize("layout", _CONFIGS)
def test_blocks_are_those_of_sd_mecha(folder: Path, tmp_path: Path, layout: str) -> None:
    """Time and label embeddings are in BASE there; so is the VAE of SD 1."""
    models = _models(folder, layout)
    _check(folder, tmp_path, sd_mecha.weighted_sum(models[0], models[1], alpha=_by_block(models, layout)))
    (tmp_path / "again").mkdir()
    _check(folder, tmp_path / "again", sd_mecha.add_difference(*models[:3], alpha=_by_block(models, layout)))


def test_model_stock_is_sd_mechas_where_that_has_a_value(folder: Path, tmp_path: Path) -> None:
    """A vector of one element has the cosine 1, 0 or -1 with others, at which sd-mecha divides by nothing.

    Neither clamps what it divides, so that some values are beyond float16.
    """
    models = _models(folder, "sd15")
    recipe = sd_mecha.n_model_stock(*models)
    (tmp_path / "recipe.mecha").write_text(sd_mecha.serialize(recipe))
    theirs = _merged(recipe, tmp_path)
    made = import_recipes([tmp_path / "recipe.mecha"], tmp_path, models=[folder])
    (tmp_path / "mergefile.toml").write_text(made.text.replace('"float16"', '"float32"'))
    assert load(tmp_path / "mergefile.toml").build(()).ok
    ours = read_model(tmp_path / "recipe.safetensors")
    wide = [name for name, tensor in ours.items() if tensor.is_floating_point() and tensor.shape[-1] > 2]
    assert len(wide) > 800
    for name in wide:
        wanted = theirs[name].double()
        assert torch.allclose(ours[name].double(), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())), name
