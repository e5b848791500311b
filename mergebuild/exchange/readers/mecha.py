"""Recipes of sd-mecha: texts of either form, and the metadata of what it merged."""

from __future__ import annotations

from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.mecha.instructions import instructions_of, is_mecha
from mergebuild.exchange.mecha.merges import Keys, MechaMerging, file_of
from mergebuild.exchange.mecha.numbers import UnwordedError
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["read", "recognizes"]


def recognizes(file: RecipeFile) -> bool:
    """Whether a file is a recipe of sd-mecha, or carries one."""
    return is_mecha(_text(file))


def read(file: RecipeFile, draft: Draft) -> None:
    """Add what the recipe merges to a draft: the result of its last instruction.

    Raises:
        RecipeError: a line can't be read.
    """
    found, is_v1 = instructions_of(_text(file), file.path.as_posix())
    merging = MechaMerging(draft, is_v1)
    try:
        target = _add(file, draft, merging, merging.result(found[-1]))
    except UnwordedError as error:
        for each in found:  # they are what is known of it
            if each.command == "model":
                draft.source(ModelName(file_of(each, is_v1=is_v1)))
        draft.leave_out(file.path.name, f"the recipe, for {error}")
        return
    for message in merging.lost:
        draft.leave_out(file.path.name, message, target=target)
    for message in merging.said:
        draft.say(file.path.name, message, target=target)


def _add(file: RecipeFile, draft: Draft, merging: MechaMerging, keys: Keys) -> str:
    target = draft.target(file.stem, keys, output=f"{file.stem}.safetensors", dtype=merging.dtype)
    draft.targets[target].notes["output"] = "the recipe names none"
    if merging.dtype == "float16":
        draft.targets[target].notes["dtype"] = "what sd-mecha writes unless it is told otherwise"
    return target


def _text(file: RecipeFile) -> str:
    return file.metadata.get("mecha_recipe", "") if file.metadata else file.text
