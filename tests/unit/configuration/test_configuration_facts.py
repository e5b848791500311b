"""What configurations say otherwise that changes what weights mean."""

from __future__ import annotations

import pytest

from mergebuild.configuration.facts import Fact, differing

LLAMA = {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}


@pytest.mark.parametrize(
    ("one", "other", "facts"),
    [
        ({}, {"num_attention_heads": 8}, [("num_attention_heads", "4", "8"), ("head_dim", "2", "1")]),
        ({}, {"num_key_value_heads": 4}, [("num_key_value_heads", "2", "4")]),
        ({}, {"num_key_value_heads": None}, [("num_key_value_heads", "2", "4")]),
        ({}, {"head_dim": 2}, []),
        ({}, {"head_dim": 4}, [("head_dim", "2", "4")]),
        ({}, {"rope_theta": 10000}, []),
        ({}, {"rope_theta": 500000.0}, [("rope_theta", "10000.0", "500000.0")]),
        ({"rope_theta": 500000.0}, {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}, []),
        ({"rotary_emb_base": 10000}, {"rotary_emb_base": 20000}, [("rope_theta", "10000", "20000")]),
        (
            {},
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            [("rope_scaling", "(none)", '{"factor": 2.0, "rope_type": "linear"}')],
        ),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            [],
        ),
        ({}, {"rms_norm_eps": 1e-5}, [("rms_norm_eps", "1e-06", "1e-05")]),
        ({}, {"rms_norm_eps": None}, []),
        ({"hidden_act": "silu"}, {"hidden_act": "gelu"}, [("hidden_act", '"silu"', '"gelu"')]),
        ({"eos_token_id": 1}, {"eos_token_id": 2, "vocab_size": 9}, []),
    ],
)
def test_what_changes_the_meaning_of_weights_is_named_with_both_values(
    one: dict[str, object], other: dict[str, object], facts: list[tuple[str, str, str]]
) -> None:
    wanted = [Fact(key, (mine, theirs)) for key, mine, theirs in facts]
    assert differing({**LLAMA, **one}, {**LLAMA, **other}) == wanted


def test_a_configuration_of_any_kind_is_compared() -> None:
    """It comes from strangers."""
    odd = {"num_attention_heads": "many", "hidden_size": [1], "rope_scaling": 7, "rope_parameters": {"a": {"b": 1}}}
    assert differing(odd, odd) == []
    assert differing(odd, LLAMA)
    assert differing(LLAMA, odd)
