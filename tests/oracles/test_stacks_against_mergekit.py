"""Stacks against mergekit's own: the same tensors, and folders that compute the same in transformers.

What is copied is equal; what is computed is as close as two orders of the same float32 operations are. Mergekit leaves
what a configuration says of single layers as it is; there a stack is compared with the layers of the models themselves.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from client_models import VOCABULARY, build, llama
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, Qwen2Config

with warnings.catch_warnings(action="ignore"):  # of numpy's former names
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

IDS = torch.arange(3, 3 + 24).reshape(2, 12) * 7 % VOCABULARY
DEPTH = 4

CASES = {
    "plain": (
        """
        merge_method: passthrough
        dtype: float32
        slices:
          - sources: [{model: A, layer_range: [0, 3]}]
          - sources: [{model: B, layer_range: [1, 4]}]
        """,
        """
        method = "copy"
        slices = [{ a = "a", layers = "L00-L02" }, { a = "b", layers = "L01-L03" }]
        """,
    ),
    "of one model with itself": (
        """
        merge_method: passthrough
        dtype: float32
        slices:
          - sources: [{model: A, layer_range: [0, 3]}]
          - sources: [{model: A, layer_range: [1, 3]}]
          - sources: [{model: A, layer_range: [1, 4]}]
        """,
        """
        method = "copy"
        a = "a"
        slices = [{ layers = "L00-L02" }, { layers = "L01-L02" }, { layers = "L01-L03" }]
        """,
    ),
    "with scales": (
        """
        merge_method: passthrough
        dtype: float32
        slices:
          - sources: [{model: A, layer_range: [0, 4]}]
          - sources:
            - model: A
              layer_range: [2, 4]
              parameters:
                scale:
                  - {filter: o_proj, value: 0}
                  - {filter: down_proj, value: 0.5}
                  - value: 1
        """,
        """
        method = "copy"
        a = "a"
        [[targets.merged.slices]]
        layers = "L00-L03"
        [[targets.merged.slices]]
        method = "scale"
        layers = "L02-L03"
        alpha = { default = 1, "*o_proj*" = 0, "*down_proj*" = 0.5 }
        """,
    ),
    "with the norm and head of another model": (
        """
        merge_method: passthrough
        dtype: float32
        slices:
          - sources: [{model: A, layer_range: [0, 4]}]
          - sources: [{model: B, layer_range: [2, 2]}]
        """,
        """
        method = "copy"
        slices = [{ a = "a", layers = "L00-L03" }, { a = "b", layers = "none" }]
        """,
    ),
    "across layers, with gradients": (
        """
        merge_method: slerp
        base_model: A
        dtype: float32
        slices:
          - sources: [{model: A, layer_range: [0, 3]}, {model: B, layer_range: [1, 4]}]
            parameters: {t: [0, 0.5, 1]}
          - sources: [{model: A, layer_range: [1, 4]}, {model: B, layer_range: [0, 3]}]
            parameters: {t: [{filter: mlp, value: [0.25, 0.75]}, {value: 0.25}]}
        """,
        """
        method = "slerp"
        [[targets.merged.slices]]
        a = { model = "a", layers = "L00-L02" }
        b = { model = "b", layers = "L01-L03" }
        t = { default = { gradient = [0, 0.5, 1] } }
        [[targets.merged.slices]]
        a = { model = "a", layers = "L01-L03" }
        b = { model = "b", layers = "L00-L02" }
        t = { default = 0.25, "*mlp*" = { gradient = [0.25, 0.75] } }
        """,
    ),
    "of task vectors": (
        """
        merge_method: ties
        base_model: A
        dtype: float32
        parameters: {weight: 0.5, density: 0.5}
        slices:
          - sources: [{model: A, layer_range: [0, 3]}, {model: B, layer_range: [0, 3]}, {model: C, layer_range: [0, 3]}]
          - sources: [{model: A, layer_range: [1, 4]}, {model: B, layer_range: [1, 4]}, {model: C, layer_range: [1, 4]}]
            parameters: {density: 1}
        """,
        """
        method = "ties"
        base = "a"
        models = ["b", "c"]
        weight = 0.5
        density = 0.5
        slices = [{ layers = "L00-L02" }, { layers = "L01-L03", density = 1 }]
        """,
    ),
}


def merged_by_mergekit(root: Path, text: str) -> Path:
    """Merge the models of a project as mergekit does; return the folder."""
    for name in ("A", "B", "C"):
        text = text.replace(f"model: {name}", f"model: {root / name.lower()}")
    options = MergeOptions(copy_tokenizer=False, trust_remote_code=False, cuda=False)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(root / "theirs"), options)
    return root / "theirs"


def merged_by_us(root: Path, text: str) -> Path:
    sources = "".join(f'{name} = "{name}/"\n' for name in "abc")
    build(root, f'[sources]\n{sources}[targets.merged]\noutput = "out/merged/"\n{text}')
    return root / "out" / "merged"


def loaded(folder: Path) -> Any:
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert not any(report[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


def compared(ours: Any, theirs: Any, closely: float) -> None:
    """Check that two models have the same tensors, and give the same logits."""
    one, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=closely, msg=name)
    logits = [logits_of(each) for each in (ours, theirs)]
    torch.testing.assert_close(*logits, rtol=0, atol=100 * closely)
    assert ours.config.num_hidden_layers == theirs.config.num_hidden_layers
    assert ours.config.tie_word_embeddings == theirs.config.tie_word_embeddings


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS)["logits"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_stack_is_that_of_mergekit(tmp_path: Path, case: str) -> None:
    for seed, name in enumerate("abc", 1):
        llama(seed, layers=DEPTH).save_pretrained(tmp_path / name)
    theirs, ours = CASES[case]
    folders = merged_by_us(tmp_path, ours), merged_by_mergekit(tmp_path, theirs)
    compared(*(loaded(folder) for folder in folders), 0 if "copy" in ours else 1e-6)


def test_a_stack_of_one_tied_model_is_tied_as_in_mergekit(tmp_path: Path) -> None:
    for seed, name in enumerate("abc", 1):
        llama(seed, tied=True, layers=DEPTH).save_pretrained(tmp_path / name)
    theirs, ours = CASES["of one model with itself"]
    folders = merged_by_us(tmp_path, ours), merged_by_mergekit(tmp_path, theirs)
    compared(*(loaded(folder) for folder in folders), 0)


def test_of_two_tied_models_the_head_is_the_last_ones_embedding(tmp_path: Path) -> None:
    """As the last slice gives the head; mergekit writes none then, and clients take the first one's embedding."""
    models = [llama(seed, tied=True, layers=DEPTH) for seed in (1, 2, 3)]
    for name, model in zip("abc", models, strict=True):
        model.save_pretrained(tmp_path / name)
    theirs, ours = CASES["plain"]
    mine, other = loaded(merged_by_us(tmp_path, ours)), loaded(merged_by_mergekit(tmp_path, theirs))
    first, last = (model.get_input_embeddings().weight for model in models[:2])
    assert torch.equal(mine.get_input_embeddings().weight, first)
    assert torch.equal(mine.get_output_embeddings().weight, last)
    assert torch.equal(other.get_output_embeddings().weight, first)
    assert not torch.equal(first, last)


SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": DEPTH, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 4,
    "attn_implementation": "eager",
}  # fmt: skip


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "config",
    [Gemma2Config(**SMALL), Qwen2Config(**SMALL, use_sliding_window=True, max_window_layers=2)],
    ids=["gemma2", "qwen2"],
)
def test_layers_attend_as_they_did_in_their_model(tmp_path: Path, config: Any, listed: bool) -> None:
    """With a list of kinds in the configuration, and without: then the architecture itself says what each layer is."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "a")
    if not listed:
        path = tmp_path / "a" / "config.json"
        said = json.loads(path.read_text())
        del said["layer_types"]
        path.write_text(json.dumps(said))
    for name in "bc":
        shutil.copytree(tmp_path / "a", tmp_path / name)
    layers = [0, 1, 1, 2, 3] if config.model_type == "gemma2" else [0, 1, 1, 3]
    slices = ", ".join(f'{{ layers = "L{at:02}" }}' for at in layers)
    found = loaded(merged_by_us(tmp_path, f'method = "copy"\na = "a"\nslices = [{slices}]'))
    kinds = model.config.layer_types
    assert len(set(kinds)) == 2
    assert list(found.config.layer_types) == [kinds[at] for at in layers]
    torch.testing.assert_close(logits_of(found), logits_of(restacked(model, layers)), rtol=0, atol=1e-6)


def restacked(model: Any, layers: Sequence[int]) -> Any:
    """Return a model with some of its own layers, as modules."""
    found = copy.deepcopy(model)
    found.model.layers = torch.nn.ModuleList(copy.deepcopy(model.model.layers[at]) for at in layers)
    found.config.layer_types = [model.config.layer_types[at] for at in layers]
    found.config.num_hidden_layers = found.model.config.num_hidden_layers = len(layers)
    for at, layer in enumerate(found.model.layers):
        layer.self_attn.layer_idx = at
    return found
