"""Changes members in the text of a `config.json`; everything else stays as it is, including white space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Final, NamedTuple

__all__ = ["QUANTIZATIONS", "Path", "patched_config"]

QUANTIZATIONS: Final = ("quantization_config", "compression_config")
"""Members that say how weights are quantized."""

Path = tuple[str, ...]
"""The keys that lead to a member."""

_DTYPES: Final = frozenset({"float64", "float32", "float16", "bfloat16"})
"""The dtypes that clients compute in. They widen others when loading, to the dtype that the donor's configuration
says."""
_DROPPED: Final = frozenset({*QUANTIZATIONS, "transformers_weights"})
_BITS: Final = "bits"
_QUANTIZATION: Final = "quantization"
"""MLX's name for it: an object with `bits`. In other models the settings of a codebook have this name."""


class _JsonMember(NamedTuple):
    """A member of a JSON object: its key, and the indexes in the text where key and value begin and the value ends."""

    key: str
    begin: int
    value: int
    end: int


def patched_config(text: bytes, *, dtype: str | None = None, changes: Mapping[Path, object] | None = None) -> bytes:
    """Return the text of a `config.json` changed to fit the tensors written beside it.

    Members that say how weights are quantized are removed, as we never write quantized weights; so are names of files
    of weights.

    Args:
        text: The donor's text, a JSON object.
        dtype: The dtype of the floating-point tensors now, in the contract's word; None: as in the donor.
            Configurations of
            transformers have it as `dtype` or `torch_dtype`, those of diffusers not at all.
        changes: New values of members. A new member is added at the end of its object, which must exist.

    Raises:
        ValueError: the text is not a JSON object in UTF-8.
    """
    document = text.decode()
    json.loads(document)
    if not document.lstrip().startswith("{"):
        message = "a configuration is a JSON object"
        raise ValueError(message)
    begin = document.index("{")
    keys = {member.key for member in _members(document, begin)[0]}
    given = dict(changes or {})
    dtypes: dict[str, object] = {}
    if dtype in _DTYPES:
        dtypes = {"dtype": dtype, "torch_dtype": dtype}
        if not keys & {"dtype", "torch_dtype", "_diffusers_version"}:
            given[("torch_dtype",)] = dtype
    patched, end = _patched(document, begin, dtypes, given)
    return (document[:begin] + patched + document[end:]).encode()


def _patched(
    text: str, at: int, everywhere: Mapping[str, object], given: Mapping[Path, object], *, levels: int = 3
) -> tuple[str, int]:
    """Return the changed text of the object that begins at an index, and the index after it in the original text.

    Args:
        text: The text.
        at: The index.
        everywhere: Changes to members of it, and of objects in it whose key ends in `_config`, down to `levels` levels.
        given: Changes to single members, by the keys that lead to them from this object.
        levels: The number of levels.
    """
    members, end = _members(text, at)
    opening = text[at : members[0].begin if members else end - 1]
    between = [text[before.end : member.begin] for before, member in pairwise(members)]
    own = {path[0]: value for path, value in given.items() if len(path) == 1}
    parts: list[tuple[str, str]] = []
    for separator, member in zip([f",{opening[1:]}", *between], members, strict=False):
        value = text[member.value : member.end]
        if member.key in _DROPPED or (member.key == _QUANTIZATION and _says_bits(value)):
            continue
        value = _patched_value(text, member, everywhere, given, levels)
        parts.append((separator, text[member.begin : member.value] + value))
    known = {member.key for member in members}
    last = between[-1] if between else f",{opening[1:]}"
    parts += [(last, f"{json.dumps(key)}: {json.dumps(value)}") for key, value in own.items() if key not in known]
    body = "".join(separator + part if number else part for number, (separator, part) in enumerate(parts))
    return opening + body + (text[members[-1].end : end] if members else "}"), end


def _patched_value(
    text: str, member: _JsonMember, everywhere: Mapping[str, object], given: Mapping[Path, object], levels: int
) -> str:
    """Return the text of a member's value, with the changes to it or inside it."""
    key, value = member.key, text[member.value : member.end]
    inner = {path[1:]: each for path, each in given.items() if len(path) > 1 and path[0] == key}
    if (key,) in given:
        return json.dumps(given[(key,)])
    if key in everywhere:
        return json.dumps(everywhere[key])
    is_deeper = levels > 0 and key.endswith("_config")
    if value.startswith("{") and (inner or is_deeper):
        deeper = everywhere if is_deeper else {}
        return _patched(text, member.value, deeper, inner, levels=max(levels - 1, 0))[0]
    return value


def _says_bits(value: str) -> bool:
    """Return whether a value is an object that says to how many bits weights were quantized."""
    found = json.loads(value)
    return isinstance(found, dict) and _BITS in found


def _members(text: str, at: int) -> tuple[list[_JsonMember], int]:
    """Return the members of the object that begins at an index of valid JSON, and the index after the object."""
    decode = json.JSONDecoder().raw_decode
    members: list[_JsonMember] = []
    place = _skipped(text, at + 1)
    while text[place] != "}":
        key, colon = decode(text, place)
        value = _skipped(text, _skipped(text, colon) + 1)
        end = decode(text, value)[1]
        members.append(_JsonMember(key, place, value, end))
        place = _skipped(text, end)
        if text[place] == ",":
            place = _skipped(text, place + 1)
    return members, place + 1


def _skipped(text: str, place: int) -> int:
    """Return the index of the next character that is not white space."""
    while text[place] in " \t\n\r":
        place += 1
    return place
