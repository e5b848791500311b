"""The recipe in a model file's own metadata: of AUTOMATIC1111's merger, supermerger, model-mixer, Chattiori's, ours."""

from __future__ import annotations

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.file_names import without_suffix
from mergebuild.exchange.json_texts import words_of
from mergebuild.exchange.lineage import has_recipe, lineage_of
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["read", "recognizes"]

_OTHERS = ("mecha_recipe", "prompt")
"""Keys of other tools, which a merger that copies metadata keeps."""


def recognizes(file: RecipeFile) -> bool:
    """Whether its metadata have `sd_merge_recipe`, and no newer recipe of another tool.

    Mergers copy each other's keys. Theirs is the newest where `sd_merge_models` has the models that it names.
    """
    if not has_recipe(file.metadata):
        return False
    try:
        return not any(key in file.metadata for key in _OTHERS) or lineage_of(file).knows_its_models
    except RecipeError:
        return False


def read(file: RecipeFile, draft: Draft) -> None:
    """Add the merges behind the file."""
    lineage = lineage_of(file)
    said = (words_of(lineage.recipe.get(key)) for key in ("custom_name", "target", "output_name"))
    name = without_suffix(next((each for each in said if each), file.stem))
    made = lineage.write(draft, name=name, output=f"{name}.safetensors")
    draft.default.append(made)
    for key in _OTHERS:
        if key in file.metadata:
            text = f"`{key}` is there too, and was taken for that of a model before this merge"
            draft.say(f"{file.path}: {key}", text, target=made)
