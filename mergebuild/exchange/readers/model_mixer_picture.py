"""The recipe of model-mixer in a picture that was made with its result: keys `ModelMixer …` among the parameters."""

from __future__ import annotations

import json
import re
from typing import Final

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.merges import model_mixer
from mergebuild.exchange.merges.blocks import list_of_text
from mergebuild.exchange.merges.node import MergeNode, UnsayableError
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["read", "recognizes"]

_PAIR: Final = re.compile(
    r'ModelMixer (?P<key>[a-z][a-z ]{1,40}): ?(?P<value>"(?:\\.|[^\\"]){0,20000}"|[^,\n]{0,2000})'
)
_LETTERS: Final = "bcdefghijklmnopqrstuvwxyz"
_MOST_SIGNS: Final = 1_000_000


def recognizes(file: RecipeFile) -> bool:
    """Whether parameters of a picture, or a text of these, name the first model of model-mixer."""
    return "ModelMixer model a:" in _text(file)


def read(file: RecipeFile, draft: Draft) -> None:
    """Add the targets of the chain.

    Raises:
        RecipeError: no mergefile says it.
    """
    where = f"{file.path}: parameters"
    if len(file.metadata.get("parameters") or file.text) > _MOST_SIGNS:
        mend = "no picture has so many parameters"
        raise RecipeError.one("bad-recipe", f"it has more than {_MOST_SIGNS:,} signs", where=Place(where), help=mend)
    said = {found["key"]: _plain(found["value"]) for found in _PAIR.finditer(_text(file))}
    try:
        recipe = _recipe(said)
        output = f"{file.stem}.safetensors"
        node = MergeNode(recipe, where, file.stem, output, lambda name: draft.source(ModelName(name)))
        draft.default.append(model_mixer.add(node, draft))
    except UnsayableError as error:
        mend = "see the picture's parameters"
        raise RecipeError.one("bad-recipe", str(error), where=Place(where), help=mend) from None


def _text(file: RecipeFile) -> str:
    return (file.metadata.get("parameters") or file.text)[:_MOST_SIGNS]


def _plain(value: str) -> str:
    try:
        whole = json.loads(value) if value.startswith('"') else value
    except ValueError:
        whole = value.strip('"')
    return str(whole).strip()


def _recipe(said: dict[str, str]) -> dict[str, object]:
    """Return the keys of a picture as those of a file's metadata."""
    letters = [letter for letter in _LETTERS if f"model {letter}" in said]
    recipe: dict[str, object] = {"model_a": said.get("model a", ""), "base_model": said.get("base model", "")}
    recipe |= {f"model_{letter}": said[f"model {letter}"] for letter in letters}
    every = _LETTERS[: _LETTERS.index(letters[-1]) + 1] if letters else ""
    return recipe | {
        "adjust": said.get("adjust", ""),
        "uses": [_is_on(said.get(f"use model {letter}", "")) for letter in every],
        "mode": [said.get(f"merge mode {letter}", "Sum") for letter in every],
        "calcmode": [said.get(f"calcmode {letter}", "Normal") for letter in every],
        "alpha": [said.get(f"alpha {letter}", "") for letter in every],
        "mbw": [_is_on(said.get(f"mbw {letter}", "")) or bool(said.get(f"mbw weights {letter}")) for letter in every],
        "weights_alpha": [_list(said.get(f"mbw weights {letter}", "")) for letter in every],
        "use_elemental": [_is_on(said.get(f"use elemental {letter}", "")) for letter in every],
        "elemental": [said.get(f"elemental {letter}", "") for letter in every],
    }


def _is_on(text: str) -> bool:
    return text.lower() in ("true", "1", "on", "yes")


def _list(text: str) -> list[object] | None:
    try:
        return [*list_of_text(text)] if text else None
    except ValueError:
        raise UnsayableError(f"block weights {text[:60]!r} are no list of numbers") from None
