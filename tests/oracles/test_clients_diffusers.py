"""What we build loads in diffusers, and draws what the same merge of modules draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from client_models import assert_same_parameters, build, merged_module, sd15, sdxl, weighted_sum
from diffusers import DiffusionPipeline
from safetensors import safe_open

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

KINDS = {"sd15": sd15, "sdxl": sdxl}


def models_of(pipeline: Any) -> dict[str, Any]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


@torch.no_grad()
def drawn(pipeline: Any) -> torch.Tensor:
    """Return what a pipeline draws, (1, 3, 64, 64) in 0 to 1."""
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        "a cat on the moon",
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    )
    return found.images


@pytest.fixture(scope="module", params=list(KINDS))
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Return a folder with two pipelines in it as diffusers saves them, and the pipelines."""
    folder = tmp_path_factory.mktemp(request.param)
    make = KINDS[request.param]
    a, b = (make(seed, folder / "words") for seed in (1, 2))
    a.save_pretrained(folder / "a")
    b.save_pretrained(folder / "b")
    return folder, a, b


def assert_merged(found: Any, a: Any, b: Any) -> None:
    """Hold every model of a loaded pipeline to the merge of modules, then what it draws."""
    theirs = models_of(b)
    merged = {name: merged_module(part, theirs[name]) for name, part in models_of(a).items()}
    ours = models_of(found)
    assert ours.keys() == merged.keys()
    for name, part in ours.items():
        assert_same_parameters(part, merged[name])
    expected = type(a)(**(a.components | merged), **options_of(a))
    torch.testing.assert_close(drawn(found), drawn(expected), rtol=0, atol=1e-5)
    assert (drawn(a) - drawn(expected)).abs().max() > 1e-3


def options_of(pipeline: Any) -> dict[str, Any]:
    names = ("requires_safety_checker", "force_zeros_for_empty_prompt")
    return {name: pipeline.config[name] for name in names if name in pipeline.config}


@pytest.mark.parametrize("size", [None, "400KB"])
def test_a_merge_of_pipelines_loads_and_draws(project: tuple[Path, Any, Any], size: str | None) -> None:
    folder, a, b = project
    build(folder, weighted_sum(*([f'max_shard_size = "{size}"'] if size else [])))
    out = folder / "out" / "merged"
    base = out / "unet" / "diffusion_pytorch_model.safetensors"
    assert base.exists() == (size is None)
    assert base.with_name(f"{base.name}.index.json").exists() == (size is not None)
    found = DiffusionPipeline.from_pretrained(out, local_files_only=True)
    assert type(found) is type(a)
    assert_merged(found, a, b)


def test_a_pipeline_by_way_of_a_single_file_is_the_same(project: tuple[Path, Any, Any]) -> None:
    """From diffusers to one file in the original naming, and back into a pipeline."""
    folder, a, b = project
    way = weighted_sum().replace("out/merged/", "out/way.safetensors")
    build(folder, f'{way}\n[targets.back]\nmethod = "copy"\na = "a"\noutput = "out/back/"\n')
    with safe_open(folder / "out" / "way.safetensors", "pt") as way_file:
        assert {"model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.quant_conv.bias"} <= {
            *way_file.keys()
        }
    back = DiffusionPipeline.from_pretrained(folder / "out" / "back", local_files_only=True)
    for name, part in models_of(back).items():
        assert_same_parameters(part, models_of(a)[name])
    text = weighted_sum().replace('a = "a/"', 'a = "a/"\nway = "out/way.safetensors"')
    text = text.replace("out/merged/", "out/both/").replace('b = "b"', 'b = "way"').replace("0.3", "1")
    build(folder, text)
    both = DiffusionPipeline.from_pretrained(folder / "out" / "both", local_files_only=True)
    assert_merged(both, a, b)
