"""How modules are made, as text and back; and LoRAs by themselves."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_files import joined, kohya, peft, stored

from mergebuild.errors import SourceError
from mergebuild.lora import Extraction, Merging, SketchWords, making, products_of

SHARES = st.none() | st.fractions(0, 1)
SHAPES = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple)
SKETCHES = st.none() | st.builds(SketchWords, st.integers(0, 2**64 - 1), st.text(), st.integers(0, 9))


@given(
    st.builds(Extraction, SHAPES, st.none() | st.tuples(st.integers(0, 9), st.integers(9, 20)), st.integers(1, 9),
              SHARES, SHARES, SKETCHES)
    | st.builds(Merging, SHAPES, st.integers(1, 9), st.booleans(), SHARES, st.booleans(),
                st.lists(st.text()).map(tuple), st.lists(st.fractions()).map(tuple))
)  # fmt: skip
def test_what_makes_a_module_is_a_text(rule: Extraction | Merging) -> None:
    assert making(rule.text()) == rule


def test_a_lora_by_itself() -> None:
    lora = joined(
        [
            kohya("lora_unet_down_blocks_0_conv", 8, (4, 3, 3), 2),
            kohya("lora_te_a", 10, (6,)),
            stored({"lora_unet_norm.w_norm": (6,), "bundle_emb.word.string_to_param.*": (3, 6)}),
        ]
    )
    found = products_of(lora)
    assert {name: (each.shape, each.rank) for name, each in found.modules.items()} == {
        "lora_unet_down_blocks_0_conv": ((8, 4, 3, 3), 2),
        "lora_te_a": ((10, 6), 4),
    }
    assert found.modules["lora_te_a"].tensor("down") == "lora_te_a.lora_down.weight"
    assert found.modules["lora_te_a"].tensor("mid") is None
    assert found.sums == {"lora_unet_norm.w_norm": "lora_unet_norm"}
    assert found.words == ("bundle_emb.word.string_to_param.*",)
    assert str(found.naming) == "names joined with `_`, diffusers' paths"


def test_an_adapter_by_itself() -> None:
    """Layers that PEFT's base stores the other way round are not: nobody says what the base is."""
    lora = joined([
        peft("base_model.model.a", 6, 6),
        stored({"base_model.model.words.lora_embedding_A": (2, 30), "base_model.model.words.lora_embedding_B": (8, 2)}),
        stored({"base_model.model.head.weight": (5, 6)}),
    ])  # fmt: skip
    found = products_of(lora, {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "fan_in_fan_out": True})
    assert found.modules["base_model.model.a"].shape == (6, 6)
    assert dict(found.modules["base_model.model.a"].delta.facts) == {"alpha": Fraction(8), "rank": 4}
    assert found.modules["base_model.model.words"].shape == (8, 30)
    assert found.replaced == ("base_model.model.head.weight",)


@pytest.mark.parametrize(
    ("one", "two", "fits"),
    [
        ("lora_unet_down_blocks_0_a", "lora_unet_down_blocks_1_b", True),
        ("lora_unet_down_blocks_0_a", "lora_te_b", True),
        ("lora_unet_down_blocks_0_a", "lora_unet_input_blocks_1_b", False),
        ("unet.down_blocks.0.a", "lora_unet_down_blocks_0_a", False),
        ("base_model.model.a", "unet.b", False),
    ],
)
def test_how_modules_are_named_tells_what_goes_together(one: str, two: str, fits: bool) -> None:
    first, second = (products_of(kohya(name, 6, (5,))).naming for name in (one, two))
    assert first.fits(second) == second.fits(first) == fits


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"lora_unet_b.lora_up.weight": (4, 2)}, "lora-incomplete"),
        ({"unknown": (4, 2)}, "lora-incomplete"),
        ({"lora_unet_b.lokr_w1": (2, 2), "lora_unet_b.lokr_w2": (3, 3)}, "lora-no-product"),
        ({"lora_unet_a.dora_scale": (6, 1)}, "lora-no-product"),
        ({"b.lora_A.weight": (2, 4), "b.lora_B.weight": (5, 2), "b.lora_B.bias": (5,)}, "lora-no-product"),
        ({"lora_unet_b.lora_up.weight": (4, 2), "lora_unet_b.lora_down.weight": (3, 4)}, "lora-shape"),
    ],
)
def test_what_is_not_only_products_is_refused(more: dict[str, tuple[int, ...]], code: str) -> None:
    with pytest.raises(SourceError) as caught:
        products_of({**kohya("lora_unet_a", 6, (5,)), **stored(more)}, shown="x.safetensors")
    (problem,) = caught.value.problems
    assert problem.code == code
    assert problem.help
