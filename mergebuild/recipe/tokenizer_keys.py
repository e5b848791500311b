"""Reads the keys `tokenizer` and `chat_template` of a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mergebuild.errors import did_you_mean
from mergebuild.recipe.model import Input, Target
from mergebuild.recipe.namespace import NoSuchNameError
from mergebuild.recipe.nodes import Invalid, Node
from mergebuild.recipe.paths import FOLDER, absolute, is_folder
from mergebuild.recipe.target_table import TargetTable
from mergebuild.recipe.tokenizer import ChatTemplate, TokenizerText, TokenRow
from mergebuild.system.bounded_text import read_text

__all__ = ["read_chat_template", "read_tokenizer", "with_token_inputs"]

_LONGEST_TEMPLATE = 1 << 20
"""The most bytes of a chat template."""
_MOST_ROWS = 1 << 24
"""Above any number of rows that an embedding has."""
_KEYS = ("union", "model", "pad_to_multiple_of", "tokens")
_OF_A_TOKEN = ("model", "token", "id", "zero", "force")
_TOKENIZER_HINT = 'such as `tokenizer = "chat"` (the tokenizer of `chat`) or `tokenizer = { union = true }`'
_ROW_HINT = 'such as `"<|im_end|>" = { model = "chat", force = true }`, or `{ zero = true }`'


def read_tokenizer(table: TargetTable) -> TokenizerText | None:
    """Return what a target says about its tokens; None if nothing, or if it is wrong, which is reported."""
    node = table.values.get("tokenizer")
    if node is None or isinstance(node.value, Invalid):
        return None
    _check_place(table, "tokenizer", node, "is written beside the weights of a folder")
    if isinstance(node.value, str):
        found = _model(table, "tokenizer", node)
        return TokenizerText(found, (), None) if found is not None else None
    values = table.reader.table(node, table.what("tokenizer"), _TOKENIZER_HINT)
    return _table(table, node, values) if values is not None else None


def _table(table: TargetTable, node: Node, values: Mapping[str, Node]) -> TokenizerText | None:
    """Return what the table of a tokenizer says."""
    what = table.what("tokenizer")
    table.reader.known_keys(values, what, _KEYS)
    union, model = _flag(table, values, "union", "tokenizer"), values.get("model")
    if union is (model is not None):
        said = "says `union = true` and names a `model`" if union else "neither says `union = true` nor names a `model`"
        table.problems.add("bad-value", f"{what} {said}", node.at, help=f"say one of them, {_TOKENIZER_HINT}")
    found = _model(table, "tokenizer.model", model) if model is not None else None
    return TokenizerText(found, _tokens(table, values.get("tokens")), _padding(table, values.get("pad_to_multiple_of")))


def _model(table: TargetTable, role: str, node: Node) -> Input | None:
    """Return the source or target whose tokenizer is meant; the word `union` is explained."""
    if node.value == "union" and not _is_known(table, "union"):
        message = f"{table.what(role)} is `union`, and no source or target has that name"
        table.problems.add("bad-value", message, node.at, help="the union is `tokenizer = { union = true }`")
        return None
    return table.input(role, node)


def _is_known(table: TargetTable, name: str) -> bool:
    """Whether a source or target has a name."""
    try:
        return bool(table.context.namespace.one(name))
    except NoSuchNameError:
        return False


def _padding(table: TargetTable, node: Node | None) -> int | None:
    """Return the number that the number of rows is to be a multiple of."""
    if node is None:
        return None
    what = "`pad_to_multiple_of` of " + table.what("tokenizer")
    found = table.reader.integer(node, what, _MOST_ROWS)
    if found == 0:
        table.problems.add("bad-value", f"{what} is 0", node.at, help="such as `64`; leave it out for no padding")
    return found


def _flag(table: TargetTable, values: Mapping[str, Node], key: str, of: str) -> bool:
    node = values.get(key)
    return node is not None and table.reader.flag(node, f"`{key}` of {table.what(of)}") is True


def _tokens(table: TargetTable, node: Node | None) -> tuple[TokenRow, ...]:
    """Return the entries of `tokens`."""
    if node is None:
        return ()
    values = table.reader.table(node, table.what("tokenizer.tokens"), _ROW_HINT)
    return tuple(_token(table, token, each) for token, each in (values or {}).items())


def _token(table: TargetTable, token: str, node: Node) -> TokenRow:
    """Return one entry of `tokens`; what is wrong with it is reported."""
    role = f"tokenizer.tokens.{token}"
    values = table.reader.table(node, table.what(role), _ROW_HINT) or {}
    table.reader.known_keys(values, table.what(role), _OF_A_TOKEN)
    zero, force = (_flag(table, values, key, role) for key in ("zero", "force"))
    model, of = values.get("model"), _of(table, values, role)
    if isinstance(node.value, dict):
        _check_token(table, token, node, values)
    found = table.input(role, model) if model is not None else None
    return TokenRow(token, found, of, zero, force, node.at)


def _of(table: TargetTable, values: Mapping[str, Node], role: str) -> str | int | None:
    """Return the token whose row is meant, or its number; None if none is named."""
    if (named := values.get("token")) is not None:
        return table.reader.text(named, f"`token` of {table.what(role)}")
    if (number := values.get("id")) is not None:
        return table.reader.integer(number, f"`id` of {table.what(role)}", _MOST_ROWS)
    return None


def _check_token(table: TargetTable, token: str, node: Node, values: Mapping[str, Node]) -> None:
    """Report an entry of `tokens` that says nothing, or two things."""
    what = table.what(f"tokenizer.tokens.{token}")
    said = ""
    if not token:
        said = "names no token"
    elif not values:
        said = "says nothing"
    elif {"model", "zero"} <= values.keys() or {"token", "id"} <= values.keys():
        said = "says two things about its row"
    elif values.keys() & {"token", "id"} and "model" not in values:
        said = "names a token, and no `model` that has it"
    if said:
        table.problems.add("bad-value", f"{what} {said}", node.at, help=_ROW_HINT)


def with_token_inputs(table: TargetTable, target: Target) -> Target:
    """Return a target whose tokenizer knows the models whose rows are merged; a row is that of one of these."""
    text = target.tokenizer
    if text is None:
        return target
    first: dict[str, Input] = {}
    parts = (*(rule.target for rule in target.rules), *(each.target for each in target.slices))
    for each in (each for part in (target, *parts) for each in part.inputs):
        first.setdefault(each.ref, each)
    for row in text.tokens:
        if row.input is not None and row.input.ref not in first:
            _not_among(table, row, tuple(first))
    whole = replace(text, inputs=tuple(first.values()))
    rules = tuple(replace(rule, target=replace(rule.target, tokenizer=whole)) for rule in target.rules)
    slices = tuple(replace(each, target=replace(each.target, tokenizer=whole)) for each in target.slices)
    return replace(target, tokenizer=whole, rules=rules, slices=slices)


def _not_among(table: TargetTable, row: TokenRow, refs: Sequence[str]) -> None:
    assert row.input is not None
    message = f"{table.what(f'tokenizer.tokens.{row.token}')} is a row of `{row.input.ref}`, which is no input of it"
    hint = did_you_mean(row.input.ref, refs)
    table.problems.add("bad-value", message, row.input.where.place(), help=hint)


def read_chat_template(table: TargetTable) -> ChatTemplate | None:
    """Return the chat template of a target; None if it names none, or a wrong one, which is reported."""
    node = table.values.get("chat_template")
    if node is None:
        return None
    _check_place(table, "chat_template", node, "goes beside the weights of a folder")
    if isinstance(node.value, str) and node.value.endswith(".jinja"):
        return _of_a_file(table, node, node.value)
    found = table.input("chat_template", node)
    return ChatTemplate(found) if found is not None else None


def _of_a_file(table: TargetTable, node: Node, written: str) -> ChatTemplate | None:
    """Return the text of a file; report one that can't be read."""
    path = Path(absolute(written, node.at.document.folder))
    try:
        text = read_text(path, most=_LONGEST_TEMPLATE)
        why = "" if text.strip() else "it is empty"
    except (OSError, UnicodeDecodeError) as error:
        text, why = "", (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8"
    if why:
        message = f"{table.what('chat_template')} can't be read: {why}"
        table.problems.add("unreadable-template", message, node.at, help="name a file of Jinja, in UTF-8, or an input")
    return None if why else ChatTemplate(None, path, text)


def _check_place(table: TargetTable, key: str, node: Node, does: str) -> None:
    """Report a key of folders, if the output is a file."""
    output = table.values.get("output")
    if output is not None and not is_folder(output):
        message = f"{table.what(key)} {does}, and the output is a file"
        table.problems.add("no-folder", message, node.at, key=True, help=FOLDER)
