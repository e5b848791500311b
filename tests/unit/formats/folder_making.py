"""Folders of weights for tests: a few tensors, and the files that clients write beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mergebuild.formats.layout import encode_header

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def weights(path: Path, *names: str, dtype: str = "float16", shape: Sequence[int] = (2, 2)) -> Path:
    """Write tensors of zeros into a safetensors file, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw, header = encode_header([(name, dtype, shape) for name in names], {"format": "pt"})
    path.write_bytes(raw.ljust(header.file_size, b"\0"))
    return path


def document(path: Path, value: object) -> Path:
    """Write JSON, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
    return path


def index(path: Path, weight_map: Mapping[str, object]) -> Path:
    """Write an index of shards."""
    return document(path, {"metadata": {"total_size": 16}, "weight_map": weight_map})


def sharded(folder: Path) -> Path:
    """Make a folder of transformers in two shards, `a` and `b` in the first, `c` in the second."""
    weights(folder / SHARDS[0], "a", "b")
    weights(folder / SHARDS[1], "c")
    index(folder / "model.safetensors.index.json", {"a": SHARDS[0], "b": SHARDS[0], "c": SHARDS[1]})
    document(folder / "config.json", {"model_type": "llama", "torch_dtype": "float16"})
    return folder


def pipeline(folder: Path) -> Path:
    """Make a folder of diffusers: `unet`, `vae`, `text_encoder`, and what has no weights."""
    classes = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    document(folder / "model_index.json", classes)
    for name, base in {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    }.items():
        weights(folder / name / f"{base}.safetensors", f"{name}.weight")
        document(folder / name / "config.json", {"_class_name": name})
    document(folder / "scheduler" / "scheduler_config.json", {"steps_offset": 1})
    document(folder / "tokenizer" / "vocab.json", {"a": 0})
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    return folder
