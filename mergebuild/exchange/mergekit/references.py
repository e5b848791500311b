"""Names the models that a recipe refers to: `PATH_OR_REPO[@revision][+LORA[@revision]]`, or a mapping that says so.

A name with an owner, `org/model`, is a repository of Hugging Face, unless it leads to a folder. A LoRA behind `+` is
baked into its model first, by a virtual target that all references to the two share.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from mergebuild.exchange.draft import ModelName, Value
from mergebuild.exchange.mergekit.reading import KitReading
from mergebuild.exchange.yaml_text import YamlValue

__all__ = ["Reference", "reference"]

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


class Reference(NamedTuple):
    """A model that a recipe refers to."""

    text: str
    """What it is there: equal texts are one model."""
    name: str
    """What it is in the mergefile."""


def reference(reading: KitReading, value: YamlValue, where: str) -> Reference:
    """Return what a reference means, adding the source, and the target of a model with a LoRA.

    Raises:
        RecipeError: it is none.
    """
    if isinstance(value, dict):
        return _of_mapping(reading, value, where)
    text = reading.text(value, where)
    if text in reading.merges:
        return Reference(text, reading.merges[text])
    model, *loras = text.split("+")
    if len(loras) > 1:
        raise reading.wrong(where, f"is `{text}`, a model with more than one LoRA")
    return _with_lora(reading, model, loras[0] if loras else None, where)


def _of_mapping(reading: KitReading, value: YamlValue, where: str) -> Reference:
    table = reading.table(value, where)
    table.only(("model", "lora", "override_architecture"))
    if table.get("override_architecture") is not None:
        reading.say(table.at("override_architecture"), "`override_architecture` is not needed: names of tensors tell")
    model, lora = (_path(reading, table.get(key), table.at(key)) for key in ("model", "lora"))
    if model is None:
        raise reading.wrong(where, "names no `model`")
    return _with_lora(reading, model, lora, where)


def _path(reading: KitReading, value: YamlValue, where: str) -> str | None:
    if not isinstance(value, dict):
        return None if value is None else reading.text(value, where)
    table = reading.table(value, where)
    path, revision = table.text("path"), table.text("revision")
    if path is None:
        raise reading.wrong(where, "has no `path`")
    return f"{path}@{revision}" if revision else path


def _with_lora(reading: KitReading, model: str, lora: str | None, where: str) -> Reference:
    base = _model(reading, model, where)
    if lora is None:
        return Reference(model, base)
    added = _model(reading, lora, where)
    keys: dict[str, Value] = {"method": "add_lora", "base": base, "loras": [added], "strength": 1}
    for known in reading.draft.targets.values():
        if known.keys == keys:
            return Reference(f"{model}+{lora}", known.name)
    return Reference(f"{model}+{lora}", reading.draft.target(f"{base}+{added}", keys))


def _model(reading: KitReading, text: str, where: str) -> str:
    """Return the name of the source, or of the target, that a path or a repository is."""
    if text in reading.merges:
        return reading.merges[text]
    path, at, revision = text.partition("@")
    if not path or "@" in revision or (at and not revision):
        raise reading.wrong(where, f"is `{text}`, which names no model")
    comment = f"revision {revision}" if revision else None
    places = (Path(path), Path(reading.shown).parent / path)
    is_there = any(os.path.isdir(place) for place in places)  # noqa: PTH112 -- no name is too long for it
    url = f"https://huggingface.co/{path}" if _REPOSITORY.fullmatch(path) and not is_there else None
    return reading.draft.source(ModelName(path, url=url, comment=comment, is_folder=True))
