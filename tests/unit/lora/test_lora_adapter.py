"""What an adapter's configuration changes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from lora_files import joined, peft, stored

from mergebuild.errors import SourceError
from mergebuild.lora import Match, match

MODEL = {
    "model.q.weight": (6, 8),
    "model.k.weight": (6, 8),
    "model.square.weight": (8, 8),
    "model.words.weight": (12, 8),
    "head.weight": (5, 8),
    "head.bias": (5,),
}
PEFT = "base_model.model."


def facts(found: Match, tensor: str) -> dict[str, object]:
    (only,) = found.deltas[tensor]
    return dict(only.facts)


def code(config: dict[str, object]) -> str:
    with pytest.raises(SourceError) as caught:
        match(peft(f"{PEFT}model.q", 6, 8), MODEL, config, shown="adapter_config.json")
    return caught.value.problems[0].code


def test_the_alpha_and_the_rank() -> None:
    found = match(peft(f"{PEFT}model.q", 6, 8, rank=3), MODEL, {"peft_type": "LORA", "r": 3, "lora_alpha": 1.5})
    assert facts(found, "model.q.weight") == {"alpha": Fraction(3, 2), "rank": 3}


def test_an_alpha_that_is_not_said_is_peft_s_default() -> None:
    assert facts(match(peft(f"{PEFT}model.q", 6, 8), MODEL, {}), "model.q.weight")["alpha"] == 8


def test_without_a_configuration_alpha_is_the_rank() -> None:
    assert "alpha" not in facts(match(peft(f"{PEFT}model.q", 6, 8), MODEL), "model.q.weight")


def test_rslora() -> None:
    found = match(peft(f"{PEFT}model.q", 6, 8), MODEL, {"lora_alpha": 2, "use_rslora": True})
    assert facts(found, "model.q.weight") == {"alpha": 2, "rank": 4, "rslora": True}


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("q", True),
        ("model.q", True),
        ("^model.q", True),
        ("^q", False),
        ("del.q", False),
        (r".*\.q", True),
        ("k|q", True),
        ("x", False),
        (r".*m[a-z]*\.[a-z]+", True),
        ("(mod|el)+.q", True),
        ("model.q" + "|x" * 300, True),
        ("modelXq", False),
        ("mod.l.q", True),
    ],
)
def test_the_first_pattern_that_fits_a_module_s_end_counts(pattern: str, fits: bool) -> None:
    config: dict[str, object] = {"lora_alpha": 2, "alpha_pattern": {"nothing": 1, pattern: 7, "mode[l].q": 2}}
    found = match(peft(f"{PEFT}model.q", 6, 8), MODEL, config)
    assert facts(found, "model.q.weight")["alpha"] == (7 if fits else 2)


def test_stored_the_other_way_round() -> None:
    config: dict[str, object] = {"fan_in_fan_out": True}
    file = joined([peft(f"{PEFT}model.q", 8, 6), peft(f"{PEFT}model.square", 8, 8), peft(f"{PEFT}head", 5, 8)])
    found = match(file, MODEL, config)
    assert facts(found, "model.q.weight")["transposed"] is True
    assert facts(found, "model.square.weight")["transposed"] is True
    assert "transposed" not in facts(found, "head.weight")


def test_an_embedding_is_stored_the_other_way_round() -> None:
    file = stored({f"{PEFT}model.words.lora_embedding_A": (4, 12), f"{PEFT}model.words.lora_embedding_B": (8, 4)})
    found = match(file, MODEL, {"lora_alpha": 2})
    assert facts(found, "model.words.weight") == {"alpha": 2, "rank": 4, "transposed": True}
    assert found.deltas["model.words.weight"][0].family == "peft_embedding"


def test_modules_that_were_trained_whole_replace() -> None:
    file = stored({f"{PEFT}head.weight": (5, 8), f"{PEFT}head.bias": (5,)})
    found = match(file, MODEL, {"modules_to_save": ["head"]})
    assert {name: [each.family for each in deltas] for name, deltas in found.deltas.items()} == {
        "head.weight": ["replace"],
        "head.bias": ["replace"],
    }


@pytest.mark.parametrize(
    "joint", [".modules_to_save", ".modules_to_save.default", ".modules_to_save.my_adapter", ".base_layer"]
)
def test_modules_that_were_trained_whole_in_files_saved_past_peft(joint: str) -> None:
    """Beside them may stand the model's own, which is no part of the adapter."""
    file = stored({f"{PEFT}head{joint}.weight": (5, 8), f"{PEFT}head.original_module.weight": (5, 8)})
    found = match(file, MODEL, {"modules_to_save": ["head"]})
    assert [each.family for each in found.deltas["head.weight"]] == ["replace"]
    assert (found.unmatched, found.ignored) == ((), (f"{PEFT}head.original_module.weight",))
    file |= stored({f"{PEFT}head.weight": (5, 8)})
    if "modules_to_save" in joint:  # PEFT may save both, the same
        assert [each.factors[0].tensor for each in match(file, MODEL, {}).deltas["head.weight"]] == [
            f"{PEFT}head.weight"
        ]


def test_a_whole_tensor_may_have_other_rows() -> None:
    """Words that were added to a vocabulary."""
    found = match(stored({f"{PEFT}head.weight": (7, 8), f"{PEFT}head.bias": (7,)}), MODEL, {})
    assert found.reshaped == {"head.weight": (7, 8), "head.bias": (7,)}
    assert not found.misfits
    assert match(stored({f"{PEFT}head.weight": (7, 9)}), MODEL, {}).misfits


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"trainable_token_indices": [3, 11]}, "words.token_adapter.trainable_tokens_delta"),
        ({"trainable_token_indices": {"words": [3, 11]}}, "words.token_adapter.trainable_tokens_delta.default"),
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 11]}, "words.trainable_tokens_delta"),
    ],
)
def test_trained_words_take_the_place_of_rows(said: dict[str, object], name: str) -> None:
    found = match(stored({f"{PEFT}model.{name}": (2, 8)}), MODEL, said)
    assert found.deltas["model.words.weight"][0].family == "tokens"
    assert facts(found, "model.words.weight") == {"tokens": "3,11"}


@pytest.mark.parametrize(
    "said", [{}, {"trainable_token_indices": [3]}, {"trainable_token_indices": [3, 12]}, {"token_indices": [3, 4, 5]}]
)
def test_words_that_the_model_does_not_have(said: dict[str, object]) -> None:
    file = stored({f"{PEFT}model.words.token_adapter.trainable_tokens_delta": (2, 8)})
    (misfit,) = match(file, MODEL, said).misfits
    assert misfit.problem.rows[1].startswith("wanted  rows for the words [")


def test_the_bias_of_a_factor_is_scaled_with_it() -> None:
    file = {**peft(f"{PEFT}head", 5, 8), **stored({f"{PEFT}head.lora_B.bias": (5,)})}
    found = match(file, MODEL, {"r": 4, "lora_alpha": 6, "lora_bias": True})
    assert found.deltas["head.bias"][0].family == "bias"
    assert facts(found, "head.bias") == facts(found, "head.weight") == {"alpha": 6, "rank": 4}


@pytest.mark.parametrize(
    ("shape", "feedforward", "on_input"), [((1, 8), [], True), ((5, 1), ["head"], False), ((1, 1), ["head"], True)]
)
def test_ia3(shape: tuple[int, ...], feedforward: list[str], on_input: bool) -> None:
    model = {"head.weight": (1, 1), "head.bias": (1,)} if shape == (1, 1) else MODEL
    config: dict[str, object] = {"peft_type": "IA3", "feedforward_modules": feedforward}
    found = match(stored({f"{PEFT}head.ia3_l": shape}), model, config)
    assert facts(found, "head.weight") == {"on_input": on_input, "peft": True}
    assert ("head.bias" in found.deltas) is not on_input


def test_a_lokr_of_peft_is_scaled_even_where_nothing_is_factored() -> None:
    file = stored({f"{PEFT}model.q.lokr_w1": (2, 4), f"{PEFT}model.q.lokr_w2": (3, 2)})
    config: dict[str, object] = {"peft_type": "LOKR", "r": 30, "alpha": 5, "rank_pattern": {"q": 20}}
    assert facts(match(file, MODEL, config), "model.q.weight") == {"alpha": 5, "rank": 20}


def test_what_diffusers_packs_into_the_metadata() -> None:
    """The settings of several components in one table, each under its name."""
    model = {
        "model.diffusion_model.out.2.weight": (4, 8, 3, 3),
        "model.diffusion_model.input_blocks.0.0.weight": (8, 4),
    }
    config: dict[str, object] = {"unet.r": 2, "unet.lora_alpha": 3, "text_encoder.r": 2, "text_encoder.lora_alpha": 9}
    found = match(peft("unet.conv_in", 8, 4), model, config)
    assert facts(found, "model.diffusion_model.input_blocks.0.0.weight")["alpha"] == 3


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "VERA"},
        {"peft_type": "PREFIX_TUNING"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"alora_invocation_tokens": [1, 2]},
    ],
    ids=str,
)
def test_adapters_that_are_more_than_a_delta_are_refused(config: dict[str, object]) -> None:
    assert code(config) == "lora-unsupported"


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": "8"},
        {"lora_alpha": True},
        {"lora_alpha": float("nan")},
        {"alpha_pattern": ["q"]},
        {"alpha_pattern": {"q": None, "model.q": "x"}},
        {"alpha_pattern": {"(": 3}},
    ],
    ids=lambda config: str(config)[:40],
)
def test_a_malformed_configuration(config: dict[str, object]) -> None:
    assert code(config) == "lora-config"


def test_patterns_have_a_few_seconds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repetition inside of a repetition takes for ever, and the file comes from a stranger."""
    monkeypatch.setattr("mergebuild.lora.adapter._LIMIT", 0.05)
    name = "a" * 200
    file = peft(f"{PEFT}{name}", 6, 8)
    with pytest.raises(SourceError) as caught:
        match(file, {f"{name}.weight": (6, 8)}, {"alpha_pattern": {"(a|aa)+b": 3}})
    (problem,) = caught.value.problems
    assert problem.message == (
        "the LoRA's `adapter_config.json` has patterns that take more than 0.05 seconds to match, such as `(a|aa)+b`"
    )
    assert problem.help == "write them without a repetition inside of a repetition, such as `(a*)*`"


def test_as_many_patterns_as_modules_take_no_time() -> None:
    """As adapters have them that were made with a rank for each module."""
    modules = [f"model.layers.{layer}.{name}" for layer in range(60) for name in "qkvougd"]
    file = joined(peft(f"{PEFT}{module}", 6, 8) for module in modules)
    config: dict[str, object] = {"alpha_pattern": {module: at for at, module in enumerate(modules)}}
    found = match(file, {f"{module}.weight": (6, 8) for module in modules}, config)
    assert all(facts(found, f"{module}.weight")["alpha"] == at for at, module in enumerate(modules))
