"""A configuration counts the layers that are written, and its lists of one a layer are as long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mergebuild.configuration.layers import Stack, counted, stacks
from mergebuild.configuration.text import Path


def names(*counts: tuple[str, Sequence[int] | int]) -> list[str]:
    found = []
    for stack, layers in counts:
        some = range(layers) if isinstance(layers, int) else layers
        found += [f"{stack}.{layer}.{part}" for layer in some for part in ("a.weight", "experts.7.b.weight")]
    return found


def changes(config: Mapping[str, object], written: list[str], donor: list[str]) -> Mapping[Path, object]:
    found = counted(config, written, donor)
    assert found.contradictions == ()
    return found.changes


def test_a_stack_is_what_stands_before_the_outermost_number() -> None:
    assert stacks(names(("model.layers", 2), ("visual.blocks", 1))) == {
        "model.layers": Stack("model.layers", "text", frozenset({0, 1})),
        "visual.blocks": Stack("visual.blocks", "vision", frozenset({0})),
    }
    assert stacks(["visual.merger.mlp.0.weight", "h.weight", f"h.{'9' * 5000}.w"]) == {}


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers"])
def test_layers_that_are_left_out_at_the_end_are_counted_no_more(key: str) -> None:
    config = {key: 4, "layer_types": ["x", "y", "x", "y"], "mlp_only_layers": [0, 3], "eos_token_id": [1, 2, 3, 4]}
    found = changes(config, names(("model.layers", 3)), names(("model.layers", 4)))
    assert found == {(key,): 3, ("layer_types",): ["x", "y", "x"], ("mlp_only_layers",): [0]}


def test_letters_and_turns_of_layers_are_cut() -> None:
    key = "num_hidden_layers"
    config = {key: 4, "hybrid_override_pattern": "M-M*", "name": "four"}
    written, donor = names(("h", 3)), names(("h", 4))
    assert changes(config, written, donor) == {(key,): 3, ("hybrid_override_pattern",): "M-M"}
    turns = {key: 4, "attention_layers": ["g", "l", "g", "l"], "attention_types": [[["g", "l"], 2]]}
    assert changes(turns, written, donor) == {
        (key,): 3,
        ("attention_layers",): ["g", "l", "g"],
        ("attention_types",): [[["g", "l", "g"], 1]],
    }
    found = counted({key: 4, "attention_types": [[["g", "l"], 2]]}, written, donor).contradictions
    assert found == ("`h` has 3 layers, and `attention_types` says what each of 4 is",)


def test_what_counts_right_stays() -> None:
    config = {"num_hidden_layers": 4, "layer_types": ["x"] * 4}
    assert changes(config, names(("model.layers", 4)), names(("model.layers", 4))) == {}
    assert changes({}, names(("model.layers", 3)), names(("model.layers", 4))) == {}
    assert changes({"num_hidden_layers": "many"}, names(("model.layers", 3)), names(("model.layers", 4))) == {}


def test_the_configuration_of_another_model_counts_the_layers_that_are_written() -> None:
    assert changes({"num_hidden_layers": 2}, names(("model.layers", 3)), names(("model.layers", 2))) == {
        ("num_hidden_layers",): 3
    }
    found = counted(
        {"num_hidden_layers": 2, "layer_types": ["x", "y"]}, names(("h", 3)), names(("h", 2))
    ).contradictions
    assert found == ("`h` has 3 layers, and `layer_types` say what each of 2 is",)


def test_a_model_that_its_own_configuration_counts_wrong_is_counted_right() -> None:
    config = {"num_hidden_layers": 2}
    assert changes(config, names(("model.layers", 3)), names(("model.layers", 3))) == {("num_hidden_layers",): 3}


def test_a_gap_is_no_count() -> None:
    found = counted({"num_hidden_layers": 4}, names(("model.layers", [0, 1, 3])), names(("model.layers", 4)))
    assert found.contradictions == ("`model.layers` lacks 2 of its layers 0 to 3, and clients load them by number",)
    donor = names(("model.layers", [0, 1, 3]))
    assert changes({"num_hidden_layers": 4}, donor, donor) == {}


def test_parts_and_halves_are_counted_by_themselves() -> None:
    config = {
        "text_config": {"num_hidden_layers": 4, "layer_types": list("abcd")},
        "vision_config": {"depth": 3},
        "num_hidden_layers": 9,
    }
    donor = names(("language_model.model.layers", 4), ("visual.blocks", 3))
    written = names(("language_model.model.layers", 2), ("visual.blocks", 3))
    assert changes(config, written, donor) == {
        ("text_config", "num_hidden_layers"): 2,
        ("text_config", "layer_types"): ["a", "b"],
    }
    written = names(("language_model.model.layers", 4), ("visual.blocks", 2))
    assert changes(config, written, donor) == {("vision_config", "depth"): 2}


def test_a_decoder_that_the_encoder_speaks_for_gets_a_count_of_its_own() -> None:
    donor = names(("encoder.block", 4), ("decoder.block", 4))
    assert changes({"num_layers": 4}, names(("encoder.block", 4), ("decoder.block", 2)), donor) == {
        ("num_decoder_layers",): 2
    }
    assert changes({"num_layers": 4}, names(("encoder.block", 2), ("decoder.block", 2)), donor) == {("num_layers",): 2}
    whisper = {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4}
    donor = names(("model.encoder.layers", 4), ("model.decoder.layers", 4))
    written = names(("model.encoder.layers", 3), ("model.decoder.layers", 4))
    assert changes(whisper, written, donor) == {("encoder_layers",): 3, ("num_hidden_layers",): 3}


def test_layers_that_predict_further_tokens_are_counted_besides() -> None:
    config = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1}
    whole = names(("model.layers", 4))
    assert changes(config, whole, whole) == {}
    assert changes(config, names(("model.layers", 3)), whole) == {("num_nextn_predict_layers",): 0}
    assert changes(config, names(("model.layers", 2)), names(("model.layers", 3))) == {("num_hidden_layers",): 2}
    own = names(("model.layers", 3), ("mtp.layers", 1))
    assert changes({"num_hidden_layers": 3}, own, own) == {}
