"""One document of mergekit as one target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from mergebuild.exchange.draft import Value
from mergebuild.exchange.mergekit.making import InputModel, KitMerge, keys_of
from mergebuild.exchange.mergekit.methods import METHODS, KitMethod, Shape
from mergebuild.exchange.mergekit.reading import KitReading, KitTable
from mergebuild.exchange.mergekit.references import Reference, reference
from mergebuild.exchange.mergekit.settings import Level
from mergebuild.exchange.mergekit.stacks import OutputSlice, read_slices, whole
from mergebuild.exchange.mergekit.tokens import tokenizer_keys
from mergebuild.exchange.yaml_text import YamlMap
from mergebuild.recipe.vocabulary import DTYPE_HINTS, DTYPES

__all__ = ["read_merge"]

_KEYS: Final = (
    "merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name",
)  # fmt: skip
_OF_MODEL: Final = ("model", "parameters")


def read_merge(reading: KitReading, document: YamlMap, name: str, *, is_file: bool) -> None:
    """Make the target `name`, which the draft has, what a document says; one that ours can't make is taken away.

    Args:
        reading: The recipe.
        document: The document.
        name: The target's name.
        is_file: Whether it is written; else it is virtual.

    Raises:
        RecipeError: mergekit would refuse it too.
    """
    reading.target = name
    table = KitTable(reading, document, "")
    table.only(_KEYS)
    said = table.text("merge_method") or ""
    row = METHODS.get(said)
    own = table.get("base_model")
    base = reference(reading, own, "base_model") if own is not None else None
    keys = _keys(reading, table, said, row, base) if row is not None else None
    if keys is None or _has_no_value(reading, keys):
        _give_up(reading, table, name, said, row)
        return
    keys |= _output(reading, table, name, keys, base, is_file=is_file)
    target = reading.draft.targets.pop(name)  # behind the targets that it is made of
    target.keys = keys
    reading.draft.targets[name] = target
    if row is not None and row.is_random:
        reading.say("merge_method", "mergekit draws at random without a seed: seed 0 is ours, and the result another")


def _has_no_value(reading: KitReading, keys: Mapping[str, Value]) -> bool:
    """Tell of plain weights by whose sum mergekit divides, and we refuse to: it is 0, or they are of both signs."""
    weight, models = keys.get("weight"), keys.get("models")
    plain = weight if isinstance(weight, list) else [weight] * len(models if isinstance(models, list) else ())
    weights = [each for each in plain if isinstance(each, (int, Decimal))]
    if keys.get("method") == "linear" and keys.get("normalize") is not False:
        is_odd, why = bool(weights) and not sum(weights), "weights add up to 0, by which mergekit divides"
    elif keys.get("method") == "task_arithmetic" and keys.get("normalize") is True:
        is_odd = bool(weights) and min(weights) < 0 < max(weights)
        why = "weights of both signs are normalized, which mergekit does by a sum that may be small or negative"
    else:
        return False
    if is_odd:
        reading.leave_out("weight", why)
    return is_odd


def _give_up(reading: KitReading, table: KitTable, name: str, method: str, row: KitMethod | None) -> None:
    """Take a target away that can't be said, and tell why; its models stay."""
    for each in table.tables("models") if row is None else []:
        reference(reading, each.get("model"), each.at("model"))
    gone = reading.draft.targets.pop(name)
    reading.draft.comments += gone.comments
    reading.target = None
    if row is None:
        reading.leave_out("merge_method", f"`{name}` is made by `{method}`, an unknown method")


def _keys(
    reading: KitReading, table: KitTable, method: str, row: KitMethod, base: Reference | None
) -> dict[str, Value] | None:
    """Return method, inputs and numbers of a target; None: they can't be said, which is told."""
    _check_one_form(reading, table)
    place, levels = table, [table.table("parameters")]
    if table.get("modules"):
        module = _only_module(reading, table)
        if module is None:
            return None
        _check_one_form(reading, module)
        place, levels = module, [module.table("parameters"), *levels]
    if place.get("slices"):
        return _sliced(reading, place, method, row, base, levels)
    inputs = _with_base(_models(place), base, row, reading)
    return keys_of(KitMerge(reading, method, row, inputs, base, levels, place.where))


def _check_one_form(reading: KitReading, table: KitTable) -> None:
    forms = [key for key in ("models", "slices", "modules") if table.get(key)]
    if len(forms) != 1:
        said = f"has {' and '.join(forms)}" if forms else "has neither `models` nor `slices` nor `modules`"
        raise reading.wrong(table.where, f"{said}; mergekit wants exactly one of them")


def _models(table: KitTable) -> list[InputModel]:
    found = []
    for each in table.tables("models"):
        each.only(_OF_MODEL)
        model = reference(each.reading, each.get("model"), each.at("model"))
        found.append(InputModel(model, each.table("parameters")))
    return found


def _with_base(
    inputs: list[InputModel], base: Reference | None, row: KitMethod, reading: KitReading
) -> list[InputModel]:
    """Return the models, with the base at their end where it is not among them, as mergekit has it."""
    if base is None or any(each.model.text == base.text for each in inputs):
        return inputs
    if row.shape is Shape.ONE:
        raise reading.wrong("base_model", "is one more model, and `passthrough` takes one")
    return [*inputs, InputModel(base, None)]


def _sliced(
    reading: KitReading, table: KitTable, method: str, row: KitMethod, base: Reference | None, levels: Sequence[Level]
) -> dict[str, Value]:
    slices = _with_layers(reading, read_slices(reading, table.tables("slices"), base))
    only = whole(reading, slices)
    if only is not None:
        inputs = [each._replace(layers=None) for each in only.inputs]
        above = [only.parameters, *levels]
        return keys_of(KitMerge(reading, method, row, inputs, only.base, above, only.where))
    return _stacked([_slice(reading, each, method, row, levels, index, slices) for index, each in enumerate(slices)])


def _with_layers(reading: KitReading, slices: list[OutputSlice]) -> list[OutputSlice]:
    """Return the slices without those in the middle that have no layers, and so give nothing.

    Raises:
        RecipeError: none has any.
    """
    if not any(each.length for each in slices):
        raise reading.wrong("slices", "have no layers")
    for each in slices[1:-1]:
        if not each.length:
            reading.say(each.where, f"`{each.where}` has no layers, and is neither the first slice nor the last")
    return [each for at, each in enumerate(slices) if each.length or at in (0, len(slices) - 1)]


def _slice(
    reading: KitReading,
    each: OutputSlice,
    method: str,
    row: KitMethod,
    levels: Sequence[Level],
    index: int,
    slices: Sequence[OutputSlice],
) -> dict[str, Value]:
    is_last = index == len(slices) - 1
    above = [each.parameters, *levels]
    return keys_of(KitMerge(reading, method, row, each.inputs, each.base, above, each.where, has_head=is_last))


def _stacked(slices: list[dict[str, Value]]) -> dict[str, Value]:
    """Return a target of slices; a method that all have stands once, above them."""
    methods = {str(each["method"]) for each in slices}
    if len(methods) > 1:
        return {"method": slices[0]["method"], "slices": [dict(each) for each in slices]}
    common = _alike(slices)
    own: list[Value] = [{key: value for key, value in each.items() if key not in common} for each in slices]
    return {**common, "slices": own}


def _alike(slices: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """Return the method, and words and flags, where all slices have the same."""
    first, *rest = slices
    return {
        key: value
        for key, value in first.items()
        if (key == "method" or isinstance(value, bool) or key in ("compat", "seed", "rescale", "per", "vote"))
        and all(key in each and each[key] == value for each in rest)
    }


def _only_module(reading: KitReading, table: KitTable) -> KitTable | None:
    """Return the module that stands for the model; None: there are several, merged each in its own way."""
    modules = table.table("modules")
    assert modules is not None
    found = [reading.table(value, modules.at(key)) for key, value in modules.values.items()]
    for each in found:
        each.only(("models", "slices", "parameters"))
    is_alike = all(each.values == found[0].values for each in found[1:])
    if is_alike and (len(found) == 1 or not found[0].get("slices")):
        return found[0]
    reading.leave_out("modules", f"modules that are merged each in its own way: {', '.join(modules.values)}")
    return None


# -- what is written


def _output(
    reading: KitReading, table: KitTable, name: str, keys: dict[str, Value], base: Reference | None, *, is_file: bool
) -> dict[str, Value]:
    """Return output, dtype, tokenizer and configuration of a target."""
    dtype = _dtype(reading, table)
    inputs = list(_inputs(keys))
    found = tokenizer_keys(reading, table, base, inputs)
    if not is_file:
        if dtype is not None:
            reading.say("dtype", f"exact here; mergekit writes it as {dtype} before it goes on")
        return found
    found["output"] = reading.draft.free_output(f"{name}/")
    if dtype is not None:
        found["dtype"] = dtype
    if base is not None and inputs and inputs[0] != base.name:
        found["config"] = base.name
    return found


def _inputs(keys: dict[str, Value]) -> Iterable[str]:
    """Yield the names of all inputs, the first input first."""
    places = keys.get("slices")
    for each in places if isinstance(places, list) else [keys]:
        for role in ("base", "a", "b", "models"):
            value = each.get(role) if isinstance(each, dict) else None
            for item in value if isinstance(value, list) else [value] if value is not None else []:
                yield str(item["model"]) if isinstance(item, dict) else str(item)


def _dtype(reading: KitReading, table: KitTable) -> str | None:
    """Return the dtype of the output; where mergekit computes in another one, that is told."""
    works, out = (_dtype_word(reading, table, key) for key in ("dtype", "out_dtype"))
    if works not in (None, "float32") and out is not None and works != out:
        reading.say("dtype", f"mergekit computes in {works}, here in float32, and both write {out}")
    return out or works


def _dtype_word(reading: KitReading, table: KitTable, key: str) -> str | None:
    said = table.text(key)
    if said is None:
        return None
    word = said.removeprefix("torch.")
    word = DTYPE_HINTS.get(word, word)
    if word not in DTYPES or word == "source":
        reading.leave_out(key, f"`{key}` `{said}`, a dtype that outputs do not have here")
        return None
    return word
