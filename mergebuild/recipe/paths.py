"""Paths in a mergefile: made absolute, and which of them an output may have."""

from __future__ import annotations

import os

from mergebuild.formats import registry
from mergebuild.recipe.nodes import Node

__all__ = ["FOLDER", "SAFETENSORS", "OutputError", "absolute", "check_output", "is_folder"]

FOLDER = 'such as `output = "out/name/"`, with a `/` at its end'
"""Help for the output of a folder."""
SAFETENSORS = 'such as `output = "out/name.safetensors"`'
"""Help for an output."""


class OutputError(ValueError):
    """A path that can't be an output."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def check_output(text: str) -> None:
    """Check the text of an output's path.

    Raises:
        OutputError: it is neither a folder nor a file of a format that can be written.
    """
    shown = text.encode("unicode_escape").decode() if not text.isprintable() else text
    if min(text, default=" ") < " ":
        message = f"is `{shown}`, which has a sign that no path has"
        raise OutputError("bad-path", message, "write paths with `/`, or in single quotes")
    found = registry.of_text(text)
    if registry.is_folder_text(text):
        if found is None or text.replace("\\", "/").rstrip("/").rpartition("/")[2] in (".", "..", "~"):
            message = f"is `{shown}`, expected the path of a folder of its own"
            raise OutputError("bad-output", message, FOLDER)
    elif found is None:
        files = registry.shown_suffixes(" or ")
        message = f"is `{shown}`, expected the path of a {files} file, or of a folder with a `/` behind"
        raise OutputError("bad-output", message, SAFETENSORS)


def is_folder(node: Node | None) -> bool:
    """Whether the value of `output` is the path of a folder."""
    return node is not None and isinstance(node.value, str) and registry.is_folder_text(node.value)


def absolute(text: str, folder: str) -> str:
    """Return a path in a file of that folder, absolute and normalized; links are not resolved."""
    return os.path.normpath(f"{folder}/{text}" if text[:1] not in "~/\\" else _from_elsewhere(text, folder))


def _from_elsewhere(text: str, folder: str) -> str:
    return os.path.join(folder, os.path.expanduser(text))  # noqa: PTH111, PTH118 -- strings, for there may be many
