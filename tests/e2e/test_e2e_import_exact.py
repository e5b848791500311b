"""Recipes whose import was once a mergefile for another model: each is built, and compared with what it says."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import torch
from mergekit_reference import expected
from model_files import read_model, write_model
from project_space import Space
from tiny_models import llama
from torch import Tensor


def folder(path: Path, seed: int, layers: int = 4) -> dict[str, Tensor]:
    """Write a folder with a model and its configuration."""
    path.mkdir(parents=True)
    tensors = llama(seed, layers=layers, dtype=torch.float32)
    write_model(path / "model.safetensors", tensors)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 64}
    config = {"model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": False, **sizes}
    (path / "config.json").write_text(json.dumps(config))
    return tensors


def built(space: Space, recipe: str, *options: str) -> dict[str, Tensor]:
    """Import a recipe of mergekit, build it, and return the tensors."""
    space.write(recipe, "recipe.yml")
    space.run("import", "recipe.yml", "-o", "mergefile.toml", *options)
    space.build()
    return {
        name: each
        for file in sorted((space / "recipe").glob("*.safetensors"))
        for name, each in read_model(file).items()
    }


def check(space: Space, recipe: str, models: Mapping[str, Mapping[str, Tensor]], *options: str) -> None:
    """Build a recipe of mergekit, and compare the tensors with what mergekit's rules make."""
    found = built(space, recipe, *options)
    (wanted,) = expected(recipe, models).values()
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        torch.testing.assert_close(found[name].double(), each.double(), rtol=1e-5, atol=1e-7, msg=name)


def test_filters_of_a_stack_are_of_each_models_own_layers(space: Space) -> None:
    """Where models come later in the output than in their files, layers that filters name are numbered anew."""
    models = {
        name: folder(space / name, seed, layers) for seed, (name, layers) in enumerate({"a": 4, "b": 13}.items(), 1)
    }
    check(
        space,
        """\
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 4], parameters: {scale: [{filter: layers.1.mlp, value: 0.5}, {value: 1}]}}]
  - sources: [{model: b, layer_range: [1, 13]}]
parameters:
  scale:
    - {filter: layers.5.self_attn.q_proj, value: 0.25}
    - {filter: model.layers.1, value: 3}
    - {filter: layers.14., value: 0}
    - {filter: lm_head, value: 2}
dtype: float32
""",
        models,
    )


def test_filters_of_all_models_of_a_stack_are_of_its_own_layers(space: Space) -> None:
    models = {name: folder(space / name, seed) for seed, name in enumerate("ab", 1)}
    check(
        space,
        """\
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [1, 4]}]
  - sources: [{model: a, layer_range: [1, 4]}, {model: b, layer_range: [0, 3]}]
parameters:
  t: [{filter: layers.5., value: 0.25}, {filter: layers.2.mlp, value: 0.75}, {value: 0.5}]
dtype: float32
""",
        models,
    )


def test_the_first_layers_of_a_model_that_is_not_there_yet_are_no_copy_of_it(space: Space) -> None:
    recipe = "merge_method: passthrough\nslices: [{sources: [{model: org/a, layer_range: [0, 2]}]}]\n"
    space.write(recipe, "recipe.yml")
    space.run("import", "recipe.yml", "-o", "mergefile.toml")
    models = {"org/a": folder(space / "a", 1)}
    space.build()
    found = read_model(space / "recipe/model.safetensors")
    (wanted,) = expected(recipe, models).values()
    assert found.keys() == wanted.keys()


def test_a_slice_of_fewer_layers_than_the_models_that_are_found_have_is_a_stack(space: Space) -> None:
    models = {f"org/{name}": folder(space / "hub/org" / name, seed) for seed, name in enumerate("ab", 1)}
    recipe = """\
merge_method: slerp
base_model: org/b
slices: [{sources: [{model: org/a, layer_range: [0, LAST]}, {model: org/b, layer_range: [0, LAST]}]}]
parameters: {t: [{filter: mlp, value: [0, 1]}, {value: [1, 0]}]}
dtype: float32
"""
    check(space, recipe.replace("LAST", "2"), models, "--models", "hub")
    space.run("clean", "--yes")
    (space / "mergefile.toml").unlink()
    check(space, recipe.replace("LAST", "4"), models, "--models", "hub")
    assert "slices" not in (space / "mergefile.toml").read_text()


def test_a_path_beside_one_recipe_is_not_that_beside_another(space: Space) -> None:
    models = {name: folder(space / name / "model", seed) for seed, name in enumerate(("first", "second", "third"), 1)}
    for name in models:
        space.write("merge_method: passthrough\nmodels: [{model: ./model}]\n", f"{name}/{name}.yml")
    space.run("import", *(f"{name}/{name}.yml" for name in models), "-o", "mergefile.toml")
    space.build()
    for name, tensors in models.items():
        found = read_model(space / "out" / name / "model.safetensors")
        assert all(torch.equal(found[key], each) for key, each in tensors.items())


def test_two_revisions_of_a_repository_are_no_one_folder(space: Space) -> None:
    models = "".join(f"  - {{model: org/m@{each}, parameters: {{weight: 1}}}}\n" for each in ("v1", "v2"))
    space.write(f"merge_method: linear\nmodels:\n{models}", "recipe.yml")
    folder(space / "m", 1)
    found = tomllib.loads(space.run("import", "recipe.yml").out)["sources"].values()
    assert [each["path"] for each in found] == ["org/m/", "m-2/"]


def test_a_folder_is_not_the_repository_of_its_name(space: Space) -> None:
    models = "".join(f"  - {{model: {each}, parameters: {{weight: 1}}}}\n" for each in ("org/m", "./m"))
    space.write(f"merge_method: linear\nmodels:\n{models}", "recipe.yml")
    folder(space / "m", 1)
    found = tomllib.loads(space.run("import", "recipe.yml").out)["sources"].values()
    assert [each if isinstance(each, str) else each["path"] for each in found] == ["org/m/", "m/"]
