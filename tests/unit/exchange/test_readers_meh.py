"""sd-meh's command line, and runs of bayesian-merger, which calls it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

import pytest
import tomli
import torch
from recipe_lab import RecipeLab, sd15_block
from torch import Tensor

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.merges.blocks import LONG
from mergebuild.exchange.readers import bayesian_merger, shell_commands
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of

NUMBERS = [Decimal(n) / 100 for n in range(10, 60, 2)]
LISTED = ",".join(map(str, NUMBERS))
MODELS = "-a a.safetensors -b b.safetensors -c c.safetensors -o mix -p 32"


@pytest.fixture
def lab(tmp_path: Path) -> RecipeLab:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("abc", 1):
        lab.model(name, seed)
    return lab


def drafted(command: str) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    draft = Draft()
    file = RecipeFile(Path("merge.sh"), f"merge_models.py {command}\n".encode())
    assert shell_commands.recognizes(file)
    shell_commands.read(file, draft)
    return tomli.loads(text_of(draft), parse_float=Decimal).get("targets", {}), draft


@pytest.mark.parametrize(
    ("method", "formula"),
    [
        ("weighted_sum", lambda s, _, a, b, __: (1 - s) * a + s * b),
        ("add_difference", lambda s, _, a, b, c: a + s * (b - c)),
        ("sum_twice", lambda s, t, a, b, c: (1 - t) * ((1 - s) * a + s * b) + t * c),
        ("triple_sum", lambda s, t, a, b, c: (1 - s - t) * a + s * b + t * c),
        ("weighted_subtraction", lambda s, t, a, b, _: (a - s * t * b) / (1 - s * t)),
    ],
)
def test_methods_are_their_formulas_with_weights_by_block(
    lab: RecipeLab, method: str, formula: Callable[..., Tensor]
) -> None:
    lab.take(f'merge_models.py {MODELS} -m {method} -ba 0.4 -wa "{LISTED}" -bb 0.2\n', "merge.sh")
    outputs = lab.build()
    weights = dict(zip(LONG, [0.4, *map(float, NUMBERS)], strict=True))
    lab.assert_made(
        outputs["mix"],
        lambda name, of: formula(weights[sd15_block(name)], 0.2, of["a"], of["b"], of["c"]),
        tolerance=1e-5,
    )


def test_a_result_is_clipped_between_the_first_two(lab: RecipeLab) -> None:
    lab.take(f"merge_models.py {MODELS} -m add_difference -ba 0.9 -wc\n", "merge.sh")
    outputs = lab.build()

    def formula(_: str, of: Mapping[str, Tensor]) -> Tensor:
        low, high = torch.minimum(of["a"], of["b"]), torch.maximum(of["a"], of["b"])
        return torch.minimum(torch.maximum(of["a"] + 0.9 * (of["b"] - of["c"]), low), high)

    lab.assert_made(outputs["mix"], formula)


def test_ties_has_the_third_model_as_its_base() -> None:
    targets, _ = drafted(f"{MODELS} -m ties_add_difference -ba 0.4 -bb 0.5")
    keys = {"base": "c", "models": ["a", "b"], "density": Decimal("0.5"), "lambda": Decimal("0.4"), "vote": "count"}
    assert targets["mix"].items() >= keys.items()


def test_half_precision_presets_and_formats() -> None:
    targets, draft = drafted("-a a -b b -m weighted_sum -bwpa GRAD_V -o x/mix -f ckpt -pr -d cpu")
    assert targets["mix"]["alpha"] == {"preset": "GRAD_V"}
    assert (targets["mix"]["output"], targets["mix"]["dtype"]) == ("x/mix.ckpt", "float16")
    assert draft.unmapped == []


@pytest.mark.parametrize(
    "command",
    [
        "-a a -b b -m unheard_of",
        "-a a -m weighted_sum",
        "-a a -b b -m weighted_sum -wa 1,2,3",
        "-a a -b b -m weighted_sum -wa x",
        "-a a -b b -m weighted_sum -bwpa MINE",
        "-a a -b b -m add_difference",
        "-a a -b b",
        "-a $A -b b -m weighted_sum",
        "-a a -b b -m weighted_sum -rb",
    ],
)
def test_what_no_mergefile_says_is_told(command: str) -> None:
    assert len(drafted(command)[1].unmapped) == 1


def run(folder: Path, *lines: object, config: str = "") -> RecipeFile:
    (folder / ".hydra").mkdir()
    default = "model_a: /models/a.safetensors\nmodel_b: b\nmodel_c:\nmerge_mode: weighted_sum\nbest_precision: 16\n"
    (folder / ".hydra/config.yaml").write_text(config or default)
    return RecipeFile(folder / "run.json", "\n".join(map(json.dumps, lines)).encode())


def scored(score: float, **more: float) -> dict[str, object]:
    params: dict[str, float] = {f"block_{n}_alpha": 0.5 for n in range(2, 25)} | {
        "block_0_alpha-block_1_alpha": 0.1 + 0.2
    }
    return {"target": score, "params": params | {"base_alpha": 0.25} | more, "datetime": {"elapsed": 1}}


def test_the_best_line_of_a_run_is_the_recipe(tmp_path: Path) -> None:
    file = run(tmp_path, scored(1), scored(3, base_alpha=0.75), "no", scored(2))
    assert bayesian_merger.recognizes(file)
    draft = Draft()
    bayesian_merger.read(file, draft)
    (target,) = tomli.loads(text_of(draft), parse_float=Decimal)["targets"].values()
    assert target["alpha"]["mbw"] == [Decimal("0.75"), Decimal("0.3"), Decimal("0.3"), *[Decimal("0.5")] * 23]
    assert (target["alpha"]["VAE"], target["dtype"]) == (Decimal("0.75"), "float16")
    assert "the best of 3: score 3" in text_of(draft)


def test_a_run_that_lacks_something_is_an_error(tmp_path: Path) -> None:
    whole = scored(1)
    with pytest.raises(RecipeError, match="not beside it"):
        bayesian_merger.read(RecipeFile(tmp_path / "run.json", json.dumps(whole).encode()), Draft())
    file = run(tmp_path, {"target": 1, "params": {"base_alpha": 1}})
    with pytest.raises(RecipeError, match="block_0_alpha"):
        bayesian_merger.read(file, Draft())
    (tmp_path / ".hydra/config.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(RecipeError):
        bayesian_merger.read(file, Draft())
