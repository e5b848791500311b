"""`mergebuild inspect`: what a model file is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mergebuild.cli.locate import find_mergefile, from_here, open_recipe
from mergebuild.cli.options import SourceOrFile, reads_recipe, subcommand
from mergebuild.cli.settings import Settings
from mergebuild.errors import MergeBuildError, UsageError
from mergebuild.formats.registry import READ_SUFFIXES
from mergebuild.project.inspect import inspect
from mergebuild.report.looks import inspection_lines

if TYPE_CHECKING:
    from mergebuild.recipe import Recipe
    from mergebuild.recipe.model import LayoutText

__all__ = ["command"]


@subcommand("inspect")
@click.argument("asked", metavar="FILE|NAME", type=SourceOrFile())
@click.option("--tensors", is_flag=True, help="List every tensor.")
@reads_recipe
def command(settings: Settings, asked: str, tensors: bool) -> int:
    """Show what a model file is: tensors, dtypes, layout, components, hashes, metadata, how it was made.

    A NAME is a source's or a target's of the mergefile. The whole file is read, for the hashes.
    """
    path, layouts = _asked_for(settings, asked)
    mergefile = find_mergefile(settings)
    within = (Path(mergefile).parent,) if mergefile is not None else ()
    with settings.console.listening() as emit:
        found = inspect(path, layouts=layouts, with_tensors=tensors, within=within, emit=emit)
    settings.console.answer(found.to_json(), inspection_lines(found))
    return 0


def _asked_for(settings: Settings, asked: str) -> tuple[Path, Mapping[str, LayoutText]]:
    """Return the path to inspect, and the layouts that the mergefile declares.

    `asked` is the path of a file if there is such a file, else the name of a source or target, else any other path.
    """
    path = Path(asked)
    if path.is_file():
        return path, _layouts_nearby(settings)
    if find_mergefile(settings) is None:
        return path, {}
    recipe = open_recipe(settings)
    return _named(recipe, asked), recipe.layouts


def _named(recipe: Recipe, asked: str) -> Path:
    """Return the path of a source, or of a target's output, or what was asked for if it is a path."""
    if asked in recipe.sources:
        return _source_file(recipe, asked)
    path = Path(asked)
    if path.name != asked or path.suffix.lower() in READ_SUFFIXES:  # it is meant as a path
        return path
    try:
        return _output(recipe, asked)
    except UsageError:
        if path.is_dir():
            return path
        raise


def _layouts_nearby(settings: Settings) -> Mapping[str, LayoutText]:
    """Return the layouts that the mergefile declares; none if there is no mergefile, or it can't be read."""
    if find_mergefile(settings) is None:
        return {}
    try:
        return open_recipe(settings).layouts
    except MergeBuildError:
        return {}


def _source_file(recipe: Recipe, name: str) -> Path:
    from mergebuild.sources.locating import locate

    return from_here(locate(recipe.sources[name], recipe.root))


def _output(recipe: Recipe, name: str) -> Path:
    """Return the path of a target's output; raise UsageError if it has none, or the name stands for several targets."""
    members = recipe.resolve([name])
    if len(members) != 1:
        message = f"`{name}` is {len(members)} targets, and one can be inspected"
        raise UsageError.one("not-one-target", message, help=f"name one, such as `{members[0]}`" if members else "")
    target = recipe.target(members[0])
    if target.output_path is None:
        raise UsageError.one(
            "no-output",
            f"target `{target.name}` has no `output`, so there is no file of it",
            help=f"write one with `mergebuild build {target.name} -o PATH`",
        )
    return from_here(target.output_path)
