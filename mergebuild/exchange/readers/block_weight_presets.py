"""Files of named block weights, of MBW GUI (25 numbers) and of supermerger (26): no recipe, but lists for one."""

from __future__ import annotations

from mergebuild.exchange.draft import Draft
from mergebuild.exchange.merges.blocks import list_of_text
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.tab_table import header_of, rows_of

__all__ = ["read", "recognizes"]


def recognizes(file: RecipeFile) -> bool:
    """Whether a text has the two columns of presets."""
    return header_of(file)[:2] == ["preset_name", "preset_weights"]


def read(file: RecipeFile, draft: Draft) -> None:
    """Add a comment with the list of each preset.

    Raises:
        RecipeError: there are more than people have.
    """
    draft.say(str(file.path), "block weights by name: a target has them as `alpha = { mbw = […] }`")
    for line, row in rows_of(file):
        try:
            numbers = list_of_text(row.get("preset_weights", ""))
        except ValueError as error:
            draft.leave_out(f"{file.path}:{line}", f"preset `{row.get('preset_name', '')[:60]}`: {error}")
            continue
        draft.comments.append(f"{row['preset_name'][:60]}: mbw = [{', '.join(format(each, 'f') for each in numbers)}]")
