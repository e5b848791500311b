"""The names that transformers' classes have in memory, where they differ from those in files: adapters use them.

The file of a base model has no prefix where the class with a head has one. Since version 4.52 the parts of multimodal
models are under `model.` in memory, while their files keep the old names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mergebuild.naming.rules import data_of
from mergebuild.naming.templates import model_types

__all__ = ["has_transposed", "in_memory", "is_transposed"]

_TEXT = "model."
"""The prefix of canonical names of a text part."""
_OLD = "language_model."
"""The prefix before that one in files of multimodal models."""


def in_memory(name: str, stored: str, facts: Mapping[str, object] | None) -> str:
    """Return the name of a tensor in transformers' memory.

    Args:
        name: Its canonical name.
        stored: Its name in the file.
        facts: `config.json`, parsed; None if there is none.
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
    """Return whether the model's class has matrices whose rows are inputs."""
    return not model_types(facts).isdisjoint(data_of("memory")["transposed"]["model_types"])


def is_transposed(name: str, facts: Mapping[str, object] | None) -> bool:
    """Return whether a tensor is such a matrix, whose transpose is the weight of the module."""
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
    """Whether a configuration's class is a base model without a head, such as `BertModel`."""
    said = (facts or {}).get("architectures")
    first = said[0] if isinstance(said, list) and said else ""
    return isinstance(first, str) and first.endswith("Model") and not first.endswith(("HeadModel", "HeadsModel"))


@cache
def _of(table: str) -> Mapping[str, str]:
    """Return the prefixes in memory by model type."""
    return {each: front for front, types in data_of("memory")[table].items() for each in types}


@cache
def _heads() -> frozenset[str]:
    return frozenset(data_of("memory")["heads"]["words"])
