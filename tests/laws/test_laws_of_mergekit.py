"""Laws of imported recipes of mergekit: each tensor gets the number that mergekit gives it, and what is odd is told."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import tomli
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mergekit_reference import parameter
from tiny_models import llama

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.importing import import_recipes
from mergebuild.exchange.mergekit.methods import METHODS
from mergebuild.exchange.readers import mergekit
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of
from mergebuild.layouts import Selector, detect
from mergebuild.recipe.loading import recipe_of

NUMBERS = st.sampled_from([0, 1, 0.25, 0.3, 0.7, "1e-3", 2])
VALUES = NUMBERS | st.lists(NUMBERS, min_size=1, max_size=4)
PARTS = st.sampled_from(
    ["mlp", "self_attn", "q_proj", "norm", "lm_head", "embed", "layers.1.", "weight", "*", None, "none"]
)
SETTINGS = VALUES | st.lists(st.fixed_dictionaries({"filter": PARTS, "value": VALUES}), min_size=1, max_size=4)
LEVEL = st.none() | SETTINGS


@given(LEVEL, LEVEL, LEVEL, st.sampled_from([2, 3, 5]))
def test_each_tensor_gets_the_number_that_mergekit_gives_it(model: Any, within: Any, top: Any, layers: int) -> None:
    """For filters and gradients on three levels, each tensor's density is the one of mergekit's rules."""
    levels = [{} if each is None else {"density": each} for each in (model, within, top)]
    sources = [
        {"model": "base", "layer_range": [0, layers]},
        {"model": "a", "layer_range": [0, layers], "parameters": {"weight": 1, **levels[0]}},
    ]
    document = {
        "merge_method": "ties",
        "base_model": "base",
        "slices": [{"sources": sources, "parameters": levels[1]}],
        "parameters": levels[2],
    }
    draft = Draft()
    mergekit.read(RecipeFile(Path("r.yml"), yaml.safe_dump(document).encode()), draft)
    names = tuple(llama(1, layers=layers))
    found = _densities(text_of(draft), names)
    for name in names:
        at = int(name.split(".")[2]) / (layers - 1) if ".layers." in name else 0.0
        wanted = parameter(levels, "density", name, at, 1.0)
        assert abs(float(found.get(name, Fraction(1))) - wanted) < 1e-12, name


def _densities(text: str, names: tuple[str, ...]) -> dict[str, Fraction]:
    """Return the density of the only model for each tensor that one reaches."""
    recipe = recipe_of(tomli.loads(text, parse_float=Decimal), Path("/project"))
    number = recipe.target("r").numbers.get("density")
    if number is None:
        return {}
    only = number[0] if isinstance(number, tuple) else number
    layout = detect(dict.fromkeys(names, (1,)), {})
    return Selector(layout, names, forgiving=True).resolve(only)


_ODD = st.sampled_from([0, 1, 0.5, "1e-3", True, None, "x", 1e300, "1e-800", 10**40, [], {}, -0.3, ".nan"])
_REFS = st.sampled_from(
    ["org/a", "org/b", "./c", "org/e@main", "org/a+x/l", "one", "two", "a b", "x/../y", "${v}", "a,b", "~x", "C:\\x", 7]
)
_KEYS = st.sampled_from(
    "weight density t normalize rescale lambda gamma filter_wise nuslerp_flatten select_topk max_iter scale".split()
)
_PARAMETERS = st.dictionaries(_KEYS, SETTINGS | _ODD, max_size=2).map(lambda found: {"weight": 1, "t": 0.5} | found)
_MODELS = st.lists(st.fixed_dictionaries({"model": _REFS, "parameters": _PARAMETERS}), min_size=1, max_size=3)
_RANGES = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(list)
_SOURCES = st.lists(st.fixed_dictionaries({"model": _REFS, "layer_range": _RANGES}), min_size=1, max_size=2)
_DOCUMENTS = st.fixed_dictionaries(
    {"merge_method": st.sampled_from([*METHODS, "odd"]), "parameters": _PARAMETERS},
    optional={
        "models": _MODELS,
        "slices": st.lists(st.fixed_dictionaries({"sources": _SOURCES}), min_size=1, max_size=3),
        "base_model": _REFS,
        "name": st.sampled_from(["one", "two", 7, "a,b"]),
        "dtype": st.sampled_from(["float16", "torch.float32", "int64", 3]),
        "tokenizer_source": st.sampled_from(["union", "base", "one", "org/a"]),
    },
)


@given(documents=st.lists(_DOCUMENTS, min_size=1, max_size=3))
def test_a_recipe_is_a_mergefile_that_loads_or_is_refused(
    documents: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a recipe holds, what is written loads, and a mistake is the recipe's, never ours."""
    path = tmp_path_factory.mktemp("law") / "r.yml"
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    with suppress(RecipeError):
        import_recipes([path], path.parent)
