"""`mergebuild graph`: how targets depend on each other."""

from __future__ import annotations

import json

import click

from mergebuild.cli.locate import open_recipe
from mergebuild.cli.options import reads_recipe, subcommand, targets_argument
from mergebuild.cli.settings import Settings
from mergebuild.recipe.graph import from_recipe, to_dot, to_json, to_mermaid, to_text

__all__ = ["command"]


@subcommand("graph")
@targets_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "dot", "mermaid", "json"]),
    default="text",
    show_default=True,
    help="An indented tree, or a language that other programs draw.",
)
@reads_recipe
def command(settings: Settings, targets: tuple[str, ...], form: str) -> int:
    """Show how targets depend on each other, from the text alone: all of them, or some and what they are made of."""
    graph = from_recipe(open_recipe(settings), targets)
    document = to_json(graph)
    if form == "json":
        lines = json.dumps(document, indent=2).splitlines()
    else:
        lines = {"text": to_text, "dot": to_dot, "mermaid": to_mermaid}[form](graph)
    settings.console.answer(document, lines)
    return 0
