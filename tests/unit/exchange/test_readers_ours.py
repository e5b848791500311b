"""A file of ours with full metadata, imported: the same artifact is built again from the sources alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipe_lab import RecipeLab

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.importing import import_recipes
from mergebuild.exchange.readers import model_metadata
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.project.project import load

PROJECTS = {
    "numbers": """
[targets.last]
method = "add_difference"
a = "mid"
b = "b"
c = "c"
[targets.last.alpha]
default = "${1 - 0.7}"
mbw = [0,0,0,0,0,0,0,0,0,0,0,0,0,0.5,0,0,0,0,0,0,0,0,0,0,0,0.75]
IN00-IN05 = 0.25
OUT = { gradient = [0, 0.5, -1] }
M00 = 0.125
"*attn2*" = 0.3
text_encoder = { sigmoid = 0.3 }
[targets.mid]
method = "weighted_sum"
a = "a"
b = "b"
alpha = { preset = "GRAD_V", from = 0.2, to = 0.8 }
""",
    "words": """
[targets.last]
method = "ties"
base = "a"
models = ["b", "mid"]
weight = [0.5, 1]
density = 0.5
vote = "count"
merge = "unet"
drop = ["*.norm1.*"]
dtype = "float16"
[targets.mid]
method = "copy"
a = "c"
dtype = "float16"
output = "mid.safetensors"
components.vae = "a"
""",
    "formula": """
[targets.last]
formula = "0.5*a + x*(mid - b)"
x = { default = 0.25, OUT = 0.5 }
[targets.mid]
method = "nuslerp"
base = "a"
models = ["b", "c"]
weight = [0.5, 0.5]
""",
    "random": """
[targets.last]
method = "dare_linear"
base = "a"
models = ["b", "c"]
weight = 0.5
density = 0.5
seed = 7
""",
}


@pytest.mark.parametrize("project", PROJECTS)
def test_the_same_artifact_comes_out(tmp_path: Path, project: str) -> None:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("abc", 1):
        lab.model(name, seed)
    sources = '[sources]\na = "a.safetensors"\nb = "b.safetensors"\nc = "c.safetensors"\n'
    text = PROJECTS[project].replace(
        "[targets.last]", '[targets.last]\noutput = "out/last.safetensors"\nmetadata = "full"', 1
    )
    (tmp_path / "mergefile.toml").write_text(sources + text)
    first = load(tmp_path / "mergefile.toml").build(("last",))
    assert first.ok

    other = tmp_path / "elsewhere"
    other.mkdir()
    made = import_recipes([tmp_path / "out/last.safetensors"], other, models=[tmp_path])
    (other / "mergefile.toml").write_text(made.text)
    again = load(other / "mergefile.toml").build(("last",))

    assert made.unmapped == ()
    assert again.ok
    artifacts = {each.target: each.artifact for each in first.targets}
    assert {each.target: each.artifact for each in again.targets} == artifacts


def drafted(recipe: object) -> Draft:
    draft = Draft()
    text = json.dumps({"type": "mergebuild", "target": "x"} | (recipe if isinstance(recipe, dict) else {}))
    model_metadata.read(RecipeFile(Path("m.safetensors"), b"", {"sd_merge_recipe": text}), draft)
    return draft


def node(method: str = "weighted_sum", inputs: object = ("a", "b"), **more: object) -> dict[str, object]:
    return {"method": method, "inputs": inputs, "numbers": {"alpha": "1/2"}} | more


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"recipe": 3},
        {"recipe": {"x": node("unheard of")}},
        {"recipe": {"x": node(inputs=["a"])}},
        {"recipe": {"x": node(inputs=["x", "b"])}},
        {"recipe": {"x": node(numbers={"alpha": "1/3"})}},
        {"recipe": {"x": node(numbers={"alpha": "1/0"})}},
        {"recipe": {"x": node(numbers={"alpha": {"default": "__import__('os').system('true')"}})}},
        {"recipe": {"x": node(numbers={"alpha": {"default": "Constant(number=" + "(" * 3000 + ")" * 3000 + ")"}})}},
        {"recipe": {"x": node(program="0123")}},
    ],
)
def test_what_no_target_is_is_an_error(recipe: object) -> None:
    with pytest.raises(RecipeError):
        drafted(recipe)
