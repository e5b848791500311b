"""Reads a mergefile: TOML text in, frozen and checked values with their places in the text out.

Begin with `model.py`: it has the values (`Target`, `Source`, ...). `loading.py` has the steps from a path to a
`Recipe`; `recipe.py` is what other rooms ask for targets, sources and outputs.

- Text: `files.py` (the mergefile and its includes), `toml_text.py`, `places.py` (where a value is in the text),
  `nodes.py` (values
  whose variables are filled in), `variables.py`, `expression.py`, `numbers.py`, `problems.py` (collects all mistakes).
- Declarations: `declared.py` (sources, options, ...), `families.py`, `methods.py` (the user's own), `namespace.py`
  (what names mean).
- A target: `targets.py`, `target_table.py`, `vocabulary.py` (its keys), `by_method.py`, `by_formula.py`, `rules.py`.
- The whole: `outputs.py` (no two targets write one file), `walk.py` (cycles), `graph.py` (for `mergebuild graph`).

May import methods, formats and what is below; no header of a source is read.
"""

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
