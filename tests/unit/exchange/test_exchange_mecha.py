"""Recipes of sd-mecha: each method is found again, and what no mergefile can say is told.

`oracles/test_imported_from_sd_mecha.py` compares what is built with what sd-mecha merges.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomli
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.errors import RecipeError
from mergebuild.exchange.importing import Imported, import_recipes

NAMES = "abcd"


def imported(tmp_path: Path, text: str) -> Imported:
    (tmp_path / "mine.mecha").write_text(text)
    return import_recipes([tmp_path / "mine.mecha"], tmp_path)


def target(made: Imported, name: str = "mine") -> dict[str, object]:
    found: dict[str, object] = tomli.loads(made.text)["targets"][name]
    assert found.pop("output") == "mine.safetensors"
    assert found.pop("dtype") == "float16"
    return found


def recipe(*lines: str, config: str = "sdxl-sgm", count: int = 4) -> str:
    """Return a recipe over the models `a` to `d`, which are &0 to &3; 4 is the number of the first line."""
    models = [f'model "/x/{name}.safetensors" model_config="{config}" merge_space="weight"' for name in NAMES[:count]]
    return "\n".join(["version 0.1.0", *models, *lines])


def scalar(at: int, value: str) -> list[str]:
    """Return the three lines of a number, the first of which is the instruction `at`."""
    literal = f'literal &{at} model_config="singleton-mecha" merge_space="param"'
    return [f"dict key={value}", literal, f'merge "convert_singleton" &{at + 1}']


def test_an_added_difference_is_one_target(tmp_path: Path) -> None:
    made = imported(tmp_path, recipe('merge "subtract" &1 &2', *scalar(5, "0.8"), 'merge "add_difference" &0 &4 &7'))
    assert made.text == (
        """[sources]
a = "a.safetensors"  # /x/a.safetensors
b = "b.safetensors"  # /x/b.safetensors
c = "c.safetensors"  # /x/c.safetensors

[targets.mine]
method = "add_difference"
a = "a"
b = "b"
c = "c"
alpha = 0.8
output = "mine.safetensors"  # the recipe names none
dtype = "float16"  # what sd-mecha writes unless it is told otherwise
"""
    )
    assert not made.unmapped


def test_a_path_that_leads_to_a_file_is_kept(tmp_path: Path) -> None:
    """Other paths are of the writer's machine: of these the name is left."""
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "a.safetensors").write_bytes(b"")
    model = 'model "sd/a.safetensors" model_config="sdxl-sgm" merge_space="weight"'
    assert 'a = "sd/a.safetensors"\n' in imported(tmp_path, f"version 0.1.0\n{model}").text


def test_blocks_are_a_list_with_what_is_in_other_blocks_here_behind_it(tmp_path: Path) -> None:
    sides = " ".join(f"{side}{n:02}=0.1" for side in ("IN", "OUT") for n in range(9))
    blocks = f"dict BASE=0.2 {sides} M00=0.5 VAE=0.0"
    literal = 'literal &4 model_config="sdxl-supermerger_blocks" merge_space="param"'
    text = recipe(blocks, literal, 'merge "convert_sdxl_blocks_to_sgm" &5', 'merge "weighted_sum" &0 &1 &6')
    assert target(imported(tmp_path, text)) == {
        "method": "weighted_sum",
        "a": "a",
        "b": "b",
        "alpha": {
            "mbw": [0.2, *[0.1] * 9, 0.5, *[0.1] * 9, 0],
            "*time_embed*": 0.2,
            "*label_emb*": 0.2,
        },
    }


def test_the_vae_of_sd_1_is_in_base(tmp_path: Path) -> None:
    sides = " ".join(f"{side}{n:02}=0.1" for side in ("IN", "OUT") for n in range(12))
    literal = 'literal &4 model_config="sd1-supermerger_blocks" merge_space="param"'
    lines = [f"dict BASE=0.1 {sides} M00=0.5", literal, 'merge "convert_sd1_blocks_to_ldm" &5']
    text = recipe(*lines, 'merge "weighted_sum" &0 &1 &6', config="sd1-ldm")
    assert target(imported(tmp_path, text))["alpha"] == {"mbw": [*[0.1] * 13, 0.5, *[0.1] * 12], "VAE": 0.1}


def test_a_block_without_a_number_is_told(tmp_path: Path) -> None:
    literal = 'literal &4 model_config="sd1-supermerger_blocks" merge_space="param"'
    text = recipe("dict BASE=0.1", literal, 'merge "convert_sd1_blocks_to_ldm" &5', 'merge "weighted_sum" &0 &1 &6')
    made = imported(tmp_path, text)
    assert "IN00, IN01" in made.unmapped[0].message


DELTAS = ['merge "subtract" &1 &0', 'merge "subtract" &2 &0']  # &4, &5
ONE = scalar(7, "1.0")  # &9

BASED = {
    'merge "ties_sum" &4 &5 k=0.3 vote_sgn=false': {
        "method": "ties", "density": 0.3, "weight": 1, "vote": "count", "zero_vote": "none", "average": "count",
    },
    'merge "ties_sum" &4 &5 vote_sgn=true': {
        "method": "ties", "density": 1, "weight": 1, "vote": "sum", "zero_vote": "none", "average": "count",
    },
    'merge "ties_sum_extended" &4 &5 apply_stock=true': {
        "method": "ties_sum_extended", "density": 0.2, "vote": "count", "end": "mean",
    },
    'merge "ties_sum_extended" &4 &5 k=0.5': {
        "method": "ties_sum_extended", "density": 0.5, "vote": "count", "end": "stock", "clamp": False,
    },
    'merge "ties_sum_extended" &4 &5 apply_median=true maxiter=50': {
        "method": "ties_sum_extended", "density": 0.2, "vote": "count", "end": "median",
        "eps": 0.000001, "maxiter": 50, "ftol": 1e-20,
    },
    'merge "ties_sum_with_dropout" &4 &5 probability=0.7 apply_stock=true seed=3': {
        "method": "ties_sum_with_dropout", "density": 0.2, "vote": "count", "end": "mean",
        "keep": 0.3, "epsilon": 0, "rescale": True, "seed": 3,
    },
    'merge "model_stock" &4 &5': {"method": "model_stock", "pairs": "adjacent", "per": "row", "clamp": False},
    'merge "dropout" &4 &5 probability=0.7 seed=3': {
        "method": "dropout", "probability": 0.7, "rescale": 1, "seed": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("line", BASED)
def test_differences_to_one_base_are_a_method_over_it(tmp_path: Path, line: str) -> None:
    made = imported(tmp_path, recipe(*DELTAS, line, *ONE, 'merge "add_difference" &0 &6 &9'))
    assert target(made) == {"base": "a", "models": ["b", "c"], **BASED[line]}
    assert not made.unmapped
    assert not made.notices


def test_a_number_of_a_method_that_is_added_is_its_lambda(tmp_path: Path) -> None:
    lines = [*DELTAS, 'merge "ties_sum" &4 &5', *scalar(7, "0.7"), 'merge "add_difference" &0 &6 &9']
    assert target(imported(tmp_path, recipe(*lines)))["lambda"] == 0.7


def test_an_invented_seed_is_told(tmp_path: Path) -> None:
    lines = [*DELTAS, 'merge "dropout" &4 &5 seed=null', *ONE, 'merge "add_difference" &0 &6 &9']
    made = imported(tmp_path, recipe(*lines))
    assert target(made)["seed"] == 0
    assert "invented" in made.notices[0].message


PLAIN = {
    'merge "weighted_sum" &0 &1 0.25': {"method": "weighted_sum", "a": "a", "b": "b", "alpha": 0.25},
    'merge "weighted_sum" &0 &1': {"method": "weighted_sum", "a": "a", "b": "b", "alpha": 0.5},
    'merge "weighted_sum" &0 &1 alpha=0.30000000000000004': {
        "method": "weighted_sum", "a": "a", "b": "b", "alpha": 0.3,
    },
    'merge "n_average" &0 &1 &2': {"method": "linear", "models": ["a", "b", "c"], "weight": 1},
    'merge "slerp" &0 &1 0.3': {"method": "slerp", "a": "a", "b": "b", "t": 0.3, "magnitude": "lerp"},
    'merge "geometric_sum" &0 &1 0.3': {"method": "geometric", "a": "a", "b": "b", "alpha": 0.3},
    'merge "multiply_quotient" &0 &1 &2 0.3': {
        "method": "multiply_quotient", "a": "a", "b": "b", "c": "c", "alpha": 0.3,
    },
    'merge "add_cosine_a" &0 &1 0.3': {"method": "cosine_gate", "a": "a", "b": "b", "alpha": 0.3, "form": "a"},
    'merge "add_cosine_b" &0 &1': {"method": "cosine_gate", "a": "a", "b": "b", "alpha": 1, "form": "b"},
    'merge "crossover" &0 &1 0.3 0.1': {"method": "crossover", "a": "a", "b": "b", "alpha": 0.3, "tilt": 0.1},
    'merge "clamp" &0 &1 &2 stiffness=0.5': {"method": "clamp", "a": "a", "models": ["b", "c"], "stiffness": 0.5},
    'merge "tensor_sum" &0 &1 0.4 0.1': {
        "method": "tensor_sum", "a": "a", "b": "b", "width": 0.4, "offset": 0.1, "rounding": "round",
    },
    'merge "top_k_tensor_sum" &0 &1 0.4': {
        "method": "top_k_tensor_sum", "a": "a", "b": "b", "width": 0.4, "offset": 0,
    },
    'merge "truncate_rank" &0 16 true 3 5': {
        "method": "truncate_rank", "a": "a", "rank": 16, "approximate": True, "iterations": 3, "seed": 5,
    },
    'merge "truncate_kronecker" &0 0.25 false 2 1': {
        "method": "truncate_kronecker", "a": "a", "kronecker_ratio": 0.25, "approximate": False, "iterations": 2,
        "seed": 1,
    },
    'merge "rotate" &0 &1 0.5': {
        "method": "rotate", "a": "a", "b": "b", "alignment": 0.5, "alpha": 0, "centralization": 1,
        "stiefel_eps": 1e-8, "stiefel_max_iters": 100,
    },
    'merge "geometric_median" &0 &1 &2 maxiter=9': {
        "method": "geometric_median", "models": ["a", "b", "c"], "eps": 0.000001, "maxiter": 9, "ftol": 1e-20,
    },
    'merge "rebasin" &0 &1 10': {"method": "rebasin", "a": "a", "b": "b"},
    'merge "balance_attention" &0': {"method": "balance_attention", "a": "a"},
    'merge "subtract" &0 &1': {"method": "subtract", "a": "a", "b": "b"},
    'merge "scale" &0 0.5': {"method": "scale", "a": "a", "alpha": 0.5},
    'merge "fallback" &0 &1': {"method": "fallback", "a": "a", "b": "b"},
    'merge "exchange_ema" &0': {"method": "copy", "a": "a", "ema": "use"},
    'merge "omit_component" &0 "vae"': {"method": "copy", "a": "a", "drop": ["vae"]},
    'merge "pick_component" &0 "diffuser"': {"method": "copy", "a": "a", "drop": ["clip_l", "clip_g", "vae"]},
}  # fmt: skip


@pytest.mark.parametrize("line", PLAIN)
def test_a_method_that_is_one_here_is_one_target(tmp_path: Path, line: str) -> None:
    made = imported(tmp_path, recipe(line))
    assert target(made) == PLAIN[line]
    assert not made.unmapped


@pytest.mark.parametrize(
    ("mask", "method"),
    [
        ("train_difference_mask", "train_difference"),
        ("add_opposite_mask", "add_opposite"),
        ("add_strict_opposite_mask", "add_strict_opposite"),
    ],
)
def test_a_difference_that_is_added_by_a_mask_is_a_method(tmp_path: Path, mask: str, method: str) -> None:
    lines = ['merge "subtract" &1 &2', f'merge "{mask}" &0 &1 &2 0.7', 'merge "add_difference" &0 &4 &5']
    assert target(imported(tmp_path, recipe(*lines))) == {"method": method, "a": "a", "b": "b", "c": "c", "alpha": 0.7}


def test_what_is_perpendicular_is_found_again(tmp_path: Path) -> None:
    lines = ['merge "subtract" &0 &2', 'merge "subtract" &1 &2', 'merge "perpendicular_component" &4 &5']
    made = imported(tmp_path, recipe(*lines, 'merge "add_difference" &0 &6 0.5'))
    assert target(made) == {"method": "add_perpendicular", "a": "a", "b": "b", "c": "c", "alpha": 0.5}


def test_a_lora_is_followed_through_its_conversions(tmp_path: Path) -> None:
    lora = 'model "/x/ink.safetensors" model_config="sd1-kohya_kohya_lora" merge_space="weight"'
    turned = ["merge \"convert_'sd1-kohya_kohya_lora'_to_base\" &4", "merge \"convert_'sd1-kohya'_to_'sd1-ldm'\" &5"]
    lines = [lora, *turned, 'merge "scale" &6 0.5', 'merge "add_difference" &0 &7 0.6', 'merge "fallback" &8 &0']
    made = imported(tmp_path, recipe(*lines, config="sd1-ldm"))
    assert target(made) == {"method": "add_lora", "base": "a", "loras": ["ink"], "strength": 0.3}


def test_a_component_comes_from_another_model(tmp_path: Path) -> None:
    made = imported(tmp_path, recipe('merge "pick_component" &0 "vae"', 'merge "fallback" &4 &1'))
    assert target(made) == {"method": "copy", "a": "b", "components": {"vae": "a"}}


def test_the_dtype_is_that_of_a_last_cast(tmp_path: Path) -> None:
    made = imported(tmp_path, recipe('merge "weighted_sum" &0 &1 0.5', 'merge "cast" &4 null "bfloat16"'))
    assert 'dtype = "bfloat16"' in made.text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['merge "stack" &0 &1'], "there is no method for `stack` (line 6)"),
        (['merge "weighted_sum" &0 &1 &2'], "a number is the result of line 4, a tensor"),
        (['merge "fallback" &0 0'], "`0` stands in place of a model"),
        (['merge "weighted_sum" &0'], "line 6 has no `b`"),
        (['merge "truncate_rank" &0 1.5'], "`rank` is 1.5"),
    ],
)
def test_what_no_mergefile_says_is_told_and_the_models_stay(tmp_path: Path, lines: list[str], said: str) -> None:
    made = imported(tmp_path, recipe(*lines))
    assert [each.message for each in made.unmapped] == [f"the recipe, for {said}"]
    assert list(tomli.loads(made.text)["sources"]) == list(NAMES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('version 0.2.0\nmodel "a"\nmerge "copy" &0', "the format `version 0.2.0` is not known"),
        (recipe('merge "weighted_sum" &0 &9'), "`&9` refers to no earlier instruction"),
        (recipe('merge "weighted_sum" &4 &4'), "`&4` refers to no earlier instruction"),
        (recipe('merge "weighted_sum &0'), "a text in quotes does not end"),
        (recipe("merge &0 &1"), "a merge begins with a name in quotes"),
        (recipe('merge "weighted_sum" &0 &1 nan'), "`nan` is no value"),
        (recipe(*(f'merge "weighted_sum" &{n} &0' for n in range(3, 100))), "more than 80 merges need each other"),
    ],
)
def test_a_line_that_breaks_a_rule_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        imported(tmp_path, text)


def test_what_came_before_versions_leaves_the_vae_alone(tmp_path: Path) -> None:
    text = """
dict sd1_unet_block_in3=0.4 sd1_unet_default=0.5 sd1_txt_default=0.1
model "styles/a" "sd1" "base"
model "b.safetensors" "sd1" "base"
merge "weighted_sum" &1 &2 alpha=&0
"""
    made = imported(tmp_path, text)
    assert target(made) == {
        "method": "weighted_sum",
        "a": "a",
        "b": "b",
        "alpha": {"unet": 0.5, "text_encoder": 0.1, "IN03": 0.4},
        "merge": ["unet", "text_encoder"],
    }
    assert tomli.loads(made.text)["sources"]["a"] == "styles/a.safetensors"


@examples(60)
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from([*PLAIN, *BASED, 'merge "add_difference" &0 &4 0.5', 'merge "cast" &4 null "float32"']),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_recipe_is_imported_or_told(tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, int]]) -> None:
    """What is written loads, which `import_recipes` checks; and nothing crashes."""
    text = recipe(*DELTAS, *(line.replace("&1", f"&{at}") for line, at in lines))
    try:
        made = imported(tmp_path_factory.mktemp("any"), text)
    except RecipeError:
        return
    assert made.unmapped or "mine" in tomli.loads(made.text)["targets"]
