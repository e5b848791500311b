"""Graphs of ComfyUI: in JSON of either form, in the text chunks of a picture, and in a model's metadata.

Where both forms are there, the API form is read: it is what ran, without nodes that were muted or bypassed.
"""

from __future__ import annotations

from collections.abc import Iterator

from mergebuild.exchange.comfy.graph import Graph, bad_graph, graph_of, is_api_form, parsed
from mergebuild.exchange.comfy.saves import add_targets
from mergebuild.exchange.comfy.workflow import is_workflow, workflow_graph
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["read", "recognizes"]


def recognizes(file: RecipeFile) -> bool:
    """Whether a file is a graph, or carries one."""
    return any(is_api_form(value) or is_workflow(value) for value in _found(file))


def read(file: RecipeFile, draft: Draft) -> None:
    """Add what the graph saves to a draft.

    Raises:
        RecipeError: the graph can't run, or merges and saves nothing.
    """
    shown = file.path.as_posix()
    add_targets(_graph(file, shown), draft, file.path.name, file.stem)


def _graph(file: RecipeFile, shown: str) -> Graph:
    for value in _found(file):
        if is_api_form(value):
            return graph_of(value, shown)
        if is_workflow(value):
            return workflow_graph(value, shown)
    raise bad_graph("it has no graph", shown)


def _found(file: RecipeFile) -> Iterator[object]:
    """Yield what may be graphs, the best first. A file of the API may have its graph under `prompt`."""
    if file.metadata:
        texts = (file.metadata.get(key) for key in ("prompt", "workflow"))
        yield from (parsed(text) for text in texts if text)
    elif file.text.lstrip()[:1] == "{":
        whole = parsed(file.text)
        yield whole
        if isinstance(whole, dict):
            yield from (whole[key] for key in ("prompt", "workflow") if isinstance(whole.get(key), dict))
