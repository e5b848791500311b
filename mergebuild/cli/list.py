"""`mergebuild list`: sources, targets and layouts, from the mergefile's text alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mergebuild.cli.locate import find_mergefile, open_recipe
from mergebuild.cli.options import reads_recipe, subcommand
from mergebuild.cli.settings import Settings
from mergebuild.report.columns import table

if TYPE_CHECKING:
    from mergebuild.recipe import Recipe

__all__ = ["command"]

_KINDS = ("sources", "targets", "layouts")

Entry = dict[str, object]


@subcommand("list")
@click.argument("kind", required=False, metavar="[sources|targets|layouts]", type=click.Choice(_KINDS))
@reads_recipe
def command(settings: Settings, kind: str | None) -> int:
    """List sources, targets and layouts, from the text of the mergefile alone."""
    # built-in layouts can be listed without a mergefile
    alone = kind == "layouts" and find_mergefile(settings) is None
    recipe = None if alone else open_recipe(settings)
    wanted = [kind] if kind else list(_KINDS)
    entries = {each: _entries(each, recipe) for each in wanted}
    lines = []
    for each, found in entries.items():
        lines += [f"{each}:"] if kind is None else []
        lines += table((_row(each, entry) for entry in found), indent=2 if kind is None else 0)
    settings.console.answer(entries, lines)
    return 0


def _entries(kind: str, recipe: Recipe | None) -> list[Entry]:
    if kind == "layouts" or recipe is None:
        return _layouts(recipe)
    return _sources(recipe) if kind == "sources" else _targets(recipe)


def _sources(recipe: Recipe) -> list[Entry]:
    return [
        {
            "name": name,
            "path": source.path,
            "sha256": source.sha256,
            "autov2": source.autov2,
            "autov3": source.autov3,
            "url": source.url,
        }
        for name, source in recipe.sources.items()
    ]


def _targets(recipe: Recipe) -> list[Entry]:
    """Return the targets; a family is one entry, with the names of its members and the first member's method."""
    families: dict[str, list[str]] = {}
    for name in recipe.target_names():
        families.setdefault(name.partition("@")[0], []).append(name)
    return [_target(recipe, name, members) for name, members in families.items()]


def _target(recipe: Recipe, name: str, members: list[str]) -> Entry:
    target = recipe.target(members[0])
    is_family = members != [name]
    return {
        "name": name,
        "method": target.method,
        "output": None if is_family else target.output,
        "members": members if is_family else None,
    }


def _layouts(recipe: Recipe | None) -> list[Entry]:
    from mergebuild.layouts import list_layouts

    listed = list_layouts(recipe.layouts if recipe else {})
    return [{"name": each.name, "title": each.title, "blocks": list(each.blocks)} for each in listed]


def _row(kind: str, entry: Entry) -> tuple[str, ...]:
    if kind == "sources":
        return (str(entry["name"]), str(entry["path"]))
    if kind == "layouts":
        blocks = entry["blocks"]
        assert isinstance(blocks, list)
        return (str(entry["name"]), str(entry["title"]), ", ".join(blocks))
    members = entry["members"]
    if isinstance(members, list):
        return (str(entry["name"]), str(entry["method"]), f"{members[0]} … {members[-1]} ({len(members)})")
    return (str(entry["name"]), str(entry["method"]), str(entry["output"] or "(virtual)"))
