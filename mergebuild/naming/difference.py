"""Explains why two files have few names in common: other prefixes, or tensors that one file stacks or fuses.

Names that the rules know are the same in both files by now. The others may still be the same parameters under unknown
names; then the error should say how the names differ, not only that they do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator

__all__ = ["explained"]

_MOST = 20_000
"""The most names of each file that are compared; models have fewer."""
_LONGEST = 500
"""Longer names are left out; real ones are shorter."""
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
"""A pattern of names of tensors that hold several, a pattern of names of the single ones, and words for both forms."""


def explained(ours: Collection[str], theirs: Collection[str]) -> str:
    """Return how the names of tensors without a counterpart differ, as a clause; empty if no difference is recognized.

    Args:
        ours: The names in the first file.
        theirs: The names in the second file.
    """
    if not ours or not theirs:
        return ""
    heads = _heads(list(ours)[:_MOST], list(theirs)[:_MOST])
    if heads is not None:
        mine, yours = heads
        return f"names begin with {_quoted(mine)} in the one and with {_quoted(yours)} in the other"
    return _other_form(ours, theirs)


def _other_form(ours: Collection[str], theirs: Collection[str]) -> str:
    """Return which tensors one file has together and the other one by one, as a clause; empty if there are none."""
    for whole, part, one, other in _FORMS:
        for some, rest, first, second in ((ours, theirs, "first", "second"), (theirs, ours, "second", "first")):
            if any(whole.search(name) for name in some) and any(part.search(name) for name in rest):
                return f"the {first} has {one}, the {second} has them {other}"
    return ""


def _heads(ours: Collection[str], theirs: Collection[str]) -> tuple[str, str] | None:
    """Return the beginnings in which most names of the two files differ, if the rest of these names is the same."""
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
    """Yield each beginning of a name with the rest of it, the longest rest first, down to rests of two words."""
    if len(name) > _LONGEST:
        return
    yield "", name
    at = name.find(".")
    while at >= 0 and name.find(".", at + 1) >= 0:
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)


def _quoted(head: str) -> str:
    return f"`{head}`" if head else "nothing"
