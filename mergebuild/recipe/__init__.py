"""The mergefile: TOML text in, frozen and checked values with their places out."""

from mergebuild.recipe.loading import load_methods, load_names, load_recipe, recipe_of
from mergebuild.recipe.model import (
    Constant,
    Elemental,
    Formula,
    Gradient,
    Input,
    LayoutText,
    Mbw,
    NumberPerTensor,
    Preset,
    ProjectOptions,
    Rule,
    SelectorText,
    Source,
    Target,
    Value,
    Where,
)
from mergebuild.recipe.numbers import shortest_text
from mergebuild.recipe.recipe import Recipe
from mergebuild.recipe.sizes import parse_duration, parse_size

__all__ = [
    "Constant",
    "Elemental",
    "Formula",
    "Gradient",
    "Input",
    "LayoutText",
    "Mbw",
    "NumberPerTensor",
    "Preset",
    "ProjectOptions",
    "Recipe",
    "Rule",
    "SelectorText",
    "Source",
    "Target",
    "Value",
    "Where",
    "load_methods",
    "load_names",
    "load_recipe",
    "parse_duration",
    "parse_size",
    "recipe_of",
    "shortest_text",
]
