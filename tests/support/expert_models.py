"""Small models of Llama's form, as folders, of which stacks of experts are made; and what these are, computed apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from lab import Lab
from model_files import write_model
from torch import Tensor

__all__ = ["LAYERS", "WORDS", "expert_model", "gates", "stacked"]

LAYERS = 3
WIDTH, INNER, ROWS = 8, 12, 20
WORDS = {"<s>": 1, "write": 2, "code": 3, "tell": 4, "a": 5, "story": 6, "song": 19}
"""The tokens of the tokenizer that tests have instead of a real one: words, and the token that begins a text."""
_MATRICES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def expert_model(
    lab: Lab,
    name: str,
    seed: int,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    kind: str = "llama",
    inner: int = INNER,
    layers: int = LAYERS,
) -> dict[str, Tensor]:
    """Write a model as the source of that name; return its tensors."""
    draw = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    found = {"model.embed_tokens.weight": drawn(ROWS, WIDTH), "model.norm.weight": drawn(WIDTH)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        found |= {f"{at}.self_attn.{each}_proj.weight": drawn(WIDTH, WIDTH) for each in "qkvo"}
        found |= {f"{at}.mlp.{each}_proj.weight": drawn(inner, WIDTH) for each in ("gate", "up")}
        found |= {f"{at}.mlp.down_proj.weight": drawn(WIDTH, inner)}
        found |= {f"{at}.{each}_layernorm.weight": drawn(WIDTH) for each in ("input", "post_attention")}
    if not tied:
        found["lm_head.weight"] = drawn(ROWS, WIDTH)
    write_model(lab / name / "model.safetensors", found)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": kind, "vocab_size": ROWS, "hidden_size": WIDTH,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 2, "tie_word_embeddings": tied,
    }  # fmt: skip
    (lab / name / "config.json").write_text(json.dumps(config))
    lab.sources[name] = f"{name}/"
    return found


def stacked(
    base: Mapping[str, Tensor], experts: Sequence[Mapping[str, Tensor]], gate: Mapping[int, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a stack of experts. `gate`: by layer."""
    found = {name: each for name, each in base.items() if ".mlp." not in name}
    for layer, each in gate.items():
        at = f"model.layers.{layer}"
        found[f"{at}.block_sparse_moe.gate.weight"] = each
        for number, expert in enumerate(experts):
            for matrix, short in _MATRICES.items():
                name = f"{at}.block_sparse_moe.experts.{number}.{short}.weight"
                found[name] = expert[f"{at}.mlp.{matrix}.weight"]
    return found


def gates(embedding: Tensor, prompts: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Tensor:
    """Return the gates of prompts (float32 [experts, width]), by the formula: each text begins with `<s>`."""

    def directed(vector: Tensor) -> Tensor:
        return vector / max(vector.norm().item(), 1e-8)

    def of(texts: Sequence[str]) -> Tensor:
        numbers = [WORDS[word] for text in texts for word in ("<s>", *text.split())]
        return directed(embedding.double()[numbers].sum(0))

    rows = [directed(of(some) - of(others)) if others else of(some) for some, others in prompts]
    return torch.stack(rows).float()
