"""What a configuration says of single layers follows them to where they are in a stack, or is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.configuration.agreement import WrittenTensors, agreement
from mergebuild.configuration.per_layer import LayerOrigin, rebuilt
from mergebuild.configuration.ties import Heads

Config = Mapping[str, object]
SLIDING, FULL = "sliding_attention", "full_attention"


def changed(config: Config, layers: Sequence[int], count: int = 6, other: Config | None = None) -> dict[str, object]:
    """Return the changes for layers of a model; negative ones are of another one, `-1` its first."""
    found = rebuilt(config, (), count, origins(config, layers, other))
    assert found.contradictions == ()
    return {path[0]: value for path, value in found.changes.items()}


def refused(config: Config, layers: Sequence[int], count: int = 6, other: Config | None = None) -> str:
    (sentence,) = rebuilt(config, (), count, origins(config, layers, other)).contradictions
    return sentence


def origins(config: Config, layers: Sequence[int], other: Config | None) -> list[LayerOrigin]:
    theirs = config if other is None else other
    return [LayerOrigin(config, at) if at >= 0 else LayerOrigin(theirs, -1 - at) for at in layers]


def test_lists_have_the_items_of_the_layers() -> None:
    config = {"layer_types": list("abcdef"), "hybrid_override_pattern": "M-M*M-", "eos_token_id": [1, 2, 3, 4, 5, 6]}
    assert changed(config, [0, 1, 4, 1]) == {"layer_types": list("abeb"), "hybrid_override_pattern": "M-M-"}
    assert changed(config, [0, 1, 2, 3, 4, 5]) == {}
    assert changed(config, [5, 4, 3, 2, 1, 0]) == {
        "layer_types": list("fedcba"),
        "hybrid_override_pattern": "-M*M-M",
    }


def test_an_item_is_that_of_the_layers_own_model() -> None:
    config, other = {"layer_types": list("abcdef")}, {"layer_types": list("ABCDEFGH")}
    assert changed(config, [0, 1, -8], other=other) == {"layer_types": list("abH")}
    told = refused(config, [0, -1], other={})
    assert told == "`layer_types` says what each layer is, and the model that layer 1 is of does not say it"


def test_numbers_of_layers_follow_them() -> None:
    config = {"mlp_only_layers": [0, 3], "cross_attention_layers": [], "layer_ids": [1, 9]}
    assert changed(config, [0, 1, 2, 3, 3, 0]) == {"mlp_only_layers": [0, 3, 4, 5]}
    assert changed(config, [1, -1], other={"mlp_only_layers": [1]}) == {"mlp_only_layers": []}


def test_turns_are_written_out() -> None:
    config = {"attention_layers": ["g", "l"] * 3, "attention_types": [[["g", "l"], 3]]}
    assert changed(config, [0, 1, 1]) == {
        "attention_layers": ["g", "l", "l"],
        "attention_types": [[["g", "l", "l"], 1]],
    }
    assert refused({"attention_types": [[["g", "l"], 3]]}, [0, 1, 1]).startswith("`attention_types` says")


@pytest.mark.parametrize(
    ("layers", "limit"),
    [([0, 1, 2, 3], None), ([0, 3, 4, 5], 1), ([3, 4], 0), ([0, 1, 1], None), ([0, 1, 1, 2], 4), ([0, 1, 2, 2, 3], 4)],
)
def test_a_number_from_which_on_layers_are_others_follows(layers: Sequence[int], limit: int | None) -> None:
    for key in ("max_window_layers", "first_k_dense_replace"):
        assert changed({key: 3}, layers) == ({key: limit} if limit is not None else {})


def test_layers_of_two_kinds_by_turns_have_no_such_number() -> None:
    assert refused({"first_k_dense_replace": 1}, [0, 1, 0]).startswith("`first_k_dense_replace` is 1")
    assert refused({"max_window_layers": 1}, [0, 1, 0]).startswith("`max_window_layers` is 1")
    assert changed({"max_window_layers": 1, "use_sliding_window": False}, [0, 1, 0]) == {}
    listed = {"max_window_layers": 3, "layer_types": [FULL] * 3 + [SLIDING] * 3}
    assert changed(listed, [3, 0, 3]) == {"layer_types": [SLIDING, FULL, SLIDING]}


def test_layers_stay_where_they_are_in_a_period() -> None:
    for config in ({"decoder_sparse_step": 2}, {"attn_layer_period": 2, "attn_layer_offset": 1}):
        assert changed(config, [0, 1, 2, 3, 0, 1]) == {}
        assert "are elsewhere in this period" in refused(config, [0, 1, 1, 2])
        assert "are elsewhere in this period" in refused(config, [0, -2], other={"decoder_sparse_step": 3})
    assert changed({"decoder_sparse_step": 1, "moe_layer_freq": 1}, [0, 1, 1]) == {}
    assert "depend on their numbers" in refused({"scale_attn_by_inverse_layer_idx": True}, [0, 0])
    assert changed({"scale_attn_by_inverse_layer_idx": True, "num_kv_shared_layers": 0}, [0, 1]) == {}
    assert "depend on their numbers" in refused({"num_kv_shared_layers": 2}, [0, 1])


@pytest.mark.parametrize(
    ("config", "period", "kind"),
    [
        ({"model_type": "gemma2"}, 2, SLIDING),
        ({"model_type": "gemma3_text"}, 6, SLIDING),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 3}, 3, SLIDING),
        ({"model_type": "cohere2", "sliding_window_pattern": 4}, 4, SLIDING),
        ({"model_type": "qwen3_next", "full_attention_interval": 2}, 2, "linear_attention"),
    ],
)
def test_kinds_that_an_architecture_has_by_turns_are_listed_if_layers_are_elsewhere(
    config: Config, period: int, kind: str
) -> None:
    layers = [*range(period), *range(period)]
    assert changed(config, layers) == {}
    assert changed(config, [1, *layers]) == {
        "layer_types": [FULL if (at + 1) % period == 0 else kind for at in (1, *layers)]
    }


SOME_LAYERS = st.lists(st.integers(0, 5), min_size=1, max_size=9)
KINDS = st.lists(st.sampled_from("ab"), min_size=6, max_size=6)


@given(SOME_LAYERS, st.integers(0, 6), KINDS)
def test_each_layer_is_said_what_it_was_or_it_is_refused(layers: list[int], limit: int, kinds: list[str]) -> None:
    """The law of this module."""
    config: Config = {"layer_types": kinds, "mlp_only_layers": [1, 4], "first_k_dense_replace": limit}
    found = rebuilt(config, (), 6, origins(config, layers, None))
    if found.contradictions:
        assert sorted(layers, key=limit.__le__) != layers
        return
    said: dict[str, Any] = {**config, **{path[0]: value for path, value in found.changes.items()}}
    for at, own in enumerate(layers):
        assert said["layer_types"][at] == kinds[own]
        assert (at in said["mlp_only_layers"]) == (own in (1, 4))
        assert (at >= said["first_k_dense_replace"]) == (own >= limit)


def written(stack: Sequence[Sequence[str]], had: Sequence[Sequence[str]], layers: Sequence[int]) -> Sequence[str]:
    """Return what is wrong with a stack of layers with these tensors, of a model whose layers have those."""
    config = {"num_hidden_layers": len(had), "mlp_layer_types": ["x"] * len(had)} if len(had) > 3 else {
        "num_hidden_layers": len(had)
    }  # fmt: skip

    def shapes(some: Sequence[Sequence[str]]) -> dict[str, tuple[int, ...]]:
        return {f"model.layers.{at}.{name}": (2, 2) for at, names in enumerate(some) for name in names}

    heads = Heads({}, (), (), {}, equal=False)
    moved = {"model.layers": [LayerOrigin(config, at) for at in layers]}
    return agreement(config, WrittenTensors(shapes(stack), shapes(had), heads, moved)).contradictions


def test_layers_with_other_tensors_need_a_configuration_that_says_so() -> None:
    dense, sparse = ("a", "mlp.w"), ("a", "experts.0.w")
    assert written([dense] * 3, [dense] * 2, [0, 1, 1]) == ()
    told = "layer 1 of `model.layers` has other tensors than a model of this configuration has there"
    assert written([dense, dense, sparse], [dense, sparse], [0, 0, 1]) == (told,)
    assert written([dense, sparse], [dense, dense], [0, 1]) == (told,)
    assert written([dense, sparse, dense, sparse], [dense, sparse, dense, sparse], [0, 1, 0, 1]) == ()
    assert written([dense, dense], [dense, dense, sparse, sparse], [0, 1]) == ()


def test_layers_behind_a_special_first_one_may_be_more() -> None:
    """As in T5, whose first layer has the positions of all: it stays the first, and the only one of its kind."""
    first, other = ("a", "positions"), ("a",)
    assert written([first, *[other] * 4], [first, other, other], [0, 1, 2, 1, 2]) == ()
    assert written([first, other, first], [first, other, other], [0, 1, 0]) != ()
    assert written([other, other], [first, other, other], [1, 2]) != ()
