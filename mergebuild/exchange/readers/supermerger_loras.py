"""The text of supermerger's LoRA tab: `name:ratio` or `name:ratio:block weights`, with commas between LoRAs.

The text names no model: it is taken for LoRAs that are put together, which the tab calls `same to Strength`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.figures import figure
from mergebuild.exchange.merges.lora_blocks import module_table
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["read", "recognizes"]

_NUMBER: Final = r"-?\d*\.?\d+"
_LORA: Final = re.compile(rf"(?P<name>[^:,\s][^:,\n]*):(?P<ratio>{_NUMBER})(?::(?P<blocks>[^:,\s]*))?")
_NUMBER_ALONE: Final = re.compile(_NUMBER)
_MOST_SIGNS: Final = 20_000
_WITH_A_MODEL: Final = "to bake them into a model: `add_lora`, with the model as `base`; its strengths go by blocks"


@dataclass
class _TabLora:
    """A LoRA of the text."""

    name: str
    ratio: Decimal
    blocks: list[Decimal] = field(default_factory=list)
    preset: str = ""


def recognizes(file: RecipeFile) -> bool:
    """Whether a text is nothing but LoRAs with their ratios."""
    text = file.text.strip()
    return bool(text) and len(text) <= _MOST_SIGNS and "\n" not in text and _loras(text) is not None


def read(file: RecipeFile, draft: Draft) -> None:
    """Add the target that is the LoRAs together.

    Raises:
        RecipeError: a list has another count of numbers than there are blocks.
    """
    where = str(file.path)
    loras: list[Value] = []
    presets: list[str] = []
    for each in _loras(file.text.strip()) or []:
        name = draft.source(ModelName(each.name))
        presets += [f"block weights `{each.preset}` of `{each.name}`, which are no list"] if each.preset else []
        try:
            strength: Value = module_table(each.ratio, each.blocks) if each.blocks else each.ratio
        except ValueError as error:
            mend = "lists have 12, 17, 20 or 26 numbers"
            raise RecipeError.one("bad-recipe", str(error), where=Place(where), help=mend) from None
        loras.append({"lora": name, "strength": strength})
    keys: dict[str, Value] = {"method": "merge_loras", "loras": loras}
    target = draft.target(file.stem, keys, output=f"{file.stem}.safetensors")
    draft.say(where, _WITH_A_MODEL, target=target)
    for text in presets:
        draft.leave_out(where, text, target=target)


def _loras(text: str) -> list[_TabLora] | None:
    """Return the LoRAs of a text; None where it is something else."""
    found: list[_TabLora] = []
    for word in (each.strip() for each in text.split(",")):
        if lora := _LORA.fullmatch(word):
            first = lora["blocks"] or ""
            is_number = bool(_NUMBER_ALONE.fullmatch(first))
            blocks = [figure(first)] if is_number else []
            found.append(_TabLora(lora["name"].strip(), figure(lora["ratio"]), blocks, "" if is_number else first))
        elif found and found[-1].blocks and _NUMBER_ALONE.fullmatch(word):
            found[-1].blocks.append(figure(word))
        else:
            return None
    return found or None
