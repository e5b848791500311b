"""What we say of configurations is what transformers does with them; what we write beside tensors loads there."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from client_models import VOCABULARY, assert_same_parameters, bert, build, llama
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mergebuild.configuration.sizes import is_implied, sized
from mergebuild.configuration.ties import said
from mergebuild.errors import MismatchError

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

DATA = files("mergebuild.configuration") / "data"
TIES = tomllib.loads((DATA / "ties.toml").read_text("utf-8"))
SIZED = [
    name
    for table in tomllib.loads((DATA / "sizes.toml").read_text("utf-8")).values()
    for name in table["types"].split()
    if name in CONFIG_MAPPING  # `gemma3` and its kin stand for the text of a model that sees
]


@pytest.mark.parametrize("is_tied", [True, False])
def test_ties_are_usual_where_the_class_of_a_configuration_has_them(is_tied: bool) -> None:
    for name in TIES["tied" if is_tied else "untied"].split():
        config = CONFIG_MAPPING[name]()
        assert config.tie_word_embeddings is is_tied, name
        assert said({"model_type": name}) is is_tied


def config_of(name: str) -> Any:
    """Return the usual configuration of an architecture: of the text alone, where it is one that can be had alone."""
    names = [each for each in (f"{name}_text", name) if each in CONFIG_MAPPING]  # its `get` finds nothing
    classes = [CONFIG_MAPPING[each] for each in names]
    return next((each for each in classes if each in AutoModelForCausalLM._model_mapping), classes[-1])()


def client_of(name: str) -> Any:
    """Return a client that makes a model with a head of this architecture."""
    config = type(config_of(name))
    clients = (AutoModelForSeq2SeqLM, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForImageTextToText)
    return next(each for each in clients if config in each._model_mapping)


@pytest.mark.parametrize("name", SIZED)
def test_a_model_has_the_shapes_that_its_configuration_says(name: str) -> None:
    client = client_of(name)
    config = config_of(name)
    if getattr(config, "head_dim", 0) is None:  # of some classes the usual sizes make no model
        config.head_dim = config.hidden_size // config.num_attention_heads
    if getattr(config, "num_key_value_heads", 0) is None:
        config.num_key_value_heads = config.num_attention_heads
    with torch.device("meta"):
        model = client.from_config(config)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    found = sized(config.to_dict(), shapes, shapes)
    assert (found.changes, found.notices, found.contradictions) == ({}, (), ())
    assert sum(is_implied(config.to_dict(), key) for key in shapes) > (1 if name == "mamba" else 5)


def loaded(client: Any, folder: Path) -> Any:
    """Return what a client loads, which must find each of its tensors in its shape and no other."""
    model, report = client.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert not any(report[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


def copied(tmp_path: Path, *keys: str) -> Path:
    """Build a copy of `a`."""
    lines = ['[sources]\na = "a"', '[targets.m]\nmethod = "copy"\na = "a"\noutput = "out/m/"', *keys]
    build(tmp_path, "\n".join(lines) + "\n")
    return tmp_path / "out/m"


def refused(tmp_path: Path, *keys: str) -> None:
    with pytest.raises(MismatchError) as caught:
        copied(tmp_path, *keys)
    assert caught.value.problems[0].code == "configuration-differs"


def test_a_model_that_loses_its_last_layers_loads(tmp_path: Path) -> None:
    a = llama(1)
    a.config.layer_types = ["full_attention"] * 3
    a.save_pretrained(tmp_path / "a")
    model = loaded(AutoModelForCausalLM, copied(tmp_path, 'drop = ["model.layers.2.*"]'))
    assert model.config.num_hidden_layers == len(model.model.layers) == 2
    refused(tmp_path, 'drop = ["model.layers.1.*"]')


def test_an_encoder_and_a_decoder_of_other_depths_load(tmp_path: Path) -> None:
    config = T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_layers=3, num_decoder_layers=3
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "a")
    model = loaded(T5ForConditionalGeneration, copied(tmp_path, 'drop = ["decoder.block.2.*"]'))
    assert (len(model.encoder.block), len(model.decoder.block)) == (3, 2)


def test_a_head_that_is_left_out_of_an_untied_model_is_refused(tmp_path: Path) -> None:
    llama(1).save_pretrained(tmp_path / "a")
    refused(tmp_path, 'drop = ["lm_head.weight"]')


def test_rows_of_tokens_follow_from_the_tensors(tmp_path: Path) -> None:
    a, b = llama(1), llama(2)
    b.resize_token_embeddings(VOCABULARY + 7)
    a.save_pretrained(tmp_path / "a")
    b.save_pretrained(tmp_path / "b")
    build(
        tmp_path,
        """
        [sources]
        a = "a"
        b = "b"
        [targets.m]
        method = "copy"
        a = "a"
        config = "b"
        output = "out/m/"
        """,
    )
    assert_same_parameters(loaded(AutoModelForCausalLM, tmp_path / "out/m"), a)


def gemma() -> Gemma3ForConditionalGeneration:
    text = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
    )
    config = Gemma3Config(
        text_config=text, vision_config=small_eye(), mm_tokens_per_image=4, image_token_index=5, dtype="float32"
    )
    return Gemma3ForConditionalGeneration(config)


def llava() -> LlavaForConditionalGeneration:
    config = LlavaConfig(vision_config=small_eye(), text_config=llama(1).config, image_token_index=5, dtype="float32")
    return LlavaForConditionalGeneration(config)


def small_eye() -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7
    )


@pytest.mark.parametrize("make", [gemma, llava])
def test_a_model_that_sees_is_changed_in_its_text(tmp_path: Path, make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    a = make()
    a.save_pretrained(tmp_path / "a")
    last = len(a.config.text_config.to_dict().get("layer_types") or range(a.config.text_config.num_hidden_layers)) - 1
    model = loaded(type(a), copied(tmp_path, f'drop = ["re:language_model.*layers\\\\.{last}\\\\."]'))
    assert model.config.text_config.num_hidden_layers == last
    torch.testing.assert_close(model.get_input_embeddings().weight, a.get_input_embeddings().weight)
    torch.testing.assert_close(model.get_output_embeddings().weight, a.get_output_embeddings().weight)


def test_a_tied_model_that_gets_a_head_is_tied_no_more(tmp_path: Path) -> None:
    tied, untied = llama(1, tied=True), llama(2)
    tied.save_pretrained(tmp_path / "a")
    untied.save_pretrained(tmp_path / "b")
    for first, second in (("a", "b"), ("b", "a")):
        build(
            tmp_path,
            f"""
            [sources]
            a = "a"
            b = "b"
            [targets.m]
            method = "weighted_sum"
            a = "{first}"
            b = "{second}"
            alpha = 0.5
            output = "out/{first}/"
            """,
        )
        model = loaded(AutoModelForCausalLM, tmp_path / "out" / first)
        head = (tied.model.embed_tokens.weight + untied.lm_head.weight) / 2
        torch.testing.assert_close(model.lm_head.weight, head, rtol=0, atol=1e-6)
        assert not model.config.tie_word_embeddings


def test_labels_are_as_many_as_the_head_of_a_classifier_has_rows(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 5)):
        config = bert(1).config
        config.num_labels = count
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / name)
    build(
        tmp_path,
        """
        [sources]
        a = "a"
        b = "b"
        [targets.m]
        method = "copy"
        a = "a"
        config = "b"
        output = "out/m/"
        """,
    )
    model = loaded(AutoModelForSequenceClassification, tmp_path / "out/m")
    assert model.config.num_labels == 3


def test_a_quantization_that_no_tensor_bears_out_is_not_written(tmp_path: Path) -> None:
    llama(1).save_pretrained(tmp_path / "a")
    path = tmp_path / "a/config.json"
    said_of_it = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **said_of_it}))
    out = copied(tmp_path)
    assert isinstance(loaded(AutoModelForCausalLM, out), LlamaForCausalLM)
    assert not hasattr(AutoConfig.from_pretrained(out), "quantization_config")
