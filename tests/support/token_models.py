"""Small language models with tokenizers of a few tokens, and the rows that a union gives them, by the rules as written.

`united` says again, token by token, what the specification of unions says; it shares no code with the program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from model_files import write_model
from torch import Tensor

__all__ = ["EMBED", "HEAD", "LAYER", "TokenModel", "aligned", "united"]

EMBED, HEAD, LAYER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"


@dataclass
class TokenModel:
    """A model with a tokenizer: its tokens in order, and which of them are added ones."""

    tokens: Sequence[str]
    added: Sequence[str] = ()
    rows: int = 0
    """0: as many as tokens."""
    seed: int = 0
    width: int = 4
    tied: bool = False
    dtype: torch.dtype = torch.float32
    merges: Sequence[str] = ()
    kind: str = "BPE"
    vocab_size: int = 0
    """Of the configuration; 0: the rows."""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def every(self) -> list[str]:
        """All of its tokens, in the order of their numbers."""
        return [*self.tokens, *self.added]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors."""
        draw = torch.Generator().manual_seed(self.seed)
        rows = self.rows or len(self.every)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).to(self.dtype)

        found = {EMBED: drawn(rows, self.width), LAYER: drawn(self.width, self.width)}
        return found if self.tied else {**found, HEAD: drawn(rows, self.width)}

    @property
    def document(self) -> dict[str, Any]:
        """Its `tokenizer.json`."""
        first = len(self.tokens)
        return {
            "version": "1.0",
            "added_tokens": [
                {"id": first + at, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True}
                for at, token in enumerate(self.added)
            ],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {
                "type": self.kind, "vocab": {token: at for at, token in enumerate(self.tokens)},
                "merges": list(self.merges),
            },
        }  # fmt: skip

    def write(self, folder: Path, **beside: object) -> Path:
        """Write it as a folder of transformers; `beside`: other small files, by name with `_` for dots and slashes."""
        write_model(folder / "model.safetensors", self.tensors)
        size = self.vocab_size or self.rows or len(self.every)
        config = {
            "model_type": "llama", "vocab_size": size, "num_hidden_layers": 1, "tie_word_embeddings": self.tied,
            **self.config,
        }  # fmt: skip
        decoder = {
            str(each["id"]): {key: value for key, value in each.items() if key != "id"}
            for each in self.document["added_tokens"]
        }
        small = {
            "config.json": config,
            "tokenizer.json": self.document,
            "tokenizer_config.json": {"added_tokens_decoder": decoder, "tokenizer_class": "PreTrainedTokenizerFast"},
            "special_tokens_map.json": {"eos_token": self.added[0]} if self.added else {},
            **beside,
        }
        for name, value in small.items():
            text = value if isinstance(value, str) else json.dumps(value, indent=2)
            (folder / name).write_text(text, encoding="utf-8")
        return folder


def united(models: Sequence[TokenModel], more: Sequence[str] = ()) -> list[str]:
    """Return the tokens of the union of models, the base first."""
    sizes = [model.vocab_size or model.rows or len(model.every) for model in models]
    found = models[0].every[: sizes[0]]
    added = [
        token for model, size in zip(models, sizes, strict=True) for token in model.every[:size] if token in model.added
    ]
    for model, size in zip(models[1:], sizes[1:], strict=True):
        found += [token for token in model.every[:size] if token not in found and token not in added]
    for token in (*added, *more):
        if token not in found:
            found.append(token)
    return found


def aligned(
    models: Sequence[TokenModel], tokens: Sequence[str], name: str, at: int, wishes: Mapping[str, Any] | None = None
) -> Tensor:
    """Return a tensor of a model in the order of `tokens` (float64).

    `wishes`: by token `(model or None, token or None, zero, force)`.
    """
    tensors = [model.tensors.get(name, model.tensors[EMBED]).double() for model in models]

    def own(which: int, token: str) -> Tensor | None:
        every = models[which].every
        if token not in every or every.index(token) >= len(tensors[which]):
            return None
        return tensors[which][every.index(token)]

    def default(token: str) -> Tensor:
        model, other, zero, _ = (wishes or {}).get(token, (None, None, False, False))
        if zero:
            return torch.zeros_like(tensors[at][0])
        if model is not None:
            found = own(model, token if other is None else other)
            assert found is not None
            return found
        having = [row for which in range(len(models)) if (row := own(which, token)) is not None]
        if not having:
            return torch.zeros_like(tensors[at][0])
        first = own(0, token)
        return having[0] if len(having) == 1 else first if first is not None else torch.stack(having).mean(0)

    rows = []
    for token in tokens:
        mine = own(at, token)
        force = (wishes or {}).get(token, (None, None, False, False))[3]
        rows.append(default(token) if mine is None or force else mine)
    return torch.stack(rows)
