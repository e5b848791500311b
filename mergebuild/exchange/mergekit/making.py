"""How models become one, as keys of a target or of a slice: the method, its inputs, and its numbers.

Inputs come in the order of the recipe. The base takes part like any other model in some methods; in those that look at
differences from it, its own parameters count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from mergebuild.exchange.draft import Value
from mergebuild.exchange.mergekit.methods import KitMethod, Shape
from mergebuild.exchange.mergekit.reading import KitReading
from mergebuild.exchange.mergekit.references import Reference
from mergebuild.exchange.mergekit.settings import LayerPlace, Level, Levels, Setting, flag_of, number_of

__all__ = ["InputModel", "KitMerge", "keys_of"]

_MEMORY_ONLY: Final = "int8_mask"
_OLD_VOTES: Final = "consensus_method"


class InputModel(NamedTuple):
    """A model of a document, or of a slice."""

    model: Reference
    parameters: Level
    layers: str | None = None
    """Its layers, where it is cut to some."""
    place: LayerPlace | None = None
    """Where these are in the output."""


@dataclass(frozen=True)
class KitMerge:
    """A merge of models that is to be said."""

    reading: KitReading
    name: str
    """mergekit's name of the method."""
    row: KitMethod
    inputs: Sequence[InputModel]
    base: Reference | None
    levels: Levels
    """Parameters of slice, module and recipe."""
    where: str
    has_head: bool = True

    @property
    def others(self) -> list[InputModel]:
        """The models besides the base."""
        return [each for each in self.inputs if self.base is None or each.model.text != self.base.text]

    @property
    def of_base(self) -> InputModel | None:
        """The base among the inputs."""
        return next((each for each in self.inputs if self.base and each.model.text == self.base.text), None)


def keys_of(making: KitMerge) -> dict[str, Value]:
    """Return the keys of a target or slice that makes this.

    Raises:
        RecipeError: mergekit would refuse it too.
    """
    _check_twice(making)
    _tell_unknown(making)
    match making.row.shape:
        case Shape.ONE:
            return _one(making)
        case Shape.PAIR:
            return _pair(making)
        case Shape.ALL:
            return _of_many(making, list(making.inputs), None)
        case Shape.MODELS:
            return _of_many(making, making.others, making.of_base)
        case Shape.BASE_AND_MODELS:
            return _on_base(making)


def _check_twice(making: KitMerge) -> None:
    texts = [each.model.text for each in making.inputs]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise making.reading.wrong(making.where, f"names `{twice}` twice, which mergekit refuses")


def _one(making: KitMerge) -> dict[str, Value]:
    if len(making.inputs) != 1:
        raise _wrong_number(making, "one model", len(making.inputs))
    only = making.inputs[0]
    levels = [only.parameters, *making.levels]
    scale = number_of(making.reading, levels, "scale", default=1, has_head=making.has_head, place=only.place)
    if scale is None or not scale.is_given:
        return {"method": "copy", **_placed({"a": only})}
    return {"method": "scale", **_placed({"a": only}), "alpha": scale.value}


def _pair(making: KitMerge) -> dict[str, Value]:
    base = _needed_base(making)
    if len(making.others) != 1:
        raise _wrong_number(making, "one model besides the base", len(making.others))
    return {"method": making.row.method, **_placed({"a": base, "b": making.others[0]}), **_shared(making)}


def _on_base(making: KitMerge) -> dict[str, Value]:
    base = _needed_base(making)
    if not making.others:
        making.reading.say(making.where, "there is no model besides the base, which is the result")
        return {"method": "copy", **_placed({"a": base})}
    return _of_many(making, making.others, base)


def _of_many(making: KitMerge, models: list[InputModel], base: InputModel | None) -> dict[str, Value]:
    least, most = making.row.models
    if len(models) < least or (most is not None and len(models) > most):
        raise _wrong_number(making, f"{'exactly' if most else 'at least'} {least} models", len(models))
    beside, alike = _of_models(making, models)
    found: dict[str, Value] = {"method": making.row.method}
    found |= _placed({"base": base} if base else {}, models, beside)
    return {**found, **alike, **_shared(making, models)}


def _needed_base(making: KitMerge) -> InputModel:
    base = making.of_base
    if base is None:
        said = "is not among the models of the slice" if making.base else "is missing"
        raise making.reading.wrong(making.where or "base_model", f"`{making.name}` needs a base, which {said}")
    return base


def _wrong_number(making: KitMerge, wanted: str, found: int) -> Exception:
    return making.reading.wrong(making.where or "models", f"`{making.name}` takes {wanted}, and there are {found}")


# -- inputs


def _placed(
    roles: Mapping[str, InputModel],
    models: Sequence[InputModel] = (),
    beside: Sequence[Mapping[str, Value]] = (),
) -> dict[str, Value]:
    """Return the keys that name inputs; layers that all have alike stand once."""
    layers = {each.layers for each in (*roles.values(), *models)}
    common = layers.pop() if len(layers) == 1 else None
    found: dict[str, Value] = {role: _input(each, {}, common) for role, each in roles.items()}
    if models:
        rest = beside or [{}] * len(models)
        found["models"] = [_input(each, own, common) for each, own in zip(models, rest, strict=True)]
    return found | ({"layers": common} if common is not None else {})


def _input(each: InputModel, own: Mapping[str, Value], common: str | None) -> Value:
    layers: dict[str, Value] = {"layers": each.layers} if each.layers is not None and common is None else {}
    return {"model": each.model.name, **layers, **own} if layers or own else each.model.name


# -- numbers


def _of_models(making: KitMerge, models: Sequence[InputModel]) -> tuple[list[dict[str, Value]], dict[str, Value]]:
    """Return numbers that stand beside each model, and those that stand once: one for all, or a list."""
    beside: list[dict[str, Value]] = [{} for _ in models]
    alike: dict[str, Value] = {}
    for key, default in making.row.of_models.items():
        found = [_of_model(making, each, key, default) for each in models]
        if all(value is None for value in found):
            continue
        values = [value if value is not None else default for value in found]
        if all(value == values[0] for value in values[1:]) and values[0] is not None:
            alike[key] = values[0]
        elif all(isinstance(value, (int, Decimal)) for value in values):
            alike[key] = [value for value in values if value is not None]
        else:
            for own, value in zip(beside, values, strict=True):
                own.update({key: value} if value is not None else {})
    return beside, alike


def _of_model(making: KitMerge, each: InputModel, key: str, default: Decimal | int | None) -> Value | None:
    """Return a number of a model; None: the method's default."""
    levels = [each.parameters, *making.levels]
    found = number_of(making.reading, levels, key, default=default, has_head=making.has_head, place=each.place)
    if found is None:
        message = f"gives `{each.model.text}` no `{key}`, which `{making.name}` needs"
        raise making.reading.wrong(making.where or "models", message)
    return found.value if found.is_given else None


def _shared(making: KitMerge, models: Sequence[InputModel] = ()) -> dict[str, Value]:
    """Return numbers, flags and fixed keys that are one for all models."""
    row, reading = making.row, making.reading
    found: dict[str, Value] = {}
    for key, default in row.numbers.items():
        number = number_of(reading, making.levels, key, default=default, has_head=making.has_head)
        if key == "max_iter" and number is not None:
            number = Setting(reading.integer(_scalar(number.value), key, 1_000_000), number.is_given)
        if number is None:
            raise reading.wrong(making.where or "parameters", f"has no `{key}`, which `{making.name}` needs")
        if number.is_given:
            found[key] = number.value
    found |= row.fixed
    for key, (ours, meanings) in row.flags.items():
        flag = flag_of(reading, making.levels, key)
        value = meanings[flag] if flag is not None else None
        found |= {ours: value} if value is not None else {}
    return found | _special(making, models) | ({"seed": 0} if row.is_random else {})


def _scalar(value: Value) -> Decimal | int | None:
    return value if isinstance(value, (int, Decimal)) else None


def _special(making: KitMerge, models: Sequence[InputModel]) -> dict[str, Value]:
    """Return what single methods do besides."""
    reading, levels = making.reading, making.levels
    match making.name:
        case "nuslerp":
            flat, rows = flag_of(reading, levels, "nuslerp_flatten"), flag_of(reading, levels, "nuslerp_row_wise")
            return {"per": "column" if rows else "row"} if flat is False else {}
        case "multislerp" if len(models) == 2:
            return {"linear_fallback": True}
        case "ties" | "dare_ties" | "della" | "breadcrumbs_ties":
            return _votes(making)
    return {}


def _votes(making: KitMerge) -> dict[str, Value]:
    """Return how signs are elected, where an old recipe says it; mergekit of today passes over that."""
    found = next((level.text(_OLD_VOTES) for level in making.levels if level and _OLD_VOTES in level.values), None)
    if found in ("count", "naive_count"):
        making.reading.say("parameters", f"`{_OLD_VOTES}` is of older versions of mergekit; later ones vote by sums")
        return {"vote": "count"}
    return {}


# -- what is passed over


def _tell_unknown(making: KitMerge) -> None:
    """Tell of parameters that the method does not have, which mergekit passes over."""
    row = making.row
    shared = {*row.numbers, *row.flags, *_more(making.name)}
    _tell(making, (level for level in making.levels if level), {*shared, *row.of_models, *_scale(row)})
    for each in making.inputs:
        if each.parameters is not None:
            _tell(making, [each.parameters], {*row.of_models, *_scale(row)})
            if row.shape is Shape.BASE_AND_MODELS and each == making.of_base and each.parameters.values:
                making.reading.say(each.parameters.where, "parameters of the base itself change nothing")


def _tell(making: KitMerge, levels: Iterable[Level], known: Iterable[str]) -> None:
    for level in levels:
        for key in level.values if level else ():
            if level and key == _MEMORY_ONLY:
                making.reading.say(level.at(key), f"`{key}` saves memory in mergekit, and changes nothing")
            elif level and key not in known:
                making.reading.say(
                    level.at(key), f"`{level.at(key)}` is ignored by mergekit too: `{making.name}` has none"
                )


def _more(name: str) -> tuple[str, ...]:
    return {"nuslerp": ("nuslerp_flatten", "nuslerp_row_wise")}.get(name, ()) + (
        (_OLD_VOTES,) if name in ("ties", "dare_ties", "della", "breadcrumbs_ties") else ()
    )


def _scale(row: KitMethod) -> tuple[str, ...]:
    return ("scale",) if row.shape is Shape.ONE else ()
