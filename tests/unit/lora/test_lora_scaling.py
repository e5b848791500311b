"""What of a LoRA is multiplied so that it adds so many times as much."""

from __future__ import annotations

from fractions import Fraction

import pytest

from mergebuild.lora import UnscalableError, kept_modules, scaled

HALF = Fraction(1, 2)


def changed(*names: str) -> set[str]:
    """Return the tensors of a module that are multiplied."""
    (module,) = kept_modules(names)
    found = scaled(module, HALF)
    assert tuple(found) == names
    assert set(found.values()) <= {HALF, 1}
    return {name for name, share in found.items() if share == HALF}


@pytest.mark.parametrize(
    ("names", "multiplied"),
    [
        (("x.lora_up.weight", "x.lora_down.weight", "x.alpha"), {"x.lora_up.weight"}),
        (("x.lora_A.weight", "x.lora_B.weight", "x.lora_B.bias"), {"x.lora_B.weight", "x.lora_B.bias"}),
        (("x.lora_up.weight", "x.lora_mid.weight", "x.lora_down.weight"), {"x.lora_up.weight"}),
        (("x.lora_embedding_A", "x.lora_embedding_B"), {"x.lora_embedding_B"}),
        (("x.hada_w1_a", "x.hada_w1_b", "x.hada_w2_a", "x.hada_w2_b", "x.hada_t1", "x.hada_t2"), {"x.hada_w1_a"}),
        (("x.lokr_w1", "x.lokr_w2_a", "x.lokr_w2_b"), {"x.lokr_w1"}),
        (("x.lokr_w1_a", "x.lokr_w1_b", "x.lokr_w2"), {"x.lokr_w1_a"}),
        (("x.diff", "x.diff_b"), {"x.diff", "x.diff_b"}),
        (("x.w_norm", "x.b_norm"), {"x.w_norm", "x.b_norm"}),
        (("x.weight", "x.on_input"), {"x.weight"}),
        (("bundle_emb.word.string_to_param.*",), set()),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_one_factor_of_each_product_is_multiplied(names: tuple[str, ...], multiplied: set[str]) -> None:
    """What is added is linear in it; alpha stays what it was."""
    assert changed(*names) == multiplied


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("x.lora_up.weight", "x.lora_down.weight", "x.dora_scale"), "the weight is decomposed (DoRA)"),
        (("x.lora_A.weight", "x.lora_B.weight", "x.lora_magnitude_vector"), "the weight is decomposed (DoRA)"),
        (("x.ia3_l",), "the weight is multiplied by it (IA3)"),
        (("base_model.model.lm_head.weight",), "it takes the place of the model's"),
        (("x.oft_blocks",), "it is of a family that can't be scaled"),
        (("odd",), "it is of no known kind"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_what_follows_from_the_weight_too_is_no_multiple(names: tuple[str, ...], why: str) -> None:
    (module,) = kept_modules(names)
    with pytest.raises(UnscalableError) as caught:
        scaled(module, HALF)
    assert (caught.value.tensor, caught.value.why) == (names[-1], why)
    assert scaled(module, Fraction(1)) == dict.fromkeys(names, 1)


def test_modules_go_by_the_weights_that_they_change() -> None:
    found = kept_modules(
        ["base_model.model.a.b.lora_A.weight", "lora_te_c.alpha", "base_model.model.a.b.lora_B.weight"]
    )
    assert [each.weight for each in found] == ["a.b.weight", "lora_te_c.weight"]
    assert found[0].tensors == ("base_model.model.a.b.lora_A.weight", "base_model.model.a.b.lora_B.weight")
