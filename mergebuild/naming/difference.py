"""What would explain that two files have few names in common: a prefix, tensors stacked in one, fused in the other.

Names that the rules know are the same in both by then. What is left may still be the same parameters, under names that
no rule knows; then people should hear in what the names differ, and not only that they do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator

__all__ = ["explained"]

_MOST = 20_000
"""Names of each side that are looked at; models have fewer."""
_LONGEST = 500
"""Longer names are nobody's."""
_FORMS = (
    (
        re.compile(r"\.experts\.(?:[a-z_]*_)?(?:proj|weight|w\d)"),
        re.compile(r"\.experts\.\d+\."),
        "experts stacked in one tensor",
        "one by one",
    ),
    (
        re.compile(r"(?:^|[._])(?:qkv|query_key_value|c_attn|Wqkv|wqkv|W_pack|in_proj|to_qkv|qkv_proj)(?:[._]|$)"),
        re.compile(r"(?:^|[._])(?:q|k|v|q_proj|k_proj|v_proj|to_q|to_k|to_v|query|key|value|wq|wk|wv)(?:[._]|$)"),
        "queries, keys and values fused in one tensor",
        "apart",
    ),
    (
        re.compile(r"(?:^|[._])gate_up(?:_proj)?(?:[._]|$)"),
        re.compile(r"(?:^|[._])(?:gate|up)_proj(?:[._]|$)"),
        "gate and up fused in one tensor",
        "apart",
    ),
)
"""How a tensor is called that holds several, how these are called, and both in words."""


def explained(ours: Collection[str], theirs: Collection[str]) -> str:
    """Return what the names of tensors that found no counterpart differ in, as a clause; empty where nothing is known.

    Args:
        ours: those of the first of two files.
        theirs: those of the second.
    """
    if not ours or not theirs:
        return ""
    heads = _heads(list(ours)[:_MOST], list(theirs)[:_MOST])
    if heads is not None:
        mine, yours = heads
        return f"names begin with {_quoted(mine)} in the one and with {_quoted(yours)} in the other"
    for whole, part, one, other in _FORMS:
        for some, rest, first, second in ((ours, theirs, "first", "second"), (theirs, ours, "second", "first")):
            if any(whole.search(name) for name in some) and any(part.search(name) for name in rest):
                return f"the {first} has {one}, the {second} has them {other}"
    return ""


def _heads(ours: Collection[str], theirs: Collection[str]) -> tuple[str, str] | None:
    """Return what most names of either side begin with, where they are the same behind it."""
    tails: dict[str, str] = {}
    for name in ours:
        for head, tail in _cuts(name):
            tails.setdefault(tail, head)
    found: Counter[tuple[str, str]] = Counter()
    for name in theirs:
        match = next(((tails[tail], head) for head, tail in _cuts(name) if tail in tails), None)
        if match is not None:
            found[match] += 1
    if not found:
        return None
    heads, count = found.most_common(1)[0]
    return heads if 2 * count >= min(len(ours), len(theirs)) else None


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """Yield what a name begins with and the rest, the longest rest first; a rest of one word says nothing."""
    if len(name) > _LONGEST:
        return
    yield "", name
    at = name.find(".")
    while at >= 0 and name.find(".", at + 1) >= 0:
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)


def _quoted(head: str) -> str:
    return f"`{head}`" if head else "nothing"
