"""What docs/from-mergekit.md shows: each recipe imports as it says, builds, and is what mergekit's rules make of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from mergekit_reference import expected
from model_files import write_model
from safetensors.torch import load_file
from tiny_models import llama
from token_models import EMBED, HEAD, TokenModel, aligned, united
from torch import Tensor

from mergebuild.cli import run

PAGE = (Path(__file__).parents[2] / "docs/from-mergekit.md").read_text(encoding="utf-8")
RECIPES = {
    title: (recipe, mergefile)
    for title, recipe, mergefile in re.findall(
        r"^### ([^\n]+)\n.*?^```yaml\n(.*?)^```\n.*?^```toml\n(.*?)^```\n", PAGE, re.DOTALL | re.MULTILINE
    )
}
RANDOM = ("dare",)
"""What no other program draws again."""
OTHERWISE = ("union of tokenizers",)
"""What depends on more than tensors, and has a test of its own."""
_LAYERS = 32
_ULPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-20}


def models() -> dict[str, dict[str, Tensor]]:
    """Return the models that the page names, fine-tunes of one base."""
    names = ("base-8b", "chat-8b", "code-8b", "math-8b")
    return {name: llama(seed, layers=_LAYERS, dtype=torch.float32) for seed, name in enumerate(names, 1)}


def lora(folder: Path) -> dict[str, Tensor]:
    """Write an adapter of two modules, and return what it adds to tensors, in float64."""
    generator = torch.Generator().manual_seed(9)
    added, stored = {}, {}
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj"):
        rows, columns = (16, 16) if "attn" in module else (16, 32)
        up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
        stored |= {f"base_model.model.{module}.lora_A.weight": down, f"base_model.model.{module}.lora_B.weight": up}
        added[f"{module}.weight"] = 4 / 2 * up.double() @ down.double()
    write_model(folder / "adapter_model.safetensors", stored)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return added


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Mapping[str, Tensor]]:
    """A folder with the models of the page beside the recipe; returns their tensors by the names that recipes use."""
    monkeypatch.chdir(tmp_path)
    for variable in ("MERGEBUILD_STORE", "MERGEBUILD_MODELS"):
        monkeypatch.delenv(variable, raising=False)
    found: dict[str, Mapping[str, Tensor]] = {}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
    for name, tensors in models().items():
        write_model(tmp_path / name / "model.safetensors", tensors)
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "num_hidden_layers": _LAYERS}))
        found[f"example/{name}"] = tensors
    added = lora(tmp_path / "style-lora")
    base = found["example/base-8b"]
    changed = {name: tensor.double() + added.get(name, 0) for name, tensor in base.items()}
    return {**found, "example/base-8b+example/style-lora": changed}


def test_the_page_has_ten_recipes_and_more() -> None:
    assert len(RECIPES) >= 10
    assert PAGE.count("```yaml") == len(RECIPES)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_imports_as_the_page_says(
    title: str, project: Mapping[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, mergefile = RECIPES[title]
    Path("recipe.yml").write_text(recipe, encoding="utf-8")
    code = run(["import", "recipe.yml"])
    assert capsys.readouterr().out == mergefile
    assert code == 0


@pytest.mark.parametrize("title", [title for title in RECIPES if title not in (*RANDOM, *OTHERWISE)])
def test_an_imported_recipe_is_what_mergekits_rules_make_of_it(
    title: str, project: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Tensor by tensor, the build differs from a float64 calculation by the rounding to its dtype at most."""
    recipe, _ = RECIPES[title]
    Path("recipe.yml").write_text(recipe, encoding="utf-8")
    assert run(["import", "recipe.yml", "-o", "mergefile.toml"]) == 0
    assert run(["build"]) == 0
    documents = list(yaml.safe_load_all(recipe))
    name = documents[-1].get("name", "")
    built: dict[str, Tensor] = {}
    for path in sorted(Path(name or "recipe").glob("*.safetensors")):
        built |= load_file(path)
    wanted = expected(recipe, project)[name]
    assert built.keys() == wanted.keys()
    dtype = documents[-1].get("out_dtype") or documents[-1]["dtype"]
    for tensor, values in wanted.items():
        assert str(built[tensor].dtype) == f"torch.{dtype}"
        distance = (built[tensor].double() - values).abs().max()
        assert distance <= _ULPS[dtype] * values.abs().max(), tensor


def test_a_union_of_tokenizers_has_the_rows_of_its_tokens(
    project: Mapping[str, Mapping[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of the union, by its rules, averaged; the rows behind the last token are the mean of all."""
    chat = TokenModel([*"abcdef"], ["<s>", "<|im_end|>"], seed=1)
    code = TokenModel([*"bacdxyz"], ["<|im_end|>", "<s>", "<t>"], seed=2)
    chat.write(Path("chat-8b"))
    code.write(Path("code-8b"))
    Path("recipe.yml").write_text(RECIPES["union of tokenizers"][0], encoding="utf-8")
    assert run(["import", "recipe.yml", "-o", "mergefile.toml"]) == 0
    assert run(["build"]) == 0, capsys.readouterr().err
    built = load_file("recipe/model.safetensors")
    tokens = united([chat, code])
    wishes = {"<|im_end|>": (0, None, False, True)}
    for name in (EMBED, HEAD):
        rows = sum(0.5 * aligned([chat, code], tokens, name, at, wishes) for at in (0, 1))
        assert isinstance(rows, Tensor)
        assert len(built[name]) == 16
        torch.testing.assert_close(built[name][: len(tokens)].double(), rows, rtol=1e-6, atol=1e-7)
        padding = rows.mean(0).expand(16 - len(tokens), -1)
        torch.testing.assert_close(built[name][len(tokens) :].double(), padding, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("title", RANDOM)
def test_a_random_recipe_builds(title: str, project: Mapping[str, object]) -> None:
    Path("recipe.yml").write_text(RECIPES[title][0], encoding="utf-8")
    assert run(["import", "recipe.yml", "-o", "mergefile.toml"]) == 0
    assert run(["build"]) == 0
