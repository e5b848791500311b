"""One merge in the lineage of a model file: its recipe as JSON, and where its inputs and its result go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NamedTuple, Protocol

from mergebuild.exchange.draft import Draft, Said, Value
from mergebuild.exchange.figures import figure, of_slider
from mergebuild.exchange.file_names import without_suffix

__all__ = ["MergeNode", "NodeMaker", "UnsayableError", "add_node", "number_of", "sayable"]


class UnsayableError(Exception):
    """No target is what a recipe says; the text says why."""


class MergeNode(NamedTuple):
    """A merge, as its maker gets it."""

    recipe: Mapping[str, object]
    where: str
    """The file, and the key of its metadata."""
    name: str
    """Wished for the target."""
    output: str | None
    """The path that the result is written to; None: it is a step."""
    input_of: Callable[[str], str]
    """Returns the source or target that is a model: by hash, or by a name that the recipe has."""
    comments: tuple[str, ...] = ()


class NodeMaker(Protocol):
    """A module for the merges of one tool."""

    def models_of(self, recipe: Mapping[str, object]) -> tuple[str, ...]:
        """Return the hashes or names of the models that a merge takes."""

    def add(self, node: MergeNode, draft: Draft) -> str:
        """Add the targets of a merge and return the name of the last.

        Raises:
            UnsayableError: no target is it; nothing was added.
        """


def add_node(
    node: MergeNode, draft: Draft, keys: Mapping[str, Value], *, dtype: str | None = None, notes: Mapping[str, str] = {}
) -> str:
    """Add a target with the output of a merge, and the dtype of its file, which a step has not."""
    comments = [*node.comments]
    if dtype and node.output is None:
        comments.append(f"the tool saves it as {dtype}; this step is virtual, and exact")
    name = draft.target(without_suffix(node.name), keys, comments=comments, output=node.output, dtype=dtype)
    draft.targets[name].notes.update(notes)
    draft.notices += [Said(node.where, f"`{key}` of `{name}` is {text} in the recipe") for key, text in notes.items()]
    return name


def sayable(said: object, what: str) -> Decimal:
    """Return a number of a recipe.

    Raises:
        UnsayableError: it is none; `what` names it.
    """
    try:
        return of_slider(said)
    except ValueError as error:
        raise UnsayableError(f"`{what}` is {_short(said)}: {error}") from None


def number_of(said: object, what: str, notes: dict[str, str], key: str) -> Decimal:
    """Return a number of a recipe, with a note for its key where it is another decimal than the recipe has.

    Raises:
        UnsayableError: it is none.
    """
    short = sayable(said, what)
    if figure(said) != short:
        notes[key] = str(said)
    return short


def _short(said: object) -> str:
    text = repr(said)
    return text if len(text) <= 60 else f"{text[:60]}…"
