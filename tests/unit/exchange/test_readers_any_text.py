# ruff: noqa: E501 -- columns of tables
"""Whatever has the shape of a recipe imports to a mergefile that loads, or is a problem that is told: never a traceback."""

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import write_model

from mergebuild.errors import RecipeError, UsageError
from mergebuild.exchange.importing import import_recipes

WORDS = st.one_of(
    st.sampled_from(
        [
            "a",
            "b",
            "model.safetensors [0123456789]",
            "x/y.ckpt",
            "",
            "..",
            "/etc/x",
            "C:\\m",
            "~",
            "a'b",
            'q"q',
            "${v}",
            "__O1__",
        ]
    ),
    st.text(string.printable + "\u00e9\u2028\uff0b", max_size=8),
)
NUMBERS = st.one_of(
    st.sampled_from(
        ["0.3", "1", "0", "-2", "1e-7", "1e400", "nan", "inf", "", "x", "0.30000000000000004", ".5", "1_0"]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
HASHES = st.sampled_from(["", "0" * 64, "a" * 64, "b" * 64, "0123456789", "01234567", "zz"])
LISTS = st.one_of(
    st.lists(NUMBERS, max_size=3).map(",".join),
    st.sampled_from([20, 25, 26, 27, 61, 110]).flatmap(
        lambda n: st.lists(NUMBERS, min_size=n, max_size=n).map(",".join)
    ),
    st.sampled_from([20, 25, 26, 27]).map(lambda n: ",".join(["0.5"] * n)),
    st.sampled_from(["GRAD_V", "ALL_B", "MINE"]),
)
ELEMENTAL = st.lists(
    st.one_of(
        st.sampled_from(
            ["IN01:attn:0.5", "NOT BASE:NOT attn proj:0.5", "OUT00-OUT05::1", "::0", "IN:a:R", "in1:a:0.2", "a:b"]
        ),
        WORDS,
    ),
    max_size=4,
).map("\n".join)


def joined(separator: str, *columns: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*columns).map(separator.join)


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


BOARD = st.lists(
    st.one_of(
        joined(
            "",
            WORDS,
            st.just(" = "),
            WORDS,
            st.sampled_from([" + ", "+", "\uff0b"]),
            WORDS,
            st.sampled_from(["", " + c"]),
            st.just(", "),
            NUMBERS,
            st.sampled_from(["", ", fp16", ", safetensors, x"]),
        ),
        st.sampled_from(["__V__, note", "# x", "X = a + b, 0.5", "X = __O1__ + X, 0.25"]),
    ),
    min_size=1,
    max_size=6,
).map("\n".join)
MODES = st.sampled_from(["Weight sum:x", "Add difference:x", "Triple sum:x", "sum Twice:x", "?"])
CALCMODES = st.sampled_from(
    [
        "normal",
        "cosineA",
        "cosineB",
        "trainDifference",
        "smoothAdd",
        "extract",
        "tensor",
        "tensor2",
        "self",
        "plus random",
        "?",
    ]
)
HISTORY = st.lists(
    st.tuples(st.just("1"), WORDS, WORDS, LISTS, LISTS, HASHES, HASHES, HASHES, NUMBERS, NUMBERS, MODES, st.sampled_from(["True", "False"]), WORDS, st.sampled_from(["['fp16', 'safetensors']", "[", "x"]), WORDS, ELEMENTAL, CALCMODES, st.just("-1"), LISTS, NUMBERS, st.sampled_from(["Off", "Include", "Exclude"]), st.sampled_from(["['IN01', 'VAE']", "['Adjust']", "BASE,[x"]), WORDS)
    .map(lambda row: ",".join(map(quoted, row))),
    min_size=1,
    max_size=4,
).map(lambda rows: "\n".join(["ID,time,name,weights alpha", *rows]))  # fmt: skip
TABLE = "model_O\tmodel_O_sha256\tmodel_A\tmodel_A_hash\tmodel_B\tmodel_C\tmultiplier\tinterpolation_method\tsave_as_float16\tcheckpoint_format"
HOW = st.sampled_from(["Weighted sum", "Add difference", "No interpolation", "?"])
BOARD_HISTORY = st.lists(
    joined("\t", WORDS, HASHES, WORDS, HASHES, WORDS, WORDS, NUMBERS, HOW, st.sampled_from(["True", "False"]), WORDS),
    max_size=4,
).map(lambda rows: "\n".join([TABLE, *rows]))
BLOCKS_HISTORY = st.lists(joined("\t", WORDS, WORDS, WORDS, NUMBERS, LISTS, LISTS), max_size=3).map(
    lambda rows: "\n".join(["model_A\tmodel_B\tmodel_O\tbase_alpha\tweight_values\tweight_values2", *rows])
)
AUTO = joined("\n", WORDS.map(lambda word: f"modelA={word}"), WORDS.map(lambda word: f"modelB={word}"), LISTS)
COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["merge_lora.py", "merge_models.py", "resize_lora.py", "svd_merge_lora.py", "extract_lora_from_models.py", "flux_merge_lora.py"]),
        st.lists(
            st.tuples(
                st.sampled_from(["--models", "--ratios", "--save_to", "--output", "--sd_model", "--model", "--new_rank", "-a", "-b", "-m", "-o", "-wa", "-ba", "--lbws", "--model_org", "--model_tuned"]),
                st.one_of(WORDS, NUMBERS, LISTS, st.sampled_from(["weighted_sum", "a b", "1 1", "[1,1,1,1,1,1,1,1,1,1,1,1]"])),
            ).map(" ".join),
            max_size=6,
        ).map(" ".join),
    ).map(" ".join),
    min_size=1,
    max_size=3,
).map("\n".join)  # fmt: skip
TEXTS: Mapping[str, st.SearchStrategy[str]] = {
    "merge_board": BOARD,
    "merge_board_history": BOARD_HISTORY,
    "supermerger_history": HISTORY,
    "block_weighted_history": BLOCKS_HISTORY,
    "auto_mbw": AUTO,
    "shell_commands": COMMANDS,
}

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    HASHES,
    NUMBERS,
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)


def some(**keys: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Return objects with these keys, now and then of another type."""
    return st.fixed_dictionaries({key: st.one_of(each, each, each, ANY) for key, each in keys.items()})


RECIPES = st.one_of(
    some(type=st.just("webui"), primary_model_hash=HASHES, secondary_model_hash=HASHES, tertiary_model_hash=HASHES, interp_method=HOW, multiplier=SCALARS, save_as_half=st.booleans(), custom_name=WORDS, bake_in_vae=WORDS, discard_weights=WORDS, is_inpainting=st.booleans()),
    some(type=st.just("sd-webui-supermerger"), model_a=HASHES, model_b=HASHES, model_c=HASHES, mode=MODES, calcmode=CALCMODES, mbw=st.booleans(), base_alpha=SCALARS, base_beta=SCALARS, weights_alpha=st.lists(SCALARS, max_size=26), elemental_merge=ELEMENTAL, Exclude=st.lists(WORDS, max_size=3)),
    some(type=st.just("sd-webui-model-mixer"), model_a=WORDS, model_b=WORDS, model_c=WORDS, base_model=WORDS, uses=st.lists(st.booleans(), max_size=3), mode=st.lists(st.sampled_from(["Sum", "Add-Diff", "TIES", "DARE", "Self", "?"]), max_size=3), alpha=st.lists(SCALARS, max_size=3), mbw=st.lists(st.booleans(), max_size=3), weights_alpha=st.lists(ANY, max_size=3), elemental=st.lists(ELEMENTAL, max_size=3), adjust=LISTS),
    some(type=st.just("mergebuild"), target=st.just("x"), recipe=st.just({"x": {"method": "weighted_sum", "inputs": ["a", "b"], "numbers": {"alpha": "1/2"}}}), sources=st.dictionaries(WORDS, HASHES, max_size=2)),
)  # fmt: skip
MODELS = st.dictionaries(HASHES, some(name=WORDS, legacy_hash=HASHES, sd_merge_recipe=RECIPES), max_size=3)
PATIENT = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def imported(make: Callable[[Path], Path]) -> None:
    """Import what is made in an empty folder. What does not load is an `InternalError`, which is let through."""
    with tempfile.TemporaryDirectory() as name:
        path = make(Path(name))
        with suppress(RecipeError, UsageError):
            import_recipes([path], Path(name))


@pytest.mark.parametrize("kind", TEXTS)
@PATIENT
@given(data=st.data())
def test_any_text(kind: str, data: st.DataObject) -> None:
    text = data.draw(TEXTS[kind])

    def make(folder: Path) -> Path:
        path = folder / "recipe.txt"
        path.write_text(text, encoding="utf-8", errors="replace", newline="")
        return path

    imported(make)


@PATIENT
@given(recipe=st.one_of(RECIPES, ANY), models=st.one_of(MODELS, ANY))
def test_any_metadata(recipe: object, models: object) -> None:
    def make(folder: Path) -> Path:
        texts = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}
        return write_model(folder / "m.safetensors", {"x": torch.zeros(1)}, texts)

    imported(make)
