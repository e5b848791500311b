"""A configuration agrees with what is written, or says what it can't."""

from __future__ import annotations

from collections.abc import Mapping

from mergebuild.configuration.agreement import Agreement, WrittenTensors, agreement
from mergebuild.configuration.ties import Heads

Shapes = Mapping[str, tuple[int, ...]]
EMBED, HEAD, LAYER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.{}.mlp.up_proj.weight"
KNOWN = {"model_type": "llama", "vocab_size": 32, "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16}
UNKNOWN = {**KNOWN, "model_type": "unheard-of"}


def model(vocab: int = 32, layers: int = 2) -> dict[str, tuple[int, ...]]:
    return {EMBED: (vocab, 8), **{LAYER.format(n): (16, 8) for n in range(layers)}, HEAD: (vocab, 8)}


def agreed(config: Mapping[str, object], written: Shapes, donor: Shapes) -> Agreement:
    digests = {name: name.encode() for name in written}
    return agreement(config, WrittenTensors(written, donor, Heads(digests, donor, donor, config, equal=False)))


def test_what_fits_stays() -> None:
    for config in (KNOWN, UNKNOWN):
        assert agreed({**config, "tie_word_embeddings": False}, model(), model()) == Agreement({})


def test_each_change_is_told() -> None:
    found = agreed({**KNOWN, "tie_word_embeddings": False}, model(34, 1), model())
    assert found.changes == {("vocab_size",): 34, ("num_hidden_layers",): 1}
    assert found.notices == (
        "`vocab_size` of the configuration is written as 34 and not 32, as the tensors have it",
        "`num_hidden_layers` of the configuration is written as 1 and not 2, as the tensors have it",
    )
    assert found.contradictions == ()


def test_tokens_of_an_unknown_architecture_stay_in_relation_to_rows() -> None:
    """Some models have more rows than tokens, from the first."""
    config = {**UNKNOWN, "tie_word_embeddings": False}
    assert agreed(config, model(34), model()).changes == {("vocab_size",): 34}
    assert agreed({**config, "vocab_size": 30}, model(34), model()).changes == {("vocab_size",): 32}
    assert agreed({**config, "vocab_size": 30}, model(), model()).changes == {}
    parts = {"text_config": {"vocab_size": 32}, "vocab_size": 32, "tie_word_embeddings": False}
    assert agreed(parts, model(34), model()).changes == {("text_config", "vocab_size"): 34, ("vocab_size",): 34}


def test_an_embedding_and_a_head_of_other_sizes_are_refused_unless_the_donor_has_them() -> None:
    config = {**UNKNOWN, "tie_word_embeddings": False}
    odd = {**model(), HEAD: (30, 8)}
    assert agreed(config, odd, odd).contradictions == ()
    assert agreed(config, odd, model()).contradictions == (
        f"`{EMBED}` and `{HEAD}` have 32 and 30 rows, and one size is said of both",
    )


def test_shapes_of_an_unknown_architecture_are_the_donors() -> None:
    config = {**UNKNOWN, "tie_word_embeddings": False}
    written = {**model(), LAYER.format(0): (24, 8), LAYER.format(1): (24, 8)}
    found = agreed(config, written, model()).contradictions
    assert found == tuple(
        f"`{LAYER.format(n)}` is [24, 8], and [16, 8] in the model that the configuration is of" for n in range(2)
    )


def test_a_tensor_that_the_architecture_has_is_not_left_out() -> None:
    written = {name: shape for name, shape in model().items() if name != LAYER.format(1)}
    written["model.layers.1.input_layernorm.weight"] = (8,)
    donor = {**model(), "model.layers.1.input_layernorm.weight": (8,)}
    (wrong,) = agreed({**KNOWN, "tie_word_embeddings": False}, written, donor).contradictions
    assert wrong == f"`{LAYER.format(1)}` is not written, and a model of this configuration has it"
    found = agreed({**UNKNOWN, "tie_word_embeddings": False}, written, donor)
    assert found.contradictions == ()
    assert f"such as `{LAYER.format(1)}`, are left out" in "".join(found.notices)


def test_what_clients_make_by_themselves_may_be_left_out() -> None:
    donor = {**model(), "model.layers.0.self_attn.rotary_emb.inv_freq": (2,), "model.position_ids": (1, 7)}
    assert agreed({**UNKNOWN, "tie_word_embeddings": False}, model(), donor) == Agreement({})


def test_a_part_that_is_described_is_not_left_out() -> None:
    config = {"text_config": KNOWN, "vision_config": {"depth": 1}, "tie_word_embeddings": False}
    donor = {**model(), "visual.blocks.0.mlp.weight": (4, 4)}
    assert agreed(config, model(), donor).contradictions == (
        "nothing of the part `vision` is written, and `vision_config` describes one",
    )
