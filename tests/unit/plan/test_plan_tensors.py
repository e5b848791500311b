"""Tensors reckoned all at once are those reckoned one by one."""

from __future__ import annotations

import hashlib
from fractions import Fraction

from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab

from mergebuild.digest import artifact_digest
from mergebuild.fold.forms import Form, Kinds, Slot, Spec
from mergebuild.key import gather, linear_key
from mergebuild.plan.made import Origin
from mergebuild.plan.tensors import Grid, Tensors

OWNERS = ("a", "b", "c")
DTYPES = ("float16", "float32", "float64")
COEFFICIENTS = st.fractions(-2, 2, max_denominator=4).filter(bool)
FORMS = st.lists(st.sampled_from(OWNERS), min_size=1, unique=True).flatmap(
    lambda owners: st.lists(COEFFICIENTS, min_size=len(owners), max_size=len(owners)).map(
        lambda numbers: Form(
            tuple((Slot(owner), number) for owner, number in sorted(zip(owners, numbers, strict=True)))
        )
    )
)


@st.composite
def grids(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, Spec], list[list[Form]], dict[tuple[str, str], Origin]]:
    """Return kinds, specs, the palettes of two targets that differ in coefficients alone, and what inputs are."""
    names = [f"t{index}" for index in range(draw(st.integers(1, 6)))]
    palette = draw(st.lists(FORMS, min_size=1, max_size=3))
    kinds = {name: draw(st.integers(0, len(palette) - 1)) for name in names}
    specs = {name: Spec(draw(st.sampled_from(DTYPES)), (draw(st.integers(0, 3)), 2), is_float=True) for name in names}
    origins: dict[tuple[str, str], Origin] = {}
    for name in names:
        for owner in OWNERS:  # few contents, so that some inputs have equal tensors
            content, dtype = draw(st.integers(0, 3)), draw(st.sampled_from(DTYPES))
            digest = hashlib.md5(f"{content} {dtype} {specs[name].shape}".encode()).digest()
            origins[owner, name] = Origin(digest, dtype, None)
    other = [Form(tuple((slot, draw(COEFFICIENTS)) for slot, _ in form.terms)) for form in palette]
    return kinds, specs, [palette, other, palette], origins


@given(grids())
@examples(150)
def test_a_target_put_into_a_grid_is_what_its_tensors_are_one_by_one(
    drawn: tuple[dict[str, int], dict[str, Spec], list[list[Form]], dict[tuple[str, str], Origin]],
) -> None:
    """Digests, terms, copies and what is read; for one target after another in the same grid."""
    kinds, specs, palettes, origins = drawn
    slots = [[slot for slot, _ in form.terms] for form in palettes[0]]
    names = list(kinds)
    grid = Grid(names, specs, Kinds(kinds, specs), slots, lambda owner, tensor: origins[owner, tensor])
    for palette in palettes:
        found = grid.tensors(palette)
        assert [made.name for made in found.made] == names
        for made in found.made:
            name, spec = made.name, specs[made.name]
            terms = gather((origins[slot.owner, name].digest, share) for slot, share in palette[kinds[name]].terms)
            dtype_of = {origin.digest: origin.dtype for origin in origins.values()}
            lone = terms[0][0] if len(terms) == 1 and terms[0][1] == 1 else None
            is_copy = lone is not None and dtype_of[lone] == spec.dtype
            assert (made.spec, made.terms, made.is_copy) == (spec, terms, is_copy)
            narrowed = lone is not None and (dtype_of[lone], spec.dtype) == ("float64", "float16")
            made_of = linear_key(spec.dtype, spec.shape, terms, narrowed=narrowed)
            assert made.digest == (lone if is_copy else made_of.digest)
            assert is_copy or made.key == made_of
            assert found.by_name[name] == made.digest
        assert found.artifact == artifact_digest((n, specs[n].dtype, specs[n].shape, found.by_name[n]) for n in names)
        check_rows(found)


def check_rows(found: Tensors) -> None:
    """Rows cover each tensor once, and read just what their terms name."""
    assert sorted(place for row in found.rows for place in row.places) == list(range(len(found.made)))
    for row in found.rows:
        made = [found.made[place] for place in row.places]
        assert [each.digest for each in made] == list(row.digests)
        assert {each.is_copy for each in made} == {row.is_copy}
        assert set(row.read) == {term.digest for each in made for term in each.terms}
        assert {row.read[term.digest] for each in made for term in each.terms} <= {each.nbytes for each in made}


SWEEP = """
[targets.mix]
foreach.alpha = [0, 0.25, 0.5, 1, 2]
method = "weighted_sum"
a = "x"
b = "y"
output = "mix-${alpha}.safetensors"
[targets.mix.alpha]
default = "${alpha}"
"v*" = 0.5
"""


def test_members_planned_together_are_the_members_planned_alone(lab: Lab) -> None:
    """What is common to them is reckoned once; an artifact does not tell. What one computes, the next need not."""
    lab.model("x", w=[1.0, 2.0], v=[5.0], same=[1.0], i=[3.0])
    lab.model("y", w=[3.0, 5.0], v=[6.0], same=[1.0], i=[3.0])
    lab.write(SWEEP)
    project = lab.project
    together = project.plan().targets
    alone = [project.plan([each.target]).targets[0] for each in together]
    assert [each.artifact for each in together] == [each.artifact for each in alone]
    assert [each.bytes_written for each in together] == [each.bytes_written for each in alone]
    assert [each.tensors_computed for each in alone] == [1, 2, 2, 1, 2]  # at 0 and 1 `w` is an input's
    assert [each.tensors_computed for each in together] == [1, 1, 1, 0, 1]  # `v` is the first member's
    assert [each.bytes_read for each in alone] == [8 + 8 + 8, 16 + 8 + 8, 16 + 8 + 8, 8 + 8 + 8, 16 + 8 + 8]
    assert [str(each.verdict) for each in lab.build().targets] == ["built"] * 5
    assert lab.values("mix-0.25.safetensors") == [1.5, 2.75]
    assert lab.values("mix-2.safetensors", "v") == [5.5]


def test_a_coefficient_that_cancels_reads_nothing(lab: Lab) -> None:
    """Equal tensors are one term, and a sum of 0 is no term."""
    half = Fraction(1, 2)
    form = Form(((Slot("a"), half), (Slot("b"), -half), (Slot("c"), half)))
    origins = {"a": Origin(b"1" * 16, "float32", 8), "b": Origin(b"1" * 16, "float32", 8)}
    origins["c"] = Origin(b"0" * 16, "float32", 8)
    specs = {"w": Spec("float32", (2,), is_float=True)}
    slots = [[slot for slot, _ in form.terms]]
    found = Grid(["w"], specs, Kinds({"w": 0}, specs), slots, lambda owner, _tensor: origins[owner]).tensors([form])
    assert found.made[0].terms == ((b"0" * 16, half),)
    assert dict(found.rows[0].read) == {b"0" * 16: 8}
