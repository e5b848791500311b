"""The rows of diffusion transformers against diffusers: each row of each tensor is where its converters put it.

A model of diffusers has no weights here, only names and shapes. Its canonical tensors are made with a number of its own
in each row, given to diffusers' converter, and found in the tensors that our map says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import diffusers
import pytest
import torch
from client_models import ALPHA, assert_same_parameters, build, merged_module, perturbed
from diffusers.loaders import single_file_utils as converters
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergebuild.naming.canonical import canonical

State = dict[str, Tensor]


class Case(NamedTuple):
    """A model of diffusers, and what converts to it."""

    family: str
    model: str
    config: Mapping[str, object]
    convert: str


_CASES = (
    Case("flux", "FluxTransformer2DModel", {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True},
         "convert_flux_transformer_checkpoint_to_diffusers"),
    Case("flux", "ChromaTransformer2DModel", {"num_layers": 2, "num_single_layers": 2},
         "convert_chroma_transformer_checkpoint_to_diffusers"),
    Case("flux2", "Flux2Transformer2DModel", {"num_layers": 2, "num_single_layers": 2},
         "convert_flux2_transformer_checkpoint_to_diffusers"),
    Case("sd3", "SD3Transformer2DModel",
         {"num_layers": 3, "dual_attention_layers": (0,), "qk_norm": "rms_norm", "caption_projection_dim": 1152},
         "convert_sd3_transformer_checkpoint_to_diffusers"),
    Case("hunyuan_video", "HunyuanVideoTransformer3DModel", {"num_layers": 2, "num_single_layers": 2},
         "convert_hunyuan_video_transformer_to_diffusers"),
    Case("wan", "WanTransformer3DModel", {"num_layers": 2, "image_dim": 1280, "added_kv_proj_dim": 5120},
         "convert_wan_transformer_to_diffusers"),
    Case("ltx_video", "LTXVideoTransformer3DModel", {"num_layers": 2},
         "convert_ltx_transformer_checkpoint_to_diffusers"),
    Case("auraflow", "AuraFlowTransformer2DModel", {"num_mmdit_layers": 2, "num_single_dit_layers": 2},
         "convert_auraflow_transformer_checkpoint_to_diffusers"),
    Case("lumina2", "Lumina2Transformer2DModel", {"num_layers": 2}, "convert_lumina2_to_diffusers"),
    Case("mochi", "MochiTransformer3DModel", {"num_layers": 48},
         "convert_mochi_transformer_checkpoint_to_diffusers"),
    Case("sana", "SanaTransformer2DModel", {"num_layers": 2}, "convert_sana_transformer_to_diffusers"),
    Case("z_image", "ZImageTransformer2DModel", {"n_layers": 2},
         "convert_z_image_transformer_checkpoint_to_diffusers"),
)  # fmt: skip


_UNUSED: Mapping[str, tuple[str, ...]] = {"sana": ("pos_embed", "y_embedder.y_embedding")}
"""What authors' files have that diffusers' converters ask for and its models do not have."""


def _of_authors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[State, dict[str, list[int]]]:
    """Return the canonical tensors, a number in each row, and the numbers that belong into each row of each tensor."""
    found = canonical(shapes)
    state: State = {}
    wanted = {name: [-1] * (shape[0] if shape else 1) for name, shape in shapes.items()}
    begin = 0
    for name, made in found.made.items():
        rows = made.shape[0] if made.shape else 1
        state[name] = torch.arange(begin, begin + rows, dtype=torch.float64).view(-1, *(1 for _ in made.shape[1:]))
        at = begin
        for cut in made.cuts:
            first, last = cut.rows or (0, len(wanted[cut.tensor]))
            wanted[cut.tensor][first:last] = range(at, at + last - first)
            at += last - first
        begin += rows
    return state, wanted


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.model)
def test_every_row_is_where_diffusers_puts_it(case: Case) -> None:
    with torch.device("meta"):
        model = getattr(diffusers, case.model)(**case.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = canonical(shapes)
    assert found.family == case.family
    assert not found.twice
    state, wanted = _of_authors(shapes)
    convert: Callable[..., State] = getattr(converters, case.convert)
    converted = convert(state | {name: torch.zeros(1) for name in _UNUSED.get(case.family, ())})
    for name, numbers in wanted.items():
        assert converted[name].flatten().tolist() == numbers, name


_FLUX: Mapping[str, object] = {
    "num_layers": 2, "num_single_layers": 2, "guidance_embeds": True, "attention_head_dim": 16,
    "num_attention_heads": 2, "in_channels": 16, "joint_attention_dim": 24, "pooled_projection_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
_SD3: Mapping[str, object] = {
    "num_layers": 3, "dual_attention_layers": (0,), "qk_norm": "rms_norm", "caption_projection_dim": 32,
    "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 4, "joint_attention_dim": 24,
    "pooled_projection_dim": 20, "sample_size": 8, "pos_embed_max_size": 8,
}  # fmt: skip


def _flux_inputs() -> dict[str, Tensor]:
    return {
        "hidden_states": torch.randn(1, 4, 16), "encoder_hidden_states": torch.randn(1, 3, 24),
        "pooled_projections": torch.randn(1, 20), "timestep": torch.ones(1), "guidance": torch.ones(1),
        "img_ids": torch.zeros(4, 3), "txt_ids": torch.zeros(3, 3),
    }  # fmt: skip


def _sd3_inputs() -> dict[str, Tensor]:
    return {
        "hidden_states": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 3, 24),
        "pooled_projections": torch.randn(1, 20), "timestep": torch.ones(1),
    }  # fmt: skip


def _in_authors_names(state: State) -> State:
    made = canonical({name: tuple(tensor.shape) for name, tensor in state.items()}).made
    return {
        f"model.diffusion_model.{name}": torch.cat(
            [state[cut.tensor] if cut.rows is None else state[cut.tensor][slice(*cut.rows)] for cut in renamed.cuts]
        )
        for name, renamed in made.items()
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "config", "inputs"),
    [("FluxTransformer2DModel", _FLUX, _flux_inputs), ("SD3Transformer2DModel", _SD3, _sd3_inputs)],
    ids=["flux", "sd3"],
)
@torch.no_grad()
def test_a_pipeline_merged_with_its_authors_file_loads_and_computes(
    tmp_path: Path, model: str, config: Mapping[str, object], inputs: Callable[[], dict[str, Tensor]]
) -> None:
    """In either order: a folder of diffusers, and a file in its authors' names that is read back."""
    torch.manual_seed(1)
    made = getattr(diffusers, model)
    a, b = perturbed(made(**config), 1), perturbed(made(**config), 2)
    a.save_pretrained(tmp_path / "a/transformer")
    index = {"_class_name": "DiffusionPipeline", "transformer": ["diffusers", model]}
    (tmp_path / "a/model_index.json").write_text(json.dumps(index))
    authors = _in_authors_names(b.state_dict())
    save_file(authors, tmp_path / "b.safetensors")
    target = '[targets.{}]\nmethod = "weighted_sum"\na = "{}"\nb = "{}"\nalpha = {}\noutput = "{}"\n'
    build(
        tmp_path,
        '[sources]\na = "a/"\nb = "b.safetensors"\n'
        + target.format("folder", "a", "b", ALPHA, "out/merged/")
        + target.format("file", "b", "a", round(1 - ALPHA, 9), "out/merged.safetensors"),
    )
    expected = merged_module(a, b)
    found = made.from_pretrained(tmp_path / "out/merged/transformer")
    assert_same_parameters(found, expected)
    given = inputs()
    torch.testing.assert_close(found(**given).sample, expected(**given).sample, rtol=0, atol=1e-5)
    file = load_file(tmp_path / "out/merged.safetensors")
    assert file.keys() == authors.keys()
    wanted = _in_authors_names(expected.state_dict())
    for name, tensor in file.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)
