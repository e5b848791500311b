"""A folder as transformers writes it, and the same model as it is in memory, are one model under two spellings.

In memory there are the names of now, ties under all their names, and experts stacked; on disk those that files always
had. Either merges with either, is written as the first input is, and loads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from client_models import VOCABULARY, build, merged_module, perturbed, weighted_sum

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

_IDS = torch.arange(4, 4 + 16).reshape(2, 8) * 7 % VOCABULARY
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EYE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
_ENCODER = {name: _TEXT[name] for name in _TEXT if name not in {"num_key_value_heads", "bos_token_id", "eos_token_id"}}
_BOTH: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_EXPERTS = {**_TEXT, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}

_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT),
    "llama, tied": ("LlamaForCausalLM", "LlamaConfig", {**_TEXT, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _TEXT),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_TEXT, "head_dim": 8}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _TEXT),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_TEXT, "num_local_experts": 3}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", _EXPERTS),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {**_EXPERTS, "num_local_experts": 3}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _ENCODER),
    "bloom": ("BloomForCausalLM", "BloomConfig", {**_ENCODER, "n_layer": 2, "n_head": 4}),
    "opt": ("OPTForCausalLM", "OPTConfig", {**_ENCODER, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "t5": (
        "T5ForConditionalGeneration", "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": VOCABULARY},
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", _BOTH),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", {**_BOTH, "num_mel_bins": 8}),
    "bert": ("BertForMaskedLM", "BertConfig", _ENCODER),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", _ENCODER),
    "vit": ("ViTForImageClassification", "ViTConfig", _EYE),
}  # fmt: skip


def _llava(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_EYE),
        text_config=transformers.LlamaConfig(**_TEXT),
        image_token_index=3,
    )
    return perturbed(transformers.LlavaForConditionalGeneration(config).float(), seed)


def _gemma3(seed: int) -> Any:
    torch.manual_seed(seed)
    text = {**_TEXT, "head_dim": 8}
    config = transformers.Gemma3Config(text_config=text, vision_config=_EYE, mm_tokens_per_image=4)
    return perturbed(transformers.Gemma3ForConditionalGeneration(config).float(), seed)


def _maker(name: str) -> Callable[[int], Any]:
    client, configuration, words = _MODELS[name]

    def make(seed: int) -> Any:
        torch.manual_seed(seed)
        model = getattr(transformers, client)(getattr(transformers, configuration)(**words)).float()
        with torch.no_grad():
            for parameter in model.parameters():  # some are as memory was
                torch.nn.init.normal_(parameter, std=0.02)
        return perturbed(model, seed)

    return make


MAKERS = {name: _maker(name) for name in _MODELS} | {"llava": _llava, "gemma3": _gemma3}


@pytest.mark.parametrize("first", ["disk", "memory"])
@pytest.mark.parametrize("name", list(MAKERS))
def test_a_folder_and_what_is_in_memory_merge_in_either_order(tmp_path: Path, name: str, first: str) -> None:
    one, other = MAKERS[name](1), MAKERS[name](2)
    order = ("a", "b") if first == "disk" else ("b", "a")
    one.save_pretrained(tmp_path / order[0])
    in_memory = tmp_path / order[1]
    in_memory.mkdir()
    other.config.architectures = [type(other).__name__]
    other.config.save_pretrained(in_memory)
    torch.save(other.state_dict(), in_memory / "pytorch_model.bin")
    build(tmp_path, weighted_sum())
    model, report = type(one).from_pretrained(
        tmp_path / "out" / "merged", output_loading_info=True, local_files_only=True, dtype=torch.float32
    )
    assert not any(report[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    right = merged_module(one, other) if first == "disk" else merged_module(other, one)
    found = model.state_dict()
    for key, value in right.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=key)
    if name not in {"whisper", "vit"}:
        inputs = {"input_ids": _IDS} | ({"decoder_input_ids": _IDS} if right.config.is_encoder_decoder else {})
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(**inputs).logits, right(**inputs).logits, rtol=0, atol=1e-5)


def test_a_language_model_merges_with_the_text_part_of_one_that_sees(tmp_path: Path) -> None:
    seeing, plain = _llava(1), _maker("llama")(2)
    seeing.save_pretrained(tmp_path / "a")
    plain.save_pretrained(tmp_path / "b")
    build(tmp_path, weighted_sum())
    model = type(seeing).from_pretrained(tmp_path / "out" / "merged", local_files_only=True)
    right = merged_module(seeing.model.language_model, plain.model)
    for key, value in right.state_dict().items():
        torch.testing.assert_close(model.model.language_model.state_dict()[key], value, rtol=0, atol=1e-6)
    tower = seeing.model.vision_tower.state_dict()
    assert all(torch.equal(value, tower[key]) for key, value in model.model.vision_tower.state_dict().items())
