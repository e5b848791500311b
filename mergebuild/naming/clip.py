"""CLIP's text encoder in the names of transformers and in those of OpenCLIP.

The network is the same. OpenCLIP has the three projections of an attention in one tensor (query, key, value) and its
text projection transposed. Positions counted from 0 (`position_ids`) are only in older files of transformers, and the
temperature used in training (`logit_scale`) only in OpenCLIP's.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from mergebuild.naming.renamed import Renamed, RowsOf, State, StoredTensor, renamed, translated

__all__ = [
    "POSITION_IDS",
    "PROJECTION",
    "in_text_model",
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
    """Return an encoder's tensors with the names of transformers 4.

    Version 5 leaves out `text_model.` if the file has no projection; so did NovelAI's first file.
    """
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    return {f"text_model.{name}" if name.startswith(bare) else name: stored for name, stored in state.items()}


def only_text(state: State) -> Mapping[str, Renamed]:
    """Return the tensors of `text_model`, unchanged. Others, such as the projection, are left out."""
    parts = ("text_model.embeddings.", "text_model.encoder.layers.", "text_model.final_layer_norm.")
    return {name: renamed(stored) for name, stored in state.items() if name.startswith(parts)}


def to_open(state: State) -> Mapping[str, Renamed]:
    """Return OpenCLIP's tensors, made of those of transformers; tensors without a counterpart are left out."""
    modules = {text: open_ for open_, text in _modules(state, _TEXT_LAYER).items()}
    made: dict[str, Renamed] = {}
    split: defaultdict[str, dict[str, StoredTensor]] = defaultdict(dict)
    for name, stored in state.items():
        if match := _TEXT_ATTENTION.fullmatch(name):
            split[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"][match[2]] = stored
        elif name == f"{PROJECTION}.weight":
            made |= _transposed(PROJECTION, stored)
        elif new := translated(name, modules):
            made[new] = renamed(stored)
    for name, parts in split.items():
        made |= _fused(name, parts)
    return made


def to_transformers(state: State) -> Mapping[str, Renamed]:
    """Return the tensors of transformers, made of OpenCLIP's; tensors without a counterpart are left out."""
    modules = _modules(state, _OPEN_LAYER)
    made: dict[str, Renamed] = {}
    for name, stored in state.items():
        if match := _OPEN_ATTENTION.fullmatch(name):
            made |= _split(f"text_model.encoder.layers.{match[1]}.self_attn", match[2], stored)
        elif name == PROJECTION:
            made |= _transposed(f"{PROJECTION}.weight", stored)
        elif new := translated(name, modules):
            made[new] = renamed(stored)
    return made


def layer(name: str) -> int:
    """Return the layer that one of OpenCLIP's tensors is in; -1 if it is in none."""
    match = _OPEN_LAYER.match(name)
    return int(match[1]) if match else -1


def _modules(names: Iterable[str], layer_of: re.Pattern[str]) -> Mapping[str, str]:
    """Return the modules of transformers by those of OpenCLIP, for the layers that exist."""
    modules = dict(_ENDS)
    for i in {match[1] for match in map(layer_of.match, names) if match}:
        for open_, text in _LAYER.items():
            modules[f"transformer.resblocks.{i}.{open_}"] = f"text_model.encoder.layers.{i}.{text}"
    return modules


def _fused(name: str, parts: Mapping[str, StoredTensor]) -> Mapping[str, Renamed]:
    """Return one tensor made of three projections with equal shapes; nothing if one is missing or differs."""
    shapes = {part.shape for part in parts.values()}
    if len(parts) < 3 or len(shapes) > 1 or shapes == {()}:
        return {}
    rows, *others = parts["q"].shape
    return {
        name: Renamed((3 * rows, *others), tuple(RowsOf(parts[part].component, parts[part].tensor) for part in "qkv"))
    }


def _split(attention: str, kind: str, stored: StoredTensor) -> Mapping[str, Renamed]:
    """Return three projections made of one tensor; nothing if its rows can't be divided by three."""
    if not stored.shape or stored.shape[0] % 3:
        return {}
    rows = stored.shape[0] // 3
    return {
        f"{attention}.{part}_proj.{kind}": Renamed(
            (rows, *stored.shape[1:]), (RowsOf(stored.component, stored.tensor, (place * rows, (place + 1) * rows)),)
        )
        for place, part in enumerate("qkv")
    }


def _transposed(name: str, stored: StoredTensor) -> Mapping[str, Renamed]:
    if len(stored.shape) != 2:
        return {}
    return {name: Renamed(stored.shape[::-1], (RowsOf(stored.component, stored.tensor, transposed=True),))}
