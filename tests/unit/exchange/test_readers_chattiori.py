"""Chattiori's merger: its metadata and its command line."""

from __future__ import annotations

import json
import math
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
from mergebuild.exchange.readers import model_metadata, shell_commands
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of

NUMBERS = [Decimal(n) / 100 for n in range(10, 60, 2)]


def metadata(**said: object) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    plain: dict[str, object] = {
        "type": "merge-models-chattiori",
        "primary_model_hash": "a" * 64,
        "secondary_model_hash": "b" * 64,
        "tertiary_model_hash": "c" * 64,
        "merge_method": "Weighted Sum",
        "alpha_info": "0.3",
        "beta_info": None,
        "calculation": None,
        "fp": "fp16",
        "output_name": "mix",
        "bake_in_vae": False,
        "pruned": True,
    }
    models = {letter * 64: {"name": f"{letter}.safetensors"} for letter in "abc"}
    texts = {"sd_merge_recipe": json.dumps(plain | said), "sd_merge_models": json.dumps(models)}
    draft = Draft()
    model_metadata.read(RecipeFile(Path("x.safetensors"), b"", texts), draft)
    return tomli.loads(text_of(draft), parse_float=Decimal)["targets"], draft


def command(text: str) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    draft = Draft()
    file = RecipeFile(Path("merge.sh"), f"python merge.py {text}\n".encode())
    assert shell_commands.recognizes(file)
    shell_commands.read(file, draft)
    return tomli.loads(text_of(draft), parse_float=Decimal).get("targets", {}), draft


def perpendicular(a: Tensor, b: Tensor) -> Tensor:
    return a + 0.3 * (b - a * (a * b).sum() / (a * a).sum())


def sigmoid(a: Tensor, b: Tensor) -> Tensor:
    four, one = 1 / (1 + math.exp(-1.2)), 1 / (1 + math.exp(-0.3))
    return four * (a + b) - one * a


@pytest.mark.parametrize(
    ("mode", "formula"),
    [
        ("WS", lambda a, b, _: 0.7 * a + 0.3 * b),
        ("AD", lambda a, b, c: a + 0.3 * (b - c)),
        ("TRS", lambda a, b, c: 0.5 * a + 0.3 * b + 0.2 * c),
        ("ST", lambda a, b, c: 0.8 * (0.7 * a + 0.3 * b) + 0.2 * c),
        ("NoIn", lambda a, _, __: a),
        ("MAX", lambda a, b, _: torch.maximum(a, b)),
        ("SIG", lambda a, b, _: sigmoid(a, b)),
        ("ORTHO", lambda a, b, _: perpendicular(a, b)),
    ],
)
def test_modes_are_their_formulas(tmp_path: Path, mode: str, formula: Callable[..., Tensor]) -> None:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("abc", 1):
        lab.model(name, seed)
    models = "a.safetensors b.safetensors c.safetensors"
    lab.take(f"merge.py {mode} models {models} --alpha 0.3 --beta 0.2 --output mix --save_safetensors\n", "merge.sh")
    outputs = lab.build()
    lab.assert_made(outputs["mix"], lambda _, of: formula(of["a"], of["b"], of["c"]), tolerance=1e-5)


def test_metadata_have_block_weights_as_python_prints_them(tmp_path: Path) -> None:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("ab", 1):
        lab.model(name, seed)
    info = f"preset:[GRAD_V],0.45,[{list(map(float, NUMBERS))}, [['OUT03:attn2:0.6']]]"
    targets, draft = metadata(block_weights=True, alpha_info=info)
    assert draft.unmapped == []
    alpha = targets["mix"]["alpha"]
    weights = dict(zip(LONG, [Decimal("0.45"), *NUMBERS], strict=True))
    assert alpha == {"mbw": list(weights.values()), "VAE": Decimal("0.45"), "elemental": ["OUT03:attn2:0.6"]}

    lists = ",".join(map(str, weights.values()))
    lab.take(
        f'merge.py WS x a.safetensors b.safetensors --alpha "{lists},OUT03:attn2:0.6" --output o --save_safetensors\n'
    )
    outputs = lab.build()

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        number = 0.6 if sd15_block(name) == "OUT03" and "attn2" in name else float(weights[sd15_block(name)])
        return (1 - number) * of["a"] + number * of["b"]

    lab.assert_made(outputs["o"], formula)


def test_metadata_say_dtype_vae_and_that_they_are_rounded() -> None:
    targets, draft = metadata(bake_in_vae="v.pt")
    assert (targets["mix"]["dtype"], targets["mix"]["components"]) == ("float16", {"vae": "v"})
    assert [each.message for each in draft.notices] == ["the metadata have numbers that are rounded to three digits"]


def test_dare_keeps_a_share_and_divides_by_the_rest() -> None:
    targets, _ = metadata(merge_method="DARE", alpha_info=0.4, beta_info=0.2)
    keys = {"method": "dare_linear", "base": "a", "models": ["b"], "density": Decimal("0.2"), "weight": Decimal("0.1")}
    assert targets["mix"].items() >= keys.items()


@pytest.mark.parametrize(
    "said", [{"calculation": "cosine_0,fine[1]"}, {"fp": "fp8"}, {"merge_method": "Similarity Add Difference"}]
)
def test_what_is_not_said_is_told(said: dict[str, object]) -> None:
    assert len(metadata(**said)[1].unmapped) == 1


@pytest.mark.parametrize(
    "said",
    [
        {"merge_method": "Frequency"},
        {"alpha_info": "x"},
        {"alpha_info": "0.1,[[1,2]"},
        {"alpha_info": "0.1,[[1,2],[None]]"},
        {"merge_method": "DARE", "beta_info": 1},
        {"merge_method": "Sigmoid", "alpha_info": f"0.1,[{[0.1] * 25}, [None]]"},
        {"merge_method": "Triple Sum", "tertiary_model_hash": None},
    ],
)
def test_what_no_mergefile_says_is_an_error(said: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        metadata(**said)


@pytest.mark.parametrize(
    "text", ["WS", "FREQ m a b", "WS m $A b --alpha 1", "WS m a b --alpha 1,x", "WS m a b --alpha 0.3 --cosine0"]
)
def test_a_command_that_is_not_said_is_told(text: str) -> None:
    assert len(command(text)[1].unmapped) == 1
