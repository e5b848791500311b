"""A list of block weights with comments that say what is merged, as `export` writes it.

    # mode: Weight sum
    # model A: a.safetensors
    # model B: b.safetensors
    # save: fp16, safetensors
    # VAE: 0.3
    0.3,0,0.1,…

A list alone, as it is pasted from page to page, says nothing of models, and is no recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.figures import figure
from mergebuild.exchange.merges.blocks import LONG, SHORT, list_of_text, number_table
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.recipe.preset_names import PRESET_NAMES

__all__ = ["read", "recognizes"]

_COMMENT: Final = re.compile(r"#\s*(?P<key>mode|model [ABC]|save|VAE)\s*:\s*(?P<value>.*)")
_ROLES: Final = {"Weight sum": ("weighted_sum", "ab"), "Add difference": ("add_difference", "abc")}
_LENGTHS: Final = (len(SHORT), len(LONG))
_KINDS: Final = ("safetensors", "ckpt")


def recognizes(file: RecipeFile) -> bool:
    """Whether a text begins with the comment that names the mode."""
    found = _COMMENT.fullmatch(file.text.split("\n", 1)[0].strip())
    return found is not None and found["key"] == "mode"


def read(file: RecipeFile, draft: Draft) -> None:
    """Add the target.

    Raises:
        RecipeError: there are not as many models, or numbers, as there must be.
    """
    said, lists = _parts(file.text)
    method, roles = _ROLES.get(said["mode"], ("", ""))
    if not method:
        raise _wrong(file, f"there is no mode `{said['mode']}`: it is Weight sum or Add difference")
    keys: dict[str, Value] = {"method": method}
    for role in roles:
        model = said.get(f"model {role.upper()}")
        if not model:
            raise _wrong(file, f"there is no comment that names model {role.upper()}")
        keys[role] = draft.source(ModelName(model))
    if len(lists) != 1:
        raise _wrong(file, f"there are {len(lists)} lists of block weights, expected one")
    keys["alpha"] = _numbers(file, lists[0], said)
    saved = [each.strip() for each in said.get("save", "").split(",")]
    kind = next((each for each in _KINDS if each in saved), _KINDS[0])
    draft.target(file.stem, keys, output=f"{file.stem}.{kind}", dtype="float16" if "fp16" in saved else None)


def _parts(text: str) -> tuple[Mapping[str, str], list[str]]:
    """Return what comments say, by their first words, and the other lines."""
    said: dict[str, str] = {}
    lists: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        found = _COMMENT.fullmatch(line)
        if found:
            said[found["key"]] = found["value"].strip()
        elif not line.startswith("#"):
            lists.append(line)
    return said, lists


def _numbers(file: RecipeFile, line: str, said: Mapping[str, str]) -> Value:
    """Return the numbers of a list or a preset, with that of the VAE: BASE's, unless a comment has another."""
    try:
        vae = figure(said["VAE"]) if "VAE" in said else None
        numbers = list_of_text(line) if "," in line else []
    except ValueError as error:
        raise _wrong(file, f"`{line}`, or its VAE: {error}") from None
    if not numbers:
        if line not in PRESET_NAMES:
            raise _wrong(file, f"`{line}` is neither a list of numbers nor a preset that is known")
        return {"preset": line, "VAE": vae} if vae else {"preset": line}
    if len(numbers) not in _LENGTHS:
        raise _wrong(file, f"there are {len(numbers)} numbers, expected 26, or 20 for SDXL")
    return number_table(numbers, vae=(numbers[0] if vae is None else vae) or None)


def _wrong(file: RecipeFile, message: str) -> RecipeError:
    return RecipeError.one("bad-recipe", message, where=Place(file.path.as_posix()))
