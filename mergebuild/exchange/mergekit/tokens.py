"""Tokenizer and chat template of a recipe of mergekit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mergebuild.exchange.draft import Value
from mergebuild.exchange.mergekit.reading import KitReading, KitTable
from mergebuild.exchange.mergekit.references import Reference, reference
from mergebuild.exchange.yaml_text import YamlValue

__all__ = ["tokenizer_keys"]

_MOST_ROWS: Final = 1 << 24
_KEYS: Final = ("source", "tokens", "pad_to_multiple_of")
_NAMED_TEMPLATES: Final = ("alpaca", "chatml", "exaone", "llama3", "mistral")


def tokenizer_keys(
    reading: KitReading, document: KitTable, base: Reference | None, inputs: Collection[str]
) -> dict[str, Value]:
    """Return the keys of a target that say whose tokens and whose template it has.

    Args:
        reading: The recipe.
        document: The document.
        base: Its base.
        inputs: Names of the models that take part: only one of these can give a row.

    Raises:
        RecipeError: mergekit would refuse it too.
    """
    table, source = document.table("tokenizer"), document.get("tokenizer_source")
    if table is not None and source is not None:
        raise reading.wrong("tokenizer", "and `tokenizer_source` are both there, which mergekit refuses")
    found = _table(reading, table, base, inputs) if table is not None else _source(reading, source, base, inputs)
    _tell_template(reading, document)
    return found


def _source(
    reading: KitReading, source: YamlValue, base: Reference | None, inputs: Collection[str]
) -> dict[str, Value]:
    if source is None:
        return {}
    model = _model(reading, source, base, inputs, "tokenizer_source")
    return {"tokenizer": {"union": True} if model is None else model}


def _table(reading: KitReading, table: KitTable, base: Reference | None, inputs: Collection[str]) -> dict[str, Value]:
    table.only(_KEYS)
    source = table.get("source")
    model = _model(reading, "union" if source is None else source, base, inputs, table.at("source"))
    found: dict[str, Value] = {"union": True} if model is None else {"model": model}
    padding = table.get("pad_to_multiple_of")
    if padding:
        found["pad_to_multiple_of"] = reading.integer(padding, table.at("pad_to_multiple_of"), _MOST_ROWS)
    tokens = table.table("tokens")
    rows = {key: _row(reading, tokens, key, inputs) for key in tokens.values if key} if tokens is not None else {}
    if tokens is not None and "" in tokens.values:
        reading.leave_out(tokens.where, "an empty token")
    if said := {key: row for key, row in rows.items() if row}:
        found["tokens"] = dict(said)
    return {"tokenizer": model if model is not None and len(found) == 1 else found}


def _model(
    reading: KitReading, source: YamlValue, base: Reference | None, inputs: Collection[str], where: str
) -> str | None:
    """Return the name of the model whose tokenizer it is; None: the union."""
    if source == "union":
        return None
    if source == "base":
        if base is None:
            raise reading.wrong(where, "is `base`, and there is no `base_model`")
        return base.name
    found = reference(reading, source, where).name
    if found not in inputs:
        reading.say(where, f"the tokenizer is that of `{found}`, which is not merged")
    return found


def _row(reading: KitReading, tokens: KitTable, token: str, inputs: Collection[str]) -> Value:
    """Return whose row a token has; empty: the usual rules say it, and the token is there anyway."""
    table = tokens.table(token)
    if table is None:
        return {}
    table.only(("source", "force"))
    source = table.get("source")
    found = _row_of(reading, source, table.at("source")) if source is not None else {}
    if "model" in found and found["model"] not in inputs:
        reading.leave_out(table.at("source"), f"the row of `{token}` is of `{found['model']}`, which is not merged")
        found = {}
    force = table.get("force")
    if force is not None and reading.flag(force, table.at("force")):
        found["force"] = True
    return found or {"force": False}


def _row_of(reading: KitReading, source: YamlValue, where: str) -> dict[str, Value]:
    if not isinstance(source, dict) or "kind" not in source:
        return {"model": reference(reading, source, where).name}
    table = reading.table(source, where)
    table.only(("kind", "model", "token", "token_id"))
    if table.text("kind") == "zero":
        return {"zero": True}
    if table.text("kind") != "model_token" or (table.get("token") is None) == (table.get("token_id") is None):
        raise reading.wrong(where, "is no row of a model, which has `model`, and `token` or `token_id`")
    found: dict[str, Value] = {"model": reference(reading, table.get("model"), table.at("model")).name}
    number = table.get("token_id")
    of: Value = reading.integer(number, where, _MOST_ROWS) if number is not None else table.text("token") or ""
    return {**found, "id" if number is not None else "token": of}


def _tell_template(reading: KitReading, document: KitTable) -> None:
    """Tell of a chat template, which a mergefile takes from a model or from a file."""
    template = document.text("chat_template")
    if not template:
        return
    if template == "auto":
        message = 'the template that most models have: name the model, `chat_template = "MODEL"`'
    elif template in _NAMED_TEMPLATES:
        message = f"mergekit's own template `{template}`: name a model that has it, or a file that ends in `.jinja`"
    else:
        message = f"write this template to a file that ends in `.jinja`, and name it in `chat_template`: {template}"
    reading.leave_out("chat_template", f"`chat_template`: {message}")
