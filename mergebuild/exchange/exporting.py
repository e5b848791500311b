"""A target as a recipe of another tool: all of it, or an error that says all that can't be said, and nothing half."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, cast

from mergebuild.errors import ExportError, UsageError
from mergebuild.events import Emit, silent
from mergebuild.exchange.new_file import write_new
from mergebuild.exchange.writers.asked import Asked
from mergebuild.fold.folder import Folding
from mergebuild.project.project import Project
from mergebuild.project.session import Session

__all__ = ["FORMATS", "Exported", "export"]

FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {"mergekit": "mergekit", "mecha": "sd-mecha", "merge-board": "Merge Board", "mbw": "a list of block weights"}
)
"""By the word that `--as` takes, what sentences call it; its writer is the module of that word in `writers`."""


class RecipeWriter(Protocol):
    """A module of `exchange/writers`."""

    def write(self, asked: Asked) -> str:
        """Return a recipe's text, which counts only if nothing was refused."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A recipe of another tool."""

    target: str
    format: str
    text: str
    written: str | None = None
    """The file that it was written to."""

    def to_json(self) -> dict[str, object]:
        """Return the document of `--json`."""
        return {
            "ok": True, "target": self.target, "as": self.format, "written": self.written, "text": self.text,
        }  # fmt: skip


def export(project: Project, name: str, format: str, *, out: Path | None = None, emit: Emit = silent) -> Exported:
    """Return a target, and all that it is made of, as a recipe of another tool.

    Args:
        project: Its project.
        name: The target or member.
        format: One of `FORMATS`.
        out: A file to write it to; there must be none.
        emit: Is told what happens.

    Raises:
        ExportError: the format can't say all of it; nothing was written.
        UsageError: no such target, no such format, or there is a file.
        SourceError: the recipe depends on the tensors of a source that is missing or unreadable.
        RecipeError, MismatchError: the target can't be made.
    """
    (target,) = _one(project, name)
    text = project.ask(partial(_written, name=target, format=format), emit=emit)
    if out is not None:
        write_new(out, text, "recipe")
    return Exported(target, format, text, str(out) if out is not None else None)


def _one(project: Project, name: str) -> tuple[str]:
    found = project.recipe.resolve((name,))
    if len(found) > 1:
        message = f"`{name}` is {len(found)} targets, and a recipe makes one"
        raise UsageError.one("several-targets", message, help=f"name a member, such as `{found[0]}`")
    return (found[0],)


def _written(session: Session, *, name: str, format: str) -> str:
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        raise UsageError.one("unknown-format", f"there is no writer of `{format}` recipes", help=f"there are {known}")

    @cache
    def folding() -> Folding:
        session.planner.open_sources(name)  # reports all missing sources together
        return session.planner.folding

    asked = Asked(session.recipe, session.recipe.target(name), FORMATS[format], folding)
    module = import_module(f"mergebuild.exchange.writers.{format.replace('-', '_')}")
    text = cast(RecipeWriter, module).write(asked)
    if asked.refused:
        raise ExportError(dict.fromkeys(asked.refused))
    return text
