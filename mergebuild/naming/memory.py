"""What a client has in memory under which name, which adapters go by: transformers' classes, where files differ.

A file of a base model by itself has no prefix, and its class with a head has one; since version 4.52 the parts of
multimodal models are kept under `model.`, and files have their old names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mergebuild.naming.rules import data_of
from mergebuild.naming.templates import model_types

__all__ = ["has_transposed", "in_memory", "is_transposed"]

_TEXT = "model."
"""What canonical names of a text part begin with."""
_OLD = "language_model."
"""What files of multimodal models had in front of it."""


def in_memory(name: str, stored: str, facts: Mapping[str, object] | None) -> str:
    """Return what transformers calls a tensor in memory.

    Args:
        name: its canonical name.
        stored: what the file calls it.
        facts: `config.json`, parsed; None where there is none.
    """
    types = model_types(facts)
    front = next((_of("text")[each] for each in types if each in _of("text")), "")
    if front or (stored.startswith(_OLD) and not types):
        return _in_multimodal(name, front or "model.language_model.")
    base = next((_of("base")[each] for each in types if each in _of("base")), "")
    if base:
        bare = stored.removeprefix(base)
        return bare if _is_base(facts) or bare.partition(".")[0] in _heads() else base + bare
    if name.startswith(_TEXT) and not stored.startswith(_TEXT) and not _is_base(facts):
        return name if _TEXT + stored == name else stored
    return stored


def has_transposed(facts: Mapping[str, object] | None) -> bool:
    """Return whether a model's class has matrices with inputs for rows."""
    return not model_types(facts).isdisjoint(data_of("memory")["transposed"]["model_types"])


def is_transposed(name: str, facts: Mapping[str, object] | None) -> bool:
    """Return whether a tensor is a matrix with inputs for rows, and its module's is the transpose."""
    ends = tuple(f".{module}.weight" for module in data_of("memory")["transposed"]["modules"])
    return name.endswith(ends) and has_transposed(facts)


def _in_multimodal(name: str, front: str) -> str:
    if name.startswith(_TEXT):
        return front + name.removeprefix(_TEXT)
    if name.partition(".")[0] in _heads():
        return name
    moved = data_of("memory")["moved"].items()
    return _TEXT + next((new + name.removeprefix(old) for old, new in moved if name.startswith(old)), name)


def _is_base(facts: Mapping[str, object] | None) -> bool:
    """Whether a configuration's class is a base model by itself, such as `BertModel`."""
    said = (facts or {}).get("architectures")
    first = said[0] if isinstance(said, list) and said else ""
    return isinstance(first, str) and first.endswith("Model") and not first.endswith(("HeadModel", "HeadsModel"))


@cache
def _of(table: str) -> Mapping[str, str]:
    """Return what stands in front by model type."""
    return {each: front for front, types in data_of("memory")[table].items() for each in types}


@cache
def _heads() -> frozenset[str]:
    return frozenset(data_of("memory")["heads"]["words"])
