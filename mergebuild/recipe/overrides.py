"""`--set m=0.4`, `--set orange.alpha=0.4`, `--set orange.alpha.IN04=0.4`: edits of the raw values.

An edit has the same effect as editing the file: an existing key keeps its position and gets the new value; a new key
comes last. A number that gets a key becomes the table `{ default = NUMBER, KEY = ... }`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from mergebuild.errors import Place, UsageError, did_you_mean
from mergebuild.recipe.nodes import BadNumber
from mergebuild.recipe.numbers import exact_decimal
from mergebuild.recipe.per_tensor import is_value_table
from mergebuild.recipe.places import At
from mergebuild.recipe.toml_text import toml_value

__all__ = ["Override", "apply_to_target", "parse_override", "raw_variable", "target_of"]

_PIECE = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^."']+))\s*(\.|$)""")
_BLOCK = re.compile(r"([A-Z]+)0*([0-9]+)")
_MOST_DIGITS = 9
"""Of an index in a list."""


@dataclass(frozen=True, slots=True)
class Override:
    """One `--set`: the key's pieces and the raw value."""

    label: str
    pieces: tuple[str, ...]
    value: object


def parse_override(text: str) -> Override:
    """Return a parsed `--set`. The key ends at the first `=` outside quotes.

    Raises:
        UsageError: it has no `=`, or no key before it.
    """
    label = f"--set {text}"
    match = re.match(r"""((?:"[^"]*"|'[^']*'|[^="'])*)=""", text)
    pieces = _pieces(match[1].strip()) if match else None
    if match is None or not pieces:
        hint = "such as `--set m=0.4`, `--set orange.alpha=0.4` or `--set orange.alpha.IN04=0.4`"
        raise UsageError.one("bad-set", f"`{label}` sets nothing, expected `KEY=VALUE`", where=Place(label), help=hint)
    return Override(label, pieces, toml_value(text[match.end() :].strip()))


def raw_variable(value: object) -> object:
    """Return a variable's raw value from TOML or JSON: a number, a string or a boolean.

    Raises:
        ValueError: it is anything else; the message is part of a sentence.
    """
    if isinstance(value, (float, Decimal)):
        return exact_decimal(str(value))
    if isinstance(value, (bool, int, str, Fraction)):
        return value
    if isinstance(value, BadNumber):
        message = f"`{value.text}`, which is {value.reason}"
        raise ValueError(message)  # noqa: TRY004 -- its type is right, its value is not allowed
    message = "nothing" if value is None else "a table" if isinstance(value, Mapping) else "a list or a date"
    raise ValueError(message)


def target_of(override: Override, targets: Collection[str], variables: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Return the target that an override names, and the keys after it.

    Raises:
        UsageError: no such target, or no key after it.
    """
    for length in range(len(override.pieces), 0, -1):
        name = ".".join(override.pieces[:length])
        if name in targets and length < len(override.pieces):
            return name, override.pieces[length:]
    raise _of_nothing(override, targets, variables)


def _of_nothing(override: Override, targets: Collection[str], variables: Collection[str]) -> UsageError:
    """Return the error for an override that names no key of a target."""
    whole, where = ".".join(override.pieces), Place(override.label)
    if whole in targets:
        hint = f"set a key of it: `--set {whole}.alpha=0.4`"
        return UsageError.one("bad-set", f"`{whole}` is a target, and has no value", where=where, help=hint)
    if len(override.pieces) == 1:
        hint = did_you_mean(whole, variables, otherwise="a key of a target is `TARGET.KEY=VALUE`")
        return UsageError.one("unknown-variable", f"unknown variable `{whole}`", where=where, help=hint)
    first = override.pieces[0]
    hint = did_you_mean(first, targets, otherwise="`mergebuild list targets` shows all")
    return UsageError.one("unknown-target", f"unknown target `{first}`", where=where, help=hint)


def apply_to_target(override: Override, keys: tuple[str, ...], table: dict[str, object], at: At) -> None:
    """Change the raw table of a target, and record the override as the place of the new value.

    Raises:
        UsageError: a key that is no index of a list.
    """
    here: dict[str, object] | list[object] = table
    path = at.path
    for depth, key in enumerate(keys):
        name = _index(here, key, override) if isinstance(here, list) else _same_key(here, key)
        path = (*path, name)
        below = _below(here, name)
        opened = override.value if depth == len(keys) - 1 else _opened(below, in_list=isinstance(here, list))
        if isinstance(here, list):
            here[int(name)] = opened
        else:
            here[str(name)] = opened
        if isinstance(opened, (dict, list)):
            here = opened
    at.document.edits[path] = override.label


def _index(items: list[object], key: str, override: Override) -> int:
    if key.isdecimal() and len(key) <= _MOST_DIGITS and int(key) < len(items):
        return int(key)
    message = f"`{key}` is no item of a list of {len(items)}"
    hint = f"items are numbered from 0 to {len(items) - 1}" if items else "the list is empty; set the list itself"
    raise UsageError.one("bad-set", message, where=Place(override.label), help=hint)


def _below(here: dict[str, object] | list[object], name: str | int) -> object:
    return here[int(name)] if isinstance(here, list) else here.get(str(name))


def _same_key(table: Mapping[str, object], key: str) -> str:
    """Return the key as the table has it: for `IN4`, `IN04`."""
    block = _BLOCK.fullmatch(key)
    if key in table or block is None:
        return key
    found = ((one, _BLOCK.fullmatch(one)) for one in table)
    return next((one for one, match in found if match is not None and match.groups() == block.groups()), key)


def _opened(value: object, *, in_list: bool) -> dict[str, object] | list[object]:
    if value is None:
        return {}
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and not is_value_table(value):
        return value
    return {"model" if in_list and isinstance(value, str) else "default": value}


def _pieces(text: str) -> tuple[str, ...] | None:
    found: list[str] = []
    position, more = 0, bool(text)
    while more:
        match = _PIECE.match(text, position)
        if match is None:
            return None
        found.append(next(group for group in match.groups()[:3] if group is not None).strip())
        position, more = match.end(), match[4] == "."
    return tuple(found) if all(found) else None
