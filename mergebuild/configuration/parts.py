"""The parts of a model (text, vision, audio, connectors): which part a tensor is in, and its configuration.

The configuration of a multimodal model has one for each part inside it, such as `text_config` and `vision_config`. That
of a language model is all text. A tensor's part follows from words in its name, such as `vision_tower`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

__all__ = ["Config", "config_of", "model_type", "part_of", "path_of"]

Config = Mapping[str, object]

_WORDS: Final = {
    "vision": (
        "vision_tower vision_model visual vision_encoder vision_embed_tokens image_encoder img_processor vit vpm vision"
        " vision_backbone"
    ),
    "audio": "audio_tower audio_model audio_encoder speech_encoder speech_tower apm audio",
    "joint": (
        "multi_modal_projector mm_projector connector projector aligner resampler perceiver qformer query_tokens"
        " image_newline img_projection embed_vision embed_audio audio_projection language_projection"
    ),
    "talker": "talker",
    "token2wav": "token2wav code2wav",
}
"""By part, the words in tensors' names that identify it."""
_PARTS: Final = {word: part for part, words in _WORDS.items() for word in words.split()}

_KEYS: Final = {
    "text": "text_config language_config llm_config llm".split(),
    "vision": "vision_config vit_config visual image_config vision_tower_config".split(),
    "audio": "audio_config speech_config audio_encoder_config".split(),
    "joint": [],
    "talker": ["talker_config"],
    "token2wav": "token2wav_config code2wav_config".split(),
}
"""By part, the members of a configuration that describe this part alone."""

_WRAPPERS: Final = ("thinker_config",)
"""Members that hold the configuration of a whole model, except for parts beside it."""

_USUAL: Final = {
    ("llava", "text"): "llama",
    ("llava_next", "text"): "llama",
    ("llava_next_video", "text"): "llama",
    ("video_llava", "text"): "llama",
    ("vipllava", "text"): "llama",
    ("paligemma", "text"): "gemma",
    ("idefics2", "text"): "mistral",
    ("idefics3", "text"): "llama",
    ("gemma3", "text"): "gemma3",
    ("qwen2_vl", "text"): "qwen2_vl",
    ("qwen2_5_vl", "text"): "qwen2_5_vl",
    ("qwen2_audio", "text"): "qwen2",
    ("fuyu", "text"): "persimmon",
}
"""The architecture of a part whose configuration does not say it, by the whole model's `model_type`."""

_TEXT_MODEL: Final = "_text"
"""The end of the `model_type` of a part that is also used alone: `gemma3_text`."""


@lru_cache(1 << 16)
def part_of(name: str) -> str:
    """Return the part of a model that a tensor is in, by its name; `text` if no word in it says otherwise."""
    return next((part for word in name.split(".") if (part := _PARTS.get(word))), "text")


def path_of(config: Config, part: str) -> tuple[str, ...]:
    """Return the keys that lead to the configuration of a part; empty if the whole configuration is that part's."""
    for key in _WRAPPERS:
        inner = config.get(key)
        if isinstance(inner, Mapping) and part not in ("talker", "token2wav"):
            return (key, *path_of(inner, part))
    return next(((key,) for key in _KEYS.get(part, ()) if isinstance(config.get(key), Mapping)), ())


def config_of(config: Config, part: str) -> Config:
    """Return the configuration of a part; the whole one if it does not distinguish parts."""
    found = config
    for key in path_of(config, part):
        inner = found[key]
        assert isinstance(inner, Mapping)
        found = inner
    return found


def model_type(config: Config, part: str) -> str | None:
    """Return the architecture of a part; None if the configuration does not say it."""
    said = config_of(config, part).get("model_type")
    if not isinstance(said, str) or not said:
        whole = config.get("model_type")
        said = _USUAL.get((whole, part)) if isinstance(whole, str) else None
    return said.removesuffix(_TEXT_MODEL) if said else None
