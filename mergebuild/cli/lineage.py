"""`mergebuild lineage`: what a target is made of."""

from __future__ import annotations

from mergebuild.cli.locate import open_project, targets_from_here
from mergebuild.cli.options import reads_recipe, subcommand, target_argument
from mergebuild.cli.settings import Settings
from mergebuild.report.looks import lineage_lines

__all__ = ["command"]


@subcommand("lineage")
@target_argument
@reads_recipe
def command(settings: Settings, target: str) -> int:
    """Show what a target is made of, down to sources.

    The proportions are exact for chains of linear merges, by block where blocks differ, and through files too: those
    are named, for their values were rounded there.
    """
    (asked,) = targets_from_here(settings, (target,))
    lineage = open_project(settings).lineage(asked)
    settings.console.answer(lineage.to_json(), lineage_lines(lineage))
    return 0
