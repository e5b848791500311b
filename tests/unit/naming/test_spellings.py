"""Laws of the rules, for every family and every spelling that there is data of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spelled_models import NEEDED, Shape, Spelled, canonical_tensors, ours, spelled, theirs

from mergebuild.naming import to_diffusers
from mergebuild.naming.canonical import Canonical, canonical
from mergebuild.naming.rules import FamilyRules, families, pattern, signs_of

_LAYOUTS = Path(__file__).parents[3] / "examples" / "sd15" / "layouts"
_KNOWN = [signs.family for signs in signs_of()]
_SPELLED = [each for each in spelled() if each.family in _KNOWN and not each.spelling.signs]
"""Those that hold for every file of the family."""


def _shapes(found: Canonical) -> dict[str, Shape]:
    return {name: renamed.shape for name, renamed in found.made.items()}


def _real(name: str) -> dict[str, Shape]:
    tensors = json.loads((_LAYOUTS / f"{name}.json").read_text())["tensors"]
    return {tensor: tuple(shape) for tensor, (_, shape) in tensors.items()}


def _beside(each: Spelled) -> dict[str, Shape]:
    """Return what shows the family, where the rows of this spelling don't: its first part under canonical names."""
    main = next((other for other in _SPELLED if other.family == each.family), each)
    found = dict(NEEDED.get(each.family, {}))
    if not found and main.part != each.part:
        found = canonical_tensors(main)
    return found


def _one_to_one(shapes: Mapping[str, Shape], found: Canonical) -> None:
    """Check that each element of the file is in one parameter, or in a tensor that is there twice."""
    rows: dict[str, list[tuple[int, int]]] = {}
    for renamed in found.made.values():
        for cut in renamed.cuts:
            whole = shapes[cut.tensor][0] if shapes[cut.tensor] else 1
            rows.setdefault(cut.tensor, []).append(cut.rows or (0, whole))
    for name, shape in shapes.items():
        if name not in found.twice:
            spans = sorted(rows[name])
            assert spans[0][0] == 0
            assert spans[-1][1] == (shape[0] if shape else 1)
            assert all(before[1] == after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize("each", _SPELLED, ids=str)
@settings(max_examples=10)
@given(st.data())
def test_a_spelling_is_the_canonical_names(each: Spelled, data: st.DataObject) -> None:
    """However a part is spelled, behind whichever of its prefixes, its parameters are the same."""
    prefix = data.draw(st.sampled_from([each.part.prefix, *each.part.prefixes]))
    number, width = data.draw(st.integers(0, 120)), data.draw(st.integers(1, 3))
    stored = _beside(each)
    wanted = _shapes(canonical(stored))
    for row in each.rows:
        if data.draw(st.booleans()) or row is next(each.rows):
            stored |= theirs(each.part, row, number, width, prefix)
            wanted |= ours(each.part, row, number, width)
    found = canonical(stored)
    _one_to_one(stored, found)
    assert not found.twice
    if found.family == each.family:  # few rows may not show of which family they are
        assert _shapes(found) == wanted


@pytest.mark.parametrize("each", _SPELLED, ids=str)
@pytest.mark.parametrize("number", [0, 17])
def test_all_of_a_spelling_shows_its_family(each: Spelled, number: int) -> None:
    prefix = each.part.prefix
    stored = _beside(each) | {
        name: shape for row in each.rows for name, shape in theirs(each.part, row, number, 2, prefix).items()
    }
    found = canonical(stored)
    if each.part.pipeline in {"transformer", "unet"} and len(list(each.rows)) > 8:
        assert found.family == each.family
    if found.family == each.family:
        assert _shapes(found).keys() >= canonical_tensors(each, number).keys()


@pytest.mark.parametrize("each", _SPELLED, ids=str)
def test_canonical_names_are_their_own(each: Spelled) -> None:
    shapes = _beside(each) | canonical_tensors(each)
    found = canonical(shapes)
    if found.family in {each.family, ""}:
        assert list(found.made) == list(canonical(_shapes(found)).made)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_pipeline_in_one_file_is_the_checkpoint(name: str) -> None:
    """Every component in the names of diffusers, each behind its own name."""
    checkpoint = _real(name)
    components, _ = to_diffusers(checkpoint)
    flat = {f"{part}.{tensor}": made.shape for part, tensors in components.items() for tensor, made in tensors.items()}
    found = canonical(flat)
    assert not found.twice
    assert found.family == name
    assert _shapes(found).items() <= checkpoint.items()
    missing = checkpoint.keys() - found.made.keys()
    assert all(
        each.endswith(("position_ids", "logit_scale")) or each.startswith("model_ema.") or "." not in each
        for each in missing
    )
    assert list(canonical(checkpoint).made) == list(checkpoint)


@pytest.mark.parametrize("each", spelled(lora=True), ids=str)
def test_no_name_of_a_spelling_means_two_things(each: Spelled) -> None:
    of_models = [other for other in each.part.spellings if each.spelling.lora or not other.lora]
    meant: dict[str, tuple[tuple[str, ...], int]] = {}
    for spelling in of_models:
        for row in spelling.rows:
            for place, name in enumerate(row.theirs):
                known = meant.setdefault(name, (row.ours, place)) if name and spelling == each.spelling else None
                assert known in {None, (row.ours, place)}


@pytest.mark.parametrize("family", list(families()), ids=lambda family: family.name)
def test_rows_are_written_as_they_must_be(family: FamilyRules) -> None:
    for part in family.parts:
        assert all(prefix.endswith((".", "_")) for prefix in (part.prefix, *part.prefixes) if prefix)
        for spelling in part.spellings:
            assert spelling.source
            for row in spelling.rows:
                assert min(len(row.ours), len(row.theirs)) == 1
                assert not row.shares or len(row.shares) in {len(row.ours), len(row.theirs)}
                free = {len(pattern(name).free) for name in (*row.ours, *row.theirs) if name}
                assert len(free) == 1, row
