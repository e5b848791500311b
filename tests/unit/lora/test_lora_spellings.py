"""The law of names: a LoRA in any spelling does the same to a base in any other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_files import stored
from spelled_models import NEEDED, Shape, Spelled, canonical_tensors, ours, spelled, theirs

from mergebuild.lora import match
from mergebuild.naming.canonical import canonical
from mergebuild.naming.rules import signs_of

_KNOWN = [signs.family for signs in signs_of()]
_SPELLED = [
    each for each in spelled() if each.family in _KNOWN and not each.spelling.signs and not each.spelling.unless
]

Row = tuple[str, int]
"""A row of a canonical tensor."""


def _rows(shapes: dict[str, Shape]) -> dict[str, list[Row]]:
    """Return which rows of canonical tensors each tensor of a file has."""
    found: dict[str, dict[int, Row]] = {}
    for name, renamed in canonical(shapes).made.items():
        at = 0
        for cut in renamed.cuts:
            first, last = cut.rows or (0, shapes[cut.tensor][0])
            for row in range(first, last):
                found.setdefault(cut.tensor, {})[row] = (name, at + row - first)
            at += last - first
    return {tensor: [rows[at] for at in sorted(rows)] for tensor, rows in found.items()}


def _stored(each: Spelled, is_canonical: bool, prefix: str) -> dict[str, Shape]:
    """Return all modules of a spelling: as it has them, or under canonical names."""
    beside = dict(NEEDED.get(each.family, {}))
    main = next(other for other in _SPELLED if other.family == each.family)
    if not beside and main.part != each.part:
        beside = canonical_tensors(main)
    rows = [row for row in each.rows if not row.whole]
    made = [ours(each.part, row, 3, 2) if is_canonical else theirs(each.part, row, 3, 2, prefix) for row in rows]
    return beside | {name: shape for tensors in made for name, shape in tensors.items()}


@pytest.mark.parametrize("each", _SPELLED, ids=str)
@settings(max_examples=10)
@given(st.data())
def test_a_lora_does_the_same_to_every_spelling(each: Spelled, data: st.DataObject) -> None:
    prefixes = [each.part.prefix, *each.part.prefixes]
    model = _stored(each, data.draw(st.booleans()), data.draw(st.sampled_from(prefixes)))
    is_canonical = data.draw(st.booleans())
    in_front = each.part.prefix if is_canonical else data.draw(st.sampled_from(prefixes))
    other = _stored(each, is_canonical, in_front)
    if {canonical(model).family, canonical(other).family} != {each.family}:
        return  # too little of it to show which family it is
    name = data.draw(st.sampled_from(sorted(name for name in other if name.startswith(in_front))))
    meant = _rows(other)[name]
    module = name.removesuffix(".weight")
    forms = [module, f"base_model.model.{module}"]
    if each.part.kohya:
        flat = module[len(in_front) :].replace(".", "_")
        forms += [f"{tool}_{slot}_{flat}" for slot in each.part.kohya for tool in ("lora", "lycoris")]
    file = stored({f"{data.draw(st.sampled_from(forms))}.diff": other[name]})
    found = match(file, model)
    assert not found.unmatched
    rows = _rows(model)
    changed: dict[Row, int] = {}
    for tensor, deltas in found.deltas.items():
        for delta in deltas:
            facts = dict(delta.facts)
            if facts.get("transposed"):
                assert delta.rows is None
                continue
            first, last = delta.rows or (0, model[tensor][0])
            for row in range(first, last):
                changed[rows[tensor][row]] = int(facts.get("offset", 0)) + row - first
    if changed:
        assert changed == {row: at for at, row in enumerate(meant)}
