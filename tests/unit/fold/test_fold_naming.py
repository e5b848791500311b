"""Namings are interned functions of names; what is planned through one is what it is under the target's own names."""

from __future__ import annotations

import copy
import gc
import hashlib
import itertools
import pickle
import weakref
from fractions import Fraction

from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.fold.forms import Form, Kinds, Slot, Spec
from mergebuild.fold.naming import EMA, SAME, Naming, own, table
from mergebuild.plan.made import Origin
from mergebuild.plan.tensors import Grid

NAMES = st.sampled_from([f"layers.{index}.{part}" for index in range(4) for part in "qk"])
TABLES = st.dictionaries(NAMES, NAMES)
NAMINGS = st.one_of(st.just(SAME), st.just(EMA), NAMES.map(own), TABLES.map(table))


def test_each_naming_says_what_the_owner_calls_a_tensor() -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    assert SAME(name) == name
    assert EMA(name) == "model_ema.diffusion_modelinput_blocks00weight"
    assert own("lora_up")(name) == "lora_up"
    stacked = table({"layers.2.q": "layers.1.q", "layers.3.q": "layers.1.q"})
    assert [stacked(f"layers.{index}.q") for index in range(4)] == ["layers.0.q", *["layers.1.q"] * 3]
    assert Slot("x", stacked).tensor("layers.3.q") == "layers.1.q"


@given(TABLES, st.randoms())
def test_equal_tables_are_one_object(names: dict[str, str], random: object) -> None:
    """In whatever order they are written, and with or without names that stay as they are."""
    shuffled = list(names.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert table(names) is table({**dict(shuffled), "layers.9.q": "layers.9.q"})
    assert (table(names) is SAME) == all(mine == theirs for mine, theirs in names.items())


@given(st.lists(NAMINGS))
def test_a_naming_that_travels_is_the_same_object(namings: list[Naming]) -> None:
    for each in (pickle.loads(pickle.dumps(namings)), copy.deepcopy(namings)):
        assert all(found is naming for found, naming in zip(each, namings, strict=True))


def test_what_nobody_uses_is_forgotten() -> None:
    """A process that opens many models does not keep the names of all of them."""
    found = weakref.ref(table({"a": "never again"}))
    gc.collect()
    assert found() is None


def test_the_order_of_slots() -> None:
    """By owner; then the same name, tensors of their own, EMA copies, tables: the order of a form's terms."""
    expected = [
        Slot(owner, naming)
        for owner in "ab"
        for naming in (SAME, own("a"), own("b"), EMA, table({"a": "b"}), table({"a": "c"}))
    ]
    for shift in range(len(expected)):
        assert sorted(expected[shift:] + expected[:shift]) == expected
    assert len(set(expected)) == len(expected)
    assert all((one < other) != (other < one) for one, other in itertools.combinations(expected, 2))


@st.composite
def renamings(draw: st.DrawFn) -> tuple[list[str], list[dict[str, str]], dict[tuple[str, str], Origin]]:
    """Return the names of a target, a table for each of two owners, and what the owners' tensors are."""
    names = draw(st.lists(NAMES, min_size=1, unique=True))
    tables = [draw(st.dictionaries(st.sampled_from(names), NAMES)) for _ in range(2)]
    origins = {}
    for owner, each in zip("xy", tables, strict=True):
        for name in {table(each)(name) for name in names}:  # few contents, so that some inputs have equal tensors
            content = hashlib.md5(f"{draw(st.integers(0, 3))}".encode()).digest()
            origins[owner, name] = Origin(content, draw(st.sampled_from(("float16", "float32"))), None)
    return names, tables, origins


@given(renamings(), st.lists(st.fractions(-2, 2, max_denominator=4).filter(bool), min_size=2, max_size=4))
@examples(200)
def test_a_target_planned_through_a_table_is_what_it_is_over_files_with_its_own_names(
    drawn: tuple[list[str], list[dict[str, str]], dict[tuple[str, str], Origin]], numbers: list[Fraction]
) -> None:
    """Digest for digest, for each member of a family; all members have one kind, whatever the tables."""
    names, tables, origins = drawn
    specs = {name: Spec("float32", (2,), is_float=True) for name in names}
    kinds = Kinds(dict.fromkeys(names, 0), specs)
    through = [Slot(owner, table(each)) for owner, each in zip("xy", tables, strict=True)]
    plain = [Slot(owner) for owner in "xy"]
    renamed = {
        (slot.owner, name): origins[slot.owner, slot.tensor(name)] for slot in through for name in names
    }  # the files whose tensors carry the target's names
    grid = Grid(names, specs, kinds, [through], lambda owner, tensor: origins[owner, tensor])
    expected = Grid(names, specs, kinds, [plain], lambda owner, tensor: renamed[owner, tensor])
    for first in numbers:
        found, known = (
            each.tensors([Form(tuple(zip(slots, (first, 1 - first), strict=True)))])
            for each, slots in ((grid, through), (expected, plain))
        )
        assert (found.artifact, found.by_name, found.made) == (known.artifact, known.by_name, known.made)
