"""What a configuration says of shapes follows from the tensors, or contradicts them."""

from __future__ import annotations

import pytest

from mergebuild.configuration.sizes import Sized, is_implied, sized

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(vocab: int = 32, width: int = 8, inner: int = 16, prefix: str = "model.") -> dict[str, tuple[int, ...]]:
    layer = f"{prefix}layers.0."
    return {
        f"{prefix}embed_tokens.weight": (vocab, width),
        f"{layer}self_attn.q_proj.weight": (width, width),
        f"{layer}self_attn.k_proj.weight": (width // 2, width),
        f"{layer}self_attn.o_proj.weight": (width, width),
        f"{layer}mlp.up_proj.weight": (inner, width),
        f"{layer}input_layernorm.weight": (width,),
        "lm_head.weight": (vocab, width),
    }


def test_what_fits_stays() -> None:
    assert sized(CONFIG, llama(), llama()) == Sized({})


@pytest.mark.parametrize("prefix", ["model.", "", "language_model.model."])
def test_sizes_that_say_nothing_else_follow(prefix: str) -> None:
    found = sized(CONFIG, llama(34, inner=24, prefix=prefix), llama())
    assert found == Sized({("vocab_size",): 34, ("intermediate_size",): 24})


def test_of_a_model_that_sees_the_text_is_changed_and_what_says_it_twice() -> None:
    config = {"model_type": "llava", "text_config": CONFIG, "vocab_size": 32}
    assert sized(config, llama(34), llama()).changes == {("text_config", "vocab_size"): 34, ("vocab_size",): 34}
    assert sized({**config, "vocab_size": 40}, llama(34), llama()).changes == {("text_config", "vocab_size"): 34}


def test_what_no_shape_tells_is_a_contradiction() -> None:
    found = sized(CONFIG, llama(width=16), llama())
    assert found.contradictions[0] == "`model.embed_tokens.weight` is [32, 16], and the configuration says [32, 8]"
    assert found.contradictions[-1] == "and 3 more"
    heads = {"num_key_value_heads": 4}
    assert sized({**CONFIG, **heads}, llama(), llama(width=4)).contradictions == (
        "`model.layers.0.self_attn.k_proj.weight` is [4, 8], and the configuration says [8, 8]",
    )


def test_rows_of_embedding_and_head_are_one_size() -> None:
    written = {**llama(), "lm_head.weight": (34, 8)}
    assert sized(CONFIG, written, llama()).contradictions == (
        "`lm_head.weight` is [34, 8], and the configuration says [32, 8]",
    )


def test_a_model_that_its_own_configuration_does_not_fit_is_no_fault_of_a_recipe() -> None:
    assert sized(CONFIG, llama(width=16), llama(width=16)) == Sized({("hidden_size",): 16})
    odd = {**llama(), "model.layers.0.self_attn.k_proj.weight": (6, 8)}
    found = sized(CONFIG, odd, odd)
    assert found.contradictions == ()
    assert found.notices == ("`model.layers.0.self_attn.k_proj.weight` is [6, 8], and the configuration says [4, 8]",)


def test_sizes_that_count_layers_too_are_checked_with_their_new_count() -> None:
    config = {
        "model_type": "gemma3n_text",
        "num_hidden_layers": 3,
        "hidden_size": 8,
        "hidden_size_per_layer_input": 2,
        "vocab_size": 5,
    }
    shapes = {"model.per_layer_model_projection.weight": (6, 8)}
    assert sized(config, shapes, shapes) == Sized({})
    found = sized(config, shapes, shapes, {("num_hidden_layers",): 2})
    assert found.notices == ()
    assert found.contradictions == (
        "`model.per_layer_model_projection.weight` is [6, 8], and the configuration says [4, 8]",
    )


def test_what_is_not_said_contradicts_nothing() -> None:
    assert sized({"model_type": "llama"}, llama(34), llama()) == Sized({})
    assert sized({"model_type": "unheard-of", "vocab_size": 32}, llama(34), llama()) == Sized({})
    assert sized({**CONFIG, "hidden_size": "wide", "vocab_size": True}, llama(), llama()) == Sized({})


def test_which_tensors_a_known_model_has() -> None:
    assert is_implied(CONFIG, "model.layers.7.self_attn.q_proj.weight")
    assert not is_implied(CONFIG, "vision_model.layers.7.self_attn.q_proj.weight")
    assert not is_implied(CONFIG, "model.layers.7.other.weight")
    assert not is_implied({"model_type": "unheard-of"}, "model.layers.7.self_attn.q_proj.weight")
