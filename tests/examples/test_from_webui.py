"""What docs/from-webui.md shows: each recipe imports as it says, builds, and is what the tool's formula makes of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tiny_models
import torch
from model_files import read_model, write_model
from recipe_lab import sd15_block
from torch import Tensor

from mergebuild.cli import run
from mergebuild.exchange.merges.blocks import LONG

PAGE = (Path(__file__).parents[2] / "docs/from-webui.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### ([^\n]+)\n(.*?)(?=^### |\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RECIPES = {title: BLOCK.findall(text) for title, text in SECTION.findall(PAGE)}
"""By title, the kinds and texts of the blocks: a mergefile, behind a recipe of another tool where there is one."""
FILES = {"text": "recipe.txt", "csv": "mergehistory.csv", "sh": "merge.sh", "json": "carrier.safetensors"}
FIRST = f"{tiny_models.UNET}input_blocks.0.0.weight"
UP, DOWN = "lora_up.weight", "lora_down.weight"
SUFFIX = "transformer_blocks_0_attn2_to_k"
MODULE = f"lora_unet_up_blocks_0_attentions_5_{SUFFIX}"
MODULE_OF = f"{tiny_models.UNET}output_blocks.5.1.transformer_blocks.0.attn2.to_k.weight"
WEIGHTS = dict(
    zip(
        LONG,
        [0.2, *[0.0] * 6, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1, *[0.0] * 6],
        strict=True,
    )
)

Models = Mapping[str, Mapping[str, Tensor]]


def small(seed: int) -> dict[str, Tensor]:
    """Return a model with a VAE of its own."""
    found = tiny_models.sd15(seed, dtype=torch.float32)
    return found | {
        name: tiny_models.values(name, tensor.shape, seed)
        for name, tensor in found.items()
        if name.startswith("first_")
    }


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    """The models that the page names, in the folder in which the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERGEBUILD_STORE", raising=False)
    monkeypatch.setenv("MERGEBUILD_MODELS", str(tmp_path))
    found = {name: small(seed) for seed, name in enumerate(("animeA", "photoB", "sdbase", "sd-inpainting"), 1)}
    found["sd-inpainting"][FIRST] = torch.randn(16, 9, 3, 3, generator=torch.Generator().manual_seed(5))
    found["vae-x"] = {name: tensor for name, tensor in small(7).items() if name.startswith("first_stage_model.")}
    found["full"] = tiny_models.with_ema(small(8), 9)
    generator = torch.Generator().manual_seed(6)
    up, down = torch.randn(16, 2, generator=generator), torch.randn(2, 24, generator=generator)
    found["styleL"] = {f"{MODULE}.{UP}": up, f"{MODULE}.{DOWN}": down, f"{MODULE}.alpha": torch.tensor(2.0)}
    for name, tensors in found.items():
        write_model(tmp_path / f"{name}.safetensors", tensors)
    return found


def with_hashes(text: str, *, back: bool = False) -> str:
    """Return a text with the hashes of the models for those of the page, or with those of the page again."""
    for digit, name in (("1", "animeA"), ("2", "photoB"), ("3", "sdbase")):
        digest = hashlib.sha256(Path(f"{name}.safetensors").read_bytes()).hexdigest()
        for pair in ((digit * 64, digest), (digit * 10, digest[:10])):
            old, new = reversed(pair) if back else pair
            text = text.replace(old, new)
    return text


def write_recipe(kind: str, text: str) -> Path:
    """Write a recipe as its tool does, and return its path."""
    text = with_hashes(text)
    path = Path(FILES[kind])
    if kind != "json":
        path.write_text(text, encoding="utf-8")
        return path
    recipe = json.loads(text)
    texts = {"sd_merge_models": json.dumps(recipe.pop("models")), "sd_merge_recipe": json.dumps(recipe)}
    return write_model(path, {"x": torch.zeros(1)}, texts)


def test_the_page_has_ten_recipes_and_more() -> None:
    assert len(RECIPES) >= 10
    assert all(blocks[-1][0] == "toml" for blocks in RECIPES.values())


@pytest.mark.parametrize("title", [title for title, blocks in RECIPES.items() if len(blocks) > 1])
def test_a_recipe_imports_as_the_page_says(title: str, models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    assert models
    (kind, recipe), (_, mergefile) = RECIPES[title]
    path = write_recipe(kind, recipe)
    code = run(["import", str(path)])
    assert with_hashes(capsys.readouterr().out, back=True) == mergefile
    assert code == 0


def weighted(name: str, of: Mapping[str, Tensor], number: float) -> Tensor:
    return (1 - number) * of["animeA"] + number * of["photoB"] if name else of["animeA"]


def blocks(name: str, of: Mapping[str, Tensor]) -> Tensor:
    """The merge by blocks; the model has no bias that the contrast behind it would change."""
    block = sd15_block(name)
    return weighted(name, of, 0.6 if block in ("OUT03", "OUT04") and "attn2" in name else WEIGHTS[block])


def styled(name: str, of: Mapping[str, Tensor]) -> Tensor:
    lora = {key.removeprefix(f"{MODULE}."): tensor for key, tensor in of.items() if key.startswith(MODULE)}
    added = lora[UP] @ lora[DOWN] if name == MODULE_OF else 0
    return of["animeA"] + 0.8 * 1 * added


def inpainting(name: str, of: Mapping[str, Tensor]) -> Tensor:
    delta = of["photoB"] - of["sdbase"]
    made = of["sd-inpainting"].clone()
    if name == FIRST:
        made[:, :4] += delta
        return made
    return made + delta


def chain(_: str, of: Mapping[str, Tensor]) -> Tensor:
    one = 0.7 * of["animeA"] + 0.3 * of["photoB"]
    return 0.75 * (one + 0.85 * (of["photoB"] - of["sdbase"])) + 0.25 * one


FORMULAS: Mapping[str, tuple[str, Callable[[str, Mapping[str, Tensor]], Tensor]]] = {
    "weighted sum": ("mix", lambda name, of: weighted(name, of, 0.3)),
    "add difference": ("trained", lambda _, of: of["animeA"] + 0.7 * (of["photoB"] - of["sdbase"])),
    "chain `__O1__`": ("Final", chain),
    "merge block weighted": ("blocks", blocks),
    "bake a VAE": ("baked", lambda name, of: of["vae-x" if name.startswith("first_stage_model.") else "animeA"]),
    "bake a LoRA with block weights": ("styled", styled),
    "prune": ("pruned", lambda _, of: of["full"]),
    "inpainting": ("photoB-inpainting", inpainting),
    "sweep and pick": ("picked", lambda name, of: weighted(name, of, 0.25)),
    "publish": ("published", lambda name, of: weighted(name, of, 0 if name.startswith("cond_stage_model.") else 0.3)),
}
"""By title, the output and what it is in float64."""


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_builds_to_what_its_tool_makes(title: str, models: Models) -> None:
    Path("mergefile.toml").write_text(with_hashes(RECIPES[title][-1][1]), encoding="utf-8")
    assert run(["build", "--quiet"]) == 0
    if title == "extract a LoRA":
        hold_extracted(models)
        return
    output, formula = FORMULAS[title]
    found = read_model(Path(f"{output}.safetensors"))
    assert not [name for name in found if name.startswith("model_ema")]
    for name, tensor in found.items():
        if tensor.is_floating_point():
            lora = {key: each.double() for key, each in models["styleL"].items()}
            of = {model: tensors[name].double() for model, tensors in models.items() if name in tensors}
            wanted = formula(name, of | lora)
            assert torch.allclose(
                tensor.double(), wanted, rtol=2.0**-10, atol=1e-4 if name.endswith("bias") else 1e-6
            ), name


def hold_extracted(models: Models) -> None:
    """The product of the factors is the difference of the models, where the rank of that is small."""
    found = read_model(Path("animeA-lora.safetensors"))
    module = next(
        name.removesuffix(f".{UP}") for name in found if name.endswith(f"up_blocks_0_attentions_5_{SUFFIX}.{UP}")
    )
    made = found[f"{module}.{UP}"].double() @ found[f"{module}.{DOWN}"].double()
    delta = models["animeA"][MODULE_OF].double() - models["sdbase"][MODULE_OF].double()
    left, values, right = torch.linalg.svd(delta)
    best = left[:, :8] @ torch.diag(values[:8]) @ right[:8]
    assert torch.dist(made, best) < 0.2 * float(delta.norm())  # the factors are clamped, as the script clamps them
