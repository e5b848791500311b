"""The names of a file by template, without the wrappers of training: rules are looked up by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final

from mergebuild.naming.renamed import Shapes
from mergebuild.naming.rules import NUMBER, Sign, Signs, general, is_of_shape, signs_of

__all__ = ["TEXTS", "Templates", "family_of", "model_types"]

_NUMBER: Final = re.compile(r"(?<![^.\n])[0-9]{1,9}(?![^.\n])")
"""`NUMBER`, for names that are one per line."""

TEXTS: Final = ("text_config", "llm_config", "language_config")
"""Members of a configuration that describe its language model."""


class Templates:
    """The names of a file."""

    def __init__(self, shapes: Shapes) -> None:
        """Take the shapes of a file's tensors, by stored name."""
        self.shapes = shapes
        self.bare = _unwrapped(shapes)
        """Stored name -> name without the wrappers of training."""
        self.stored: dict[str, list[str]] = {}
        """Template of the bare name -> stored names."""
        for name, template in zip(self.bare, _templates(self.bare.values()), strict=True):
            self.stored.setdefault(template, []).append(name)

    @cached_property
    def text(self) -> str:
        """All templates, one per line, with a line break before the first and after the last."""
        return "\n".join(("", *self.stored, ""))

    @cached_property
    def _by_bare(self) -> Mapping[str, str]:
        return {bare: name for name, bare in self.bare.items()}

    def shape_of(self, module: str) -> tuple[int, ...]:
        """Return the shape of a module's weight, or of a tensor, by its bare name; empty if absent."""
        stored = self._by_bare.get(f"{module}.weight") or self._by_bare.get(module)
        return self.shapes[stored] if stored is not None else ()

    def have(self, sign: Sign) -> bool:
        """Return whether a tensor has this sign."""
        if not sign.is_in(self.text):
            return False
        if sign.is_plain:
            return True
        pattern = sign.in_name()
        return any(
            pattern.search(self.bare[name])
            and (sign.dims is None or len(self.shapes[name]) == sign.dims)
            and (sign.shape is None or is_of_shape(self.shapes[name], sign.shape))
            for template, names in self.stored.items()
            if sign.is_in(f"\n{template}\n")
            for name in names
        )


def family_of(templates: Templates, facts: Mapping[str, object] | None = None) -> str:
    """Return the family of a file, by its configuration or by its signs; empty if no rule covers it."""
    types = model_types(facts)
    return next((signs.family for signs in signs_of() if types & signs.model_types or _has(templates, signs)), "")


def model_types(facts: Mapping[str, object] | None) -> frozenset[str]:
    """Return the `model_type` of a model and of its language model."""
    said = facts or {}
    tables = (said, *(said.get(name) for name in TEXTS))
    found = (table.get("model_type") for table in tables if isinstance(table, Mapping))
    return frozenset(each for each in found if isinstance(each, str))


def _has(templates: Templates, signs: Signs) -> bool:
    found = any(all(map(templates.have, together)) for together in signs.any_of)
    return found and not any(map(templates.have, signs.unless))


def _templates(names: Iterable[str]) -> list[str]:
    """Return each name with `{n}` in place of its numbers."""
    each = list(names)
    together = _NUMBER.sub("{n}", "\n".join(each)).split("\n")  # one call for all
    return together if len(together) == len(each) else [NUMBER.sub("{n}", name) for name in each]


def _unwrapped(names: Iterable[str]) -> Mapping[str, str]:
    rules = general()
    found = {name: name for name in names}
    joined = "\n".join(found)
    inside = [wrapper for wrapper in rules.wrappers if wrapper in joined]
    in_front = any(f"\n{wrapper}" in f"\n{joined}" for wrapper in rules.in_front)
    if not inside and not in_front:
        return found
    return {name: _without(name, inside, rules.in_front, rules.copies) for name in found}


def _without(name: str, inside: list[str], in_front: tuple[str, ...], copies: tuple[str, ...]) -> str:
    if name.startswith(copies):
        return name
    words = f".{name}"
    for wrapper in inside:  # a word between dots: `_orig_mod.`
        while f".{wrapper}" in words:
            words = words.replace(f".{wrapper}", ".")
    name = words[1:]
    while front := next((each for each in in_front if name.startswith(each)), ""):
        name = name[len(front) :]
    return name
