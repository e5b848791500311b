"""What kernels are told of LoRAs, as digests have it; and LoRAs by themselves."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from fractions import Fraction

import pytest
from lora_files import joined, kohya, peft, stored

from mergebuild.errors import SourceError
from mergebuild.lora import DeltaSum, Extraction, Merging, ShapedDelta, SketchWords, products_of

DELTA = ShapedDelta(
    "lora",
    (("up", (8, 2)), ("down", (2, 4, 3, 3)), ("alpha", ())),
    None,
    (("alpha", Fraction(3, 2)), ("rank", 2), ("rslora", True)),
)
DELTA_TEXT = (
    '{"family":"lora","factors":[["up",[8,2]],["down",[2,4,3,3]],["alpha",[]]],"rows":null,'
    '"facts":{"alpha":{"fraction":"3/2"},"rank":2,"rslora":true}}'
)
TEXTS = {
    DeltaSum((DELTA, ShapedDelta("norm", (("w_norm", (6,)),), (2, 8), ()))): f"[{DELTA_TEXT},"
    '{"family":"norm","factors":[["w_norm",[6]]],"rows":[2,8],"facts":{}}]',
    Extraction((6, 4), (0, 6), 3, Fraction(9, 10), None, SketchWords(7, "a.weight", 2)): '["extraction",{"shape":[6,4],'
    '"rows":[0,6],"rank":3,"energy":"9/10","clamp":null,"sketch":[7,"a.weight",2]}]',
    Merging((8, 4), 4, True, None, True, (DELTA,), (Fraction(-1, 2),)): '["merging",{"shape":[8,4],"rank":4,'
    '"is_cut":true,"energy":null,"has_alpha":true,"deltas":'
    + json.dumps([f"[{DELTA_TEXT}]"])
    + ',"strengths":["-1/2"]}]',
}


@pytest.mark.parametrize("described", TEXTS, ids=lambda each: type(each).__name__)
def test_digests_have_the_text_that_they_always_had(described: DeltaSum | Extraction | Merging) -> None:
    """Stores hold digests of it."""
    assert described.key_text == TEXTS[described]


@pytest.mark.parametrize("described", TEXTS, ids=lambda each: type(each).__name__)
def test_every_field_is_in_the_text(described: DeltaSum | Extraction | Merging) -> None:
    """Another value of any field is another text."""
    for each in fields(described):
        assert replace(described, **{each.name: _other(getattr(described, each.name))}).key_text != TEXTS[described]


def _other(value: object) -> object:
    """Return another value of its kind, or of one that a field may have instead."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case SketchWords():
            return value._replace(seed=value.seed + 1)
        case ShapedDelta():
            return replace(value, facts=())
        case (first, *rest):
            return (_other(first), *rest)
        case _:
            return Fraction(1, 3)


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
