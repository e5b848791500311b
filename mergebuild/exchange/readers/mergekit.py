"""Recipes of mergekit: YAML with `merge_method`, one document or several, and files of its older and other tools.

mergekit also writes the recipe into the card of a model, `README.md`, as a block of YAML in Markdown.

Several documents name each other: a step that another one merges is a virtual target, all else is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from mergebuild.errors import MergeBuildError
from mergebuild.exchange.draft import Draft, Value
from mergebuild.exchange.mergekit.experts import read_experts
from mergebuild.exchange.mergekit.merges import read_merge
from mergebuild.exchange.mergekit.old_forms import of_bakllama
from mergebuild.exchange.mergekit.reading import KitReading, KitTable
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.yaml_text import YamlMap, YamlValue, documents

__all__ = ["read", "recognizes"]

_HINT: Final = re.compile(r"""(?:^|[{,])[ \t]*["']?(?:merge_method|layer_slices|experts)["']?[ \t]*:""", re.MULTILINE)
_AT_A_LINE: Final = re.compile(r"^merge_method[ \t]*:", re.MULTILINE)
_FENCE: Final = re.compile(r"```[ \t]*(?P<language>\w*)[ \t]*")
"""A line that begins or ends a block of code in Markdown."""
_ROLES: Final = ("base", "a", "b", "models", "loras", "slices", "model", "tokenizer", "config")
_NO_NAMES: Final = frozenset({"mergekit_config", "config", "README", ""})
"""Names of files that say nothing of what is in them."""


def recognizes(file: RecipeFile) -> bool:
    """Whether a file is a recipe of mergekit, also one that is broken."""
    text = _recipe_in(file.text)
    if not text or not _HINT.search(text):
        return False
    try:
        return any(_is_recipe(each) for each in documents(text, file.path.as_posix()))
    except MergeBuildError:
        return _AT_A_LINE.search(text) is not None


def _recipe_in(text: str) -> str:
    """Return the text of a recipe: of Markdown, its blocks of YAML that are recipes."""
    plain = text.replace("\r\n", "\n")
    blocks = [block for block in _blocks(plain) if _HINT.search(block)] if "```y" in plain else []
    return "\n---\n".join(blocks) or plain


def _blocks(markdown: str) -> Iterator[str]:
    """Yield the whole blocks of YAML in a text."""
    within: list[str] | None = None
    for line in markdown.split("\n"):
        fence = _FENCE.fullmatch(line)
        if fence is None:
            if within is not None:
                within.append(line)
        elif fence["language"]:
            within = [] if fence["language"] in ("yaml", "yml") else None
        else:
            if within is not None:
                yield "\n".join(within)
            within = None


def _is_recipe(document: YamlValue) -> bool:
    if not isinstance(document, dict):
        return False
    return "merge_method" in document or "layer_slices" in document or {"experts", "base_model"} <= document.keys()


def read(file: RecipeFile, draft: Draft) -> None:
    """Add the targets of a file to a draft.

    Raises:
        RecipeError: it is no YAML, or mergekit would refuse it.
    """
    reading = KitReading(draft, file.path.as_posix())
    found = [each for each in documents(_recipe_in(file.text), reading.shown) if each is not None]
    merges = [reading.table(each, "").values for each in found]
    names = _names(reading, merges)
    wished = file.stem if file.stem not in _NO_NAMES else "merge"
    targets = [draft.target(name or wished, {}) for name in names]
    reading.merges = {name: target for name, target in zip(names, targets, strict=True) if name is not None}
    for document, target, name in zip(merges, targets, names, strict=True):
        others = [each for each in merges if each is not document]
        is_step = name is not None and any(_refers(each, name) for each in others)
        _read_one(reading, document, target, is_file=not is_step)
    _check_circles(reading)
    _drop_orphans(reading, targets)


def _read_one(reading: KitReading, document: YamlMap, target: str, *, is_file: bool) -> None:
    if "layer_slices" in document:
        read_merge(reading, of_bakllama(reading, document), target, is_file=is_file)
    elif "experts" in document and "merge_method" not in document:
        read_experts(reading, document, target)
    else:
        read_merge(reading, document, target, is_file=is_file)


def _names(reading: KitReading, merges: Sequence[YamlMap]) -> list[str | None]:
    """Return the name of each document; one at most may have none."""
    names = [KitTable(reading, each, "").text("name") for each in merges]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice != "":
        said = f"two documents are called `{twice}`" if twice else "two documents have no `name`"
        raise reading.wrong("", f"{said}, and one at most may")
    return names


def _refers(value: YamlValue, name: str) -> bool:
    """Whether a document names another one's result as a model."""
    if isinstance(value, dict):
        return any(key != "name" and _refers(each, name) for key, each in value.items())
    if isinstance(value, list):
        return any(_refers(each, name) for each in value)
    return isinstance(value, str) and value.split("+")[0].split("@")[0] == name


def _check_circles(reading: KitReading) -> None:
    """Raise `RecipeError` where documents are made of each other in a circle."""
    below = {name: _inputs_of(reading.draft, name) for name in reading.draft.targets}
    while leaves := [name for name, inputs in below.items() if not inputs & below.keys()]:
        for name in leaves:
            del below[name]
    if below:
        raise reading.wrong("", f"documents need each other in a circle: {', '.join(below)}")


def _drop_orphans(reading: KitReading, targets: Sequence[str]) -> None:
    """Take away targets that are made of documents which could not be said."""
    draft = reading.draft
    reading.target = None
    gone = {name for name in targets if name not in draft.targets}
    while lost := [name for name in targets if name in draft.targets and gone & _refs(draft.targets[name].keys)]:
        for name in lost:
            gone.add(name)
            draft.comments += draft.targets.pop(name).comments
            reading.leave_out("", f"`{name}`, which is made of what could not be imported")


def _inputs_of(draft: Draft, name: str) -> set[str]:
    """Return the targets that a target is made of."""
    return _refs(draft.targets[name].keys) & draft.targets.keys()


def _refs(keys: Value) -> set[str]:
    """Return the names in the keys that name inputs and donors: of a target, of a slice, of an item of `models`."""
    if isinstance(keys, str):
        return {keys}
    if isinstance(keys, list):
        return {name for each in keys for name in _refs(each)}
    if isinstance(keys, dict):
        rows = keys.get("tokens")
        places = [keys[role] for role in _ROLES if role in keys] + (
            list(rows.values()) if isinstance(rows, dict) else []
        )
        return {name for each in places for name in _refs(each)}
    return set()
