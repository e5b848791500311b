"""Slices of mergekit: layers of models, one slice upon the other.

A range ends before its second number there, and with its last layer here. A single slice of all layers of its models is
no stack: that is how slerp is usually written. Whether it is all layers, a model's configuration says. Where there is
none, a slice from 0 on is taken for that, and told, until the models are found; but one of a single model is a stack,
as all its layers would be that model.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from mergebuild.exchange.draft import DraftTarget, Value
from mergebuild.exchange.mergekit.making import InputModel
from mergebuild.exchange.mergekit.reading import KitReading, KitTable
from mergebuild.exchange.mergekit.references import Reference, reference
from mergebuild.exchange.mergekit.settings import LayerPlace, Level
from mergebuild.system.bounded_text import read_text

__all__ = ["OutputSlice", "read_slices", "whole"]

_COUNTS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_KEYS: Final = ("sources", "base_model", "residual_weight", "parameters")
_MOST_LAYERS: Final = 99_999
_OF_TARGET: Final = ("method", "output", "dtype", "config", "tokenizer", "chat_template")
_OF_SOURCE: Final = ("model", "layer_range", "parameters")


class OutputSlice(NamedTuple):
    """A slice: its models, each with its layers as ours writes them."""

    inputs: tuple[InputModel, ...]
    base: Reference | None
    parameters: Level
    where: str
    first: int
    """The first layer of its first model."""
    length: int
    starts_alike: bool
    """Whether it has the same layers of all models."""


def read_slices(reading: KitReading, tables: list[KitTable], base: Reference | None) -> list[OutputSlice]:
    """Return the slices of a document.

    Raises:
        RecipeError: mergekit would refuse them too.
    """
    found: list[OutputSlice] = []
    for table in tables:
        found.append(_slice(reading, table, base, sum(each.length for each in found)))
    return found


def _slice(reading: KitReading, table: KitTable, base: Reference | None, offset: int) -> OutputSlice:
    table.only(_KEYS)
    if table.get("residual_weight") is not None:
        reading.say(table.at("residual_weight"), "`residual_weight` is used by nothing in mergekit")
    sources = table.tables("sources")
    if not sources:
        raise reading.wrong(table.at("sources"), "is empty, expected models")
    ranges = [_range(reading, each) for each in sources]
    if len({end - begin for begin, end in ranges}) > 1:
        raise reading.wrong(table.at("sources"), "have not equally many layers, which mergekit refuses")
    inputs = tuple(_input(reading, each, found, offset) for each, found in zip(sources, ranges, strict=True))
    own = table.get("base_model")
    begin, end = ranges[0]
    return OutputSlice(
        inputs,
        reference(reading, own, table.at("base_model")) if own is not None else base,
        table.table("parameters"),
        table.where,
        begin,
        end - begin,
        len(set(ranges)) == 1,
    )


def _input(reading: KitReading, table: KitTable, layers: tuple[int, int], offset: int) -> InputModel:
    table.only(_OF_SOURCE)
    begin, end = layers
    text = "none" if begin == end else f"L{begin:02}" if end - begin == 1 else f"L{begin:02}-L{end - 1:02}"
    model = reference(reading, table.get("model"), table.at("model"))
    return InputModel(model, table.table("parameters"), text, LayerPlace(begin, end - begin, offset))


def _range(reading: KitReading, table: KitTable) -> tuple[int, int]:
    found = table.get("layer_range")
    if not isinstance(found, list) or len(found) != 2:
        raise reading.wrong(table.at("layer_range"), "is no pair of layers, the first and the one behind the last")
    begin, end = (reading.integer(each, table.at("layer_range"), _MOST_LAYERS) for each in found)
    if begin > end:
        raise reading.wrong(table.at("layer_range"), f"runs backwards, from {begin} to {end}")
    return begin, end


def whole(reading: KitReading, slices: list[OutputSlice]) -> OutputSlice | None:
    """Return the only slice where it has all layers of all its models; None: it is a stack."""
    only = slices[0] if len(slices) == 1 else None
    if only is None or only.first or not only.starts_alike or not only.length:
        return None
    counts = [_layers_of(reading, each.model) for each in only.inputs]
    if any(count not in (None, only.length) for count in counts):
        return None
    if None in counts:
        if len(counts) == 1:
            return None
        reading.say(only.where, f"the {only.length} layers are taken to be all layers of each model")
        if reading.target is not None:
            reading.draft.once_counted.append((reading.target, only.length, _cut))
    return only


def _cut(target: DraftTarget, length: int) -> None:
    """Make a target of whole models one of their first layers, as these are not all."""
    of_target = {key: value for key, value in target.keys.items() if key in _OF_TARGET}
    layers = "L00" if length == 1 else f"L00-L{length - 1:02}"
    own: dict[str, Value] = {key: value for key, value in target.keys.items() if key not in of_target}
    target.keys = {"method": of_target.pop("method"), "slices": [{**own, "layers": layers}], **of_target}
    target.comments.append(f"its models do not have {length} layers, so that it is a stack of these")


def _layers_of(reading: KitReading, model: Reference) -> int | None:
    """Return how many layers a model's configuration says that it has; None: there is none, or it doesn't say."""
    source = reading.draft.sources.get(model.name)
    folder = reading.draft.find(source) if source is not None else None
    if folder is None:
        return None
    try:
        found = json.loads(read_text(folder / "config.json"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = found if isinstance(found, dict) else {}
    text = whole.get("text_config")
    counts = (each.get(key) for each in (whole, text if isinstance(text, dict) else {}) for key in _COUNTS)
    return next((count for count in counts if isinstance(count, int)), None)
