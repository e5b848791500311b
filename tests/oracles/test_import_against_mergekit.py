"""Recipes of mergekit, made by mergekit itself and, imported, by us: the same models.

With a density of 1 the random methods drop nothing, so that they can be compared too. `arcee_fusion` is left to the
oracle of its kernel: where scores are as near to its threshold as float32 tells, either may count.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import yaml
from client_models import llama
from safetensors.torch import load_file

from mergebuild.cli import run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mergekit imports what NumPy has moved
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

pytestmark = pytest.mark.filterwarnings("ignore")

_TWO = "models: [{model: b, parameters: {weight: 0.6}}, {model: c, parameters: {weight: 0.3}}]\n"
RECIPES = {
    "linear, the base beside it": f"merge_method: linear\nbase_model: a\n{_TWO}parameters: {{weight: 0.5}}\n",
    "linear, off": f"merge_method: linear\n{_TWO}parameters: {{normalize: off}}\n",
    "slerp, filters": """
merge_method: slerp
base_model: b
models: [{model: a}, {model: b}]
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: q_proj, value: 1e-1}
    - {filter: mlp, value: [1, 0.5]}
    - value: 0.4
""",
    "ties, levels": """
merge_method: ties
base_model: a
models:
  - {model: a}
  - {model: b, parameters: {weight: [0.2, 0.9], density: [{filter: mlp, value: 0.4}]}}
  - {model: c, parameters: {density: 0.6}}
parameters: {weight: [{filter: norm, value: [1, 0]}, {value: 0.3}], density: [{filter: q_proj, value: 0.2}]}
""",
    "ties, rescaled": f"merge_method: ties\nbase_model: a\n{_TWO}parameters: {{density: 0.5, rescale: on}}\n",
    "dare_ties": f"merge_method: dare_ties\nbase_model: a\n{_TWO}",
    "dare_linear": f"merge_method: dare_linear\nbase_model: a\n{_TWO}parameters: {{normalize: true}}\n",
    "breadcrumbs_ties": f"merge_method: breadcrumbs_ties\nbase_model: a\n{_TWO}parameters: {{density: 0.8}}\n",
    "task_arithmetic": f"merge_method: task_arithmetic\nbase_model: a\n{_TWO}parameters: {{lambda: 1.2}}\n",
    "model_stock": "merge_method: model_stock\nbase_model: a\nmodels: [{model: b}, {model: c}]\n",
    "model_stock, by rows": """
merge_method: model_stock
base_model: a
models: [{model: b}, {model: c}]
parameters: {filter_wise: true}
""",
    "sce": "merge_method: sce\nbase_model: a\nmodels: [{model: b}, {model: c}]\nparameters: {select_topk: 0.5}\n",
    "karcher": "merge_method: karcher\nmodels: [{model: a}, {model: b}, {model: c}]\n",
    "nuslerp, flat": f"merge_method: nuslerp\n{_TWO}",
    "nuslerp, rows": f"merge_method: nuslerp\nbase_model: a\n{_TWO}parameters: {{nuslerp_flatten: false}}\n",
    "nuslerp, columns": f"""
merge_method: nuslerp
{_TWO}
parameters: {{nuslerp_flatten: false, nuslerp_row_wise: true}}
""",
    "multislerp": f"merge_method: multislerp\n{_TWO}",
    "nearswap": "merge_method: nearswap\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.02}\n",
    "ram": "merge_method: ram\nbase_model: a\nmodels: [{model: b}, {model: c}]\nparameters: {epsilon: 0.01}\n",
    "passthrough, scaled": """
merge_method: passthrough
models: [{model: a, parameters: {scale: [{filter: down_proj, value: 0.5}, {filter: norm, value: 1}]}}]
""",
    "slices": """
merge_method: slerp
base_model: a
parameters: {t: [0.1, 0.9]}
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]
  - sources: [{model: b, layer_range: [2, 4]}, {model: a, layer_range: [0, 2]}]
    parameters: {t: [{filter: mlp, value: 0.3}]}
""",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three language models: fine-tunes of one."""
    root = tmp_path_factory.mktemp("mergekit")
    base = llama(0, layers=4)
    for number, name in enumerate("abc"):
        tuned = llama(number, layers=4)
        with torch.no_grad():
            for one, other in zip(tuned.parameters(), base.parameters(), strict=True):
                one.copy_(other + 0.1 * one)
        tuned.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("name", RECIPES)
def test_an_imported_recipe_is_what_mergekit_makes_of_it(
    name: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    monkeypatch.delenv("MERGEBUILD_MODELS", raising=False)
    stem = name.replace(", ", "-").replace(" ", "-")
    text = f"{RECIPES[name]}dtype: float32\n"
    Path(f"{stem}.yml").write_text(text)
    run_merge(
        MergeConfiguration.model_validate(yaml.safe_load(text)),
        f"theirs/{stem}",
        MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False),
    )
    assert run(["import", f"{stem}.yml", "-o", f"{stem}.toml"]) == 0
    assert run(["-f", f"{stem}.toml", "build"]) == 0
    ours = load_file(f"{stem}/model.safetensors")
    theirs = load_file(f"theirs/{stem}/model.safetensors")
    assert ours.keys() == theirs.keys()
    for each, tensor in theirs.items():
        distance = float((ours[each] - tensor.float()).abs().max())
        assert distance <= 2e-6 * max(1.0, float(tensor.abs().max())), each
