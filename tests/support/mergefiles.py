"""Texts of mergefiles from Python values."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["as_toml", "target_table"]


def target_table(name: str, *lines: str, output: str | None = "{}.safetensors", **keys: object) -> str:
    """Return the table of a target: its keys, then `lines` as they are.

    Args:
        name: The target's name; it replaces `{}` in the output.
        lines: Further lines of the table, and tables below it.
        output: A path; None makes the target virtual.
        keys: `method`, `a`, `alpha` and so on, with strings, numbers, booleans, lists or mappings.
    """
    text = [f"[targets.{name}]", *(f"{key} = {as_toml(value)}" for key, value in keys.items())]
    text += [] if output is None else [f"output = {as_toml(output.replace('{}', name))}"]
    return "\n".join((*text, *lines)) + "\n"


def as_toml(value: object) -> str:
    """Return a value as TOML, mappings on one line. Strings must not contain quotes."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {as_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
