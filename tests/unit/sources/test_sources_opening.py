"""Whatever a path leads to is one kind of model: names, and where the bytes of each tensor lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_files import values, write_model
from model_folders import as_pipeline, pipeline, stored_in_pipeline
from tiny_models import full_checkpoint
from torch import Tensor

from mergebuild.errors import SourceError
from mergebuild.lora import adapter_config
from mergebuild.naming.rules import family
from mergebuild.sources.opening import read_model, standalone

UNET = "model.diffusion_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model."


@pytest.mark.parametrize("layout", ["sd15", "sdxl"])
def test_a_pipeline_is_the_checkpoint_that_it_was_made_of(tmp_path: Path, layout: str) -> None:
    """Fused projections are put together of three tensors, a projection is turned, a linear map is a convolution."""
    tensors = full_checkpoint(layout, 1)
    found = values(read_model(pipeline(tmp_path / "pipe", as_pipeline(tensors))))
    assert found.keys() == stored_in_pipeline(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in found)


def test_parts_of_one_tensor_have_one_dtype(tmp_path: Path) -> None:
    """Nothing would say what the whole is."""
    tensors = full_checkpoint("sdxl", 1)
    folder = pipeline(tmp_path / "pipe", as_pipeline(tensors))
    path = folder / "text_encoder_2" / "model.safetensors"
    own = values(read_model(path))
    name = next(name for name in own if name.endswith("self_attn.k_proj.weight"))
    write_model(path, own | {name: own[name].float()})
    with pytest.raises(SourceError, match="different dtypes"):
        read_model(folder)


def test_a_pickle_is_known_by_its_bytes(tmp_path: Path) -> None:
    """Whatever it is called; views with strides are what they are in torch."""
    matrix = torch.arange(12.0).reshape(3, 4)
    torch.save({"state_dict": {"w": matrix.t(), "v": matrix[1:, ::2]}}, tmp_path / "model.safetensors")
    found = values(read_model(tmp_path / "model.safetensors"))
    assert torch.equal(found["w"], matrix.t())
    assert torch.equal(found["v"], matrix[1:, ::2])


def test_a_text_encoder_of_before_gets_the_names_of_now(tmp_path: Path) -> None:
    """NovelAI's first file has no `text_model.`; one that has both holds a parameter twice."""
    old = {"cond_stage_model.transformer.final_layer_norm.weight": torch.ones(2), CONV_IN: torch.ones(1)}
    found = read_model(write_model(tmp_path / "nai.safetensors", old))
    assert set(found.tensors) == {f"{TEXT}final_layer_norm.weight", CONV_IN}
    both = read_model(
        write_model(tmp_path / "both.safetensors", old | {f"{TEXT}final_layer_norm.weight": torch.zeros(2)})
    )
    assert both.tensors.keys() == found.tensors.keys()
    assert [(each.parameter, each.info.name) for each in both.twins] in (
        [(f"{TEXT}final_layer_norm.weight", "cond_stage_model.transformer.final_layer_norm.weight")],
        [(f"{TEXT}final_layer_norm.weight", f"{TEXT}final_layer_norm.weight")],
    )


@pytest.mark.parametrize("component", ["vae", "text_encoder", "unet"])
@pytest.mark.parametrize("naming", ["diffusers", "bare"])
def test_a_component_alone_gets_the_names_of_the_checkpoint(tmp_path: Path, component: str, naming: str) -> None:
    """In either naming; a checkpoint, which has them, is left to itself."""
    tensors = full_checkpoint("sd15", 2)
    prefix = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model.transformer.", "unet": UNET}[component]
    shapes = {name: tuple(each.shape) for name, each in tensors.items()}
    if naming == "diffusers":
        folder = pipeline(tmp_path / "pipe", as_pipeline(tensors))
        path = next((folder / component).glob("*.safetensors"))
    else:
        bare = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        path = write_model(tmp_path / "bare.safetensors", bare)
    wanted = [part for part in family("sd15").parts if part.name == component]
    lone = read_model(path)
    renamed = standalone(lone, "sd15", wanted, shapes)
    assert renamed is None or not renamed[1].left
    found = values(lone if renamed is None else renamed[0])
    assert found.keys() == {name for name in tensors if name.startswith(prefix)}
    assert all(torch.equal(found[name], tensors[name]) for name in found)
    whole = read_model(write_model(tmp_path / "whole.safetensors", tensors))
    assert standalone(whole, "sd15", wanted, shapes) is None


@pytest.mark.parametrize("name", ["consolidated.00.pth", ""])
def test_parts_of_every_tensor_are_refused_as_that(tmp_path: Path, name: str) -> None:
    for number in range(2):
        (tmp_path / f"consolidated.0{number}.pth").write_bytes(b"x" * 9)
    with pytest.raises(SourceError) as caught:
        read_model(tmp_path / name, shown="llama")
    (found,) = caught.value.problems
    assert found.code == "parts-of-tensors"
    assert "each holds a part of every tensor" in found.message
    assert found.rows == ("`consolidated.00.pth`", "`consolidated.01.pth`")
    assert "release for transformers" in found.help


# Adapters that are named as files

ADAPTER = {"base_model.model.q.lora_A.weight": torch.ones(2, 3), "base_model.model.q.lora_B.weight": torch.ones(4, 2)}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "mine.safetensors"])
def test_an_adapter_named_as_a_file_is_what_its_configuration_says(tmp_path: Path, name: str) -> None:
    """The alpha stands in no tensor."""
    path = tmp_path / name
    if name.endswith(".bin"):
        torch.save(ADAPTER, path)
    else:
        write_model(path, ADAPTER)
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    found = read_model(path)
    assert (found.format, found.facts, found.folder, found.home) == ("peft", CONFIG, None, tmp_path)
    assert found.own_files == found.watched == (path, tmp_path / "adapter_config.json")
    assert adapter_config(found) == CONFIG


def test_an_adapter_without_its_configuration_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "mine.safetensors", ADAPTER)
    with pytest.raises(SourceError) as caught:
        read_model(path, shown="loras/x.safetensors")
    (problem,) = caught.value.problems
    assert (problem.code, problem.message) == (
        "adapter-config-missing",
        "`loras/x.safetensors` is an adapter of PEFT without an `adapter_config.json` beside it, which says its alpha",
    )
    assert problem.help == (
        "download that file too, or write one if you know what it says: "
        '`{"peft_type": "LORA", "r": 16, "lora_alpha": 16}`'
    )


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (ADAPTER, {"lora_adapter_metadata": json.dumps(CONFIG)}),
        ({**ADAPTER, "base_model.model.q.alpha": torch.tensor(8.0)}, {}),
        ({name.removeprefix("base_model.model."): each for name, each in ADAPTER.items()}, {}),
        ({}, {}),
    ],
    ids=["in its metadata", "in a tensor", "no names of PEFT", "nothing"],
)
def test_what_says_its_scale_itself_needs_no_configuration(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    path = write_model(tmp_path / "mine.safetensors", tensors, metadata)
    assert read_model(path).format == "safetensors"


def test_a_configuration_beside_another_file_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    path = write_model(tmp_path / "model.safetensors", {"q.weight": torch.ones(2)})
    assert read_model(path).format == "safetensors"
