"""Small models of real architectures, as their own clients save them; and merges of them, ours and on modules."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

import mergebuild

ALPHA = 0.3
VOCABULARY = 300


def perturbed(model: Any, seed: int) -> Any:
    """Return a model for use, every one of its parameters moved: fresh models have equal biases and norms."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
    return model.eval()


def llama(seed: int, *, tied: bool = False, layers: int = 3) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        dtype="float32",
    )
    return perturbed(LlamaForCausalLM(config), seed)


def bert(seed: int) -> BertModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return perturbed(BertModel(config), seed)


def clip(seed: int, *, with_projection: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=32,
        hidden_act="gelu" if with_projection else "quick_gelu",
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
    )
    return perturbed((CLIPTextModelWithProjection if with_projection else CLIPTextModel)(config), seed)


def sd15(seed: int, folder: Path) -> StableDiffusionPipeline:
    """Return a pipeline built as Stable Diffusion 1.5 is, in miniature."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return StableDiffusionPipeline(
        vae=_vae(seed),
        text_encoder=clip(seed),
        tokenizer=tokenizer(folder),
        unet=perturbed(unet, seed),
        scheduler=DDIMScheduler(num_train_timesteps=100),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(seed: int, folder: Path) -> StableDiffusionXLPipeline:
    """Return a pipeline built as Stable Diffusion XL is, in miniature."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 3),
        cross_attention_dim=64,
        attention_head_dim=(2, 2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        norm_num_groups=16,
    )
    words = tokenizer(folder)
    return StableDiffusionXLPipeline(
        vae=_vae(seed),
        text_encoder=clip(seed),
        text_encoder_2=clip(seed + 1000, with_projection=True),
        tokenizer=words,
        tokenizer_2=words,
        unet=perturbed(unet, seed),
        scheduler=EulerDiscreteScheduler(num_train_timesteps=100),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _vae(seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=64,
    )
    return perturbed(vae, seed)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Return a tokenizer of CLIP's kind that knows every byte, and one merge of two."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = [chr(each) for each in printable] + [chr(256 + each) for each in range(256 - len(printable))]
    words = [*signs[:127], *(f"{sign}</w>" for sign in signs[:127]), "ca", "cat</w>"]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def build(project: Path, mergefile: str) -> None:
    """Build the default targets of a mergefile that is written into a folder."""
    (project / "mergefile.toml").write_text(mergefile)
    result = mergebuild.load(project / "mergefile.toml").build()
    assert result.exit_code == 0, result


def weighted_sum(*keys: str) -> str:
    """Return the mergefile that merges the folders `a` and `b` into `out/merged/`."""
    more = "\n".join(keys)
    return f"""
[sources]
a = "a/"
b = "b/"

[targets.merged]
method = "weighted_sum"
a = "a"
b = "b"
alpha = {ALPHA}
output = "out/merged/"
{more}
"""


def merged_tensor(a: Tensor, b: Tensor) -> Tensor:
    """Return the weighted sum as it is defined: in float32, every operation rounded on its own."""
    return a + torch.tensor(ALPHA) * (b - a) if a.is_floating_point() else a


def merged_module(a: Any, b: Any) -> Any:
    """Return a module of the merged parameters of two."""
    made = copy.deepcopy(a)
    mine, theirs = a.state_dict(), b.state_dict()
    made.load_state_dict({name: merged_tensor(mine[name], theirs[name]) for name in mine})
    return made.eval()


def assert_same_parameters(found: nn.Module, expected: nn.Module) -> None:
    """Hold every tensor of a loaded module to the bits that it should have."""
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
