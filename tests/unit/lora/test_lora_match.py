"""What is made of a LoRA file's tensors, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_files import Stored, joined, kohya, peft, real, stored

from mergebuild.errors import SourceError
from mergebuild.lora import Delta, Match, match

MODEL = {
    "a.weight": (6, 8),
    "a.bias": (6,),
    "b.weight": (6, 8),
    "c.weight": (10, 4, 3, 3),
    "p.weight": (10, 4, 1, 1),
    "n.weight": (7,),
    "n.bias": (7,),
}


def delta(found: Match, tensor: str) -> Delta:
    (only,) = found.deltas[tensor]
    return only


def factors(found: Delta) -> set[str]:
    return {role for role, _ in found.factors}


def refusal(lora: dict[str, Stored], config: dict[str, object] | None = None) -> tuple[str, str, tuple[str, ...]]:
    with pytest.raises(SourceError) as caught:
        match(lora, MODEL, config, shown="style.safetensors")
    (problem,) = caught.value.problems
    assert str(problem.where) == "style.safetensors"
    assert problem.help
    return problem.code, problem.message, problem.rows


def test_a_pair_and_its_alpha() -> None:
    found = match(kohya("a", 6, (8,)), MODEL)
    assert not found.unmatched
    made = delta(found, "a.weight")
    assert made.family == "lora"
    assert [*made.factors] == [("alpha", "a.alpha"), ("down", "a.lora_down.weight"), ("up", "a.lora_up.weight")]
    assert made.facts == (("rank", 4),)


@pytest.mark.parametrize(
    ("shapes", "tensor", "family", "rank"),
    [
        ({"c.lora_up.weight": (10, 2, 1, 1), "c.lora_down.weight": (2, 4, 3, 3)}, "c.weight", "lora", 2),
        ({"p.lora_up.weight": (10, 2), "p.lora_down.weight": (2, 4)}, "p.weight", "lora", 2),
        ({"a.lora_up.weight": (6, 2, 1, 1), "a.lora_down.weight": (2, 8, 1, 1)}, "a.weight", "lora", 2),
        ({"c.lora_up.weight": (10, 2, 1, 1), "c.lora_mid.weight": (2, 3, 3, 3), "c.lora_down.weight": (3, 4, 1, 1)},
         "c.weight", "tucker", 3),
        ({"a.hada_w1_a": (6, 2), "a.hada_w1_b": (2, 8), "a.hada_w2_a": (6, 2), "a.hada_w2_b": (2, 8)},
         "a.weight", "loha", 2),
        ({"c.hada_w1_a": (10, 2), "c.hada_w1_b": (2, 36), "c.hada_w2_a": (10, 2), "c.hada_w2_b": (2, 36)},
         "c.weight", "loha", 2),
        ({"c.hada_w1_a": (2, 10), "c.hada_w1_b": (2, 4), "c.hada_t1": (2, 2, 3, 3),
          "c.hada_w2_a": (2, 10), "c.hada_w2_b": (2, 4), "c.hada_t2": (2, 2, 3, 3)}, "c.weight", "loha", 2),
        ({"a.lokr_w1": (2, 4), "a.lokr_w2": (3, 2)}, "a.weight", "lokr", None),
        ({"a.lokr_w1": (2, 4), "a.lokr_w2_a": (3, 1), "a.lokr_w2_b": (1, 2)}, "a.weight", "lokr", 1),
        ({"a.lokr_w1_a": (2, 3), "a.lokr_w1_b": (3, 4), "a.lokr_w2": (3, 2)}, "a.weight", "lokr", 3),
        ({"c.lokr_w1": (5, 2), "c.lokr_w2": (2, 2, 3, 3)}, "c.weight", "lokr", None),
        ({"c.lokr_w1": (5, 2), "c.lokr_w2_a": (2, 1), "c.lokr_w2_b": (1, 18)}, "c.weight", "lokr", 1),
        ({"c.lokr_w1": (5, 2), "c.lokr_w2_a": (1, 2), "c.lokr_w2_b": (1, 2), "c.lokr_t2": (1, 1, 3, 3)},
         "c.weight", "lokr", 1),
        ({"a.weight": (8,), "a.on_input": ()}, "a.weight", "ia3", None),
        ({"c.diff": (10, 4, 3, 3)}, "c.weight", "full", None),
        ({"a.diff_b": (6,)}, "a.bias", "full", None),
        ({"n.w_norm": (7,)}, "n.weight", "norm", None),
        ({"n.b_norm": (7,)}, "n.bias", "norm", None),
    ],
)  # fmt: skip
def test_every_family(shapes: dict[str, tuple[int, ...]], tensor: str, family: str, rank: int | None) -> None:
    found = match(stored(shapes), MODEL)
    assert not found.unmatched
    assert set(found.deltas) == {tensor}
    made = delta(found, tensor)
    assert made.family == family
    assert dict(made.facts).get("rank") == rank
    assert {name for _, name in made.factors} == set(shapes)


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("a.dora_scale", (1, 8), "columns"),
        ("a.dora_scale", (6, 1), "rows"),
        ("a.lora_magnitude_vector", (6,), "rows"),
        ("a.lora_magnitude_vector.default.weight", (6,), "rows"),
    ],
)
def test_of_what_a_norm_is_taken(name: str, shape: tuple[int, ...], axis: str) -> None:
    found = match({**kohya("a", 6, (8,)), **stored({name: shape})}, MODEL)
    assert not found.unmatched
    assert dict(delta(found, "a.weight").facts)["dora"] == axis
    assert "dora_scale" in factors(delta(found, "a.weight"))


def test_what_finds_no_place_is_listed_and_only_that() -> None:
    file = joined(
        [
            kohya("a", 6, (8,)),
            kohya("lora_unet_elsewhere", 3, (3,)),
            stored({"b.lora_up.weight": (6, 4), "b.alpha": (), "a.mystery": (1,), "x": (1,), "c.scale": ()}),
            stored({"bundle_emb.word.string_to_param.*": (2, 768)}),
            stored({"a.weight": (6, 8)}),
        ]
    )
    found = match(file, MODEL)
    assert set(found.deltas) == {"a.weight"}
    assert found.ignored == ("bundle_emb.word.string_to_param.*",)
    assert set(found.unmatched) == {
        "lora_unet_elsewhere.lora_up.weight", "lora_unet_elsewhere.lora_down.weight", "lora_unet_elsewhere.alpha",
        "b.lora_up.weight", "b.alpha", "a.mystery", "x", "c.scale", "a.weight",
    }  # fmt: skip


def test_a_bias_that_the_model_lacks_is_unmatched() -> None:
    assert match(stored({"b.diff": (6, 8), "b.diff_b": (6,)}), MODEL).unmatched == ("b.diff_b",)


def test_an_alpha_beside_a_whole_tensor_says_nothing() -> None:
    found = match(stored({"a.diff": (6, 8), "a.alpha": ()}), MODEL)
    assert not found.unmatched
    assert factors(delta(found, "a.weight")) == {"diff"}


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ({"a.lora_up.weight": (6, 4), "a.lora_down.weight": (4, 9)}, "[r, 8]"),
        ({"a.lora_up.weight": (7, 4), "a.lora_down.weight": (4, 8)}, "[6, 4]"),
        ({"a.lora_up.weight": (6, 3), "a.lora_down.weight": (4, 8)}, "[6, 4]"),
        ({"a.lora_up.weight": (6, 0), "a.lora_down.weight": (0, 8)}, "[r, 8]"),
        ({"a.lora_up.weight": (6, 4), "a.lora_down.weight": ()}, "[r, 8]"),
        ({"c.lora_up.weight": (10, 4, 1, 1), "c.lora_down.weight": (4, 4, 1, 1)}, "[r, 4, 3, 3]"),
        ({"c.lora_up.weight": (10, 4, 1, 1), "c.lora_down.weight": (4, 3, 4, 3)}, "[r, 4, 3, 3]"),
        ({"c.lora_up.weight": (10, 4), "c.lora_mid.weight": (4, 4, 3), "c.lora_down.weight": (4, 4)}, "[r, s, 3, 3]"),
        ({"a.lora_up.weight": (6, 4), "a.lora_down.weight": (4, 8), "a.alpha": (2,)}, "a single number"),
        ({"a.lora_up.weight": (6, 4), "a.lora_down.weight": (4, 8), "a.dora_scale": (5, 1)}, "6 or 8 numbers"),
        ({"a.hada_w1_a": (6, 2), "a.hada_w1_b": (2, 8), "a.hada_w2_a": (6, 2), "a.hada_w2_b": (3, 8)}, "[6, 3]"),
        ({"a.lokr_w1": (2, 4), "a.lokr_w2": (3, 3)}, "a factor of [6, 8] beside [2, 4]"),
        ({"a.lokr_w1": (8,), "a.lokr_w2": (3, 3)}, "two dimensions"),
        ({"a.lokr_w1": (2, 4), "a.lokr_w2_a": (3, 1), "a.lokr_w2_b": (2, 2)}, "a product with its partner"),
        ({"a.lokr_w1_a": (2, 2), "a.lokr_w1_b": (3, 4), "a.lokr_w2": (3, 2)}, "[r, c] beside `w1_a` [a, r]"),
        ({"c.lokr_w1": (5, 2), "c.lokr_w2": (2, 2, 9, 1)}, "a factor of [10, 4, 3, 3] beside [5, 2]"),
        ({"a.weight": (5,), "a.on_input": ()}, "6 or 8 numbers"),
        ({"c.diff": (10, 4, 9)}, "[10, 4, 3, 3]"),
        ({"n.w_norm": (8,)}, "[7]"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], wanted: str) -> None:
    """They are told, and stop nothing yet: nobody may ask for them."""
    found = match(stored(shapes), MODEL)
    assert not found.deltas
    misfit = found.misfits[0]
    assert misfit.problem.code == "lora-shape"
    assert f"`{misfit.tensor}`" in misfit.problem.message
    assert any(f"`{name}`" in misfit.problem.message for name in shapes)
    assert misfit.problem.rows[1] == f"wanted  {wanted}"


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        ({"a.oft_blocks": (2, 4, 4)}, "OFT"),
        ({"a.boft_R": (2, 4, 4)}, "BOFT"),
        ({"a.a1.weight": (4, 8), "a.a2.weight": (8, 4), "a.b1.weight": (4, 8), "a.b2.weight": (6, 4)}, "GLoRA"),
        ({"a.lora_A": (4, 8), "a.lora_B": (6, 4), "a.lora_E": (4, 1)}, "AdaLoRA"),
        ({"a.vera_lambda_d": (4,)}, "VeRA"),
    ],
)
def test_families_that_are_refused_by_name(shapes: dict[str, tuple[int, ...]], family: str) -> None:
    code, message, _ = refusal(stored(shapes))
    assert code == "lora-unsupported"
    assert family in message


def test_factors_of_integers_are_refused() -> None:
    file = kohya("a", 6, (8,)) | {"a.lora_up.weight": Stored("int8", (6, 4))}
    assert refusal(file)[0] == "lora-dtype"


def test_an_alpha_may_be_an_integer() -> None:
    assert match(kohya("a", 6, (8,)) | {"a.alpha": Stored("int64", ())}, MODEL).deltas


def test_two_modules_for_one_tensor_are_refused() -> None:
    file = joined([kohya("a", 6, (8,)), peft("base_model.model.a", 6, 8)])
    code, _, rows = refusal(file)
    assert code == "lora-ambiguous"
    assert rows == ("`a` of the LoRA", "`base_model.model.a` of the LoRA")


def test_a_weight_that_replaces_comes_before_what_is_added_to_it() -> None:
    file = {**peft("base_model.model.a", 6, 8), **stored({"base_model.model.a.base_layer.weight": (6, 8)})}
    families = [each.family for each in match(file, MODEL, {"peft_type": "LORA"}).deltas["a.weight"]]
    assert families == ["replace", "lora"]


def test_every_weight_of_a_real_model_is_found() -> None:
    """Under its own name, and one delta a tensor."""
    for name in ("sd15", "sdxl", "llama"):
        model = {key: shape for key, shape in real(name).items() if key.endswith(".weight") and len(shape) > 1}
        file = joined(kohya(key.removesuffix(".weight"), shape[0], shape[1:]) for key, shape in model.items())
        found = match(file, real(name))
        assert not found.unmatched
        assert set(found.deltas) == set(model)


NAMES = st.text("abc._", min_size=1, max_size=6)
ENDINGS = st.sampled_from(
    ["lora_up.weight", "lora_down.weight", "alpha", "scale", "dora_scale", "hada_w1_a", "lokr_w1", "lokr_w2", "diff",
     "weight", "bias", "lora_B.bias", "ia3_l", "on_input", "lora_embedding_A", "lora_embedding_B"]
)  # fmt: skip
TENSORS = st.dictionaries(
    st.builds("{}.{}".format, st.sampled_from(["a", "base_model.model.a", "n", "c"]) | NAMES, ENDINGS),
    st.lists(st.integers(0, 10), max_size=5).map(tuple),
    max_size=12,
)


@given(TENSORS, st.sampled_from([None, {}, {"peft_type": "IA3"}, {"peft_type": "LOKR"}]))
def test_every_tensor_is_used_listed_or_refused(
    shapes: dict[str, tuple[int, ...]], config: dict[str, object] | None
) -> None:
    """Whatever a file holds: nothing is lost, and nothing but a named error comes out."""
    try:
        found = match(stored(shapes), MODEL, config)
    except SourceError:
        return
    used = {name for deltas in found.deltas.values() for each in deltas for _, name in each.factors}
    used |= {name for misfit in found.misfits for name in misfit.names}
    silent = {name for name in shapes if name.endswith(".alpha")}
    assert used | set(found.unmatched) | silent == set(shapes)
    assert not used & set(found.unmatched)
