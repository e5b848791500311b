"""Packed keys are read back as they were, and members of a family cost next to nothing."""

from __future__ import annotations

import hashlib
import zlib
from fractions import Fraction

import pytest
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from test_plan_tensors import grids

from mergebuild.fold.forms import Form, Kinds, Slot, Spec
from mergebuild.plan.built_keys import BuiltKeys, packed_keys
from mergebuild.plan.made import Origin
from mergebuild.plan.tensors import Grid, Tensors
from mergebuild.store import PackedKeys


def tensors(names: list[str], palette: list[Form], origins: dict[tuple[str, str], Origin]) -> list[Tensors]:
    """Return a target of each form over one grid: all of its tensors are made alike."""
    specs = {name: Spec("float16", (4, 8), is_float=True) for name in names}
    kinds = Kinds(dict.fromkeys(names, 0), specs)
    grid = Grid(names, specs, kinds, [palette[0].slots], lambda owner, tensor: origins[owner, tensor])
    return [grid.tensors([form]) for form in palette]


@given(grids())
@examples(50)
def test_keys_are_read_back(
    drawn: tuple[dict[str, int], dict[str, Spec], list[list[Form]], dict[tuple[str, str], Origin]],
) -> None:
    kinds, specs, palettes, origins = drawn
    slots = [[slot for slot, _ in form.terms] for form in palettes[0]]
    grid = Grid(list(kinds), specs, Kinds(kinds, specs), slots, lambda owner, tensor: origins[owner, tensor])
    for palette in palettes:
        found = grid.tensors(palette)
        built = BuiltKeys.of(packed_keys(found), found.artifact)
        assert built is not None
        assert {made.name: built.key(made.name) for made in found.made} == {made.name: made.key for made in found.made}
        assert built.key("another") is None
        owned = {(digest, owner) for digest, owner, _ in built.owners()}
        assert owned == {
            (origins[slot.owner, name].digest, slot.owner)
            for name, kind in kinds.items()
            for slot in palette[kind].slots
        }


def test_a_tensor_that_is_made_of_nothing_has_a_key() -> None:
    """Such as what a LoRA that changes nothing adds: 0."""
    (found,) = tensors(["w", "v"], [Form(())], {})
    built = BuiltKeys.of(packed_keys(found), found.artifact)
    assert built is not None
    assert [built.key(made.name) for made in found.made] == [made.key for made in found.made]


def test_members_of_a_family_differ_in_a_few_bytes() -> None:
    """A thousand tensors: what stands in their keys is equal for all members, and kept once."""
    names = [f"model.diffusion_model.input_blocks.{number}.weight" for number in range(1000)]
    origins = {
        (owner, name): Origin(hashlib.md5(f"{owner} {name}".encode()).digest(), "float16", 64)
        for owner in "xy"
        for name in names
    }
    shares = [Fraction(number, 7) for number in (1, 2, 3)]
    palette = [Form(((Slot("x"), share), (Slot("y"), 1 - share))) for share in shares]
    packed = [packed_keys(each) for each in tensors(names, palette, origins)]
    assert len({each.inputs for each in packed}) == 1
    assert len(packed[0].inputs) < 32 * 1000 + 20_000
    assert len({each.lines for each in packed}) == 3
    assert max(len(each.lines) for each in packed) < 500


def test_bytes_are_the_same_on_every_machine() -> None:
    """The number of the format, and each part behind its length, the lowest byte first."""
    origins = {("x", "w"): Origin(b"x" * 16, "float16", 64), ("y", "w"): Origin(b"y" * 16, "float16", 64)}
    (found,) = tensors(["w"], [Form(((Slot("x"), Fraction(1, 2)), (Slot("y"), Fraction(1, 2))))], origins)
    packed = packed_keys(found)
    assert packed.lines[:1] == packed.inputs[:1] == b"\1"
    assert int.from_bytes(packed.lines[1:9], "little") == len(packed.lines) - 9
    assert packed.inputs.endswith((32).to_bytes(8, "little") + b"x" * 16 + b"y" * 16)


def test_keys_of_another_format_are_not_known() -> None:
    assert BuiltKeys.of(PackedKeys(b"\2", b"\1"), bytes(16)) is None
    assert BuiltKeys.of(PackedKeys(b"", b""), bytes(16)) is None


@given(st.data())
@examples(200)
def test_what_nobody_of_ours_packed_is_not_known_and_no_failure(data: st.DataObject) -> None:
    """A store may come with a stranger's files, and its checksums are as good as ours."""
    origins = {(owner, name): Origin(owner.encode() * 16, "float16", 64) for owner in "xy" for name in ("w", "v")}
    (found,) = tensors(["w", "v"], [Form(((Slot("x"), Fraction(1, 2)), (Slot("y"), Fraction(1, 2))))], origins)
    packed = packed_keys(found)
    lines = zlib.decompress(packed.lines[9:])
    at, byte = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, 127))
    text = zlib.compress(lines[:at] + bytes([byte]) + lines[at + 1 :])
    cut = data.draw(st.integers(0, len(packed.inputs)))
    for each in (
        PackedKeys(packed.lines[:1] + len(text).to_bytes(8, "little") + text, packed.inputs),
        PackedKeys(packed.lines, packed.inputs[:cut]),
        PackedKeys(packed.lines[: cut % len(packed.lines)], packed.inputs),
    ):
        built = BuiltKeys.of(each, found.artifact)
        assert built is None or built.key("w") == found.made[0].key


@pytest.mark.parametrize(
    "lines",
    [
        b"[" * 200_000 + b"]" * 200_000,
        b'{"rows":[{"facts":[[5,"x"]],"by_name":false,"inputs":[0],"shapes":[],"surveys":[]}],"surveys":[]}',
        b'{"rows":[{"facts":[["x","\\ud800"]],"by_name":false,"inputs":[0],"shapes":[],"surveys":[]}],"surveys":[]}',
        b'{"rows":[{"terms":[[0,"1e999999999"]],"narrowed":false}],"surveys":[]}',
        b'{"rows":[{"copy":-1}],"surveys":[]}',
        b'{"rows":[{"terms":[[0,"1/3"],[1,"2/3"]],"narrowed":false}],"surveys":[]}',
        b" " * (1 << 29),
    ],
    ids=["deep", "a number for a name", "half a sign", "an exponent", "a place from behind", "another's", "endless"],
)
def test_lines_that_come_to_another_artifact_are_not_known(lines: bytes) -> None:
    origins = {(owner, name): Origin(owner.encode() * 16, "float16", 64) for owner in "xy" for name in ("w", "v")}
    (found,) = tensors(["w", "v"], [Form(((Slot("x"), Fraction(1, 2)), (Slot("y"), Fraction(1, 2))))], origins)
    text = zlib.compress(lines)
    packed = packed_keys(found)
    forged = PackedKeys(packed.lines[:1] + len(text).to_bytes(8, "little") + text, packed.inputs)
    assert BuiltKeys.of(packed, found.artifact) is not None
    assert BuiltKeys.of(forged, found.artifact) is None
    assert BuiltKeys.of(packed, bytes(16)) is None
