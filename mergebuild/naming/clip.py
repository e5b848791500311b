"""CLIP's text encoder in the naming of transformers, and in that of OpenCLIP.

The same network: OpenCLIP keeps the three projections of an attention in one tensor, query over key over value, and
multiplies by its text projection from the other side. Positions counted from 0 (`position_ids`) are stored in
older files of transformers only, and the temperature of the training (`logit_scale`) in OpenCLIP only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from mergebuild.naming.renamed import Cut, Renamed, State, Stored, renamed, translated

__all__ = [
    "POSITION_IDS",
    "PROJECTION",
    "canonical_open",
    "in_text_model",
    "is_open",
    "layer",
    "only_text",
    "to_open",
    "to_transformers",
]

POSITION_IDS: Final = "text_model.embeddings.position_ids"
PROJECTION: Final = "text_projection"
_ENDS: Final = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding": "text_model.embeddings.token_embedding",
    "ln_final": "text_model.final_layer_norm",
}
_LAYER: Final = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OPEN_LAYER: Final = re.compile(r"transformer\.resblocks\.([0-9]{1,4})\.")
_TEXT_LAYER: Final = re.compile(r"text_model\.encoder\.layers\.([0-9]{1,4})\.")
_OPEN_ATTENTION: Final = re.compile(r"transformer\.resblocks\.([0-9]{1,4})\.attn\.in_proj_(weight|bias)")
_TEXT_ATTENTION: Final = re.compile(
    r"text_model\.encoder\.layers\.([0-9]{1,4})\.self_attn\.([qkv])_proj\.(weight|bias)"
)


def in_text_model(state: State) -> State:
    """Return an encoder's tensors by the names of transformers 4.

    Version 5 writes them without `text_model.` where no projection stands beside them, and so did NovelAI's first file.
    """
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    return {f"text_model.{name}" if name.startswith(bare) else name: stored for name, stored in state.items()}


def only_text(state: State) -> Mapping[str, Renamed]:
    """Return the tensors that a text encoder without projection has, as they are."""
    parts = ("text_model.embeddings.", "text_model.encoder.layers.", "text_model.final_layer_norm.")
    return {name: renamed(stored) for name, stored in state.items() if name.startswith(parts)}


def to_open(state: State) -> Mapping[str, Renamed]:
    """Return OpenCLIP's tensors, made of those of transformers; what has no place there is left out."""
    modules = {text: open_ for open_, text in _modules(state, _TEXT_LAYER).items()}
    made: dict[str, Renamed] = {}
    fused: defaultdict[str, dict[str, Stored]] = defaultdict(dict)
    for name, stored in state.items():
        if match := _TEXT_ATTENTION.fullmatch(name):
            fused[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"][match[2]] = stored
        elif name == f"{PROJECTION}.weight":
            made[PROJECTION] = _transposed(stored)
        elif new := translated(name, modules):
            made[new] = renamed(stored)
    for name, parts in fused.items():
        if parts.keys() == set("qkv") and len({part.shape for part in parts.values()}) == 1:
            rows, *others = parts["q"].shape
            made[name] = Renamed((3 * rows, *others), tuple(Cut(parts[p].component, parts[p].tensor) for p in "qkv"))
    return made


def to_transformers(state: State) -> Mapping[str, Renamed]:
    """Return the tensors of transformers, made of OpenCLIP's; what has no place there is left out."""
    modules = _modules(state, _OPEN_LAYER)
    made: dict[str, Renamed] = {}
    for name, stored in state.items():
        new: str | None
        if match := _OPEN_ATTENTION.fullmatch(name):
            for place, part in enumerate("qkv"):
                rows = stored.shape[0] // 3
                cut = Cut(stored.component, stored.tensor, (place * rows, (place + 1) * rows))
                new = f"text_model.encoder.layers.{match[1]}.self_attn.{part}_proj.{match[2]}"
                made[new] = Renamed((rows, *stored.shape[1:]), (cut,))
        elif name == PROJECTION:
            made[f"{PROJECTION}.weight"] = _transposed(stored)
        elif new := translated(name, modules):
            made[new] = renamed(stored)
    return made


def canonical_open(state: State) -> Mapping[str, Renamed]:
    """Return OpenCLIP's tensors as they are, without what is not known: those of its image encoder."""
    known = _modules(state, _OPEN_LAYER)
    return {
        name: renamed(stored)
        for name, stored in state.items()
        if name in {PROJECTION, "logit_scale"} or _OPEN_ATTENTION.fullmatch(name) or translated(name, known)
    }


def is_open(names: Iterable[str]) -> bool:
    """Whether an encoder's names are those of OpenCLIP."""
    return any(_OPEN_LAYER.match(name) for name in names)


def layer(name: str) -> int:
    """Return in which layer one of OpenCLIP's tensors is; -1 beside them."""
    match = _OPEN_LAYER.match(name)
    return int(match[1]) if match else -1


def _modules(names: Iterable[str], layer_of: re.Pattern[str]) -> Mapping[str, str]:
    """Return the modules of transformers by those of OpenCLIP, for the layers that are there."""
    modules = dict(_ENDS)
    for i in {match[1] for match in map(layer_of.match, names) if match}:
        for open_, text in _LAYER.items():
            modules[f"transformer.resblocks.{i}.{open_}"] = f"text_model.encoder.layers.{i}.{text}"
    return modules


def _transposed(stored: Stored) -> Renamed:
    return Renamed(stored.shape[::-1], (Cut(stored.component, stored.tensor, transposed=True),))
