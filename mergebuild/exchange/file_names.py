"""Names of model files as recipes write them: with a folder of another machine, without an end, with a hash behind."""

from __future__ import annotations

import re
from typing import Final

from mergebuild.formats.registry import READ_SUFFIXES

__all__ = ["last_step", "split_hash", "stem_of", "suffix_of", "without_suffix"]

_HASH_BEHIND: Final = re.compile(r"\s*\[(?P<hash>[0-9a-fA-F]{8,64})\]\s*$")


def suffix_of(name: str) -> str:
    """Return the end of a name that model files have; empty if it has none of these."""
    found = next((each for each in READ_SUFFIXES if name.lower().endswith(each)), "")
    return name[len(name) - len(found) :]


def without_suffix(name: str) -> str:
    """Return a name without such an end."""
    return name[: len(name) - len(suffix_of(name))]


def split_hash(name: str) -> tuple[str, str]:
    """Return a name without a hash in brackets behind it, and that hash in lower case; empty if there is none."""
    found = _HASH_BEHIND.search(name)
    return (name[: found.start()], found["hash"].lower()) if found else (name, "")


def last_step(path: str) -> str:
    """Return the last step of a path, whether slashes or backslashes divide it."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def stem_of(name: str) -> str:
    """Return a model's name without folders, an end or a hash, in lower case: to compare it with others."""
    return without_suffix(last_step(split_hash(name)[0].strip())).lower()
